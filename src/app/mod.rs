//! The application that this sidecar accompanies, as systemd, the journal and the kernel show it.
//!
//! Constraints: it needs no library of ours and does not know us; whatever can't be asked (no systemd, no right to read the
//! journal, an older kernel) is said and is no error. Programs that are asked are children with a deadline and a bounded
//! output.
//!
//! [`mod@unit`] is the state of its unit, [`exit`] why it ended, [`usage`] what it uses of the machine, [`journal`] what it
//! logs, [`past`] what the journal tells of ends that nobody saw, `child` the programs that are asked.

mod child;
pub mod exit;
pub mod journal;
pub mod past;
pub mod unit;
pub mod usage;
