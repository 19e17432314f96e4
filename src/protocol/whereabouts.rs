//! Where a peer may be: what it claims, where it answered, and what others say. Addresses are
//! hints; only a signed answer proves one.

use std::collections::VecDeque;

use super::address::Address;

/// Most addresses that others named for one node: a liar can make us try no more than these.
const HINTS_MAX: usize = 4;

/// Where a peer may be.
#[derive(Debug, Default)]
pub struct Whereabouts {
    /// Where it was last reached, or said that it is.
    address: Option<Address>,
    /// Where it answered last with its signature, in this run or an earlier one.
    proved: Option<Address>,
    /// The address that its operator gave it, for others to use.
    advertise: Option<Address>,
    /// Where others say that it is, the next to be tried last; tried while it does not answer at
    /// `address`.
    hints: VecDeque<Hint>,
}

/// Where others say that a peer is.
#[derive(Debug)]
struct Hint {
    address: Address,
    /// Whether it was not tried yet.
    is_new: bool,
}

impl Whereabouts {
    /// As it was kept: it was reached there.
    pub fn kept(address: Option<Address>) -> Self {
        Self { proved: address.clone(), address, ..Self::default() }
    }

    /// Where it is called.
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Where it answered last.
    pub fn proved(&self) -> Option<&Address> {
        self.proved.as_ref()
    }

    /// For people: where it is called, or else may be.
    pub fn shown(&self) -> Option<&Address> {
        self.address.as_ref().or_else(|| self.last_hint())
    }

    fn last_hint(&self) -> Option<&Address> {
        self.hints.back().map(|hint| &hint.address)
    }

    /// Whether it has answered where it is called now.
    pub fn is_proved(&self) -> bool {
        self.address.is_some() && self.address == self.proved
    }

    /// Where to say HELLO after so many tries in vain: at its address, and after each failure there
    /// at the hint that was not tried for longest.
    pub fn to_try(&self, failures: u32) -> Option<&Address> {
        let hint = self.last_hint();
        if failures.is_multiple_of(2) {
            self.address.as_ref().or(hint)
        } else {
            hint.or(self.address.as_ref())
        }
    }

    /// Whether a hint waits to be tried.
    pub fn has_new_hint(&self) -> bool {
        self.hints.iter().any(|hint| hint.is_new)
    }

    /// Whether it may be somewhere else, where it was not tried.
    pub fn has_new_hint_beside(&self, address: &Address) -> bool {
        self.hints.iter().any(|hint| hint.is_new && hint.address != *address)
    }

    /// The other hints come first from now on.
    pub fn pass_over(&mut self, address: &Address) {
        if let Some(at) = self.hints.iter().position(|hint| hint.address == *address)
            && let Some(hint) = self.hints.remove(at)
        {
            self.hints.push_front(hint);
        }
    }

    /// Somebody else lives there, so it is not tried: the newest of the other hints is its address
    /// from now on, or comes first. Nothing else would lead to it, as only tries take turns.
    pub fn is_of_another(&mut self, address: &Address) {
        if self.address.as_ref() != Some(address) {
            return self.pass_over(address);
        }
        if let Some(hint) = self.hints.pop_back() {
            self.hints.push_front(Hint { address: address.clone(), is_new: false });
            self.address = Some(hint.address);
        }
    }

    /// Nobody answered there: the other hints come first from now on.
    pub fn tried_in_vain(&mut self, address: &Address) {
        self.pass_over(address);
        if let Some(hint) = self.hints.iter_mut().find(|hint| hint.address == *address) {
            hint.is_new = false;
        }
    }

    /// Where others should look for it.
    pub fn to_share(&self) -> Option<&Address> {
        self.advertise.as_ref().or(self.address.as_ref()).or_else(|| self.last_hint())
    }

    /// Takes a hint where it may be; says whether it is news. The newest ones are kept.
    pub fn add_hint(&mut self, address: &Address) -> bool {
        let is_known = |hint: &Hint| hint.address == *address;
        if self.address.as_ref() == Some(address) || self.hints.iter().any(is_known) {
            return false;
        }
        self.push_hint(Hint { address: address.clone(), is_new: true });
        true
    }

    fn push_hint(&mut self, hint: Hint) {
        if self.hints.len() == HINTS_MAX {
            self.hints.pop_front();
        }
        self.hints.push_back(hint);
    }

    /// It says itself that it is there; `advertise` is what its operator gave it.
    pub fn claim(&mut self, address: Address, advertise: Option<Address>) {
        self.advertise = advertise;
        self.move_to(address);
    }

    /// It says itself, through others, that it is there now.
    pub fn settle(&mut self, address: &Address) {
        self.move_to(address.clone());
    }

    /// It answered there with its signature. Says whether that is news.
    pub fn prove(&mut self, address: &Address, advertise: Option<Address>) -> bool {
        self.advertise = advertise;
        self.prove_address(address)
    }

