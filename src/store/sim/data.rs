//! The bytes of one simulated file: what the cache has, what the device has, and which sectors differ.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, LazyLock},
};

use super::crash::{Chooser, Unsynced};

/// What a device writes as one; a power failure may still tear it.
pub(super) const SECTOR: usize = 512;
/// What a file system allocates as one.
pub(super) const BLOCK: u64 = 4096;
/// Unsynced contents of one sector, and unsynced lengths of one file, that are remembered before the present one.
const BETWEEN_MAX: usize = 4;

pub(super) type Sector = [u8; SECTOR];
type Block = [u8; BLOCK as usize];

/// The one block that all written zeros share.
static ZEROS: LazyLock<Arc<Block>> = LazyLock::new(|| Arc::new([0; BLOCK as usize]));

/// Allocated blocks by number; the holes between them read as zeros.
#[derive(Clone, Default)]
struct Blocks(BTreeMap<u64, Arc<Block>>);

impl Blocks {
    fn read(&self, at: u64, buf: &mut [u8]) {
        for (block, inside, part) in pieces(at, buf.len(), BLOCK) {
            match self.0.get(&block) {
                Some(data) => buf[part].copy_from_slice(&data[inside]),
                None => buf[part].fill(0),
            }
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (block, inside, part) in pieces(at, bytes.len(), BLOCK) {
            let piece = &bytes[part];
            let data = self.0.entry(block).or_insert_with(|| ZEROS.clone());
            if data[inside.clone()] != *piece {
                Arc::make_mut(data)[inside].copy_from_slice(piece);
            }
        }
    }

    fn sector(&self, number: u64) -> Sector {
        let mut out = [0; SECTOR];
        self.read(number * SECTOR as u64, &mut out);
        out
    }

    /// Fills the holes of a range with zeros.
    fn allocate(&mut self, at: u64, len: usize) {
        for (block, ..) in pieces(at, len, BLOCK) {
            self.0.entry(block).or_insert_with(|| ZEROS.clone());
        }
    }

    /// Frees what lies behind a length.
    fn cut(&mut self, len: u64) {
        self.0.split_off(&len.div_ceil(BLOCK));
        let inside = (len % BLOCK) as usize;
        if inside > 0
            && let Some(data) = self.0.get_mut(&(len / BLOCK))
            && data[inside..].iter().any(|b| *b != 0)
        {
            Arc::make_mut(data)[inside..].fill(0);
        }
    }
}

/// Cuts a range of a file at multiples of `unit`: (number of the unit, range inside it, range of the buffer).
fn pieces(at: u64, len: usize, unit: u64) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done as u64;
        let start = (here % unit) as usize;
        let n = (unit as usize - start).min(len - done);
        let piece = (here / unit, start..start + n, done..done + n);
        done += n;
        (n > 0).then_some(piece)
    })
}

/// One file. `cache` and `device` agree on every sector that is not in `dirty`, unless a failed sync has lied.
#[derive(Clone, Default)]
pub(super) struct FileData {
    cache: Blocks,
    cache_len: u64,
    device: Blocks,
    device_len: u64,
    /// Unsynced sectors, with the contents they had since the last sync before the present one.
    dirty: BTreeMap<u64, Vec<Sector>>,
    /// Lengths since the last sync, before the present one; `None` when the length is synced.
    lens: Option<Vec<u64>>,
    /// A sync failed: clean sectors of the cache may differ from the device.
    lied: bool,
    open: Arc<()>,
}

impl FileData {
    pub fn len(&self) -> u64 {
        self.cache_len
    }

    pub fn opened(&self) -> Arc<()> {
        self.open.clone()
    }

    pub fn is_open(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }

    pub fn blocks(&self) -> u64 {
        self.cache.0.len() as u64
    }

    /// Blocks that a write would have to allocate.
    pub fn blocks_missing(&self, at: u64, len: usize) -> u64 {
        pieces(at, len, BLOCK).filter(|(block, ..)| !self.cache.0.contains_key(block)).count() as u64
    }

