//! The spool by itself: what its promises cost, on the disk that the build is on.
//!
//! ```text
//! mod ── group_commit  accepted and on the medium: against bare write(2) and fdatasync
//!     ├─ opening       time, reads and memory of a start, against the size of the backlog
//!     ├─ handing_out   a backlog read and acknowledged: against a queue in memory
//!     └─ wear          bytes written to disk for each byte of payload
//!        store         on the floor below: a spool as all of them drive it
//! ```
//!
//! Constraints: the real `pillion::spool::Spool` on the real file system, without its thread, for what is measured is
//! the spool and not a channel; records of 128 bytes; folders on a disk, never on a tmpfs, but for the runtime tier.

mod group_commit;
mod handing_out;
mod opening;
mod store;
mod wear;

use super::Result;
use super::scratch::Scratch;
use super::tally::Verdict;
pub use opening::{OPENER_ROLE, opener_role};

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    group_commit::run(scratch, quick, verdict)?;
    opening::run(scratch, quick, verdict)?;
    handing_out::run(scratch, quick, verdict)?;
    wear::run(scratch, quick, verdict)
}
