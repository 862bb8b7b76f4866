//! Numbers that differ: for ids and for lots, not for secrets.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
};

/// A number that nobody has had before, and never 0. It takes a nanosecond: a counter of this thread's, which begins
/// anywhere, mixed (SplitMix64).
pub fn random() -> u64 {
    thread_local!(static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0u8)));
    let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_of_several_threads_are_all_different() {
        let made = || (0..10_000).map(|_| random()).collect::<Vec<_>>();
        let all: Vec<u64> = std::thread::scope(|threads| {
            let threads: Vec<_> = (0..4).map(|_| threads.spawn(made)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(!all.contains(&0));
    }
}
