//! DURABLE BYTES: the CommitLog, what is derived from it, and the promise that what was acknowledged is kept.
//!
//! ```text
//!  append ─▶ unit ─▶ commit_log ─▶ segments ─▶ segment ─▶ disk ─▶ (real | sim)
//!              encode    place        roll        write
//!                          │ batch, fresh_keys
//!                        flush ─▶ marks ─▶ dispatch ─▶ consume_queue, listener
//!                      write, sync          │
//!                                       background ─▶ consume_queue files, index files, checkpoint, retention
//! ```
//!
//! # Positions
//!
//! All are ends of units in the log, and only grow:
//!
//! - `end`: everything below has its place;
//! - `written <= end`: the kernel has it;
//! - `durable <= written`: the device has it;
//! - `dispatched`: consumers may see it and its producer may be told; `<= durable` with SYNC_FLUSH, `<= written` with
//!   ASYNC_FLUSH;
//! - `recover_from <= durable`: what is derived is durable too; recovery reads the log from here.
//!
//! # Threads
//!
//! - Appenders: encode, then under the log's lock get their place. With SYNC_FLUSH the bytes wait in a batch; with
//!   ASYNC_FLUSH the appender writes and dispatches them itself. The hashes of its keys wait for the index.
//! - `store-commit` (SYNC_FLUSH): takes everything that waits, writes it, syncs once, dispatches, wakes all.
//! - `store-flush` (ASYNC_FLUSH): syncs at the interval, sleeps while there is nothing to sync.
//! - `store-ahead`: takes blocks in front of the log's end, has zeros (SYNC_FLUSH) or pages (ASYNC_FLUSH) there, and makes
//!   the next file.
//! - `store-rounds`: once a second looks for room on the disk and checkpoints; every few seconds indexes keys and writes
//!   what is derived; now and then deletes old segments. In between it indexes keys when many wait.
//!
//! With [`Threads::Stepped`] there are none, and [`Store::step`] does the work on the caller's thread.
//!
//! # Locks
//!
//! In this order: `progress` (a round of the background), the index's, the log's tail, the list of segments, a queue's
//! tail, the keys that wait for the index. None is held over a sync but `progress`, which no request waits for but the
//! deletion of a topic, and the index's, which only searches wait for. Wakers and listeners are called outside the locks.
//!
//! # Failure
//!
//! A failed write or sync of the log poisons the store: no position moves any more, every waiter is told, and nothing is
//! ever synced again. A full disk is not a failure: users' messages are refused until there is room, then what can wait,
//! acknowledgements last ([`Purpose`]).
//!
//! # Files, below the root
//!
//! `commitlog/` ([`segment`], [`record`]), `consumequeue/`, `index/`, `config/` ([`state_file`]), `checkpoint`, `abort` and
//! `lock` are as Apache RocketMQ has them; `consumequeue.doubts` and `index.doubts` ([`derived`]) are ours.

mod ahead;
mod background;
mod begins;
mod by_key;
mod checkpoint;
mod commit_log;
pub mod config;
mod consume_queue;
mod core;
#[cfg(test)]
mod crash_tests;
mod deletion;
mod derived;
pub mod disk;
mod dispatch;
mod engine;
pub mod error;
mod faults;
mod flush;
mod fresh_keys;
mod index_file;
mod indexing;
mod marks;
mod mmap;
mod real;
mod record;
mod recovery;
mod report;
mod retention;
mod room;
mod scan;
mod segment;
mod segments;
pub mod sim;
mod state_file;
#[cfg(test)]
mod testing;
mod unit;
mod watermark;

pub use by_key::Sought;
pub use config::{Config, FlushPolicy, Retention, Threads};
pub use engine::{Appended, Arrival, Entry, Health, Purpose, Queue, Store, Ticket, Watermarks};
pub use error::{AppendError, OpenError, Poisoned, ReadError};
pub use mmap::explain_lost_pages;
pub use real::RealDisk;
pub use report::{Report, Torn};
