//! What is wrong with a configuration, and where.
//!
//! Constraint: a message never repeats a value that may hold a secret, and no message is longer than a few lines
//! whatever the file holds.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong, or worth a warning. Sorts by file, then by line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1; 0 when it is about the file as a whole (a default, or a file that can't be read).
    pub line: usize,
    /// From 1, in characters; 0 as above.
    pub column: usize,
    /// The key with its tables, such as `serial.meter.baud`; empty when no key is concerned.
    pub key: String,
    /// What is wrong; then, after a semicolon, what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of files and lines; never empty.
///
/// Its text is one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The first [`Problems::LIMIT`] of them.
    pub list: Vec<Problem>,
    /// How many more there were.
    pub omitted: usize,
}

impl Problems {
    /// No more problems than this are kept: nobody reads on, and a broken file must not fill the memory.
    pub const LIMIT: usize = 100;

    /// How many there are in all.
    pub fn count(&self) -> usize {
        self.list.len().saturating_add(self.omitted)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\nand {omitted} more"),
        }
    }
}

impl std::error::Error for Problems {}
