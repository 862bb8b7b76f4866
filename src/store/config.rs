//! What an operator can set about the store. `config.rs` of the crate fills it from Apache's keys.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// When an append counts as kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushPolicy {
    /// Once it has been synced to the device; one sync serves all that wait (`SYNC_FLUSH`).
    Sync,
    /// Once the kernel has it; synced at this interval. A power cut loses up to that much (`ASYNC_FLUSH`).
    Async { interval: Duration },
}

/// When whole segments may be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retention {
    /// `fileReservedTime`: age of a segment's newest message at which it may go. Apache counts hours.
    pub reserved: Duration,
    /// `deleteWhen`: hours of the (UTC) day at which expired segments are deleted.
    pub delete_when: Vec<u8>,
    /// `diskMaxUsedSpaceRatio`, percent: expired segments go at any hour above this.
    pub disk_max_used_ratio: u8,
    /// `diskSpaceWarningLevelRatio`, percent: sends are refused above this.
    pub disk_warning_ratio: u8,
}

/// Who does the work in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threads {
    /// Threads of the store's own.
    Own,
    /// Whoever calls [`super::Store::step`]: for simulations, which must be repeatable.
    Stepped,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `storePathRootDir`.
    pub root: PathBuf,
    /// `storePathCommitLog`; `<root>/commitlog` when absent.
    pub commit_log: Option<PathBuf>,
    /// `mappedFileSizeCommitLog`, bytes of one segment, 64 KiB to 2 GiB - 1.
    pub segment_bytes: u64,
    /// `mappedFileSizeConsumeQueue` / 20: entries of one consume queue file.
    pub consume_queue_entries: u64,
    pub flush: FlushPolicy,
    pub retention: Retention,
    /// `messageIndexEnable`: whether messages are indexed by key.
    pub index: bool,
    /// `maxHashSlotNum` and `maxIndexNum`.
    pub index_slots: u32,
    pub index_entries: u32,
    /// Bytes appended and not yet written that the log holds at most; more is refused as busy.
    pub pending_bytes_max: usize,
    /// What records name as the host that stored them (`brokerIP1` and `listenPort`).
    pub store_host: SocketAddr,
    /// `recoverDamagedLog`: opens a log whose records end before the position that was once durable, and gives up what
    /// lies behind.
    pub accept_damage: bool,
    pub threads: Threads,
}

impl Config {
    /// Apache's defaults below `root`, but synced.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            commit_log: None,
            segment_bytes: 1 << 30,
            consume_queue_entries: 300_000,
            flush: FlushPolicy::Sync,
            retention: Retention {
                reserved: Duration::from_secs(72 * 3600),
                delete_when: vec![4],
                disk_max_used_ratio: 75,
                disk_warning_ratio: 90,
            },
            index: true,
            index_slots: 5_000_000,
            index_entries: 20_000_000,
            pending_bytes_max: 64 << 20,
            store_host: SocketAddr::from((Ipv4Addr::LOCALHOST, 10911)),
            accept_damage: false,
            threads: Threads::Own,
        }
    }
}
