//! Each planted fault must be found: a crash test that passes with a fault in the store proves nothing.

use super::histories::{Seeded, changes, equal_records, play, short_history};
use crate::store::{
    FlushPolicy,
    faults::{Fault, plant},
    sim::CrashChoice,
};

/// How a planted fault was found; `None` when all histories kept their promises.
fn found(fault: Fault) -> Option<String> {
    let histories = [short_history(), equal_records()].map(|history| {
        let changes = changes(FlushPolicy::Sync, &history).expect("nothing fails without the fault");
        (history, changes)
    });
    let _planted = plant(fault);
    let short = histories.into_iter().find_map(|(history, changes)| {
        (0..changes).find_map(|at| {
            let mut choices = CrashChoice::FIXED.into_iter().chain((0..30).map(CrashChoice::Random));
            choices.find_map(|choice| play(FlushPolicy::Sync, &history, at, choice).err())
        })
    });
    short.or_else(|| {
        (0..2000).find_map(|seed| {
            let (history, at, choice) = Seeded::new(seed).history(60);
            play(FlushPolicy::Sync, &history, at, choice).err()
        })
    })
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    let broken = found(Fault::AckBeforeSync).expect("it is found");
    assert!(broken.starts_with("lost"), "{broken}");
}

#[test]
fn a_sync_that_is_tried_again_is_found() {
    let broken = found(Fault::RetrySync).expect("it is found");
    assert!(["lost", "does not open", "cannot be read"].iter().any(|how| broken.contains(how)), "{broken}");
}

#[test]
fn a_new_file_whose_directory_is_not_synced_is_found() {
    let broken = found(Fault::NoDirSync).expect("it is found");
    assert!(["lost", "does not open", "cannot be read"].iter().any(|how| broken.contains(how)), "{broken}");
}

#[test]
fn a_checksum_without_the_properties_is_found() {
    let broken = found(Fault::ChecksumSkipsProperties).expect("it is found");
    assert!(broken.starts_with("altered"), "{broken}");
}

#[test]
fn a_message_shown_before_the_sync_is_found() {
    let broken = found(Fault::DispatchBeforeDurable).expect("it is found");
    assert!(broken.starts_with("lost"), "{broken}");
}

#[test]
fn a_tail_that_is_cut_in_memory_only_is_found() {
    let broken = found(Fault::TruncateInMemory).expect("it is found");
    assert!(broken.starts_with("nothing should be") || broken.starts_with("altered"), "{broken}");
}
