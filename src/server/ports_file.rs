//! `--ports-file`: tells scripts that the server is ready, and where.

use std::{fs, io, path::Path};

use super::listen::Ports;

/// Removes what an earlier server left: whoever waits for the file is not to read that one's ports.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes it whole or not at all, so that whoever waits for the file never reads half of it.
pub fn write(path: &Path, ports: &Ports) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, serde_json::to_vec(ports)?)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_json_and_replaces_an_older_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ports.json");
        for grpc in [1, 2] {
            write(&path, &Ports { grpc, admin: 3, ops: Some(4) }).expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("read"), r#"{"grpc":2,"admin":3,"ops":4}"#);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
