//! Where and how messages are kept.

use std::{path::PathBuf, time::Duration};

use crate::store::FlushPolicy;

use super::{Key, Rule, Unit};

/// Bytes. One entry of a ConsumeQueue file in RocketMQ's layout.
const CONSUME_QUEUE_ENTRY_BYTES: u64 = 20;

pub static KEYS: &[Key] = &[
    Key {
        name: "storePathRootDir",
        aliases: &[],
        default: "./store",
        doc: "Directory of everything that is kept; made when it is not there. Also --store DIR.",
        rule: Rule::Text {
            form: "a path",
            set: |c, text| {
                if text.is_empty() {
                    return Err("is empty; give a directory".to_owned());
                }
                c.store.root = PathBuf::from(text);
                Ok(())
            },
        },
    },
    Key {
        name: "storePathCommitLog",
        aliases: &[],
        default: "",
        doc: "Directory of the CommitLog; empty means `commitlog` below storePathRootDir.",
        rule: Rule::Text {
            form: "a path",
            set: |c, text| {
                if text.contains(',') {
                    return Err("names several paths, which is not served yet; give one".to_owned());
                }
                c.store.commit_log = (!text.is_empty()).then(|| PathBuf::from(text));
                Ok(())
            },
        },
    },
    Key {
        name: "mappedFileSizeCommitLog",
        aliases: &["mapedFileSizeCommitLog"],
        default: "1GB",
        doc: "Size of one CommitLog segment. A store keeps the size that it was made with.",
        rule: Rule::Size { range: 64 << 10..=(2 << 30) - 1, set: |c, n| c.store.segment_bytes = n },
    },
    Key {
        name: "mappedFileSizeConsumeQueue",
        aliases: &["mapedFileSizeConsumeQueue"],
        default: "6000000",
        doc: "Size of one ConsumeQueue file, rounded up to whole entries of 20 bytes. The files are sparse.",
        rule: Rule::Size {
            range: 20..=1 << 30,
            set: |c, n| c.store.consume_queue_entries = n.div_ceil(CONSUME_QUEUE_ENTRY_BYTES),
        },
    },
    Key {
        name: "flushDiskType",
        aliases: &[],
        default: "SYNC_FLUSH",
        doc: "When a message counts as kept. SYNC_FLUSH: once it is on the device. ASYNC_FLUSH: once the kernel has \
              it; a power cut loses up to flushIntervalCommitLog, a crash of this process alone loses nothing.",
        rule: Rule::Choice {
            of: &["SYNC_FLUSH", "ASYNC_FLUSH"],
            set: |c, v| {
                c.store.flush = match v {
                    "ASYNC_FLUSH" => FlushPolicy::Async { interval: Duration::from_millis(500) },
                    _ => FlushPolicy::Sync,
                };
            },
        },
    },
    // Behind flushDiskType: it changes what that one made.
    Key {
        name: "flushIntervalCommitLog",
        aliases: &[],
        default: "500",
        doc: "ASYNC_FLUSH: how often the log is synced, which is what a power cut can lose.",
        rule: Rule::Span {
            unit: Unit::Millis,
            range: 1..=60_000,
            set: |c, d| {
                if let FlushPolicy::Async { interval } = &mut c.store.flush {
                    *interval = d;
                }
            },
        },
    },
    Key {
        name: "syncFlushTimeout",
        aliases: &[],
        default: "5000",
        doc: "SYNC_FLUSH: how long a send or an acknowledgement waits for the disk. Then it is answered as written and \
              not confirmed (MASTER_PERSISTENCE_TIMEOUT, PROXY_TIMEOUT): it may be kept all the same.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=600_000, set: |c, d| c.broker.sync_flush_timeout = d },
    },
    Key {
        name: "fileReservedTime",
        aliases: &[],
        default: "72",
        doc: "Age at which messages may be deleted, by whole segments.",
        rule: Rule::Span { unit: Unit::Hours, range: 1..=876_000, set: |c, d| c.store.retention.reserved = d },
    },
    Key {
        name: "deleteWhen",
        aliases: &[],
        default: "04",
        doc: "Hours of the day (UTC) at which expired segments are deleted, joined by semicolons.",
        rule: Rule::Text {
            form: "hours from 00 to 23, like 04 or 04;16",
            set: |c, text| {
                let hours = text.split(';').map(|h| h.trim().parse::<u8>().ok().filter(|h| *h < 24));
                let hours: Option<Vec<u8>> = hours.collect();
                c.store.retention.delete_when = hours.ok_or("is not hours from 00 to 23, like 04 or 04;16")?;
                Ok(())
            },
        },
    },
    Key {
        name: "diskMaxUsedSpaceRatio",
        aliases: &[],
        default: "75",
        doc: "Percent of the disk in use above which expired segments are deleted at any hour.",
        rule: Rule::Count { range: 10..=95, set: |c, n| c.store.retention.disk_max_used_ratio = n as u8 },
    },
    Key {
        name: "diskSpaceWarningLevelRatio",
        aliases: &[],
        default: "90",
        doc: "Percent of the disk in use above which sends are refused until there is room again.",
        rule: Rule::Count { range: 35..=99, set: |c, n| c.store.retention.disk_warning_ratio = n as u8 },
    },
    Key {
        name: "messageIndexEnable",
        aliases: &[],
        default: "true",
        doc: "Whether messages are indexed by key.",
        rule: Rule::Flag(|c, v| c.store.index = v),
    },
    Key {
        name: "maxHashSlotNum",
        aliases: &[],
        default: "5000000",
        doc: "Hash slots of one index file.",
        rule: Rule::Count { range: 1..=500_000_000, set: |c, n| c.store.index_slots = n as u32 },
    },
    Key {
        name: "maxIndexNum",
        aliases: &[],
        default: "20000000",
        doc: "Entries of one index file.",
        rule: Rule::Count { range: 2..=100_000_000, set: |c, n| c.store.index_entries = n as u32 },
    },
    Key {
        name: "pendingBytesMax",
        aliases: &[],
        default: "64MB",
        doc: "Bytes of messages that wait for the disk at most; a send above that is told to come back.",
        rule: Rule::Size { range: 1 << 20..=16 << 30, set: |c, n| c.store.pending_bytes_max = n as usize },
    },
    Key {
        name: "recoverDamagedLog",
        aliases: &[],
        default: "false",
        doc: "Whether to open a log that ends before what was once durable, giving up what lies behind. For one start, \
              after a look at what can be restored.",
        rule: Rule::Flag(|c, v| c.store.accept_damage = v),
    },
];
