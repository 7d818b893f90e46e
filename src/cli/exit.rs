//! How a command ends: sysexits(3), so that scripts and systemd can tell why.

use std::io::{self, Write as _};

/// It works, but something is wrong: the sidecar is degraded, or it refused a record that it may take later.
pub const DEGRADED: u8 = 1;
/// The arguments are wrong (EX_USAGE).
pub const USAGE: u8 = 64;
/// The input is wrong (EX_DATAERR).
pub const DATA: u8 = 65;
/// The sidecar can't be reached or doesn't answer (EX_UNAVAILABLE).
pub const UNAVAILABLE: u8 = 69;
/// Something happened that should not (EX_SOFTWARE).
pub const INTERNAL: u8 = 70;
/// The configuration is wrong (EX_CONFIG).
pub const CONFIG: u8 = 78;

/// Why a command ends without having done its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What happened and what to do, for standard error.
    pub message: String,
}

impl Failure {
    /// A failure with this exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }
}

/// Whether the reader of standard output still reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It took everything.
    Reads,
    /// It has closed the pipe (`pillion status | head`); nothing that anyone must be told.
    Gone,
}

/// Writes a text to standard output, all of it at once.
///
/// # Errors
/// It can't be written, and not because its reader went away: a full disk behind a redirection, mostly.
pub fn print(text: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(INTERNAL, format!("can't write to standard output: {error}"))),
    }
}
