//! The tree of names, the power and the faults of the simulated disk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use super::{
    CrashChoice,
    crash::Chooser,
    data::{BLOCK, FileData},
};
use crate::store::disk::Space;

const ROOT: u64 = 0;
/// Linux's numbers of the errors that the simulation plays.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Whether a change goes to the cache, and so may reach the device in a power failure, or is the order to reach it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Cached,
    Device,
}

#[derive(Clone)]
enum Node {
    File(FileData),
    Dir(Dir),
}

#[derive(Clone, Default)]
struct Dir {
    cache: BTreeMap<String, u64>,
    device: BTreeMap<String, u64>,
}

/// A place for a name: the directory's node, and the name.
type Place = (u64, String);

/// A change of names that no `sync_dir` has followed yet.
#[derive(Clone)]
enum NameChange {
    Link(Place, u64),
    Unlink(Place, u64),
    Rename { from: Place, to: Place, node: u64 },
}

impl NameChange {
    fn places(&self) -> [Option<&Place>; 2] {
        match self {
            Self::Link(place, _) | Self::Unlink(place, _) => [Some(place), None],
            Self::Rename { from, to, .. } => [Some(from), Some(to)],
        }
    }

    fn touches(&self, dir: u64) -> bool {
        self.places().iter().flatten().any(|place| place.0 == dir)
    }

    fn node(&self) -> u64 {
        match self {
            Self::Link(_, node) | Self::Unlink(_, node) | Self::Rename { node, .. } => *node,
        }
    }
}

#[derive(Clone)]
pub(super) struct State {
    nodes: HashMap<u64, Node>,
    next_node: u64,
    unsynced: Vec<NameChange>,
    last_write: Option<(u64, Range<u64>)>,
    pub generation: u64,
    pub ops: u64,
    pub power_ends_at: Option<u64>,
    pub off: bool,
    /// That of a file in a directory of this name, if one is said.
    pub next_sync_fails: Option<Option<&'static str>>,
    pub next_sync_dir_fails: bool,
    pub next_remove_fails: bool,
    /// Bytes of a file that the device does not give back.
    pub bad: Option<(PathBuf, std::ops::Range<u64>)>,
    /// Bytes read, and files synced, since the disk was made.
    pub bytes_read: u64,
    pub syncs: u64,
    /// What [`Disk::space`](super::Disk::space) says of directories that are said to lie on other disks.
    pub elsewhere: Vec<(PathBuf, Space)>,
    pub capacity: Option<u64>,
    pub refuses_allocations: bool,
    pub locks: HashSet<PathBuf>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next_node: ROOT + 1,
            unsynced: Vec::new(),
            last_write: None,
            generation: 0,
            ops: 0,
            power_ends_at: None,
            off: false,
            next_sync_fails: None,
            next_sync_dir_fails: false,
            next_remove_fails: false,
            bad: None,
            bytes_read: 0,
            syncs: 0,
            elsewhere: Vec::new(),
            capacity: None,
            refuses_allocations: false,
            locks: HashSet::new(),
        }
    }
}

impl State {
    pub fn check_power(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }

    /// Counts a change and makes it, unless the power fails with it.
    pub fn change<T>(&mut self, change: Change, f: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.check_power()?;
        let op = self.ops;
        self.ops += 1;
        if self.power_ends_at == Some(op) {
            self.off = true;
            if change == Change::Cached {
                // Whether the device got it is for the crash to choose; nobody is told.
                let _ = f(self);
            }
            return Err(power_is_off());
        }
        f(self)
    }

