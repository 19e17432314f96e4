//! What is wrong, in the log: each fault once when it comes, when its reason changes, and when it
//! goes. What others cause has a limit, so that nobody fills a disk.

use std::sync::PoisonError;

use super::Driver;
use crate::protocol::fault::{Fault, Source};
use crate::protocol::node::Now;

/// Most lines about what this node sees itself, within [`LINES_MS`].
const LINES_OF_OWN_MAX: usize = 24;
/// Most lines that others cause, all together, within that time.
const LINES_OF_OTHERS_MAX: usize = 16;
/// Most lines that one of them causes within that time.
const LINES_OF_ONE_MAX: usize = 4;
/// The time that all are about, and the time between two reasons of one fault, ms.
const LINES_MS: u64 = 60_000;

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// This is wrong from now on, or for another reason than before.
    Wrong(Fault),
    /// This is over.
    Over(Fault),
    /// More is wrong than is told here.
    More,
}

/// What was told so far and is not over.
#[derive(Debug, Default)]
pub(super) struct Told {
    known: Vec<(Fault, u64)>,
    /// Who caused lines of late, and when, ms.
    lines: Vec<(Source, u64)>,
    more_at: Option<u64>,
}

impl Told {
    /// Takes all that is wrong now; gives what is to be told.
    pub(super) fn look(&mut self, faults: &[Fault], now_ms: u64) -> Vec<Line> {
        self.lines.retain(|(_, at)| now_ms.saturating_sub(*at) < LINES_MS);
        let is_same = |one: &Fault, other: &Fault| one.text == other.text && is_kin(one, other);
        let mut news: Vec<&Fault> = faults
            .iter()
            .filter(|fault| !self.known.iter().any(|(known, _)| is_same(known, fault)))
            .collect();
        let mut told = Vec::new();
        for (known, told_at) in std::mem::take(&mut self.known) {
            if faults.iter().any(|fault| is_same(fault, &known)) {
                self.known.push((known, told_at));
            } else if let Some(at) = news.iter().position(|fault| is_kin(fault, &known)) {
                let changed = news.swap_remove(at);
                if now_ms.saturating_sub(told_at) >= LINES_MS && self.may_tell(changed, now_ms) {
                    told.push(Line::Wrong(changed.clone()));
                    self.known.push((changed.clone(), now_ms));
                } else {
                    self.known.push((known, told_at));
                }
            } else {
                told.push(Line::Over(known));
            }
        }
        for fault in news {
            if self.may_tell(fault, now_ms) {
                told.push(Line::Wrong(fault.clone()));
                self.known.push((fault.clone(), now_ms));
            } else if self.more_at.is_none_or(|at| now_ms.saturating_sub(at) >= LINES_MS) {
                self.more_at = Some(now_ms);
                told.push(Line::More);
            }
        }
        told
    }

    fn may_tell(&mut self, fault: &Fault, now_ms: u64) -> bool {
        let is_own = |source: &Source| *source == Source::Own;
        let of_one = self.lines.iter().filter(|(source, _)| *source == fault.source).count();
        let of_others = self.lines.iter().filter(|(source, _)| !is_own(source)).count();
        let may = if is_own(&fault.source) {
            of_one < LINES_OF_OWN_MAX
        } else {
            of_one < LINES_OF_ONE_MAX && of_others < LINES_OF_OTHERS_MAX
        };
        if may {
            self.lines.push((fault.source.clone(), now_ms));
        }
        may
    }
}

/// Whether one is the other with perhaps another reason.
fn is_kin(one: &Fault, other: &Fault) -> bool {
    one.code == other.code && one.node == other.node
}

impl Driver {
    /// Writes what is wrong to the log, where that is news.
    pub(super) fn tell_faults(&self, now: Now) {
        let faults = self.faults(now);
        let happened = self.lock().node.take_untold_notices();
        for fault in happened {
            log::warn!("{}: {fault}", fault.code.as_str());
        }
        let lines =
            self.told.lock().unwrap_or_else(PoisonError::into_inner).look(&faults, now.mono_ms);
        for line in lines {
            match line {
                Line::Wrong(fault) if fault.code.is_own() => {
                    log::error!("degraded ({}): {fault}", fault_name(&fault));
                }
                Line::Wrong(fault) => log::warn!("degraded ({}): {fault}", fault_name(&fault)),
                Line::Over(fault) => {
                    log::info!("no longer degraded ({}): {}", fault_name(&fault), fault.text);
                }
                Line::More => log::warn!("more is wrong than is told here: `dsn status` shows it"),
            }
        }
    }
}

/// `clone, garden`
fn fault_name(fault: &Fault) -> String {
    let code = fault.code.as_str();
    fault.node.as_ref().map_or_else(|| code.to_owned(), |node_id| format!("{code}, {node_id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fault::Code;

    fn fault(code: Code, text: &str) -> Fault {
        Fault::new(code, text, "")
    }

    #[test]
    fn a_fault_is_told_when_it_comes_when_its_reason_changes_and_when_it_goes() {
        let mut told = Told::default();
        let refused = fault(Code::Alone, "connection refused");
        let silent = fault(Code::Alone, "no answer");
        assert_eq!(told.look(std::slice::from_ref(&refused), 0), [Line::Wrong(refused.clone())]);
        assert_eq!(told.look(std::slice::from_ref(&refused), 3_000), []);
        // A reason that flutters is told once a minute, and what was told stays known meanwhile.
        assert_eq!(told.look(std::slice::from_ref(&silent), 6_000), []);
        assert_eq!(told.look(std::slice::from_ref(&refused), 9_000), []);
        assert_eq!(
            told.look(std::slice::from_ref(&silent), LINES_MS),
            [Line::Wrong(silent.clone())]
        );
        assert_eq!(told.look(&[], LINES_MS + 1), [Line::Over(silent)]);
        assert_eq!(told.look(&[], LINES_MS + 2), []);
    }

    #[test]
    fn one_liar_does_not_hide_the_others_nor_what_the_node_sees_itself() {
        let mut told = Told::default();
        let says = |source: &str, text: usize| Fault {
            source: Source::Other(source.into()),
            ..fault(Code::IdConflict, &format!("{source} {text}"))
        };
        let mut faults: Vec<Fault> = (0..8).map(|text| says("liar", text)).collect();
        let lines = told.look(&faults, 0);
        assert_eq!(lines.len(), LINES_OF_ONE_MAX + 1, "{lines:?}");
        assert_eq!(lines.last(), Some(&Line::More));
        faults.push(says("honest", 0));
        faults.push(fault(Code::StateDisk, "it is full"));
        let lines = told.look(&faults, 1_000);
        let expected = [Line::Wrong(says("honest", 0)), Line::Wrong(faults[9].clone())];
        assert_eq!(lines, expected);
        // A minute later the rest has its turn.
        assert_eq!(told.look(&faults, LINES_MS).len(), LINES_OF_ONE_MAX);
        let many: Vec<Fault> = (0..100).map(|liar| says(&format!("liar{liar}"), 0)).collect();
        let wrong = |line: &&Line| matches!(line, Line::Wrong(_));
        let lines = told.look(&many, 10 * LINES_MS);
        assert_eq!(lines.iter().filter(wrong).count(), LINES_OF_OTHERS_MAX);
    }
}
