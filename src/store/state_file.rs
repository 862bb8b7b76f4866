//! Small state files that a crash leaves old or new, never half (`config/*.json`; Apache's `ConfigManager`).
//!
//! A new content is written beside the file, synced, and renamed over it; what was there before is kept as `<name>.bak`, which
//! is read when the file itself is missing or empty.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::disk::{Disk, Open};

/// Bytes of a state file at most, written or read: 256 MiB.
pub(super) const LEN_MAX: u64 = 256 << 20;
/// Characters of a name at most.
const NAME_LEN_MAX: usize = 120;
/// Ends the name of the content before.
const BACKUP: &str = ".bak";
/// Ends the name of a content that is not complete yet.
const PARTIAL: &str = ".tmp";

/// Writes `bytes` as `<dir>/<name>`, durably; makes the directory if need be. One caller at a time for a name.
///
/// Errors: `InvalidInput` for a name that is not a plain file name, or too many bytes. After any other error what can be
/// loaded is the old or the new content, and the call may be repeated: it writes another file, so a failed sync is not
/// tried again.
pub(super) fn save(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    check_name(name)?;
    if bytes.len() as u64 > LEN_MAX {
        let why = format!("{name}: {} bytes, a state file takes {LEN_MAX}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    disk.create_dir_all(dir)?;
    let [file, backup, partial] = paths(dir, name);
    match disk.remove_file(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let new = disk.open(&partial, Open::Create)?;
    new.write(0, bytes)?;
    new.sync()?;
    // Without a directory sync in between the renames may be kept in any combination. Each is good: the file is the old
    // or the new one, or missing with the old one as the backup.
    if read_len(disk, &file)?.is_some_and(|len| len > 0) {
        disk.rename(&file, &backup)?;
    }
    disk.rename(&partial, &file)?;
    disk.sync_dir(dir)
}

/// Reads `<dir>/<name>`: the file when it is there and not empty, else its backup, else nothing.
pub(super) fn load(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    load_if(disk, dir, name, |_| true)
}

/// [`load`] that also passes over contents that `is_good` refuses, as Apache does with what it cannot parse.
pub(super) fn load_if(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    mut is_good: impl FnMut(&[u8]) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    check_name(name)?;
    let [file, backup, _] = paths(dir, name);
    for path in [file, backup] {
        if let Some(bytes) = read(disk, &path)?
            && !bytes.is_empty()
            && is_good(&bytes)
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, Open::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let len = file.len()?;
    if len > LEN_MAX {
        let why = format!("{}: {len} bytes, a state file has {LEN_MAX} at most", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = vec![0; len as usize];
    file.read_into(0, &mut bytes)?;
    Ok(Some(bytes))
}

fn read_len(disk: &dyn Disk, path: &Path) -> io::Result<Option<u64>> {
    match disk.open(path, Open::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other?.len().map(Some),
    }
}

fn paths(dir: &Path, name: &str) -> [PathBuf; 3] {
    [dir.join(name), dir.join(format!("{name}{BACKUP}")), dir.join(format!("{name}{PARTIAL}"))]
}

/// Letters, digits, `_`, `-` and inner dots, and not the name of a backup: nothing that leaves the directory.
fn check_name(name: &str) -> io::Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    let good = plain
        && (1..=NAME_LEN_MAX).contains(&name.len())
        && !name.starts_with('.')
        && !name.ends_with(BACKUP)
        && !name.ends_with(PARTIAL);
    if good {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not the name of a state file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::{CrashChoice, SimDisk};

    const DIR: &str = "/s/config";
    const NAME: &str = "topics.json";

    fn save_text(disk: &SimDisk, text: &str) -> io::Result<()> {
        save(disk, Path::new(DIR), NAME, text.as_bytes())
    }

    fn load_text(disk: &SimDisk) -> Option<String> {
        load(disk, Path::new(DIR), NAME).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn what_was_saved_is_read_back_and_the_one_before_is_kept() {
        let disk = SimDisk::new();
        assert_eq!(load_text(&disk), None);
        for text in ["one", "two", "three"] {
            save_text(&disk, text).unwrap();
            assert_eq!(load_text(&disk.crashed(CrashChoice::DropAll)).as_deref(), Some(text));
        }
        assert_eq!(disk.list(Path::new(DIR)).unwrap(), ["topics.json", "topics.json.bak"]);
        disk.remove_file(&Path::new(DIR).join(NAME)).unwrap();
        assert_eq!(load_text(&disk).as_deref(), Some("two"));
    }

    #[test]
    fn an_empty_or_unreadable_file_yields_to_its_backup() {
        let disk = SimDisk::new();
        save_text(&disk, "old").unwrap();
        save_text(&disk, "new").unwrap();
        let good = |bytes: &[u8]| bytes != b"new";
        assert_eq!(load_if(&disk, Path::new(DIR), NAME, good).unwrap().unwrap(), b"old");
        disk.open(&Path::new(DIR).join(NAME), Open::Write).unwrap().set_len(0).unwrap();
        assert_eq!(load_text(&disk).as_deref(), Some("old"));
        save_text(&disk, "next").unwrap();
        assert_eq!(read(&disk, &Path::new(DIR).join("topics.json.bak")).unwrap().unwrap(), b"old");
    }

    #[test]
    fn every_crash_point_leaves_the_old_or_the_new_content() {
        let saved = || {
            let disk = SimDisk::new();
            save_text(&disk, "first").unwrap();
            save_text(&disk, "old").unwrap();
            disk
        };
        let dry = saved();
        let begin = dry.ops();
        save_text(&dry, "new").unwrap();
        for op in begin..dry.ops() {
            for choice in CrashChoice::FIXED.into_iter().chain((0..50).map(CrashChoice::Random)) {
                let disk = saved();
                disk.crash_at(op);
                assert!(save_text(&disk, "new").is_err());
                disk.crash_with(choice);
                let found = load_text(&disk).unwrap();
                assert!(["old", "new"].contains(&found.as_str()), "op {op}, {choice:?}: {found}");
                save_text(&disk, "next").unwrap();
                assert_eq!(load_text(&disk.crashed(CrashChoice::DropAll)).as_deref(), Some("next"));
            }
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_content() {
        let disk = SimDisk::new();
        save_text(&disk, "old").unwrap();
        disk.set_capacity(0);
        assert_eq!(save_text(&disk, "new").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(load_text(&disk).as_deref(), Some("old"));
        disk.set_capacity(1 << 20);
        save_text(&disk, "new").unwrap();
        assert_eq!(load_text(&disk).as_deref(), Some("new"));
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let disk = SimDisk::new();
        let long = "a".repeat(121);
        for name in ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "x.bak", "x.tmp", "a\0b", "ä", &long] {
            let refused = save(&disk, Path::new(DIR), name, b"x").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name}");
            assert!(load(&disk, Path::new(DIR), name).is_err(), "{name}");
        }
        assert_eq!(disk.ops(), 0);
    }
}
