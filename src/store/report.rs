//! What opening the store found.

use std::{fmt, time::Duration};

use crate::types::PhysicalOffset;

/// Bytes at the log's end that a crash left and recovery removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    pub at: PhysicalOffset,
    pub bytes: u64,
    /// What is wrong with them.
    pub why: String,
}

/// What recovery found. Its `Display` is a line for the boot text, two after a crash.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The last run closed the store.
    pub is_clean: bool,
    /// Files of the log.
    pub segments: usize,
    /// Where reading began.
    pub from: PhysicalOffset,
    /// Where the log ends.
    pub end: PhysicalOffset,
    /// Records read and checked.
    pub records: u64,
    /// Consume queue entries made from them.
    pub rebuilt_entries: u64,
    /// Consume queues whose files were damaged and are made again, each with the reason.
    pub remade: Vec<String>,
    pub torn: Option<Torn>,
    pub elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.end == PhysicalOffset::ZERO, self.is_clean) {
            (true, _) => "new store",
            (_, true) => "store was closed cleanly",
            (_, false) => "store recovered after a crash",
        };
        let files = if self.segments == 1 { "file" } else { "files" };
        write!(f, "{how}: log of {} {files} ends at {}, ", self.segments, self.end)?;
        match self.from.until(self.end) {
            0 if self.end == PhysicalOffset::ZERO => {}
            0 => write!(f, "all of it vouched for by the checkpoint, ")?,
            bytes => write!(f, "{bytes} bytes behind the checkpoint with {} records checked, ", self.records)?,
        }
        write!(f, "{} queue entries rebuilt, {} ms", self.rebuilt_entries, self.elapsed.as_millis())?;
        if let Some(Torn { at, bytes, why }) = &self.torn {
            write!(f, "\n  cut {bytes} bytes of an unfinished write at {at} ({why})")?;
        }
        match &self.remade[..] {
            [] => Ok(()),
            [first, more @ ..] => {
                write!(f, "\n  made {} damaged consume queues again from the log ({first})", more.len() + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_start_does_not_sound_as_if_nothing_were_known() {
        let end = PhysicalOffset::new(400);
        let report = Report { is_clean: true, segments: 1, from: end, end, ..Report::default() };
        assert_eq!(
            report.to_string(),
            "store was closed cleanly: log of 1 file ends at 400, all of it vouched for by the checkpoint, 0 queue \
             entries rebuilt, 0 ms"
        );
    }

    #[test]
    fn the_report_says_what_was_cut_and_why() {
        let report = Report {
            segments: 3,
            from: PhysicalOffset::new(100),
            end: PhysicalOffset::new(400),
            records: 2,
            rebuilt_entries: 1,
            torn: Some(Torn { at: PhysicalOffset::new(400), bytes: 17, why: "the checksum does not match".into() }),
            elapsed: Duration::from_millis(5),
            ..Report::default()
        };
        assert_eq!(
            report.to_string(),
            "store recovered after a crash: log of 3 files ends at 400, 300 bytes behind the checkpoint with 2 records checked, 1 queue \
             entries rebuilt, 5 ms\n  cut 17 bytes of an unfinished write at 400 (the checksum does not match)"
        );
    }
}
