//! What the kernel says about a process, for proc(5) is nobody's own word.

use super::Result;
use std::fs;
use std::time::Duration;

/// CPU time of all its threads so far, in user and kernel mode together (nanoseconds on the CPU, from schedstat, where
/// `stat` counts in steps of 10 ms).
pub fn cpu(process: u32) -> Result<Duration> {
    let mut total = 0;
    for thread in threads(process)? {
        let text = read(&format!("{thread}/schedstat"))?;
        total += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

/// Resident memory now, in bytes.
pub fn rss(process: u32) -> Result<u64> {
    Ok(field(&format!("/proc/{process}/status"), "VmRSS:")? * 1024)
}

/// Of its resident memory what belongs to no file, and so to nobody else, in bytes.
pub fn anonymous(process: u32) -> Result<u64> {
    Ok(field(&format!("/proc/{process}/status"), "RssAnon:")? * 1024)
}

/// The most resident memory that it ever had, in bytes.
pub fn peak_rss(process: u32) -> Result<u64> {
    Ok(field(&format!("/proc/{process}/status"), "VmHWM:")? * 1024)
}

/// How often its threads have gone to sleep so far, and so were woken up.
pub fn wakeups(process: u32) -> Result<u64> {
    let threads = threads(process)?;
    threads.iter().map(|thread| field(&format!("{thread}/status"), "voluntary_ctxt_switches:")).sum()
}

/// Bytes that it has caused to be written to a disk so far: page cache made dirty counts, memory file systems do not.
pub fn written(process: u32) -> Result<u64> {
    field(&format!("/proc/{process}/io"), "write_bytes:")
}

/// Bytes that it has asked the kernel to read so far, wherever they were.
pub fn read_by(process: u32) -> Result<u64> {
    field(&format!("/proc/{process}/io"), "rchar:")
}

/// Bytes that a disk had to fetch for it so far.
pub fn fetched(process: u32) -> Result<u64> {
    field(&format!("/proc/{process}/io"), "read_bytes:")
}

fn threads(process: u32) -> Result<Vec<String>> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    entries.map(|entry| Ok(entry?.path().display().to_string())).collect()
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or(format!("{path} has no {name}"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}").into())
}
