//! What the store can refuse.

use std::{io, path::PathBuf, sync::Arc};

use crate::types::PhysicalOffset;

/// The store has stopped for good: a sync or a write failed, so nothing later can be promised.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store has stopped: {0}")]
pub struct Poisoned(pub Arc<str>);

/// Why an append was refused. Nothing of it was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the disk is full ({free} bytes left); free room or shorten fileReservedTime, sends resume by themselves")]
    Full { free: u64 },
    #[error("{pending} bytes wait to be written, the most is {max}; retry later")]
    Busy { pending: usize, max: usize },
    #[error("the append has {size} bytes, a segment takes {max}")]
    TooLarge { size: u64, max: u64 },
    #[error("the properties have {size} bytes, the most is {max}")]
    PropertiesTooLarge { size: usize, max: usize },
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error("the store is closed")]
    Closed,
}

/// Why a record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("nothing at {0}: it was deleted by retention or never written")]
    Gone(PhysicalOffset),
    #[error("corrupt record at {at}: {why}")]
    Corrupt { at: PhysicalOffset, why: String },
    #[error("reading at {at}: {error}")]
    Io { at: PhysicalOffset, error: Arc<io::Error> },
    #[error("reading a consume queue: {0}")]
    Queue(Arc<io::Error>),
    #[error("reading the index: {0}")]
    Index(Arc<io::Error>),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Queue(Arc::new(error))
    }
}

/// Why the store did not open. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{path}: {source}; check that the directory exists and that this user may write it, or choose another with --store DIR"
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error("{path} is no directory; move it away, or choose another place with --store DIR")]
    NoDirectory { path: PathBuf },
    #[error("{path} is in use by process {pid}; stop it, or choose another directory with --store DIR")]
    Locked { path: PathBuf, pid: String },
    #[error("{path}: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("{doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}