    pub fn crash(&mut self, choice: CrashChoice) {
        let mut chooser = Chooser::new(choice);
        for change in std::mem::take(&mut self.unsynced) {
            if chooser.keeps_name() {
                self.reach_device(&change);
            }
        }
        for node in self.nodes.values_mut() {
            if let Node::Dir(dir) = node {
                dir.cache.clone_from(&dir.device);
            }
        }
        let last = self.last_write.take();
        let ids: BTreeSet<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let written = last.as_ref().and_then(|(node, range)| (*node == id).then(|| range.clone()));
            if let Some(Node::File(file)) = self.nodes.get_mut(&id) {
                file.crash(&mut chooser, written);
            }
        }
        self.generation += 1;
        self.off = false;
        self.power_ends_at = None;
        self.next_sync_fails = None;
        self.locks.clear();
        self.forget_unreachable();
    }

    /// Drops nodes that no name leads to, now or after a crash, and nobody has open.
    fn forget_unreachable(&mut self) {
        let mut found = BTreeSet::new();
        let mut todo: Vec<u64> = self.unsynced.iter().map(NameChange::node).chain([ROOT]).collect();
        while let Some(id) = todo.pop() {
            if found.insert(id)
                && let Some(Node::Dir(dir)) = self.nodes.get(&id)
            {
                todo.extend(dir.cache.values().chain(dir.device.values()));
            }
        }
        self.nodes.retain(|id, node| found.contains(id) || matches!(node, Node::File(f) if f.is_open()));
        let nodes = &self.nodes;
        self.unsynced.retain(|change| change.places().iter().flatten().all(|place| nodes.contains_key(&place.0)));
    }

    pub fn used(&self) -> u64 {
        let mut named = HashSet::new();
        for node in self.nodes.values() {
            if let Node::Dir(dir) = node {
                named.extend(dir.cache.values().copied());
            }
        }
        let blocks = self.nodes.iter().map(|(id, node)| match node {
            Node::File(file) if named.contains(id) || file.is_open() => file.blocks(),
            _ => 0,
        });
        blocks.sum::<u64>() * BLOCK
    }

    /// The file behind an open handle: its node lives at least as long.
    pub fn file(&mut self, node: u64) -> &mut FileData {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => file,
            _ => unreachable!("a file that is open has a node"),
        }
    }

    fn dir(&mut self, node: u64) -> &mut Dir {
        match self.nodes.get_mut(&node) {
            Some(Node::Dir(dir)) => dir,
            _ => unreachable!("a place names a directory"),
        }
    }

    /// The node at a path, in the cache.
    pub fn find(&self, path: &Path) -> io::Result<Option<u64>> {
        let mut at = ROOT;
        for name in names(path)? {
            let Some(Node::Dir(dir)) = self.nodes.get(&at) else { return Ok(None) };
            match dir.cache.get(&name) {
                Some(node) => at = *node,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub fn find_file(&self, path: &Path) -> io::Result<u64> {
        let node = self.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        match &self.nodes[&node] {
            Node::File(_) => Ok(node),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn find_dir(&self, path: &Path) -> io::Result<u64> {
        let node = self.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        match &self.nodes[&node] {
            Node::Dir(_) => Ok(node),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut all = names(path)?;
        let name = all.pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find_dir(&all.iter().collect::<PathBuf>())?, name))
    }

    fn link(&mut self, place: Place, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        self.dir(place.0).cache.insert(place.1.clone(), id);
        self.unsynced.push(NameChange::Link(place, id));
        id
    }

    fn unlink(&mut self, place: Place, node: u64) {
        self.dir(place.0).cache.remove(&place.1);
        self.unsynced.push(NameChange::Unlink(place, node));
    }

    pub fn create(&mut self, path: &Path) -> io::Result<u64> {
        let place = self.place(path)?;
        if self.dir(place.0).cache.contains_key(&place.1) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Change::Cached, |state| Ok(state.link(place, Node::File(FileData::default()))))
    }

    pub fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.check_power()?;
        let mut at = PathBuf::new();
        for name in names(path)? {
            let parent = at.clone();
            at.push(name);
            if self.find(&at)?.is_some() {
                self.find_dir(&at)?;
                continue;
            }
            let place = self.place(&at)?;
            self.change(Change::Cached, |state| Ok(state.link(place, Node::Dir(Dir::default()))))?;
            self.sync_dir(&parent)?;
        }
        Ok(())
    }

    pub fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.check_power()?;
        match self.find(path)? {
            None => Ok(Vec::new()),
            Some(node) => match &self.nodes[&node] {
                Node::Dir(dir) => Ok(dir.cache.keys().cloned().collect()),
                Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
            },
        }
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.check_power()?;
        let (place, node) = (self.place(path)?, self.find_file(path)?);
        if std::mem::take(&mut self.next_remove_fails) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.change(Change::Cached, |state| {
            state.unlink(place, node);
            Ok(())
        })
    }

    pub fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for name in self.list(path)? {
            let child = path.join(name);
            match self.find_file(&child) {
                Ok(_) => self.remove_file(&child)?,
                Err(_) => self.remove_dir_all(&child)?,
            }
        }
        let (place, node) = (self.place(path)?, self.find_dir(path)?);
        self.change(Change::Cached, |state| {
            state.unlink(place, node);
            Ok(())
        })
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_power()?;
        let node = self.find_file(from)?;
        let (from, to) = (self.place(from)?, self.place(to)?);
        self.change(Change::Cached, |state| {
            state.dir(from.0).cache.remove(&from.1);
            state.dir(to.0).cache.insert(to.1.clone(), node);
            state.unsynced.push(NameChange::Rename { from, to, node });
            Ok(())
        })
    }

    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.check_power()?;
        let dir = self.find_dir(path)?;
        if std::mem::take(&mut self.next_sync_dir_fails) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.change(Change::Device, |state| {
            let (now, later) = std::mem::take(&mut state.unsynced).into_iter().partition(|c| c.touches(dir));
            state.unsynced = later;
            let now: Vec<NameChange> = now;
            for change in &now {
                state.reach_device(change);
            }
            if now.iter().any(|c| !matches!(c, NameChange::Link(..))) {
                state.forget_unreachable();
            }
            Ok(())
        })
    }

    /// Makes one change of names on the device. A name that means something else there by now is left alone.
    fn reach_device(&mut self, change: &NameChange) {
        let unlink = |state: &mut Self, place: &Place, node: u64| {
            let names = &mut state.dir(place.0).device;
            if names.get(&place.1) == Some(&node) {
                names.remove(&place.1);
            }
        };
        match change {
            NameChange::Link(place, node) => {
                self.dir(place.0).device.insert(place.1.clone(), *node);
            }
            NameChange::Unlink(place, node) => unlink(self, place, *node),
            NameChange::Rename { from, to, node } => {
                unlink(self, from, *node);
                self.dir(to.0).device.insert(to.1.clone(), *node);
            }
        }
    }

    /// Whether a range of a file has its blocks or can get them.
    fn check_room(&mut self, node: u64, at: u64, len: usize) -> io::Result<()> {
        if let Some(capacity) = self.capacity {
            let missing = self.file(node).blocks_missing(at, len) * BLOCK;
            if missing > 0 && self.used() + missing > capacity {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
        }
        Ok(())
    }

    pub fn allocate(&mut self, node: u64, at: u64, len: u64) -> io::Result<()> {
        if self.refuses_allocations {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.check_room(node, at, len as usize)?;
        self.file(node).allocate(at, len as usize);
        Ok(())
    }

    pub fn write(&mut self, node: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_room(node, at, bytes.len())?;
        self.file(node).write(at, bytes);
        self.last_write = Some((node, at..at + bytes.len() as u64));
        Ok(())
    }

    pub fn sync_file(&mut self, node: u64) -> io::Result<()> {
        self.syncs += 1;
        if self.next_sync_fails.is_some_and(|dir| dir.is_none_or(|dir| self.lies_in(dir, node))) {
            self.next_sync_fails = None;
            self.file(node).lie();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.file(node).sync();
        Ok(())
    }

    /// Whether the file lies in a directory of this name.
    fn lies_in(&self, name: &str, file: u64) -> bool {
        fn names(node: &Node) -> Option<&BTreeMap<String, u64>> {
            if let Node::Dir(dir) = node { Some(&dir.cache) } else { None }
        }
        let dirs = self.nodes.values().filter_map(names).filter_map(|names| names.get(name));
        dirs.filter_map(|id| names(self.nodes.get(id)?)).any(|names| names.values().any(|id| *id == file))
    }

    pub fn flip_bit(&mut self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        let node = self.find_file(path)?;
        let file = self.file(node);
        if byte >= file.len() || bit > 7 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.flip_bit(byte, bit);
        Ok(())
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

/// The names on the way to a path, from the root. A relative path starts there too.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => out.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned()),
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(out)
}
