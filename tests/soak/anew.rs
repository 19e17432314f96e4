//! A host that is set up anew now and then: its key and its state are gone, and an operator has the
//! old ones forgotten on all others, as docs/operations.md says.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::{Value as Json, json};

use crate::soak::world::{STEADY, World};

/// Which lives of each owner (second index) a node (first index) may show. A life of an owner ends
/// when its host is set up anew.
pub struct Lives {
    /// The newest one: whose predecessor the node was asked to forget, maybe without an answer yet.
    asked: Mutex<Vec<Vec<usize>>>,
    /// The oldest one: whose predecessor it said to have forgotten.
    told: Mutex<Vec<Vec<usize>>>,
}

impl Lives {
    pub fn new(count: usize) -> Self {
        let none = || Mutex::new(vec![vec![0; count]; count]);
        Self { asked: none(), told: none() }
    }

    pub fn asked(&self, at: usize) -> Vec<usize> {
        self.asked.lock().unwrap()[at].clone()
    }

    pub fn told(&self, at: usize) -> Vec<usize> {
        self.told.lock().unwrap()[at].clone()
    }

    /// How often the host of a node was set up anew.
    pub fn of(&self, owner: usize) -> usize {
        self.told.lock().unwrap()[owner][owner]
    }

    fn ask(&self, at: usize, owner: usize) {
        self.asked.lock().unwrap()[at][owner] += 1;
    }

    fn tell(&self, at: usize, owner: usize) {
        self.told.lock().unwrap()[at][owner] += 1;
    }
}

/// Sets the host of one node up anew, while all are up and all links are open. Gives which one, and
/// its old key.
pub fn set_up(world: &World, rng: &mut fastrand::Rng) -> (usize, Json) {
    let at = rng.usize(STEADY..world.count());
    let old = key_at(world, 0, at);
    let mut others: Vec<usize> = (0..world.count()).filter(|it| *it != at).collect();
    rng.shuffle(&mut others);
    // Some are told before the new host is there, the others when it knocks already.
    let early = rng.usize(0..=others.len());
    world
        .note_fault(format!("n{at} is set up anew; told before it starts: {:?}", &others[..early]));
    world.kill(at);
    world.wipe(at);
    world.sets.begin_anew(at);
    world.lives.ask(at, at);
    world.lives.tell(at, at);
    for other in &others[..early] {
        forget(world, *other, at);
    }
    world.start(at);
    for other in &others[early..] {
        forget(world, *other, at);
    }
    world.counts.anew.fetch_add(1, Ordering::Relaxed);
    (at, old)
}

fn forget(world: &World, at: usize, owner: usize) {
    world.lives.ask(at, owner);
    let question = json!({ "op": "forget", "node": world.nodes[owner].id });
    match world.ask(at, &question) {
        Ok(_) => world.lives.tell(at, owner),
        Err(failure) => world.fail("serving", at, &format!("forget n{owner}: {failure:?}")),
    }
}

/// The key that a node has pinned for another.
fn key_at(world: &World, at: usize, owner: usize) -> Json {
    let peers = world.ask(at, &json!({ "op": "peers" })).expect("it serves");
    let peers = peers.as_array().expect("a list");
    let peer = peers.iter().find(|it| it["node_id"] == world.nodes[owner].id.as_str());
    peer.map_or(Json::Null, |it| it["public_key"].clone())
}

/// The first node that does not know the one that was set up anew by the one key that it has now.
pub fn known_by_the_old(world: &World, at: usize, old: &Json) -> Option<(usize, String)> {
    let keys: Vec<(usize, Json)> = (0..world.count())
        .filter(|it| *it != at)
        .map(|other| (other, key_at(world, other, at)))
        .collect();
    let wrong = keys.iter().find(|(_, key)| !key.is_string() || key == old || *key != keys[0].1)?;
    Some((wrong.0, format!("it knows n{at} by the key {}, the old one was {old}", wrong.1)))
}
