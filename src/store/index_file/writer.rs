//! One index file that is being filled.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::format::{ENTRY, Entry, HEADER, Header, SLOT, Shape};
use crate::{
    store::disk::{Disk, File, Open},
    types::{PhysicalOffset, Timestamp},
};

/// Slots that are read and written together: 4 KiB.
const PAGE: u32 = 1024;
/// Pages kept in memory between flushes: 4 MiB. During one flush all pages it touches are, at most the whole slot
/// table (20 MB by default).
const PAGES_KEPT: usize = 1024;
/// Bytes read or written at once while slots are made again.
const CHUNK: usize = 1 << 20;

/// A key of a record, on its way into the file: its `UNIQ_KEY`, or one of its `KEYS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hashed {
    /// See [`super::key_hash`].
    pub hash: u32,
    pub physical: u64,
    pub stored_at: Timestamp,
}

struct Page {
    slots: Vec<u32>,
    /// First and last slot in it that changed.
    dirty: Option<(u32, u32)>,
}

/// The newest file. Entries are added in memory; [`Writer::write`] brings them to the file.
pub(super) struct Writer {
    pub name: String,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub header: Header,
    shape: Shape,
    /// Entries before this one are in the file.
    written: u32,
    /// The entries from `written` on, encoded.
    unwritten: Vec<u8>,
    pages: HashMap<u32, Page>,
}

