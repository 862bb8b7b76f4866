//! How late delayed messages come.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the classes, ms; one class more is for what is later than the last.
pub const BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 30_000, 300_000, 3_600_000];

/// A histogram since the start of the server.
#[derive(Default)]
pub struct Histogram {
    classes: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_ms: AtomicU64,
    max_ms: AtomicU64,
}

/// What a [`Histogram`] says. Messages that became due while the server was down are in it with their whole lateness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Upper bound in ms (`None` for the last) and messages at most that late and later than the bound before.
    pub classes: Vec<(Option<u64>, u64)>,
    pub count: u64,
    pub sum_ms: u64,
    pub max_ms: u64,
}

impl Histogram {
    pub fn add(&self, late_ms: u64) {
        let class = BOUNDS_MS.partition_point(|bound| *bound < late_ms);
        self.classes[class].fetch_add(1, Relaxed);
        self.sum_ms.fetch_add(late_ms, Relaxed);
        self.max_ms.fetch_max(late_ms, Relaxed);
    }

    pub fn get(&self) -> Lateness {
        let bounds = BOUNDS_MS.iter().copied().map(Some).chain([None]);
        let classes: Vec<_> = bounds.zip(self.classes.iter().map(|class| class.load(Relaxed))).collect();
        let count = classes.iter().map(|(_, count)| count).sum();
        Lateness { classes, count, sum_ms: self.sum_ms.load(Relaxed), max_ms: self.max_ms.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lateness_is_in_the_class_whose_bound_it_does_not_pass() {
        let histogram = Histogram::default();
        for late in [0, 1, 2, 50, 51, 4_000_000] {
            histogram.add(late);
        }
        let Lateness { classes, count, sum_ms, max_ms } = histogram.get();
        assert_eq!((count, sum_ms, max_ms), (6, 4_000_104, 4_000_000));
        let filled: Vec<_> = classes.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(1), 2), (Some(2), 1), (Some(50), 1), (Some(100), 1), (None, 1)]);
    }
}
