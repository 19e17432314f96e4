//! Sorting and gathering that are compiled once. `slice::sort_by`, and `collect` into a map, which
//! sorts first, are made anew for each type of item, way to compare and iterator: 3 to 8 KB each
//! time. They stay where they are hot, and are named in `tests/tidy.rs`.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Sorts as `slice::sort_by` does: those that are equal stay in their order.
pub fn sort_by<T>(items: &mut [T], mut compare: impl FnMut(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let swaps = swaps(items.len(), &mut |left, right| {
        let pair = items.get(left).zip(items.get(right));
        pair.map_or(Ordering::Equal, |(left, right)| compare(left, right))
    });
    for (one, other) in swaps {
        items.swap(one, other);
    }
}

/// The same by what they are themselves.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

/// What puts so many items into their order. All that takes room is here, and knows no type.
fn swaps(count: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|left, right| compare(*left, *right));
    let mut swaps = Vec::new();
    for start in 0..count {
        // Around the circle of those that take each other's places: each gets the one it waits for.
        let mut at = start;
        while let Some(from) = order.get_mut(at).map(|from| std::mem::replace(from, at)) {
            if from == start || from == at {
                break;
            }
            swaps.push((at, from));
            at = from;
        }
    }
    swaps
}

/// Gathers into a map or a set one by one: `collect` would sort first.
pub trait Gather: Iterator + Sized {
    /// All of them; of several with the same key the last one.
    fn gathered<C: Default + Extend<Self::Item>>(self) -> C {
        let mut all = C::default();
        all.extend(self);
        all
    }
}

impl<I: Iterator> Gather for I {}

/// A map as a list in the order of its keys: for those with a handful of entries, and for those
/// that seldom get one. A `BTreeMap` takes 4 to 10 KB of code for each type of key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListMap<K, V>(Vec<(K, V)>);

impl<K: Ord, V> ListMap<K, V> {
    /// Without entries.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where it is, or would be.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// The value of a key, to change.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// Gives a key its value, and gives back the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => self.0.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Changes the value of a key; one that has none gets one.
    pub fn change<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> R
    where
        K: Clone,
        V: Default,
    {
        if let Some(value) = self.get_mut(key) {
            return change(value);
        }
        let mut value = V::default();
        let result = change(&mut value);
        self.insert(key.clone(), value);
        result
    }

    /// Takes out the value of a key.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Takes out all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes out all but those of which this is true.
    pub fn retain(&mut self, mut stays: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| stays(key, value));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// All values, to change.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

impl<K, V> Default for ListMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Extend<(K, V)> for ListMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

impl<K, V> IntoIterator for ListMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(
            numbers in proptest::collection::vec(0..20_u8, 0..60)
        ) {
            // With their places: equal ones stay in their order.
            let mut ours: Vec<(u8, usize)> = numbers.into_iter().zip(0..).collect();
            let mut theirs = ours.clone();
            sort_by(&mut ours, |left, right| left.0.cmp(&right.0));
            theirs.sort_by_key(|(number, _)| *number);
            prop_assert_eq!(&ours, &theirs);
            ours.reverse();
            sort(&mut ours);
            prop_assert_eq!(ours, theirs);
        }

        /// Whatever happens to it, it is the map that it stands for.
        #[test]
        fn a_list_is_the_map_that_it_stands_for(
            steps in proptest::collection::vec((0..8_u8, 0..4_u8, any::<u8>()), 0..60)
        ) {
            let (mut list, mut map) = (ListMap::new(), BTreeMap::new());
            for (key, step, value) in steps {
                match step {
                    0 => prop_assert_eq!(list.insert(key, value), map.insert(key, value)),
                    1 => prop_assert_eq!(list.remove(&key), map.remove(&key)),
                    2 => {
                        list.change(&key, |it| *it = value / 2 + *it / 2);
                        let old = map.entry(key).or_default();
                        *old = value / 2 + *old / 2;
                    }
                    _ => {
                        list.retain(|other, it| *other < key || *it < value);
                        map.retain(|other, it| *other < key || *it < value);
                    }
                }
                prop_assert!(list.iter().eq(&map));
                prop_assert_eq!(list.get(&key), map.get(&key));
                prop_assert_eq!(list.contains_key(&key), map.contains_key(&key));
            }
            prop_assert_eq!((list.len(), list.is_empty()), (map.len(), map.is_empty()));
            prop_assert!(list.into_iter().eq(map));
        }

        #[test]
        fn it_gathers_as_collect_does(
            pairs in proptest::collection::vec((0..20_u8, 0..9_u8), 0..60)
        ) {
            let all: BTreeMap<u8, u8> = pairs.iter().copied().gathered();
            prop_assert_eq!(all, pairs.into_iter().collect());
        }
    }
}
