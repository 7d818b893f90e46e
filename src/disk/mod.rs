//! The file system as pillion's stores see it: few calls, each with a durability that tests can take away; and the two ways
//! in which something small is kept: a file that is replaced as a whole ([`replace`]), and a [`journal`].
//!
//! Constraint: nothing else in a store touches files, so a test can cut the power between any two calls. Calls block.

pub mod journal;
#[cfg(test)]
pub(crate) mod sim;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Pages of the kernel's cache, in bytes; where they are larger, a little more of a file stays in it.
const PAGE: u64 = 4096;

/// A file of a store.
pub trait LogFile: Send {
    /// Writes all of `bytes` at the end. After an error an unknown part of them is there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended is on the medium (fdatasync). Fails when the file has been removed: what is in it would
    /// be gone when it is closed.
    fn sync(&mut self) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes from `offset`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The first `length` bytes are on the medium, and nobody reads them soon: a system that keeps a copy in memory need not. The
    /// last page stays if it is not full, for whoever appends to it.
    fn drop_cache(&self, _length: u64) {}
}

/// What a store needs of a file system.
pub trait FileSystem: Send + Sync {
    /// Creates a folder and those above it that are not there, for its owner and group; on the medium when it returns.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names and sizes of the files in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    /// A new file; one of that name that is there is replaced.
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// An existing file, for reading and syncing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Cuts a file to `length` bytes.
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()>;
    /// Gives a file another name, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when creations, renames and removals in this folder are on the medium.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl FileSystem for Disk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let Some(parent) = dir.parent() else { return Err(io::ErrorKind::NotFound.into()) };
        self.create_dir_all(parent)?;
        std::fs::DirBuilder::new().mode(0o750).create(dir)?;
        self.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                files.push((name, meta.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o640).open(path)?;
        Ok(Box::new(options))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.set_len(length)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl LogFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        self.sync_data()?;
        match self.metadata()?.nlink() {
            0 => Err(io::Error::new(io::ErrorKind::NotFound, "a file that was being written has been removed")),
            _ => Ok(()),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn drop_cache(&self, length: u64) {
        // Nothing would mean everything.
        if let Some(whole_pages) = NonZeroU64::new(length - length % PAGE) {
            // A hint: where it is not taken, the kernel lets go of them when others want the memory.
            let _ = fadvise(self, 0, Some(whole_pages), Advice::DontNeed);
        }
    }
}

/// Whether an error is the process's or the system's, not the medium's: then waiting helps, however long.
pub fn is_passing(error: &io::Error) -> bool {
    use Errno as E;
    matches!(Errno::from_io_error(error), Some(E::MFILE | E::NFILE | E::NOMEM | E::ACCESS | E::PERM | E::INTR))
}

/// Replaces the file at `path` as a whole: after a power cut either the old or the new content is there.
pub fn replace(fs: &dyn FileSystem, path: &Path, content: &[u8]) -> io::Result<()> {
    put_in_place(fs, path, content)?;
    match path.parent() {
        Some(dir) => fs.sync_dir(dir),
        None => Ok(()),
    }
}

/// Replaces the file at `path` on a tmpfs: after a kill either the old or the new content is there. A power cut may take both.
pub fn replace_volatile(fs: &dyn FileSystem, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let written = fs.create(&temporary).and_then(|mut file| file.append(content));
    written.and_then(|()| fs.rename(&temporary, path)).inspect_err(|_| {
        let _ = fs.remove(&temporary);
    })
}

/// The same as `replace` without its last step: the new file has its name, but a power cut may still take that away. Returns the
/// new file.
fn put_in_place(fs: &dyn FileSystem, path: &Path, content: &[u8]) -> io::Result<Box<dyn LogFile>> {
    let temporary = path.with_extension("tmp");
    let mut file = fs.create(&temporary)?;
    let written = file.append(content).and_then(|()| file.sync());
    if let Err(error) = written.and_then(|()| fs.rename(&temporary, path)) {
        // On a full disk even these bytes count.
        let _ = fs.remove(&temporary);
        return Err(error);
    }
    Ok(file)
}

/// Reads a whole file of at most `limit` bytes; what lies beyond is left out.
pub fn read_all(fs: &dyn FileSystem, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let mut content = Vec::new();
    let mut chunk = [0; 4096];
    while content.len() < limit {
        let offset = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let count = file.read_at(&mut chunk, offset)?;
        match chunk.get(..count) {
            Some(read) if count > 0 => content.extend_from_slice(read),
            _ => break,
        }
    }
    content.truncate(limit);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_removed_file_never_counts_as_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = Disk.create(&path).unwrap();
        file.append(b"there").unwrap();
        file.sync().unwrap();
        Disk.remove(&path).unwrap();
        file.append(b"nowhere").unwrap();
        assert_eq!(file.sync().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
