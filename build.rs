//! Leaves the tables for unwinding out of the released binary: 0.6 MB of 3.7 on aarch64.
//!
//! Nothing reads them there: a panic aborts (`panic = "abort"` in Cargo.toml), and its message with file and line comes without
//! them. What goes is the list of callers below it (`RUST_BACKTRACE`), which would be addresses without names anyway.
//!
//! Why the linker: `-C force-unwind-tables=no` leaves those of the standard library, and can't be said for one profile alone
//! (the others unwind, and refuse it). 32-bit ARM has tables of another kind, which its C library needs: they stay.

use std::path::PathBuf;
use std::{env, fs, io};

const SCRIPT: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame.* .gcc_except_table .gcc_except_table.*) } }
INSERT AFTER .text;
";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    // What inherits from the release profile says "release" here too.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") {
        let script = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("no-unwinding.ld");
        fs::write(&script, SCRIPT)?;
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
    Ok(())
}
