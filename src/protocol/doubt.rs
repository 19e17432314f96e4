//! How sure it is that a peer is there: what is known of it, how long each step takes, and how far
//! this node can trust what it sees itself.

use std::collections::BTreeSet;

use super::head::Fingerprint;
use super::identity::{Incarnation, NodeId};
use super::pace::Pace;
use super::wire::{Ask, Challenge, Word};

/// How many others are asked first to try a peer that gave no answer.
pub const FIRST_ASKED: usize = 3;
/// How many more are asked where those tried in vain, or said nothing.
pub const NEXT_ASKED: usize = 5;
/// How many are asked by each that suspects it then: the last chance of one that is there.
pub const LAST_ASKED: usize = 3;
/// How many of its own last probes a node remembers.
const PROBES: u32 = 10;
/// So many of them may fail before the node waits longer for answers: perhaps it is slow itself.
const FAILED_MAX: u32 = 3;
/// How many times as long it waits at most.
const FACTOR_MAX: u32 = 8;

/// How long each step takes, ms; all of them parts of the time between ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From one probe to the next.
    pub probe: u64,
    /// Until a call without an answer is doubtful.
    pub answer: u64,
    /// For what others are asked.
    pub stage: u64,
    /// For an accused node to show that it is there.
    pub grace: u64,
    /// Without a word of anybody: then it is this node that is cut off.
    pub alone: u64,
    /// From one accusation of a node to the next that counts.
    pub window: u64,
    /// From one version that refutes an accusation to the next: shorter than the grace.
    pub refute: u64,
}

impl Times {
    /// For a node with this time between ticks; the waits for others are so many times as long.
    pub fn of(tick_ms: u64, factor: u32) -> Self {
        let third = (tick_ms / 3).max(1);
        let factor = u64::from(factor);
        Self {
            probe: third,
            answer: third * factor,
            stage: third * factor,
            grace: (tick_ms * 4 / 5).max(1) * factor,
            alone: third * 4,
            window: tick_ms * 2,
            refute: tick_ms / 2,
        }
    }
}

/// Somebody who asked this node to try a third one: it can't call that one itself.
#[derive(Debug)]
pub struct Asker {
    /// Whom it asked for.
    pub about: NodeId,
    /// Who asked.
    pub asker: NodeId,
    /// When it did last, ms.
    pub at: u64,
}

/// How the own probes went of late.
#[derive(Debug, Default)]
pub struct Health {
    /// A bit for each, the last one lowest; set where it failed and the peer was there.
    failed: u32,
}

impl Health {
    /// A probe was answered, or it was not though the peer is there.
    pub fn note(&mut self, failed: bool) {
        self.failed = (self.failed << 1 | u32::from(failed)) & ((1 << PROBES) - 1);
    }

    /// How many times as long to wait for others.
    pub fn factor(&self) -> u32 {
        let failed = self.failed.count_ones();
        if failed < FAILED_MAX { 1 } else { (failed - 1).min(FACTOR_MAX) }
    }
}

/// What stands against a peer.
#[derive(Debug, Default)]
pub struct Watch {
    /// It gave no answer: others are asked, nobody is told.
    pub doubt: Option<Doubt>,
    /// It is said not to be there.
    pub accused: Option<Accused>,
    /// When it was accused last, ms.
    pub accused_at: Option<u64>,
    /// The version that was accused then: where it can't be called it hears that when it calls.
    pub accused_version: Option<Fingerprint>,
    /// When others showed last that it is there, ms.
    pub vouched_at: Option<u64>,
    /// Who brought the last word that it is there, in which of its runs: the first one to be asked
    /// again.
    pub via: Option<(NodeId, Incarnation)>,
    /// How often it was shown that it is there while it could not be called, and when it comes into
    /// doubt for silence again: others watch it as well, and can call it.
    pub far: Pace,
    /// When its mail had questions last that were answered, ms.
    pub mail_at: Option<u64>,
    /// Who was asked about it as others say that it is there.
    pub sought: Vec<Asked>,
    /// Until when a word of those counts, ms.
    pub sought_until: u64,
    /// When it answered last what this node asked of it itself without a link, ms.
    pub answered_at: Option<u64>,
}

/// A peer that gave no answer.
#[derive(Debug)]
pub struct Doubt {
    /// Until when this stage lasts, ms.
    pub until: u64,
    /// How far it went.
    pub stage: Stage,
    /// Whether it was tried again in vain.
    pub was_tried: bool,
    /// Whether a call of ours is behind it, and not silence alone.
    pub by_call: bool,
    /// Who was asked to try it.
    pub asked: Vec<Asked>,
}

/// How far a doubt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// This node tries it once more itself: most answers that do not come got lost on their way.
    Again,
    /// A few others were asked.
    First,
    /// More of them were.
    Second,
}

/// Somebody who was asked to try a peer.
#[derive(Debug)]
pub struct Asked {
    /// Who.
    pub helper: NodeId,
    /// What the peer has to sign; known to that one alone.
    pub challenge: Challenge,
    /// Whether the helper took the ask.
    pub is_taken: bool,
    /// Whether nothing more comes of it.
    pub is_over: bool,
}

impl Doubt {
    /// One that begins.
    pub fn new(stage: Stage, until: u64, by_call: bool) -> Self {
        Self { until, stage, was_tried: false, by_call, asked: Vec::new() }
    }

