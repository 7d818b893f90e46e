//! What GPIO devices need of the kernel: the seam between their logic and the character device.
//!
//! Constraints: values and edges are logical, `active_low` is behind this seam; time stamps of edges are CLOCK_MONOTONIC; a
//! line is released when it is dropped. `cdev` is the real thing; tests have a chip of their own.

use crate::config::{Bias, GpioLine};
use std::time::Duration;

/// All chips of the machine.
pub trait Chips: Send {
    /// A line that is ours.
    type Held: Held;

    /// Takes a line, which sets it as `request` says in one step: there is no value in between.
    ///
    /// # Errors
    /// A [`Trouble`]; nothing is held then.
    fn take(&self, request: &Request<'_>) -> Result<Self::Held, Trouble>;

    /// CLOCK_MONOTONIC now, in nanoseconds.
    fn monotonic_ns(&self) -> u64;
}

/// A line that is ours until it is dropped.
pub trait Held: Send {
    /// The level now.
    fn value(&self) -> Result<bool, Trouble>;

    /// Drives the line. When it returns the kernel has done so.
    fn drive(&self, value: bool) -> Result<(), Trouble>;

    /// Returns when [`Held::edges`] has something to say: edges, or that the chip is gone. Cancel-safe.
    fn ready(&self) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Adds the edges that are there to `edges`, oldest first, up to `most` and as many as the kernel gives at once.
    /// To be called after [`Held::ready`] only.
    fn edges(&mut self, edges: &mut Vec<EdgeEvent>, most: usize) -> Result<(), Trouble>;
}

/// Which line, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The chip, as it is configured.
    pub chip: &'a str,
    /// The line on it.
    pub line: &'a GpioLine,
    /// What pulls it.
    pub bias: Bias,
    /// Whether a low level is `true`.
    pub active_low: bool,
    /// What to do with it.
    pub role: Role,
}

/// What a line is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To be read.
    Read {
        /// Edges from `false` to `true` are reported.
        rising: bool,
        /// Edges from `true` to `false` are reported.
        falling: bool,
        /// Done by the kernel.
        debounce: Option<Duration>,
    },
    /// To be driven with this value; `None`: with the one that it has, whatever its direction.
    Drive(Option<bool>),
}

/// One edge as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeEvent {
    /// From `false` to `true`.
    pub rising: bool,
    /// When, in nanoseconds of CLOCK_MONOTONIC; 0 if the driver does not know.
    pub at_ns: u64,
    /// Counts every edge of this line since it was taken, from 1, those that were dropped too.
    pub line_seqno: u32,
}

/// Why there is no line, or none any more: what happened and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No such chip now.
    #[error("{0} is not there; waiting for it (`gpiodetect` lists the chips and their labels)")]
    Missing(String),
    /// The file is something else.
    #[error("{0} is not a GPIO chip; correct `chip` (`gpiodetect` lists them)")]
    NotChip(String),
    /// The chip has no such line.
    #[error("{chip} has no line {line}; correct `line` (`gpioinfo` lists them)")]
    NoLine {
        /// The chip.
        chip: String,
        /// As it is configured.
        line: String,
    },
    /// Several chips have this label.
    #[error("{0} is the label of several chips; give the path of one of them as `chip`")]
    Ambiguous(String),
    /// The kernel does not let us.
    #[error(
        "no permission to open {0}; add the service to the group that owns it (often gpio), \
         and if its unit has DevicePolicy=, allow it there with DeviceAllow=char-gpiochip"
    )]
    Forbidden(String),
    /// Somebody else has the line.
    #[error("line {line} of {chip} is in use by {by}; free it there, or give another line")]
    Busy {
        /// The chip.
        chip: String,
        /// As it is configured.
        line: String,
        /// What its user calls itself.
        by: String,
    },
    /// The driver does not do what is configured.
    #[error("line {line} of {chip} does not take {setting} ({error}); correct it in the configuration")]
    Settings {
        /// The chip.
        chip: String,
        /// As it is configured.
        line: String,
        /// The keys that may be meant.
        setting: String,
        /// What the kernel said.
        error: String,
    },
    /// The chip was there and is gone.
    #[error("{0} is gone (unplugged, or its driver was unbound); waiting for it to come back")]
    Gone(String),
    /// Anything else, in the kernel's words.
    #[error("{what} does not work: {error}; trying again")]
    Failed {
        /// The chip or the line.
        what: String,
        /// What the kernel said.
        error: String,
    },
}

/// A line's number or name, for messages.
pub(super) fn shown(line: &GpioLine) -> String {
    match line {
        GpioLine::Offset(offset) => offset.to_string(),
        GpioLine::Name(name) => format!("\"{name}\""),
    }
}
