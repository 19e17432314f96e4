//! Sorting and gathering that are compiled once. `slice::sort_by`, and `collect` into a map, which
//! sorts first, are made anew for each type of item, way to compare and iterator: 3 to 8 KB each
//! time. They stay where they are hot, and are named in `tests/tidy.rs`.

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

        #[test]
        fn it_gathers_as_collect_does(pairs in proptest::collection::vec((0..20_u8, 0..9_u8), 0..60)) {
            let all: BTreeMap<u8, u8> = pairs.iter().copied().gathered();
            prop_assert_eq!(all, pairs.into_iter().collect());
        }
    }
}
