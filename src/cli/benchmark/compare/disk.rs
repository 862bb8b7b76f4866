//! What the disk takes from anybody: a store that keeps every message is no faster.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::Instant,
};

use serde::Serialize;

/// Bytes of the file that is written.
const BYTES: usize = 256 << 20;
/// Bytes of each write.
const CHUNK: usize = 1 << 20;

/// How fast a new file is written, in MiB per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Disk {
    /// Until the kernel has it, as with `ASYNC_FLUSH`.
    pub kernel_mib_per_second: f64,
    /// Until the device has it, as with `SYNC_FLUSH`.
    pub device_mib_per_second: f64,
}

impl Disk {
    /// Writes a file below `dir`, and removes it.
    pub fn measure(dir: &Path) -> io::Result<Self> {
        let path = dir.join("disk");
        let measured = write(&path);
        fs::remove_file(&path)?;
        measured
    }

    /// The median of each.
    pub fn median(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| super::medians::median(all.iter().map(figure).collect());
        Self {
            kernel_mib_per_second: of(|disk| disk.kernel_mib_per_second),
            device_mib_per_second: of(|disk| disk.device_mib_per_second),
        }
    }
}

fn write(path: &Path) -> io::Result<Disk> {
    let chunk = vec![0x5A; CHUNK];
    let mut file = File::create(path)?;
    let begin = Instant::now();
    for _ in 0..BYTES / CHUNK {
        file.write_all(&chunk)?;
    }
    let kernel = begin.elapsed();
    file.sync_data()?;
    let device = begin.elapsed();
    let rate = |time: std::time::Duration| (BYTES >> 20) as f64 / time.as_secs_f64();
    Ok(Disk { kernel_mib_per_second: rate(kernel), device_mib_per_second: rate(device) })
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a new file takes {:.0} MiB/s from one thread, {:.0} MiB/s until it is on the device",
            self.kernel_mib_per_second, self.device_mib_per_second
        )
    }
}