impl Writer {
    /// Makes an empty file. Its name is durable after a sync of its directory.
    pub fn create(disk: &dyn Disk, dir: &Path, name: String, shape: Shape, before: Option<Header>) -> io::Result<Self> {
        let path = dir.join(&name);
        let file = match disk.open(&path, Open::Create) {
            // Of an earlier try that failed behind this point.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let file = disk.open(&path, Open::Write)?;
                file.set_len(0)?;
                file
            }
            other => other?,
        };
        file.set_len(shape.file_len())?;
        let mut header = Header::EMPTY;
        if let Some(before) = before {
            (header.begin_time, header.end_time) = (before.end_time, before.end_time);
            (header.begin, header.end) = (before.end, before.end);
        }
        Ok(Self::open(name, path, file, shape, header))
    }

    pub fn open(name: String, path: PathBuf, file: Arc<dyn File>, shape: Shape, header: Header) -> Self {
        let written = header.next;
        Self { name, path, file, header, shape, written, unwritten: Vec::new(), pages: HashMap::new() }
    }

    pub fn is_full(&self) -> bool {
        self.header.next >= self.shape.entries
    }

    pub fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Adds a key, in memory. The file must not be full.
    pub fn add(&mut self, key: &Hashed) -> io::Result<()> {
        let (slot, number) = (self.shape.slot_of(key.hash), self.header.next);
        let before = self.slot(slot)?;
        if number == 1 {
            (self.header.begin, self.header.begin_time) = (key.physical, key.stored_at.as_millis());
        }
        let time_diff = self.header.time_diff(key.stored_at);
        let entry = Entry { hash: key.hash, physical: key.physical, time_diff, before };
        self.unwritten.extend_from_slice(&entry.encode());
        let page = self.page(slot / PAGE)?;
        let inside = slot % PAGE;
        page.slots[inside as usize] = number;
        page.dirty = Some(page.dirty.map_or((inside, inside), |(a, b)| (a.min(inside), b.max(inside))));
        self.header.slots_used += u32::from(before == 0);
        self.header.next = number + 1;
        (self.header.end, self.header.end_time) = (key.physical, key.stored_at.as_millis());
        Ok(())
    }

    /// The newest entry of a slot; 0 when there is none.
    fn slot(&mut self, slot: u32) -> io::Result<u32> {
        let value = self.page(slot / PAGE)?.slots[(slot % PAGE) as usize];
        Ok(if value < self.header.next { value } else { 0 })
    }

    fn page(&mut self, number: u32) -> io::Result<&mut Page> {
        match self.pages.entry(number) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let first = number * PAGE;
                let mut bytes = vec![0; ((self.shape.slots - first).min(PAGE) as u64 * SLOT) as usize];
                self.file.read_into(self.shape.slot_at(first), &mut bytes)?;
                let slots = bytes.as_chunks().0.iter().map(|slot| u32::from_be_bytes(*slot)).collect();
                Ok(vacant.insert(Page { slots, dirty: None }))
            }
        }
    }

    /// Writes what was added: entries, changed slots in their order, header. After an error it may be called again.
    pub fn write(&mut self) -> io::Result<()> {
        if !self.unwritten.is_empty() {
            self.file.write(self.shape.entry_at(self.written), &self.unwritten)?;
        }
        let mut dirty: Vec<u32> = self.pages.iter().filter(|(_, p)| p.dirty.is_some()).map(|(n, _)| *n).collect();
        dirty.sort_unstable();
        let mut bytes = Vec::with_capacity((u64::from(PAGE) * SLOT) as usize);
        for number in dirty {
            let Some(page) = self.pages.get_mut(&number) else { continue };
            let Some((first, last)) = page.dirty else { continue };
            bytes.clear();
            for slot in &page.slots[first as usize..=last as usize] {
                bytes.extend_from_slice(&slot.to_be_bytes());
            }
            self.file.write(self.shape.slot_at(number * PAGE + first), &bytes)?;
            page.dirty = None;
        }
        self.file.write(0, &self.header.encode())?;
        self.written = self.header.next;
        self.unwritten = Vec::new();
        if self.pages.len() > PAGES_KEPT {
            self.pages = HashMap::new();
        }
        Ok(())
    }

    /// The newest entry of a hash's slot, wherever it is now.
    pub fn first_of(&mut self, hash: u32) -> io::Result<u32> {
        self.slot(self.shape.slot_of(hash))
    }

    pub fn entry(&self, number: u32) -> io::Result<Entry> {
        let Some(behind) = number.checked_sub(self.written) else {
            return read_entry(&*self.file, self.shape, number);
        };
        match self.unwritten.as_chunks().0.get(behind as usize) {
            Some(bytes) => Ok(Entry::decode(bytes)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("no entry {number} in {}", self.name))),
        }
    }

    /// Keeps the entries before `next` and makes slots and header again from them. Reads at most the file.
    pub fn repair(&mut self, next: u32) -> io::Result<()> {
        self.pages = HashMap::new();
        self.unwritten = Vec::new();
        let mut slots = vec![0u32; self.shape.slots as usize];
        let mut header = Header { slots_used: 0, next, ..self.header };
        let per_chunk = CHUNK / ENTRY as usize;
        let mut bytes = vec![0; per_chunk.min(next as usize) * ENTRY as usize];
        let mut number = 1;
        while number < next {
            let n = ((next - number) as usize).min(per_chunk);
            let bytes = &mut bytes[..n * ENTRY as usize];
            self.file.read_into(self.shape.entry_at(number), bytes)?;
            for entry in bytes.as_chunks().0.iter().map(Entry::decode) {
                let slot = &mut slots[self.shape.slot_of(entry.hash) as usize];
                header.slots_used += u32::from(*slot == 0);
                *slot = number;
                number += 1;
                (header.end, header.end_time) = (entry.physical, header.latest(entry.time_diff));
            }
        }
        self.write_slots(&slots)?;
        header.begin = if next > 1 { read_entry(&*self.file, self.shape, 1)?.physical } else { header.end };
        self.file.write(0, &header.encode())?;
        (self.header, self.written) = (header, next);
        Ok(())
    }

    /// Writes the slots that the file has otherwise.
    fn write_slots(&self, slots: &[u32]) -> io::Result<()> {
        let (mut want, mut have) = (Vec::new(), Vec::new());
        for (i, some) in slots.chunks(PAGE as usize).enumerate() {
            want.clear();
            some.iter().for_each(|slot| want.extend_from_slice(&slot.to_be_bytes()));
            have.resize(want.len(), 0);
            let at = self.shape.slot_at(i as u32 * PAGE);
            self.file.read_into(at, &mut have)?;
            if have != want {
                self.file.write(at, &want)?;
            }
        }
        Ok(())
    }

    /// The first entry whose record lies at or behind a position.
    pub fn first_at(&self, position: PhysicalOffset) -> io::Result<u32> {
        let (mut low, mut high) = (1, self.header.next);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.at() < position { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

pub(super) fn read_header(file: &dyn File) -> io::Result<Header> {
    let mut bytes = [0; HEADER as usize];
    file.read_into(0, &mut bytes)?;
    Ok(Header::decode(&bytes))
}

pub(super) fn read_entry(file: &dyn File, shape: Shape, number: u32) -> io::Result<Entry> {
    let mut bytes = [0; ENTRY as usize];
    file.read_into(shape.entry_at(number), &mut bytes)?;
    Ok(Entry::decode(&bytes))
}
