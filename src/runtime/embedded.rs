//! What a program that embeds a node asks of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::RunningNode;
use crate::events::Subscription;
use crate::protocol::entries::{Change, Key, Value};
use crate::protocol::fault::Fault;
use crate::protocol::identity::NodeId;
use crate::protocol::lease::Ttl;
use crate::protocol::report::{Message, NodeState, PeerInfo, PeerStatus, Refused, Status};

/// How often a wait looks though nothing happened: time alone changes some answers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl RunningNode {
    /// The id of the node.
    pub fn node_id(&self) -> &NodeId {
        self.driver.node_id()
    }

    /// What the node says of itself, and what is wrong right now.
    pub fn status(&self) -> Status {
        self.driver.status()
    }

    /// What is wrong right now; empty when all is well.
    pub fn degraded(&self) -> Vec<Fault> {
        self.driver.status().degraded
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.driver.peers()
    }

    /// The value of a key of a node, the own one too; nothing where it is not held.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let mut config = dsn::Config::new("kitchen".parse()?).in_folder(folder.path());
    /// # config.listen = "127.0.0.1:0".parse()?;
    /// # let node = dsn::start(config)?;
    /// node.set("temperature".parse()?, "17.5".parse()?)?;
    /// let value = node.get(&"kitchen".parse()?, "temperature");
    /// assert_eq!(value.as_ref().map(|value| value.as_bytes()), Some(&b"17.5"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, node_id: &NodeId, key: &str) -> Option<Value> {
        self.driver.get(node_id, key)
    }

    /// The state of a node, the own one too; nothing where none is held.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        self.driver.state(node_id)
    }

    /// The states of all nodes, the own one first.
    pub fn states(&self) -> Vec<NodeState> {
        self.driver.states()
    }

    /// Sets a key of the own state; returns the timestamp of the version (microseconds since 1970)
    /// when it is durable.
    pub fn set(&self, key: Key, value: Value) -> Result<u64, Refused> {
        self.driver.set(key, value)
    }

    /// Removes a key of the own state; returns as [`Self::set`].
    pub fn unset(&self, key: Key) -> Result<u64, Refused> {
        self.driver.unset(key)
    }

    /// Sets and removes several keys in one version; returns as [`Self::set`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let mut config = dsn::Config::new("kitchen".parse()?).in_folder(folder.path());
    /// # config.listen = "127.0.0.1:0".parse()?;
    /// # let node = dsn::start(config)?;
    /// let change = [("door".parse()?, Some("open".parse()?)), ("light".parse()?, None)];
    /// node.change(change.into())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn change(&self, change: Change) -> Result<u64, Refused> {
        self.driver.change(change)
    }

    /// The same; what it sets is removed after that time unless it is set again. To set the same
    /// value again for as long is no change: nothing is written, and nothing is sent.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let mut config = dsn::Config::new("kitchen".parse()?).in_folder(folder.path());
    /// # config.listen = "127.0.0.1:0".parse()?;
    /// # let node = dsn::start(config)?;
    /// let ttl = std::time::Duration::from_secs(30).try_into()?;
    /// node.change_for([("temperature".parse()?, Some("17.5".parse()?))].into(), ttl)?;
    /// assert!(node.expires_in("temperature").is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn change_for(&self, change: Change, ttl: Ttl) -> Result<u64, Refused> {
        self.driver.change_for(change, Some(ttl))
    }

    /// How long a key of the own state stands unless it is set again; nothing where it stands for
    /// good, or is not there.
    pub fn expires_in(&self, key: &str) -> Option<Duration> {
        let due_ms = *self.state(self.node_id())?.expires.get(key)?;
        Some(Duration::from_millis(due_ms.saturating_sub(self.driver.now_ms())))
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        self.driver.ping(node_id, timeout)
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(&self, node_id: &NodeId, data: &[u8], timeout: Duration) -> Result<(), Refused> {
        self.driver.send(node_id, data.into(), timeout)
    }

    /// Takes the oldest DATA out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        self.driver.receive(timeout)
    }

    /// Puts a message back in front of the inbox: it could not be worked on.
    pub fn give_back(&self, message: Message) {
        self.driver.give_back(message);
    }

    /// Events from now on, over a bounded channel; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.driver.subscribe()
    }

    /// All states as they are, and the events from then on: nothing falls between them. Nothing
    /// where too many listen already.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let mut config = dsn::Config::new("kitchen".parse()?).in_folder(folder.path());
    /// # config.listen = "127.0.0.1:0".parse()?;
    /// # let node = dsn::start(config)?;
    /// node.set("door".parse()?, "open".parse()?)?;
    /// let (states, events) = node.subscribe_with_states().ok_or("too many listen")?;
    /// assert_eq!(states[0].entries.len(), 1);
    /// node.set("door".parse()?, "shut".parse()?)?;
    /// assert!(events.next(std::time::Duration::from_secs(5)).is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe_with_states(&self) -> Option<(Vec<NodeState>, Subscription)> {
        let (events, _, states) = self.driver.subscribe_with_all()?;
        Some((states, events))
    }

    /// Looks now, after each event, and twice a second, until there is something or the time is
    /// over.
    pub fn wait_until<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now().checked_add(timeout);
        // First the subscription, then the look: nothing falls between them. Where too many listen
        // already the look alone has to do.
        let events = self.subscribe();
        loop {
            if let Some(found) = look(self) {
                return Some(found);
            }
            let left = until.map_or(LOOK_EVERY, |until| {
                until.saturating_duration_since(Instant::now()).min(LOOK_EVERY)
            });
            if left.is_zero() || self.driver.is_stopping() {
                return None;
            }
            match &events {
                Some(events) => drop(events.next(left)),
                None => std::thread::park_timeout(left),
            }
        }
    }

    /// Waits until so many peers are alive; says whether they are.
    pub fn wait_for_peers(&self, count: usize, timeout: Duration) -> bool {
        let is_alive = |peer: &PeerInfo| peer.status == PeerStatus::Alive;
        let alive = |node: &Self| node.peers().iter().filter(|peer| is_alive(peer)).count();
        self.wait_until(timeout, |node| (alive(node) >= count).then_some(())).is_some()
    }

    /// Waits until a node has a key; gives its value.
    pub fn wait_for_key(&self, node_id: &NodeId, key: &str, timeout: Duration) -> Option<Value> {
        self.wait_until(timeout, |node| node.get(node_id, key))
    }

    /// Drops all that is known of nodes: their keys, addresses and states. They come back by their
    /// own HELLO alone. Where one can't be forgotten, none is.
    pub fn forget(&self, node_ids: &[NodeId]) -> Result<(), Refused> {
        self.driver.forget(node_ids)
    }

    /// The same for all that are lost; gives which.
    pub fn forget_lost(&self) -> Vec<NodeId> {
        self.driver.forget_lost()
    }

    /// Says goodbye: makes it durable, then waits until all that answer were told. Where the time
    /// runs out before, the error names those that were not; the goodbye stays.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.driver.leave(timeout)
    }

    /// Lets [`Self::status`] tell how many lines of the log were dropped: whoever writes the log
    /// counts.
    pub fn count_dropped_lines(&self, count: Arc<AtomicU64>) {
        self.driver.count_dropped_lines(count);
    }
}
