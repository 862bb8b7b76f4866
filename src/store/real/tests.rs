use super::*;

const LEN: u64 = 4 << 20;

fn file(dir: &tempfile::TempDir) -> Arc<dyn File> {
    let file = RealDisk.open(&dir.path().join("log"), Open::Create).unwrap();
    file.set_len(LEN).unwrap();
    file.allocate(0, LEN).unwrap();
    file
}

/// Bytes that tell their place.
fn bytes(at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64).map(|at| (at / 7) as u8 ^ at as u8).collect()
}

fn content(file: &dyn File, len: u64) -> Vec<u8> {
    let mut read = vec![0; len as usize];
    file.read_into(0, &mut read).unwrap();
    assert!(file.read(0, read.len()).unwrap() == read, "a call and the map read the same");
    read
}

#[test]
fn what_is_written_through_a_map_is_in_the_file_whoever_made_its_pages_ready() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    let maps = mmap::is_in_place(&fs::File::open(file.path()).unwrap()).unwrap();
    let mut at = 0;
    std::thread::scope(|scope| {
        // A thread goes ahead, and the writer overtakes it now and then.
        scope.spawn(|| (0..LEN).step_by(300_000).for_each(|at| assert_eq!(file.make_ready(at, 300_000), maps)));
        for len in (1..).map(|n| n * 997 % 70_000) {
            if at + len as u64 > LEN {
                break;
            }
            assert_eq!(file.write_mapped(at, &bytes(at, len)), maps, "{len} at {at}");
            if !maps {
                file.write(at, &bytes(at, len)).unwrap();
            }
            at += len as u64;
        }
    });
    file.sync().unwrap();
    assert!(content(&*file, at) == bytes(0, at as usize));
    let again = RealDisk.open(&file.path(), Open::Read).unwrap();
    assert!(content(&*again, at) == bytes(0, at as usize));
}

/// As a segment does it.
fn write(file: &dyn File, at: u64, bytes: &[u8]) {
    if !file.write_mapped(at, bytes) {
        file.write(at, bytes).unwrap();
    }
}

#[test]
fn writing_goes_on_after_the_file_was_cut_and_after_the_map_was_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    write(&*file, 0, &bytes(0, 10_000));
    file.set_len(7000).unwrap();
    file.set_len(LEN).unwrap();
    write(&*file, 7000, &bytes(7000, 5000));
    assert!(content(&*file, 12_000) == bytes(0, 12_000));
    file.finish();
    assert!(!file.make_ready(12_000, 5000) && !file.write_mapped(12_000, &bytes(12_000, 5000)));
    write(&*file, 12_000, &bytes(12_000, 5000));
    assert!(content(&*file, 17_000) == bytes(0, 17_000));
}

#[test]
fn what_no_map_can_take_is_left_to_a_call_and_so_is_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    let at = LEN - 1000;
    write(&*file, at - 1000, &bytes(at - 1000, 1000));
    // Half of it lies behind the end that the file had when it was mapped.
    assert!(!file.write_mapped(at, &bytes(at, 2000)));
    write(&*file, at, &bytes(at, 2000));
    write(&*file, at + 2000, &bytes(at + 2000, 1000));
    assert_eq!(file.len().unwrap(), at + 3000);
    assert!(content(&*file, at + 3000)[at as usize - 1000..] == bytes(at - 1000, 4000));
}
