//! Removes a large file without holding up others.
//!
//! A file system that frees a hundred megabytes in one go lets no other file's sync through meanwhile, on ext4 for some
//! 20 ms each. So the name goes first, with the file still open, and what is in it a piece at a time. That the name is gone
//! is synced before, or after a power loss it might be there again, with a part of the file.

use super::{File, Files, OpenMode};
use std::io;
use std::path::Path;

/// Some tenths of a millisecond.
const PIECE_BYTES: u64 = 1 << 20;

/// A file that has no name any more, and that nobody else reads.
pub(crate) struct Removal {
    file: Box<dyn File>,
    left_bytes: u64,
}

impl Removal {
    /// `None`: it was small, and is gone.
    pub fn begin(files: &dyn Files, path: &Path) -> io::Result<Option<Removal>> {
        let file = files.open(path, OpenMode::Write)?;
        let left_bytes = file.length()?;
        files.remove(path)?;
        if left_bytes <= PIECE_BYTES {
            return Ok(None);
        }
        files.sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Some(Removal { file, left_bytes }))
    }

    /// Frees a piece, and says whether that was the last.
    pub fn step(&mut self) -> io::Result<bool> {
        self.left_bytes = self.left_bytes.saturating_sub(PIECE_BYTES);
        self.file.set_length(self.left_bytes)?;
        Ok(self.left_bytes == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{MemFiles, RealFiles};
    use base::rng::Rng;

    #[test]
    fn a_file_goes_at_once_and_its_bytes_piece_by_piece() {
        let temporary = tempfile::tempdir().unwrap();
        let disks: [&dyn Files; 2] = [&RealFiles, &MemFiles::new()];
        for files in disks {
            files.create_folder(temporary.path()).unwrap();
            let path = temporary.path().join("file");
            let file = files.open(&path, OpenMode::Create).unwrap();
            file.set_length(2 * PIECE_BYTES + 1).unwrap();
            let mut removal = Removal::begin(files, &path).unwrap().unwrap();
            assert!(!files.exists(&path).unwrap());
            let steps: Vec<bool> = (0..3).map(|_| removal.step().unwrap()).collect();
            assert_eq!(steps, [false, false, true]);
            assert_eq!(file.length().unwrap(), 0);
        }
    }

    /// Of a checkpoint whose name was there again after a power loss only a part was left, and the node did not start.
    #[test]
    fn no_part_of_a_file_is_left_when_the_power_goes() {
        for seed in 0..20 {
            let files = MemFiles::with_faults();
            let (folder, path) = (Path::new("/folder"), Path::new("/folder/file"));
            files.create_folder(folder).unwrap();
            let file = files.open(path, OpenMode::Create).unwrap();
            file.set_length(3 * PIECE_BYTES).unwrap();
            file.sync().unwrap();
            files.sync_folder(folder).unwrap();
            let mut removal = Removal::begin(&files, path).unwrap().unwrap();
            removal.step().unwrap();
            files.crash(&mut Rng::new(seed));
            assert!(!files.exists(path).unwrap(), "seed {seed}");
        }
    }
}
