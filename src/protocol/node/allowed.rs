//! The list of those that may be in the network, where there is one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Node, Now, Urgency};
use crate::order::Gather;
use crate::protocol::identity::{NodeId, PublicKey};

/// Nodes that may be in the network, with their keys.
pub type AllowList = BTreeMap<NodeId, PublicKey>;

impl Node {
    /// Whether the list, if there is one, has the node with this key.
    pub(super) fn is_allowed(&self, node_id: &NodeId, key: &PublicKey) -> bool {
        self.settings.allow.as_ref().is_none_or(|list| list.get(node_id) == Some(key))
    }

    /// Takes another list. Peers that are not in it any more go with their states, as a start with
    /// it would leave them out; those that are in it now come by their own HELLO. Gives who went.
    pub fn replace_allow_list(&mut self, list: AllowList, now: Now) -> (Vec<NodeId>, Vec<Action>) {
        let mut actions = Vec::new();
        let old = self.settings.allow.replace(list);
        let gone: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(node_id, peer)| match peer.pin {
                Some(pin) => !self.is_allowed(node_id, &pin.key),
                None => !self.is_named(node_id),
            })
            .map(|(node_id, _)| node_id.clone())
            .collect();
        for node_id in &gone {
            self.bury(
                node_id,
                "it is not in the list of allowed nodes any more",
                now,
                &mut actions,
            );
        }
        for node_id in changed(old.as_ref(), self.settings.allow.as_ref()) {
            self.conflicts.drop_about(&node_id);
        }
        self.found.hope_again();
        if !gone.is_empty() {
            self.want_saved(Urgency::Now, &mut actions);
        }
        (gone, actions)
    }

    fn is_named(&self, node_id: &NodeId) -> bool {
        self.settings.allow.as_ref().is_none_or(|list| list.contains_key(node_id))
    }
}

/// Of whom the lists say different things.
fn changed(old: Option<&AllowList>, new: Option<&AllowList>) -> BTreeSet<NodeId> {
    let of = |list: Option<&AllowList>, node_id: &NodeId| {
        list.and_then(|list| list.get(node_id)).copied()
    };
    let named = old.into_iter().chain(new).flat_map(BTreeMap::keys);
    named.filter(|node_id| of(old, node_id) != of(new, node_id)).cloned().gathered()
}
