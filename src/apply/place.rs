//! Files in places where an enemy may wait: reading what the sidecar's user has written, and replacing what root trusts.
//!
//! Constraints: nothing is followed, opened or waited for that is no plain file; nothing is written into a folder that
//! anybody but us and root can write to, or can replace; a file is replaced as a whole, and never visible with more rights
//! than it is to have.

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Reads a plain file of at most `limit` bytes; `None`: there is none.
///
/// # Errors
/// It is no plain file, is larger, or can't be read.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    // NONBLOCK: opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(io::Error::other("it is a symbolic link; nothing follows that here"));
        }
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() > limit {
        true => Err(io::Error::other(format!("it is larger than {limit} bytes"))),
        false => Ok(Some(bytes)),
    }
}

/// The folder of a file, without links, if nobody but root and us can change what is in it, or replace it.
///
/// # Errors
/// It is not there, or somebody else can.
pub(super) fn safe_folder(path: &Path) -> io::Result<PathBuf> {
    let folder = fs::canonicalize(path.parent().unwrap_or(Path::new("/")))?;
    let us = rustix::process::geteuid().as_raw();
    for (depth, dir) in folder.ancestors().enumerate() {
        let meta = fs::symlink_metadata(dir)?;
        let owned = meta.uid() == 0 || meta.uid() == us;
        // In a sticky folder others can't rename what is ours; but the file itself shall not be in one.
        let writable = meta.mode() & 0o022 != 0 && (depth == 0 || meta.mode() & 0o1000 == 0);
        if !meta.is_dir() || !owned || writable {
            let message = format!(
                "others than root can write to {}, and so could have anything written anywhere; have it owned by root, \
                 mode 0755",
                dir.display()
            );
            return Err(io::Error::other(message));
        }
    }
    Ok(folder)
}

/// Rights and owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
}

impl Access {
    /// As this file has them.
    pub(super) fn of(path: &Path) -> io::Result<Access> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Access { mode: meta.mode() & 0o777, owner: (meta.uid(), meta.gid()) })
    }
}

/// Replaces the file of this name in a [safe folder](safe_folder): old or new, whole, also after a power cut.
pub(super) fn replace(folder: &Path, name: &str, content: &[u8], access: Access) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.pillion-new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file
        .write_all(content)
        .and_then(|()| match Access::of(&temporary)?.owner == access.owner {
            true => Ok(()),
            false => std::os::unix::fs::fchown(&file, Some(access.owner.0), Some(access.owner.1)),
        })
        .and_then(|()| file.set_permissions(Permissions::from_mode(access.mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, folder.join(name)));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// Removes the file of this name, if it is there.
pub(super) fn remove(folder: &Path, name: &str) -> io::Result<()> {
    let dir = File::open(folder)?;
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => dir.sync_all(),
        Err(error) => Err(error.into()),
    }
}

/// The numbers of `USER:GROUP`, from `/etc/passwd` and `/etc/group` (passwd(5), group(5)), or as they are.
pub(super) fn owner(text: &str) -> io::Result<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Ok((number(user, "/etc/passwd")?, number(group, "/etc/group")?))
}

fn number(name: &str, table: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string(table)?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| io::Error::other(format!("there is no {name} in {table}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn what_is_no_plain_file_is_never_read_or_waited_for() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("plain"), "x").unwrap();
        symlink(path("plain"), path("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read(&path("plain"), 1).unwrap(), Some(b"x".to_vec()));
        assert_eq!(read(&path("nothing"), 1).unwrap(), None);
        assert!(read(&path("link"), 1).unwrap_err().to_string().contains("symbolic link"));
        assert!(read(&path("pipe"), 1).unwrap_err().to_string().contains("no plain file"));
        assert!(read(folder.path(), 1).is_err());
        assert!(read(&path("plain"), 0).unwrap_err().to_string().contains("larger"));
    }

    #[test]
    fn nothing_is_ever_written_where_others_can_write() {
        let folder = folder();
        let file = folder.path().join("deep/app.toml");
        assert!(safe_folder(&file).is_err(), "not there");
        fs::create_dir(folder.path().join("deep")).unwrap();
        assert!(safe_folder(&file).is_ok());
        for (dir, mode) in [("deep", 0o777), ("deep", 0o1777), ("deep", 0o775), ("", 0o777)] {
            let dir = folder.path().join(dir);
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            assert!(safe_folder(&file).unwrap_err().to_string().contains("others than root"), "{dir:?} {mode:o}");
            fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        }
        symlink("/tmp", folder.path().join("elsewhere")).unwrap();
        assert!(safe_folder(&folder.path().join("elsewhere/app.toml")).is_err(), "where the link leads");
    }

    #[test]
    fn a_replaced_file_never_follows_a_link_or_shows_itself_too_early() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("precious"), "old").unwrap();
        symlink(path("precious"), path("app.toml")).unwrap();
        symlink(path("precious"), path(".app.toml.pillion-new")).unwrap();
        let access = Access { mode: 0o640, owner: Access::of(&path("precious")).unwrap().owner };
        replace(folder.path(), "app.toml", b"new", access).unwrap();
        assert_eq!(fs::read(path("precious")).unwrap(), b"old");
        assert_eq!(
            (fs::read(path("app.toml")).unwrap(), Access::of(&path("app.toml")).unwrap()),
            (b"new".to_vec(), access)
        );
        remove(folder.path(), "app.toml").unwrap();
        remove(folder.path(), "app.toml").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(owner("root:0").unwrap(), (0, 0));
        assert!(owner("nobody-of-that-name:0").is_err());
    }
}
