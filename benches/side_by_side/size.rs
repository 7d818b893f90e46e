//! What the release binary weighs, and which crates that is.
//!
//! It is built once more, with its symbols, for this machine and for ARM (by `cross/build`, where that can); `strip` then makes of
//! it what is shipped, and `nm` says how long each function and each constant is. Read the breakdown with this in mind:
//!
//! - A function counts for the crate that wrote it, not for the one that made the compiler repeat it for its own types: much
//!   under `core`, `alloc` and `tokio` is there on behalf of pillion. What was inlined counts where it ended up.
//! - What has no Rust name is C and assembly: ring's cryptography, with its tables.
//! - In no symbol are string literals, tables of pointers, relocations and what the linker puts around it all.

use super::Result;
use super::tally::{Rounds, Target, Unit, Verdict};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the binary for ARM may weigh, in MiB.
const BUDGET: f64 = 4.0;
/// Crates that are told one by one.
const TOLD: usize = 16;
const ARM: &str = "aarch64-unknown-linux-gnu";

/// Bytes of one crate.
#[derive(Default, Clone, Copy)]
struct Weight {
    code: u64,
    constants: u64,
}

impl Weight {
    fn total(self) -> u64 {
        self.code + self.constants
    }
}

pub fn run(verdict: &mut Verdict) -> Result<()> {
    // A folder of its own: with symbols, it must not take the place of the binary that is measured by the other parts.
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("size");
    verdict.part("size: the release binary, stripped", 1);
    let mut cargo = Command::new(env!("CARGO"));
    build(cargo.args(["build", "--quiet", "--locked", "--release"]), &folder)?;
    let stripped = stripped(&folder.join("release/pillion"), "")?;
    verdict.line("for this machine", &mebibytes(stripped), Unit::Mebibytes);
    tell(&folder.join("release/pillion"), "", stripped)?;
    match build(Command::new("cross/build").arg(ARM), &folder) {
        Ok(()) => {
            let (binary, prefix) = (folder.join(ARM).join("release/pillion"), "aarch64-linux-gnu-");
            let stripped = self::stripped(&binary, prefix)?;
            verdict.target(ARM, &mebibytes(stripped), Unit::Mebibytes, Target::AtMost(BUDGET));
            tell(&binary, prefix, stripped)?;
        }
        Err(why) => println!("    not for {ARM}: {why}"),
    }
    Ok(())
}

fn build(command: &mut Command, folder: &Path) -> Result<()> {
    command.env("CARGO_TARGET_DIR", folder).env("CARGO_PROFILE_RELEASE_STRIP", "none");
    output(command).map(drop)
}

/// Its length in bytes without symbols.
fn stripped(binary: &Path, prefix: &str) -> Result<u64> {
    let small = binary.with_extension("stripped");
    output(Command::new(format!("{prefix}strip")).arg("-o").arg(&small).arg(binary))?;
    Ok(small.metadata()?.len())
}

/// The heaviest crates, the rest, and what is in no symbol.
fn tell(binary: &Path, prefix: &str, stripped: u64) -> Result<()> {
    let symbols = output(Command::new(format!("{prefix}nm")).args(["--demangle", "-S", "--radix=d"]).arg(binary))?;
    let mut crates: Vec<_> = weigh(&symbols).into_iter().collect();
    crates.sort_by_key(|(_, weight)| std::cmp::Reverse(weight.total()));
    let known: u64 = crates.iter().map(|(_, weight)| weight.total()).sum();
    let rest = crates.split_off(crates.len().min(TOLD));
    let smaller = rest.iter().fold(Weight::default(), |sum, (_, weight)| Weight {
        code: sum.code + weight.code,
        constants: sum.constants + weight.constants,
    });
    let row = |what: &str, weight: Weight| {
        let share = weight.total() as f64 * 100.0 / stripped as f64;
        println!("      {what:<24}{:>9}{:>11}{share:>8.1} %", weight.code / 1024, weight.constants / 1024);
    };
    println!("      {:<24}{:>9}{:>11}", "KiB of", "code", "constants");
    crates.iter().for_each(|(name, weight)| row(name, *weight));
    row(&format!("{} smaller crates", rest.len()), smaller);
    row("in no symbol", Weight { code: 0, constants: stripped.saturating_sub(known) });
    Ok(())
}

/// Adds up the lines of `nm`: address, length, kind, name.
fn weigh(symbols: &str) -> BTreeMap<String, Weight> {
    let mut crates = BTreeMap::<String, Weight>::new();
    for line in symbols.lines() {
        let mut fields = line.splitn(4, ' ');
        let (Some(_), Some(Ok(length)), Some(kind), Some(name)) =
            (fields.next(), fields.next().map(str::parse::<u64>), fields.next(), fields.next())
        else {
            continue;
        };
        let weight = crates.entry(author(name).to_owned()).or_default();
        match kind {
            "t" | "T" | "w" | "W" => weight.code += length,
            // Memory that is zero at the start is not in the file.
            "b" | "B" => {}
            _ => weight.constants += length,
        }
    }
    crates
}

/// The crate that wrote a function: of `core[1f]::fmt::write` core, of `<T as serde::Serialize>::serialize` serde.
fn author(name: &str) -> &str {
    // Dropping a value is the value's.
    let name = name.strip_prefix("core::ptr::drop_in_place").unwrap_or(name);
    let mut ends = name.match_indices("::").map(|(end, _)| {
        let path = &name[..end];
        // The hash that tells two crates of one name apart.
        let path =
            path.rsplit_once('[').map_or(path, |(path, hash)| if hash.ends_with(']') { path } else { &name[..end] });
        let start = path.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |before| before + 1);
        &path[start..]
    });
    ends.find(|found| !found.is_empty()).unwrap_or("C and assembly")
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if !ended.status.success() {
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        return Err(format!("{program} {}: {}", ended.status, words.trim()).into());
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn mebibytes(bytes: u64) -> Rounds {
    let mut once = Rounds::default();
    once.add(bytes as f64 / f64::from(1 << 20));
    once
}
