//! COUNTING: what happens often is counted with one or two relaxed additions, and read when somebody asks.
//!
//! Each thread has a shard of its own where there are few threads, so that the cores of a machine do not pass a cache line
//! back and forth for every message. Reading adds the shards up; what is added meanwhile may or may not be seen.

mod family;

use std::{
    array,
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

pub use family::Family;

/// Shards of each counter: the threads that serve connections on a small machine. A counter takes 64 bytes for each.
const SHARDS: usize = 4;
/// Bounds of a histogram at most.
const BOUNDS_MAX: usize = 15;

/// Alone on its cache line.
#[derive(Default)]
#[repr(align(64))]
struct Line<T>(T);

/// This thread's shard.
fn shard() -> usize {
    thread_local!(static SHARD: Cell<usize> = const { Cell::new(usize::MAX) });
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed) % SHARDS);
        }
        mine.get()
    })
}

/// What only grows; 256 bytes.
#[derive(Default)]
pub struct Counter {
    shards: [Line<AtomicU64>; SHARDS],
}

impl Counter {
    pub fn add(&self, count: u64) {
        self.shards[shard()].0.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.load(Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// How often values fell between fixed bounds, and their sum; 768 bytes.
pub struct Histogram {
    /// Ascending upper bounds; one class more is for what is above the last.
    bounds: &'static [u64],
    shards: [Line<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    classes: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

/// What a [`Histogram`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Values at most as large as the bound, those below the bound before among them.
    pub up_to: Vec<(u64, u64)>,
    pub count: u64,
    pub sum: u64,
}

impl Histogram {
    /// Of at most 15 ascending bounds; further ones are passed over.
    pub fn new(bounds: &'static [u64]) -> Self {
        let bounds = &bounds[..bounds.len().min(BOUNDS_MAX)];
        Self { bounds, shards: array::from_fn(|_| Line::default()) }
    }

    pub fn add(&self, value: u64) {
        // Few bounds: a walk is as fast as a search.
        let class = self.bounds.iter().take_while(|bound| **bound < value).count();
        let Line(shard) = &self.shards[shard()];
        shard.classes[class].fetch_add(1, Relaxed);
        shard.sum.fetch_add(value, Relaxed);
    }

    pub fn get(&self) -> Distribution {
        let class = |n: usize| self.shards.iter().map(|Line(shard)| shard.classes[n].load(Relaxed)).sum::<u64>();
        let mut count = 0;
        let mut up_to = Vec::with_capacity(self.bounds.len());
        for (n, bound) in self.bounds.iter().enumerate() {
            count += class(n);
            up_to.push((*bound, count));
        }
        count += class(self.bounds.len());
        let sum = self.shards.iter().map(|Line(shard)| shard.sum.load(Relaxed)).fold(0, u64::wrapping_add);
        Distribution { up_to, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_addition_of_any_thread_is_lost() {
        let (counter, histogram) = (Counter::default(), Histogram::new(&[10]));
        thread::scope(|threads| {
            for n in 0..8 {
                let (counter, histogram) = (&counter, &histogram);
                threads.spawn(move || {
                    for _ in 0..1000 {
                        counter.add(2);
                        histogram.add(n);
                    }
                });
            }
        });
        assert_eq!(counter.get(), 16_000);
        let said = histogram.get();
        assert_eq!((said.count, said.sum), (8000, 28_000));
    }

    #[test]
    fn a_value_counts_in_every_class_whose_bound_it_does_not_pass() {
        let histogram = Histogram::new(&[1, 5, 10]);
        [0, 1, 2, 5, 6, 11, 1000].into_iter().for_each(|value| histogram.add(value));
        let expected = Distribution { up_to: vec![(1, 2), (5, 4), (10, 5)], count: 7, sum: 1025 };
        assert_eq!(histogram.get(), expected);
    }
}
