//! A file system in memory, for the spool to open.

use pillion::disk::{FileSystem, LogFile};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

type Content = Arc<Mutex<Vec<u8>>>;

/// All files, by path. Every folder is there.
#[derive(Default)]
pub struct Memory(Mutex<BTreeMap<PathBuf, Content>>);

struct Open(Content);

impl Memory {
    /// Puts a file there.
    pub fn put(&self, path: PathBuf, bytes: &[u8]) {
        self.0.lock().expect("one thread").insert(path, Arc::new(Mutex::new(bytes.to_vec())));
    }

    fn find(&self, path: &Path) -> io::Result<Content> {
        self.0.lock().expect("one thread").get(path).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl FileSystem for Memory {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let files = self.0.lock().expect("one thread");
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.map(|(path, content)| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, content.lock().expect("one thread").len() as u64)
        });
        Ok(named.collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.put(path.to_owned(), &[]);
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(Open(self.find(path)?)))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.find(path)?.lock().expect("one thread").truncate(length as usize);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().expect("one thread");
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let gone = self.0.lock().expect("one thread").remove(path);
        gone.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for Open {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock().expect("one thread");
        let rest = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
