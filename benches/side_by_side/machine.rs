//! What the bench runs on, and with.

use super::{Result, broker, sidecar};
use std::fs;
use std::process::{Command, Stdio};

/// A load, in processes that want to run, at which numbers are not to be believed.
const BUSY: f64 = 0.3;

/// Fails with what to install if a program is not there.
pub fn find_tools() -> Result<()> {
    let tools = [
        (broker::program(), "-h", "mosquitto"),
        ("mosquitto_pub", "--help", "mosquitto-clients"),
        ("socat", "-V", "socat"),
    ];
    let missing: Vec<&str> =
        tools.iter().filter(|(tool, argument, _)| output(tool, argument).is_none()).map(|tool| tool.2).collect();
    match missing.as_slice() {
        [] => Ok(()),
        packages => Err(format!("programs are missing; apt-get install {}", packages.join(" ")).into()),
    }
}

/// Says what the machine is, which versions there are, and how this was started.
pub fn introduce(quick: bool) -> Result<()> {
    let cpu_info = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_matches([' ', '\t', ':']));
    let board = fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory_kib: u64 = memory.split_whitespace().nth(1).unwrap_or_default().parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: f64 = load.split(' ').next().unwrap_or_default().parse()?;
    println!("pillion side by side{}", if quick { ", quick: too short to be quoted" } else { "" });
    let model = model.unwrap_or(board.trim_end_matches('\0'));
    println!("  machine   {model}, {cores} cores, {} MiB, Linux {}", memory_kib / 1024, kernel.trim());
    let pillion = first_line(&sidecar::binary().display().to_string(), "--version");
    println!("  versions  {pillion}; {}; {}; rumqttc {}", first_line(broker::program(), "-h"), socat(), rumqttc());
    println!("  binary    {}", sidecar::binary().display());
    println!("  command   benches/run {}", arguments());
    println!("  load      {load} before the start");
    if cfg!(debug_assertions) {
        println!("  This is a debug build: these numbers are worth nothing.");
    }
    if load > BUSY {
        println!("  The machine is busy with something else: these numbers are not to be believed.");
    }
    Ok(())
}

fn arguments() -> String {
    std::env::args().skip(1).filter(|argument| argument != "--bench").collect::<Vec<_>>().join(" ")
}

fn socat() -> String {
    let text = output("socat", "-V").unwrap_or_default();
    let version = text.lines().find_map(|line| line.strip_prefix("socat version "));
    format!("socat {}", version.and_then(|rest| rest.split(' ').next()).unwrap_or("?"))
}

fn rumqttc() -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let package = lock.split("[[package]]").find(|package| package.contains("name = \"rumqttc\""));
    package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next()).unwrap_or("?")
}

fn first_line(program: &str, argument: &str) -> String {
    output(program, argument).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// What it says, whether or not it ends well: asked for help, mosquitto does not.
fn output(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