    /// It answered there with its signature. Says whether that is news.
    pub fn prove_address(&mut self, address: &Address) -> bool {
        self.move_to(address.clone());
        let is_news = self.proved.as_ref() != Some(address);
        self.proved = Some(address.clone());
        is_news
    }

    /// Another node answers there now: it has to prove that it is there again.
    pub fn unprove(&mut self, address: &Address) {
        self.proved.take_if(|proved| proved == address);
    }

    /// Another node answers there. The only address is kept all the same: none is given up without
    /// an operator.
    pub fn drop_address(&mut self, address: &Address) {
        self.hints.retain(|hint| hint.address != *address);
        if self.proved.as_ref() == Some(address) {
            self.proved = None;
        }
        if self.address.as_ref() == Some(address)
            && let Some(hint) = self.hints.pop_front()
        {
            self.address = Some(hint.address);
        }
    }

    fn move_to(&mut self, address: Address) {
        if self.address.as_ref() == Some(&address) {
            return;
        }
        // What led to the node is its address now, and no hint that waits to be tried.
        self.hints.retain(|hint| hint.address != address);
        if let Some(old) = self.address.replace(address) {
            self.push_hint(Hint { address: old, is_new: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: usize) -> Address {
        Address::new(&format!("10.0.0.{number}:8000")).unwrap()
    }

    #[test]
    fn an_address_is_proved_until_the_node_claims_another_one() {
        let mut place = Whereabouts::default();
        assert!(!place.is_proved() && place.to_try(0).is_none());
        place.claim(at(1), None);
        assert!(!place.is_proved());
        assert!(place.prove_address(&at(1)) && place.is_proved());
        assert!(!place.prove_address(&at(1)), "no news");
        place.claim(at(2), Some(at(2)));
        assert!(!place.is_proved());
        assert_eq!((place.proved(), place.address()), (Some(&at(1)), Some(&at(2))));
        place.claim(at(1), None);
        assert!(place.is_proved());
        assert!(Whereabouts::kept(Some(at(1))).is_proved());
        assert!(!Whereabouts::kept(None).is_proved());
    }

    #[test]
    fn the_address_and_the_hints_take_turns() {
        let mut place = Whereabouts::kept(Some(at(1)));
        assert!(place.add_hint(&at(2)) && place.add_hint(&at(3)) && !place.add_hint(&at(1)));
        let tried: Vec<Address> = (0..6)
            .map(|failures| {
                let address = place.to_try(failures).unwrap().clone();
                place.tried_in_vain(&address);
                address
            })
            .collect();
        assert_eq!(tried, [at(1), at(3), at(1), at(2), at(1), at(3)]);
    }

    /// Where it was once a host may live that is never tried for it.
    #[test]
    fn where_another_one_lives_is_no_address_while_there_is_a_hint() {
        let mut place = Whereabouts::kept(Some(at(1)));
        place.is_of_another(&at(1));
        assert_eq!(place.to_try(0), Some(&at(1)), "nothing else is known");
        place.add_hint(&at(2));
        place.add_hint(&at(3));
        let tried: Vec<Address> = (0..4)
            .map(|_| {
                let address = place.to_try(6).unwrap().clone();
                place.is_of_another(&address);
                address
            })
            .collect();
        assert_eq!(tried, [at(1), at(3), at(2), at(1)], "all in turn, though none is tried");
        assert_eq!(place.proved(), Some(&at(1)));
    }

    #[test]
    fn hints_are_few_and_the_newest_are_kept() {
        let mut place = Whereabouts::default();
        for number in 1..=10 {
            assert!(place.add_hint(&at(number)));
        }
        assert_eq!(place.hints.len(), HINTS_MAX);
        assert_eq!(place.to_try(0), Some(&at(10)));
        assert!(place.has_new_hint());
    }

    #[test]
    fn a_hint_waits_until_it_was_tried_or_led_to_the_node() {
        let mut place = Whereabouts::default();
        place.add_hint(&at(1));
        assert!(place.has_new_hint());
        place.prove_address(&at(1));
        assert!(!place.has_new_hint(), "it led to it");
        place.add_hint(&at(2));
        place.add_hint(&at(3));
        place.tried_in_vain(&at(3));
        assert!(place.has_new_hint(), "one more was not tried");
        place.claim(at(2), None);
        assert!(!place.has_new_hint(), "where it was before is no news");
    }

    #[test]
    fn the_last_address_is_never_given_up() {
        let mut place = Whereabouts::kept(Some(at(1)));
        place.add_hint(&at(2));
        place.drop_address(&at(1));
        assert_eq!((place.address(), place.proved()), (Some(&at(2)), None));
        place.drop_address(&at(2));
        assert_eq!(place.address(), Some(&at(2)));
    }
}
