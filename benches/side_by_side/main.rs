//! pillion side by side with what one would use instead, in one run: see `benches/README.md`.
//!
//! ```text
//! main ── drain    ─┐              sidecar     pillion's binary, its folders, its local API
//!      ├─ link     ─┤              rivals      bare rumqttc, mosquitto_pub, socat | mosquitto_pub
//!      ├─ steady   ─┤
//!      ├─ framings ─┼─ on top of   latency     frames of serial lines, seen behind the broker
//!      ├─ ports    ─┤              broker, subscriber, serial_line    what stands around them
//!      ├─ publish  ─┤              process, gauges, scratch, tally    children, /proc, folders, medians
//!      ├─ rest     ─┤
//!      ├─ spool    ─┤
//!      └─ size     ─┘
//! ```
//!
//! Constraints: contenders take turns, so that a machine that slows down slows all of them; nobody is measured by its own
//! word where another can watch it; numbers are reported, not judged by the exit code, which is 1 only if a measurement
//! could not be made (records missing, a process gone).

// clippy.toml exempts test functions; a bench is all harness.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod broker;
mod delay;
mod drain;
mod framings;
mod gauges;
mod latency;
mod link;
mod machine;
mod ports;
mod process;
mod publish;
mod rest;
mod rivals;
mod scratch;
mod serial_line;
mod sidecar;
mod size;
mod spool;
mod steady;
mod subscriber;
mod tally;

use std::process::ExitCode;

/// What went wrong, in words; nobody acts on its kind.
type Broken = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Broken>;

const USAGE: &str =
    "usage: benches/run [--quick] [drain] [link] [steady] [framings] [ports] [publish] [rest] [spool] [size]";
const PARTS: [&str; 9] = ["drain", "link", "steady", "framings", "ports", "publish", "rest", "spool", "size"];

/// What the command line asks for.
struct Order {
    quick: bool,
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some(rivals::PUBLISHER_ROLE) => rivals::publisher_role(&arguments[1..]),
        Some(spool::OPENER_ROLE) => spool::opener_role(&arguments[1..]),
        // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
        _ if !arguments.iter().any(|argument| argument == "--bench") => return ExitCode::SUCCESS,
        _ => order(&arguments).and_then(|order| run(&order)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(broken) => {
            eprintln!("\nthe bench is broken: {broken}");
            ExitCode::FAILURE
        }
    }
}

fn order(arguments: &[String]) -> Result<Order> {
    let mut order = Order { quick: false, parts: Vec::new() };
    for argument in arguments.iter().filter(|argument| *argument != "--bench") {
        match argument.as_str() {
            "--quick" => order.quick = true,
            part if PARTS.contains(&part) => order.parts.push(part.to_owned()),
            other => return Err(format!("what is {other:?}? {USAGE}").into()),
        }
    }
    if order.parts.is_empty() {
        order.parts = PARTS.map(str::to_owned).to_vec();
    }
    Ok(order)
}

fn run(order: &Order) -> Result<()> {
    machine::find_tools()?;
    // Before the folders: what an interruption removes must be known to it.
    process::clean_up_when_interrupted()?;
    let scratch = scratch::Scratch::new()?;
    machine::introduce(order.quick)?;
    let wanted = |part: &str| order.parts.iter().any(|wanted| wanted == part);
    let mut verdict = tally::Verdict::default();
    if wanted("drain") {
        drain::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("link") {
        link::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("steady") {
        steady::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("framings") {
        framings::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("ports") {
        ports::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("publish") {
        publish::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("rest") {
        rest::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("spool") {
        spool::run(&scratch, order.quick, &mut verdict)?;
    }
    if wanted("size") {
        size::run(&mut verdict)?;
    }
    verdict.print();
    Ok(())
}
