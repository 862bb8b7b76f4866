//! Meters with labels, of which there are only so many.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::RwLock;

/// One meter for each key, until there are `max`; further keys share one.
pub struct Family<K, T> {
    max: usize,
    known: RwLock<HashMap<K, Arc<T>>>,
    other: Arc<T>,
}

impl<K: Clone + Eq + Hash, T> Family<K, T> {
    pub fn new(max: usize, make: impl FnOnce() -> T) -> Self {
        Self { max, known: RwLock::default(), other: Arc::new(make()) }
    }

    /// The meter of a key, made if there is room for it. Keep it where its key is at hand: this looks in a table.
    pub fn of(&self, key: &K, make: impl FnOnce() -> T) -> Arc<T> {
        {
            let known = self.known.read();
            if let Some(known) = known.get(key) {
                return Arc::clone(known);
            }
            // Most calls beyond the bound end here, and none waits for another.
            if known.len() >= self.max {
                return Arc::clone(&self.other);
            }
        }
        let mut known = self.known.write();
        if let Some(known) = known.get(key) {
            return Arc::clone(known);
        }
        if known.len() >= self.max {
            return Arc::clone(&self.other);
        }
        let made = Arc::new(make());
        known.insert(key.clone(), Arc::clone(&made));
        made
    }

    /// Whether a meter is the one that many keys share.
    pub fn is_other(&self, meter: &Arc<T>) -> bool {
        Arc::ptr_eq(&self.other, meter)
    }

    /// Drops the meters of keys that are gone.
    pub fn forget(&self, is_gone: impl Fn(&K) -> bool) {
        self.known.write().retain(|key, _| !is_gone(key));
    }

    /// Every meter with its key; the last, without one, is what keys share.
    pub fn all(&self) -> Vec<(Option<K>, Arc<T>)> {
        let known = self.known.read();
        let own = known.iter().map(|(key, meter)| (Some(key.clone()), Arc::clone(meter)));
        own.chain([(None, Arc::clone(&self.other))]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Counter;

    #[test]
    fn keys_beyond_the_bound_share_a_meter_and_those_that_go_make_room() {
        let family: Family<u32, Counter> = Family::new(2, Counter::default);
        for key in [1, 2, 3, 4, 1] {
            family.of(&key, Counter::default).add(1);
        }
        let said = |family: &Family<u32, Counter>| {
            let mut said: Vec<_> = family.all().into_iter().map(|(key, meter)| (key, meter.get())).collect();
            said.sort_unstable();
            said
        };
        assert_eq!(said(&family), [(None, 2), (Some(1), 2), (Some(2), 1)]);
        assert!(family.is_other(&family.of(&3, Counter::default)));
        family.forget(|key| *key == 2);
        assert!(!family.is_other(&family.of(&3, Counter::default)));
        assert_eq!(said(&family), [(None, 2), (Some(1), 2), (Some(3), 0)]);
    }
}
