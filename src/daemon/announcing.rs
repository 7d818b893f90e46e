//! What is told to Home Assistant, and the file that remembers it.

use super::devices::replace_file;
use crate::config::Config;
use crate::disk::{Disk, read_all};
use crate::homeassistant::announced::{self, FILE_NAME, Plan};
use crate::{homeassistant, host, publish};
use std::io;
use std::path::PathBuf;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Writes down what will be announced, and once that is delivered, what is left of it.
pub(super) fn start(config: &Config) -> publish::Announcements {
    let path = config.state_dir.join(FILE_NAME);
    let remembered = match read_all(&Disk, &path, announced::MAX_FILE) {
        Ok(remembered) => remembered,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!("{}: {error}; what Home Assistant was told before can't be taken back", path.display());
            Vec::new()
        }
    };
    let Plan { messages, before, after } =
        announced::plan(&remembered, homeassistant::documents(config, &host::name()));
    if let Some(content) = before {
        write(&path, &content);
    }
    let delivered = after.map(|content| write_later(path, content));
    publish::Announcements { messages, delivered }
}

/// Flash may take long, so it is written on a thread of its own.
fn write_later(path: PathBuf, content: Vec<u8>) -> oneshot::Sender<()> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        if told.await.is_ok() {
            let _ = spawn_blocking(move || write(&path, &content)).await;
        }
    });
    tell
}

fn write(path: &std::path::Path, content: &[u8]) {
    if let Err(error) = replace_file(path, content) {
        tracing::warn!("{}: {error}; what Home Assistant is told may not be taken back later", path.display());
    }
}