    pub fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        if at + buf.len() as u64 > self.cache_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.cache.read(at, buf);
        Ok(())
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for (sector, ..) in pieces(at, bytes.len(), SECTOR as u64) {
            self.touch(sector);
        }
        self.cache.write(at, bytes);
        let end = at + bytes.len() as u64;
        if end > self.cache_len {
            self.note_len(end);
        }
    }

    /// Nothing that a reader sees changes, so a power failure has nothing to choose: it forgets the blocks.
    pub fn allocate(&mut self, at: u64, len: usize) {
        self.cache.allocate(at, len);
        if at + len as u64 > self.cache_len {
            self.note_len(at + len as u64);
        }
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.cache_len {
            let first = len / SECTOR as u64;
            let per_block = BLOCK / SECTOR as u64;
            let cut: Vec<u64> = self.cache.0.range(len / BLOCK..).map(|(block, _)| *block).collect();
            for sector in cut.into_iter().flat_map(|block| block * per_block..(block + 1) * per_block) {
                if sector >= first {
                    self.touch(sector);
                }
            }
            self.cache.cut(len);
        }
        if len != self.cache_len {
            self.note_len(len);
        }
    }

    /// Marks a sector dirty before it changes.
    fn touch(&mut self, sector: u64) {
        let Some(between) = self.dirty.get_mut(&sector) else {
            self.dirty.insert(sector, Vec::new());
            return;
        };
        let present = self.cache.sector(sector);
        if between.last() != Some(&present) {
            if between.len() == BETWEEN_MAX {
                between.remove(0);
            }
            between.push(present);
        }
    }

    fn note_len(&mut self, len: u64) {
        match &mut self.lens {
            None => self.lens = Some(Vec::new()),
            Some(between) => {
                if between.len() == BETWEEN_MAX {
                    between.remove(0);
                }
                between.push(self.cache_len);
            }
        }
        self.cache_len = len;
    }

    pub fn sync(&mut self) {
        let per_block = BLOCK / SECTOR as u64;
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let block = sector / per_block;
            if self.lied {
                let bytes = self.cache.sector(sector);
                self.device.write(sector * SECTOR as u64, &bytes);
            } else if let Some(data) = self.cache.0.get(&block) {
                self.device.0.insert(block, data.clone());
            } else {
                self.device.0.remove(&block);
            }
        }
        if self.lens.take().is_some() {
            self.device_len = self.cache_len;
            self.device.cut(self.device_len);
        }
    }

    /// A sync that fails: the kernel holds the pages clean from now on, the device never saw them.
    pub fn lie(&mut self) {
        self.dirty.clear();
        self.lens = None;
        self.lied = true;
    }

    pub fn flip_bit(&mut self, byte: u64, bit: u8) {
        for blocks in [&mut self.cache, &mut self.device] {
            let mut one = [0];
            blocks.read(byte, &mut one);
            blocks.write(byte, &[one[0] ^ (1 << bit)]);
        }
    }

    /// The power fails. `last_write` is the range of the last write of all when it was to this file.
    pub fn crash(&mut self, chooser: &mut Chooser, last_write: Option<Range<u64>>) {
        for (sector, between) in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR as u64;
            let last_write_middle = last_write.as_ref().and_then(|w| {
                let middle = w.start + (w.end - w.start) / 2;
                let touched = w.start < start + SECTOR as u64 && start < w.end;
                touched.then(|| middle.saturating_sub(start).min(SECTOR as u64) as usize)
            });
            let (durable, present) = (self.device.sector(sector), self.cache.sector(sector));
            let left = chooser.sector(&Unsynced {
                durable: &durable,
                between: &between,
                present: &present,
                last_write_middle,
            });
            if left != durable {
                self.device.write(start, &left);
            }
        }
        if let Some(between) = self.lens.take() {
            self.device_len = chooser.len(self.device_len, &between, self.cache_len);
        }
        self.device.cut(self.device_len);
        self.cache = self.device.clone();
        self.cache_len = self.device_len;
        self.lied = false;
        self.open = Arc::new(());
    }
}
