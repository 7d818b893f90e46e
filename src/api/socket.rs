//! The socket's file: made with the right mode before anybody can connect, removed when we stop.
//!
//! Constraints: a socket that a killed process left behind never keeps us from starting; one that a living process
//! answers on is never taken away from it. The new socket is bound in a folder that only we can enter, gets its
//! mode there and is then renamed into place, so that there is no moment at which others could connect.
//!
//! A socket that systemd has made for us (a socket unit, `LISTEN_FDS`) is used as it is and never removed: it outlives us, and
//! who connects while we are not there waits for our next start.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in `runtime_dir`.
pub const FILE_NAME: &str = "pillion.sock";

/// Owner and group may connect (connecting takes the right to write), others may not.
const MODE: u32 = 0o660;

/// A listening socket and its file. Dropping it removes the file if we made it, unless somebody else has put another in its
/// place.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: how we know our own file again. None if we did not make it.
    identity: Option<(u64, u64)>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// `runtime_dir` is not there and can't be made.
    #[error("can't make the runtime directory {}: {source}; make it or set runtime_dir", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A living process listens there.
    #[error("another process already answers on {}; is this instance running twice?", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has its name.
    #[error("{} exists and is no socket; remove it", path.display())]
    NotASocket {
        /// The thing.
        path: PathBuf,
    },
    /// The system refused.
    #[error("can't listen on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `RUNTIME_DIR/pillion.sock`, mode 0660. Must run within a tokio runtime.
///
/// # Errors
/// The directory can't be made, a living process or something that is no socket has the name, or the system refuses.
pub async fn bind(runtime_dir: &Path) -> Result<Socket, SocketError> {
    let directory = |source| SocketError::Directory { path: runtime_dir.to_owned(), source };
    fs::create_dir_all(runtime_dir).map_err(directory)?;
    let path = runtime_dir.join(FILE_NAME);
    refuse_to_displace(&path).await?;
    match listen_at(runtime_dir, &path) {
        Ok((listener, identity)) => Ok(Socket { listener, path, identity: Some(identity) }),
        Err(source) => Err(SocketError::Listen { path, source }),
    }
}

/// The socket that systemd has made for us, if there is one. Call it once, while there is one thread only.
pub fn inherited() -> Option<std::os::unix::net::UnixListener> {
    let mut given = listenfd::ListenFd::from_env();
    (0..given.len()).find_map(|index| match given.take_unix_listener(index) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("descriptor {index} of a socket unit is not used: {error}; give ListenStream= a path");
            None
        }
    })
}

/// Takes the inherited socket, or listens on one of our own: see [`bind`]. Must run within a tokio runtime.
///
/// # Errors
/// As [`bind`].
pub async fn open(
    inherited: Option<std::os::unix::net::UnixListener>,
    runtime_dir: &Path,
) -> Result<Socket, SocketError> {
    let Some(listener) = inherited else { return bind(runtime_dir).await };
    let address = listener.local_addr().ok();
    let path = address.and_then(|address| address.as_pathname().map(Path::to_owned)).unwrap_or_default();
    let expected = runtime_dir.join(FILE_NAME);
    if path != expected {
        let (path, expected) = (path.display(), expected.display());
        tracing::warn!("the socket unit listens on {path}, and pillion's own commands look for {expected}");
    }
    let taken = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    match taken {
        Ok(listener) => Ok(Socket { listener, path, identity: None }),
        Err(source) => Err(SocketError::Listen { path, source }),
    }
}

/// Ok if the name is free or what has it is a socket without a process.
async fn refuse_to_displace(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(SocketError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Listen { path: path.to_owned(), source }),
    }
    match UnixStream::connect(path).await {
        // WouldBlock: somebody listens, but is too busy to accept.
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse { path: path.to_owned() }),
        Err(_) => Ok(()),
    }
}

fn listen_at(runtime_dir: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let private = runtime_dir.join(".new");
    let fresh = private.join(FILE_NAME);
    // Both may be left over from a process that was killed just here.
    DirBuilder::new().recursive(true).mode(0o700).create(&private)?;
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(MODE))?;
    let found = fs::symlink_metadata(&fresh)?;
    fs::rename(&fresh, path)?;
    fs::remove_dir(&private)?;
    Ok((listener, (found.dev(), found.ino())))
}

impl Socket {
    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// What accept(2) says; too many open files, mostly.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| Some((found.dev(), found.ino())) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Should it stay, the next start finds it stale and replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[tokio::test]
    async fn others_never_get_in() {
        let dir = tempdir().unwrap();
        let socket = bind(&dir.path().join("deep/below")).await.unwrap();
        assert_eq!(fs::metadata(socket.path()).unwrap().permissions().mode() & 0o7777, 0o660);
        assert_eq!(fs::read_dir(dir.path().join("deep/below")).unwrap().count(), 1, "nothing but the socket");
        UnixStream::connect(socket.path()).await.unwrap();
        socket.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_never_keeps_it_from_starting() {
        let dir = tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(FILE_NAME)).unwrap());
        fs::create_dir(dir.path().join(".new")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(".new").join(FILE_NAME)).unwrap());
        let socket = bind(dir.path()).await.unwrap();
        UnixStream::connect(socket.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_living_socket_is_never_taken_over() {
        let dir = tempdir().unwrap();
        let first = bind(dir.path()).await.unwrap();
        let error = bind(dir.path()).await.unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("pillion.sock"));
        UnixStream::connect(first.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_of_that_name_is_never_deleted() {
        let dir = tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(dir.path()).await.unwrap_err(), SocketError::NotASocket { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(matches!(bind(&path).await.unwrap_err(), SocketError::Directory { .. }));
    }

    #[tokio::test]
    async fn an_inherited_socket_never_ends_with_us() {
        let dir = tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let systemds = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let socket = open(Some(systemds.try_clone().unwrap()), dir.path()).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        socket.accept().await.unwrap();
        drop(socket);
        UnixStream::connect(&path).await.unwrap();
        let _successor = open(Some(systemds), dir.path()).await.unwrap();
    }

    #[tokio::test]
    async fn dropping_it_never_removes_what_is_not_ours() {
        let dir = tempdir().unwrap();
        let socket = bind(dir.path()).await.unwrap();
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
        let socket = bind(dir.path()).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
