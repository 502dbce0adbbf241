//! A disk in memory: the real thing for a node that is told to keep nothing, and for tests and the simulator a disk
//! that loses, tears, flips and refuses.
//!
//! A disk made by [`MemFiles::with_faults`] remembers, for every 512-byte sector written since the last sync of its
//! file, what the disk would hold had the write not arrived; and for every name made, moved or removed since the last
//! sync of its folder, that it was. [`MemFiles::crash`] then decides each of them separately, for a disk promises no
//! order between two syncs. After a failed sync the sectors concerned still read as written, but the next crash undoes
//! them even if a later sync succeeds: that is what a kernel does that drops the pages and calls them clean.
//!
//! Where a file ends after a crash follows from its sectors: if it grew, behind the last new sector that arrived; if it
//! was cut, behind the last cut sector that came back.
//!
//! Pages of zeros take no room, and copies made by [`MemFiles::fork`] share pages until one side writes.
//!
//! Not handled: folders are durable when made and are never removed; misdirected writes.

use super::{File, Files, Lock, OpenMode};
use base::rng::{self, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one write to a disk changes at once or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// Stands in place of a sector where [`MemFiles::crash_keeping`] asks about a name instead of bytes.
pub const NAME: u64 = u64::MAX;

const PAGE_BYTES: usize = 4096;
static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// A handle on a disk in memory; clones are handles on the same disk.
#[derive(Clone, Default)]
pub struct MemFiles {
    disk: Arc<Mutex<Disk>>,
}

impl MemFiles {
    /// A disk without faults, which keeps one copy of the data and no history.
    pub fn new() -> MemFiles {
        MemFiles::default()
    }

    /// A disk that can crash.
    pub fn with_faults() -> MemFiles {
        MemFiles::of(Disk { history: Some(History::default()), ..Disk::default() })
    }

    /// Process death or power loss: whatever was not synced is kept or lost as `rng` says. Handles opened before fail
    /// from now on, locks are free, and failures that were asked for and did not happen yet are called off.
    pub fn crash(&self, rng: &mut Rng) {
        // Half of the files get all or nothing, which coins thrown for every sector would hardly ever show.
        let mut moods: BTreeMap<PathBuf, u64> = BTreeMap::new();
        self.crash_keeping(&mut |path, sector| {
            if sector == NAME {
                return rng.chance(500);
            }
            let mood = match moods.get(path) {
                Some(mood) => *mood,
                None => {
                    let mood = rng.below(4);
                    moods.insert(path.to_path_buf(), mood);
                    mood
                }
            };
            match mood {
                0 => false,
                1 => true,
                _ => rng.chance(500),
            }
        });
    }

    /// As [`MemFiles::crash`], but `keep` decides: it is asked once about each of [`MemFiles::unsynced_sectors`], and
    /// with [`NAME`] once about each of [`MemFiles::unsynced_names`].
    pub fn crash_keeping(&self, keep: &mut dyn FnMut(&Path, u64) -> bool) {
        self.disk().crash(keep);
    }

    /// The sectors whose fate a crash would decide now.
    pub fn unsynced_sectors(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk();
        let undecided =
            |inode: &Inode| inode.undo.iter().filter(|(_, undo)| !undo.doomed).map(|(&sector, _)| sector).collect();
        disk.known_files()
            .into_iter()
            .flat_map(|(path, id)| {
                let sectors: Vec<u64> = disk.inodes.get(&id).map(undecided).unwrap_or_default();
                sectors.into_iter().map(move |sector| (path.clone(), sector))
            })
            .collect()
    }

    /// The creations, renames (by their new name) and removals whose fate a crash would decide now, oldest first.
    pub fn unsynced_names(&self) -> Vec<PathBuf> {
        let disk = self.disk();
        let changes = disk.history.iter().flat_map(|history| &history.changes);
        changes.map(|change| change.path().to_path_buf()).collect()
    }

    /// The `n`-th sync from now (1 is the next; folders count too) fails, once. A file's unsynced bytes are then lost
    /// at the next crash, whatever happens in between, unless they are written again.
    pub fn fail_sync_after(&self, n: u64) {
        self.disk().syncs_until_failure = Some(n.max(1));
    }

    /// The `n`-th write or change of length from now (1 is the next) fails, once. Half of a failed write arrives.
    pub fn fail_write_after(&self, n: u64) {
        self.disk().writes_until_failure = Some(n.max(1));
    }

    /// Files may have so many bytes together; what would take more gets `StorageFull`. None takes the bound away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity_bytes = bytes;
    }

    /// Damages one byte. If its sector was synced, a crash does not mend it.
    pub fn flip(&self, path: &Path, byte_offset: u64, mask: u8) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.named(path)?;
        if byte_offset >= inode.length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut byte = [0];
        inode.read(byte_offset, &mut byte);
        inode.put(byte_offset, &[byte[0] ^ mask]);
        Ok(())
    }

    /// Cuts a file; what is left of it counts as synced.
    pub fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.named(path)?;
        if length < inode.length {
            inode.resize(length);
            inode.settle();
        }
        Ok(())
    }

    pub fn read_all(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut disk = self.disk();
        let inode = disk.named(path)?;
        let mut bytes = vec![0; inode.length as usize];
        inode.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Makes or replaces a file, synced, and the folders it needs.
    pub fn write_all(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.add_folder(path.parent().unwrap_or(path));
        let id = disk.add_inode();
        if let Some(inode) = disk.inodes.get_mut(&id) {
            inode.put(0, bytes);
            inode.settle();
        }
        disk.names.insert(path.to_path_buf(), id);
        if let Some(history) = &mut disk.history {
            history.changes.retain(|change| change.path() != path);
            history.names.insert(path.to_path_buf(), id);
        }
        disk.forget_unreachable();
        Ok(())
    }

    /// Of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.disk().total_bytes()
    }

    /// The same for the same names and contents, in whatever way they came about.
    pub fn digest(&self) -> u64 {
        self.disk().digest()
    }

    /// A disk of its own in the same state, with no handles open and no lock held. Costs little: pages are shared until
    /// written.
    pub fn fork(&self) -> MemFiles {
        let mut disk = self.disk().clone();
        disk.locks.clear();
        for inode in disk.inodes.values_mut() {
            inode.handles = 0;
        }
        disk.forget_unreachable();
        MemFiles::of(disk)
    }

    fn of(disk: Disk) -> MemFiles {
        MemFiles { disk: Arc::new(Mutex::new(disk)) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for MemFiles {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if path.ancestors().any(|path| disk.names.contains_key(path)) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        disk.add_folder(path);
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.check_folder(folder)?;
        let inside = disk.names.keys().chain(&disk.folders).filter(|path| path.parent() == Some(folder));
        let mut names: Vec<String> = inside.filter_map(|path| path.file_name()?.to_str().map(str::to_string)).collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        let id = match disk.names.get(path) {
            Some(&id) => id,
            None if disk.folders.contains(path) => return Err(ErrorKind::IsADirectory.into()),
            None if mode != OpenMode::Create => return Err(ErrorKind::NotFound.into()),
            None => {
                disk.check_folder(path.parent().unwrap_or(path))?;
                let id = disk.add_inode();
                disk.change(Change::Place { path: path.to_path_buf(), id });
                id
            }
        };
        if let Some(inode) = disk.inodes.get_mut(&id) {
            inode.handles += 1;
        }
        let life = disk.life;
        Ok(Box::new(MemFile { disk: self.clone(), id, life, writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let id = *disk.names.get(from).ok_or(ErrorKind::NotFound)?;
        disk.check_folder(to.parent().unwrap_or(to))?;
        if disk.folders.contains(to) {
            return Err(ErrorKind::IsADirectory.into());
        }
        if from != to {
            disk.change(Change::Place { path: to.to_path_buf(), id });
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let id = *disk.names.get(path).ok_or(ErrorKind::NotFound)?;
        disk.change(Change::Remove { path: path.to_path_buf(), id });
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let disk = self.disk();
        Ok(disk.names.contains_key(path) || disk.check_folder(path).is_ok())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.check_folder(folder)?;
        disk.allow_sync()?;
        if let Some(history) = &mut disk.history {
            history.settle(folder);
        }
        disk.forget_unreachable();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut disk = self.disk();
        disk.check_folder(path.parent().unwrap_or(path))?;
        if !disk.locks.insert(path.to_path_buf()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        if !disk.names.contains_key(path) {
            let id = disk.add_inode();
            disk.change(Change::Place { path: path.to_path_buf(), id });
        }
        let life = disk.life;
        Ok(Box::new(MemLock { disk: self.clone(), path: path.to_path_buf(), life }))
    }
}

struct MemFile {
    disk: MemFiles,
    id: u64,
    /// Of the disk when the file was opened.
    life: u64,
    writable: bool,
}

impl MemFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut disk = self.disk.disk();
        Ok(act(disk.open_inode(self.id, self.life)?))
    }

    fn resize(&self, disk: &mut Disk, length: u64) -> io::Result<()> {
        let inode = disk.open_inode(self.id, self.life)?;
        if length > inode.length {
            let more = length - inode.length;
            if more > disk.room_bytes() {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        let remember = disk.history.is_some();
        let inode = disk.open_inode(self.id, self.life)?;
        if remember {
            inode.remember_resize(length);
        }
        inode.resize(length);
        Ok(())
    }

    fn write(&self, disk: &mut Disk, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let inode = disk.open_inode(self.id, self.life)?;
        let end = offset.checked_add(bytes.len() as u64).ok_or(ErrorKind::FileTooLarge)?;
        let mut fits = bytes.len();
        if end > inode.length {
            let possible = inode.length.saturating_add(disk.room_bytes());
            if end > possible {
                fits = possible.saturating_sub(offset) as usize;
            }
        }
        let remember = disk.history.is_some();
        let inode = disk.open_inode(self.id, self.life)?;
        if fits > 0 {
            if remember {
                inode.remember_write(offset, fits as u64);
            }
            inode.put(offset, &bytes[..fits]);
        }
        if fits < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl File for MemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|inode| inode.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.disk();
        self.check_writable()?;
        match disk.allow_write() {
            Ok(()) => self.write(&mut disk, offset, bytes),
            Err(error) => {
                self.write(&mut disk, offset, &bytes[..bytes.len() / 2])?;
                Err(error)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        let allowed = disk.allow_sync();
        let inode = disk.open_inode(self.id, self.life)?;
        match allowed {
            Ok(()) => inode.sync(),
            Err(_) => inode.doom(),
        }
        allowed
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|inode| inode.length)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        self.check_writable()?;
        disk.allow_write()?;
        self.resize(&mut disk, length)
    }
}

impl MemFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if let Ok(inode) = disk.open_inode(self.id, self.life) {
            inode.handles -= 1;
            disk.forget_unreachable();
        }
    }
}

struct MemLock {
    disk: MemFiles,
    path: PathBuf,
    life: u64,
}

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Clone, Default)]
struct Disk {
    /// Grows with each crash, so that handles of a former life are known.
    life: u64,
    folders: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Inode>,
    last_id: u64,
    locks: BTreeSet<PathBuf>,
    /// Only on a disk that can crash.
    history: Option<History>,
    syncs_until_failure: Option<u64>,
    writes_until_failure: Option<u64>,
    capacity_bytes: Option<u64>,
}

impl Disk {
    fn named(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let id = self.names.get(path).ok_or(ErrorKind::NotFound)?;
        self.inodes.get_mut(id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn open_inode(&mut self, id: u64, life: u64) -> io::Result<&mut Inode> {
        if life != self.life {
            return Err(io::Error::other("the disk has crashed since this file was opened"));
        }
        self.inodes.get_mut(&id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn add_inode(&mut self) -> u64 {
        self.last_id += 1;
        self.inodes.insert(self.last_id, Inode::default());
        self.last_id
    }

    fn add_folder(&mut self, path: &Path) {
        self.folders.extend(path.ancestors().map(Path::to_path_buf));
    }

    fn check_folder(&self, path: &Path) -> io::Result<()> {
        let always_there = path.as_os_str().is_empty() || path.parent().is_none();
        if always_there || self.folders.contains(path) {
            Ok(())
        } else if self.names.contains_key(path) {
            Err(ErrorKind::NotADirectory.into())
        } else {
            Err(ErrorKind::NotFound.into())
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        if let Some(history) = &mut self.history {
            history.changes.push(change);
        }
        self.forget_unreachable();
    }

    fn forget_unreachable(&mut self) {
        let named: BTreeSet<u64> = self.known_files().into_iter().map(|(_, id)| id).collect();
        self.inodes.retain(|id, inode| inode.handles > 0 || named.contains(id));
    }

    /// Every file that has a name or may have one after a crash, each once.
    fn known_files(&self) -> Vec<(PathBuf, u64)> {
        let now = self.names.iter().map(|(path, &id)| (path.as_path(), id));
        let before = self.history.iter().flat_map(|history| &history.names).map(|(path, &id)| (path.as_path(), id));
        let changes = self.history.iter().flat_map(|history| &history.changes);
        let between = changes.map(|change| (change.path(), change.id()));
        let mut seen = BTreeSet::new();
        now.chain(before)
            .chain(between)
            .filter(|(_, id)| seen.insert(*id))
            .map(|(path, id)| (path.to_path_buf(), id))
            .collect()
    }

    fn crash(&mut self, keep: &mut dyn FnMut(&Path, u64) -> bool) {
        let files = self.known_files();
        let history = self.history.as_mut().expect("only a disk made by with_faults can crash");
        for (path, id) in files {
            if let Some(inode) = self.inodes.get_mut(&id) {
                inode.crash(&mut |sector| keep(&path, sector));
            }
        }
        for change in std::mem::take(&mut history.changes) {
            if keep(change.path(), NAME) {
                change.apply(&mut history.names);
            }
        }
        self.names = history.names.clone();
        self.locks.clear();
        self.syncs_until_failure = None;
        self.writes_until_failure = None;
        self.life += 1;
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.forget_unreachable();
    }

    fn allow_sync(&mut self) -> io::Result<()> {
        count_down(&mut self.syncs_until_failure, "the disk was told to fail this sync")
    }

    fn allow_write(&mut self) -> io::Result<()> {
        count_down(&mut self.writes_until_failure, "the disk was told to fail this write")
    }

    fn room_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.total_bytes()))
    }

    fn total_bytes(&self) -> u64 {
        self.names.values().filter_map(|id| self.inodes.get(id)).map(|inode| inode.length).sum()
    }

    fn digest(&self) -> u64 {
        let mut digest = 0;
        for (path, id) in &self.names {
            let Some(inode) = self.inodes.get(id) else { continue };
            let name = path.to_string_lossy();
            digest = rng::hash(&[digest, u64::from(base::checksum(name.as_bytes())), inode.length]);
            for page in 0..(inode.length as usize).div_ceil(PAGE_BYTES) {
                digest = rng::hash(&[digest, u64::from(base::checksum(inode.page(page)))]);
            }
        }
        digest
    }
}

fn count_down(calls_left: &mut Option<u64>, what: &'static str) -> io::Result<()> {
    match calls_left {
        None => Ok(()),
        Some(1) => {
            *calls_left = None;
            Err(io::Error::other(what))
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
    }
}

/// The names as the disk has them for certain, and what has happened to them since, oldest first.
#[derive(Clone, Default)]
struct History {
    names: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
}

impl History {
    /// A rename from one folder to another counts as synced with the folder that it went to.
    fn settle(&mut self, folder: &Path) {
        for change in std::mem::take(&mut self.changes) {
            if change.path().parent() == Some(folder) {
                change.apply(&mut self.names);
            } else {
                self.changes.push(change);
            }
        }
    }
}

#[derive(Clone)]
enum Change {
    /// A creation or a rename: the file is here now, and nowhere else.
    Place {
        path: PathBuf,
        id: u64,
    },
    Remove {
        path: PathBuf,
        id: u64,
    },
}

impl Change {
    /// Makes sense whatever became of earlier changes: a file never ends up with two names.
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Change::Place { path, id } => {
                names.retain(|_, named| named != id);
                names.insert(path.clone(), *id);
            }
            Change::Remove { path, id } => {
                if names.get(path) == Some(id) {
                    names.remove(path);
                }
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Change::Place { path, .. } | Change::Remove { path, .. } => path,
        }
    }

    fn id(&self) -> u64 {
        match self {
            Change::Place { id, .. } | Change::Remove { id, .. } => *id,
        }
    }
}

/// A file's bytes, and what is needed to take back those that were not synced.
#[derive(Clone, Default)]
struct Inode {
    length: u64,
    /// A page that is missing is all zeros. Bytes beyond the length are zeros, too.
    pages: Vec<Option<Arc<[u8; PAGE_BYTES]>>>,
    handles: u64,
    durable_length: u64,
    undo: BTreeMap<u64, Undo>,
}

#[derive(Clone)]
struct Undo {
    /// What the disk holds for certain; None is zeros.
    before: Option<Arc<[u8; SECTOR_BYTES as usize]>>,
    /// A sync failed: the sector counts as clean, but never arrived.
    doomed: bool,
}

impl Inode {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.length.saturating_sub(offset) as usize);
        let mut done = 0;
        while done < count {
            let at = offset as usize + done;
            let inside = at % PAGE_BYTES;
            let part = (count - done).min(PAGE_BYTES - inside);
            buffer[done..done + part].copy_from_slice(&self.page(at / PAGE_BYTES)[inside..inside + part]);
            done += part;
        }
        count
    }

    /// Writes, growing the file if need be, and remembers nothing.
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.length = self.length.max(offset + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let inside = at % PAGE_BYTES;
            let part = (bytes.len() - done).min(PAGE_BYTES - inside);
            let new = &bytes[done..done + part];
            let missing = !matches!(self.pages.get(at / PAGE_BYTES), Some(Some(_)));
            if !(missing && new == &ZEROS[..part]) {
                self.page_to_change(at / PAGE_BYTES)[inside..inside + part].copy_from_slice(new);
            }
            done += part;
        }
    }

    fn resize(&mut self, length: u64) {
        if length < self.length {
            self.pages.truncate((length as usize).div_ceil(PAGE_BYTES));
            let inside = length as usize % PAGE_BYTES;
            let last = length as usize / PAGE_BYTES;
            if inside > 0 && matches!(self.pages.get(last), Some(Some(_))) {
                self.page_to_change(last)[inside..].fill(0);
            }
        }
        self.length = length;
    }

    fn page(&self, page: usize) -> &[u8; PAGE_BYTES] {
        match self.pages.get(page) {
            Some(Some(bytes)) => bytes,
            _ => &ZEROS,
        }
    }

    fn page_to_change(&mut self, page: usize) -> &mut [u8; PAGE_BYTES] {
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        Arc::make_mut(self.pages[page].get_or_insert_with(|| Arc::new(ZEROS)))
    }

    fn remember_write(&mut self, offset: u64, count: u64) {
        for sector in offset / SECTOR_BYTES..(offset + count).div_ceil(SECTOR_BYTES) {
            self.remember(sector);
        }
    }

    fn remember_resize(&mut self, length: u64) {
        if length > self.length {
            self.remember((length - 1) / SECTOR_BYTES);
        }
        for sector in length / SECTOR_BYTES..self.length.div_ceil(SECTOR_BYTES) {
            self.remember(sector);
        }
    }

    fn remember(&mut self, sector: u64) {
        if let Some(undo) = self.undo.get_mut(&sector) {
            undo.doomed = false;
            return;
        }
        let mut bytes = [0; SECTOR_BYTES as usize];
        self.read(sector * SECTOR_BYTES, &mut bytes);
        let before = (bytes != [0; SECTOR_BYTES as usize]).then(|| Arc::new(bytes));
        self.undo.insert(sector, Undo { before, doomed: false });
    }

    /// All that was written is on the disk, but for what an earlier sync failed to bring there.
    fn sync(&mut self) {
        self.durable_length = self.length;
        self.undo.retain(|_, undo| undo.doomed);
    }

    fn doom(&mut self) {
        for undo in self.undo.values_mut() {
            undo.doomed = true;
        }
    }

    /// What is there now is what the disk has.
    fn settle(&mut self) {
        self.durable_length = self.length;
        self.undo.clear();
    }

    fn crash(&mut self, keep: &mut dyn FnMut(u64) -> bool) {
        let mut length = self.length.min(self.durable_length);
        let longest = self.length.max(self.durable_length);
        let grew = self.length > self.durable_length;
        for (sector, undo) in std::mem::take(&mut self.undo) {
            let kept = !undo.doomed && keep(sector);
            if kept == grew {
                length = length.max(longest.min((sector + 1) * SECTOR_BYTES));
            }
            if !kept {
                let before: &[u8] = match &undo.before {
                    Some(bytes) => &bytes[..],
                    None => &ZEROS[..SECTOR_BYTES as usize],
                };
                self.put(sector * SECTOR_BYTES, before);
            }
        }
        self.resize(length);
        self.settle();
    }
}