    /// Whether nothing is to be waited for before the end of the stage.
    pub fn is_settled(&self) -> bool {
        let all_said = !self.asked.is_empty() && self.asked.iter().all(|asked| asked.is_over);
        self.was_tried && (all_said || self.stage == Stage::Again)
    }
}

impl Watch {
    /// Who was asked, as long as a word of theirs counts.
    pub fn asked(&self) -> impl Iterator<Item = &Asked> {
        let doubt = self.doubt.iter().flat_map(|doubt| &doubt.asked);
        let accused = self.accused.iter().flat_map(|accused| &accused.asked);
        doubt.chain(accused).chain(&self.sought)
    }

    /// What was asked under this challenge.
    pub fn asked_under(&mut self, challenge: &Challenge) -> Option<&mut Asked> {
        let doubt = self.doubt.iter_mut().flat_map(|doubt| &mut doubt.asked);
        let accused = self.accused.iter_mut().flat_map(|accused| &mut accused.asked);
        let mut all = doubt.chain(accused).chain(&mut self.sought);
        all.find(|asked| asked.challenge == *challenge)
    }

    /// Words count no longer that come so long, ms, after a node was lost, or long after it was
    /// sought: whoever was asked could keep one back, and bring it when the node is gone.
    pub fn drop_late_asks(&mut self, now_ms: u64, most_ms: u64) {
        if now_ms >= self.sought_until {
            self.sought.clear();
        }
        let is_over = |accused: &&mut Accused| now_ms.saturating_sub(accused.until) >= most_ms;
        if let Some(accused) = self.accused.as_mut().filter(is_over) {
            accused.asked.clear();
        }
    }

    /// Nothing stands against it any more.
    pub fn clear(&mut self) -> Option<Doubt> {
        self.accused = None;
        self.sought.clear();
        self.doubt.take()
    }
}

/// An accusation that is believed until it is refuted.
#[derive(Debug)]
pub struct Accused {
    /// The version that the accuser held: any newer one refutes it.
    pub fingerprint: Fingerprint,
    /// When the peer is lost, ms.
    pub until: u64,
    /// When people are told that it is suspected, ms, if it did not answer here until then.
    pub shown_at: u64,
    /// By whose word.
    pub by: Accuser,
    /// Who was asked to try it, before and since.
    pub asked: Vec<Asked>,
}

impl Accused {
    /// Of one that was lost without an accusation: nothing that it said until then brings it back.
    pub fn silent(fingerprint: Fingerprint) -> Self {
        Self { fingerprint, until: 0, shown_at: 0, by: Accuser::Silent, asked: Vec::new() }
    }
}

/// By whose word a peer is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accuser {
    /// Our own, after others were asked, too.
    Own,
    /// Our own, and nobody was told: there is nobody, or we are cut off.
    Silent,
    /// That of others.
    Others,
}

/// Something that another node asked for.
#[derive(Debug)]
pub struct Favour {
    /// What it asked.
    pub ask: Ask,
    /// Until when it is worth an answer, ms.
    pub until: u64,
    /// How often it went in an answer, to one that can't be called.
    pub told: u32,
}

/// What came of an ask, for an asker that can't be called: it hears it when it calls.
#[derive(Debug)]
pub struct Kept {
    /// Who asked.
    pub asker: NodeId,
    /// What came of it.
    pub word: Word,
    /// Until when it is told, ms.
    pub until: u64,
    /// How often it was.
    pub told: u32,
}

/// What is owed to a peer beside records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tell {
    /// Whom it is asked about.
    pub asks: Vec<Ask>,
    /// What it asked for.
    pub words: Vec<Word>,
    /// Whom we accuse.
    pub suspects: BTreeSet<NodeId>,
}

impl Tell {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.words.is_empty() && self.suspects.is_empty()
    }

    /// One word more, if there is room among so many, and it is not there yet.
    pub fn add_word(&mut self, word: Word, most: usize) {
        if self.words.len() < most && !self.words.contains(&word) {
            self.words.push(word);
        }
    }

    /// What the peer itself is asked to sign, for somebody.
    pub fn self_ask(&self, peer: &NodeId) -> Option<&Ask> {
        self.asks.iter().find(|ask| ask.about == *peer)
    }

    /// Whether the peer itself is asked for this node.
    pub fn asks_itself(&self, peer: &NodeId, me: &NodeId) -> bool {
        self.asks.iter().any(|ask| ask.about == *peer && ask.asker == *me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_often_waits_longer_and_trusts_itself_again() {
        let mut health = Health::default();
        let factors: Vec<u32> = (0..12)
            .map(|_| {
                health.note(true);
                health.factor()
            })
            .collect();
        assert_eq!(factors, [1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]);
        for _ in 0..8 {
            health.note(false);
        }
        assert_eq!(health.factor(), 1);
    }

    /// Killed, probed, asked about twice and accused: five seconds; and ten where nothing answers.
    #[test]
    fn the_steps_add_up_to_what_is_promised() {
        let times = Times::of(3_000, 1);
        assert!(2 * times.probe + times.grace <= 5_000);
        assert!(2 * times.probe + times.answer + 2 * times.stage + times.grace <= 10_000);
        assert!(times.refute < times.grace, "else a liar that is early keeps it from refuting");
        assert!(times.window > times.grace + times.refute);
        let slow = Times::of(3_000, 8);
        assert_eq!((slow.answer, slow.stage, slow.probe), (8_000, 8_000, times.probe));
        assert!(Times::of(1, 1).probe > 0 && Times::of(1, 1).grace > 0);
    }
}
