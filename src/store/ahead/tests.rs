use std::{path::Path, time::Duration};

use super::super::{Config, RealDisk, Store, Threads, mmap, testing::append};
use crate::types::SystemClock;

use super::*;

const ASYNC: FlushPolicy = FlushPolicy::Async { interval: Duration::from_millis(500) };

fn store(dir: &Path, flush: FlushPolicy) -> Store {
    let config = Config { flush, segment_bytes: 64 << 10, threads: Threads::Stepped, ..Config::at(dir) };
    Store::open(config, Arc::new(RealDisk), Arc::new(SystemClock::new())).expect("the store opens").0
}

/// The files of the log that this process has mapped for writing.
#[cfg(target_os = "linux")]
fn write_maps(dir: &Path) -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("read");
    let log = dir.join("commitlog/");
    let mine = maps.lines().filter(|line| line.contains("rw-s") && line.contains(&*log.to_string_lossy()));
    mine.map(|line| line.rsplit('/').next().and_then(|name| name.parse().ok()).expect("a file of the log")).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn only_the_segments_that_are_written_are_mapped_for_it_and_none_with_sync_flush() {
    for flush in [FlushPolicy::Sync, ASYNC] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path(), flush);
        let body = "x".repeat(20_000);
        // Several segments without a round, then rounds in between.
        for n in 0..20 {
            append(&store, "t", &body);
            if n > 10 {
                store.step().expect("kept");
            }
        }
        let end = store.watermarks().written.get();
        let last = end - end % (64 << 10);
        let maps = write_maps(dir.path());
        let probe = std::fs::File::open(dir.path().join("lock")).expect("there");
        if flush == FlushPolicy::Sync || !mmap::is_in_place(&probe).expect("known") {
            assert!(maps.is_empty(), "{maps:?}");
        } else {
            assert!(maps.contains(&last) && maps.iter().all(|base| *base >= last), "{maps:?}, and {last} is the last");
        }
    }
}
