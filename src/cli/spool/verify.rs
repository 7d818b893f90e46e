//! `pillion spool verify`: what is in a spool, and what of it is damaged.

use super::{Folder, counted, in_words, quoted};
use crate::cli::exit::{DATA, Failure, INTERNAL, print};
use crate::cli::quantity::bytes;
use crate::disk::Disk;
use crate::host;
use crate::record::rfc3339;
use crate::spool::closed::ClosedSpool;
use crate::spool::inspect::{Report, inspect};
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Ranges of numbers that are shown.
const RANGES: usize = 8;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: Folder,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Document {
    dir: String,
    damaged: u64,
    lost: u64,
    streams: BTreeMap<String, Report>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let spool = arguments.folder.open()?;
    let document = look(&spool);
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&document)
            .map(|text| text + "\n")
            .map_err(|error| Failure::new(INTERNAL, error.to_string()))?,
        false => in_text(&document, &spool),
    };
    print(&text)?;
    Ok(if document.damaged == 0 { ExitCode::SUCCESS } else { DATA.into() })
}

fn look(spool: &ClosedSpool) -> Document {
    let now = host::now();
    let report = |dir| match inspect(&Disk, dir, now, |_| Ok::<(), Infallible>(())) {
        Ok((report, _)) => report,
        Err(never) => match never {},
    };
    let streams: BTreeMap<_, _> =
        spool.streams.iter().map(|stream| (stream.name.clone(), report(&stream.dir))).collect();
    Document {
        dir: spool.dir.display().to_string(),
        damaged: streams.values().map(|report| report.damaged).sum(),
        lost: streams.values().map(|report| report.lost).sum(),
        streams,
    }
}

fn in_text(document: &Document, spool: &ClosedSpool) -> String {
    let streams: Vec<String> = document.streams.iter().map(|(name, report)| stream(name, report)).collect();
    let verdict = match document.damaged {
        0 => "whole: nothing is damaged\n".to_owned(),
        damaged => format!(
            "damaged: {}, {} lost of those that waited\n\
             Save the others with: pillion spool repair {} --to NEWDIR\n",
            counted(damaged, "place"),
            counted(document.lost, "record"),
            quoted(&spool.dir)
        ),
    };
    streams.concat() + &verdict
}

fn stream(name: &str, report: &Report) -> String {
    let mut lines = vec![format!(
        "{name}: {} in {} ({}), {} waiting",
        counted(report.records, "record"),
        counted(report.segments, "segment"),
        bytes(report.bytes),
        report.waiting
    )];
    if !report.ranges.is_empty() {
        lines.push(format!("  numbers     {}", ranges(report)));
    }
    if let (Some(from), Some(to)) = (report.from_ms, report.to_ms) {
        lines.push(format!("  made        {} to {}", rfc3339(from), rfc3339(to)));
    }
    if let Some(checkpoint) = &report.checkpoint {
        let end = if checkpoint.clean { "closed" } else { "not closed: a kill or a power cut ended it" };
        lines.push(format!("  checkpoint  done up to {}, next {}, {end}", checkpoint.done, checkpoint.next));
    }
    let ledger = &report.ledger;
    if ledger.accepted > 0 || ledger.refused > 0 {
        lines.push(format!(
            "  ledger      accepted {} = delivered {} + waiting {} + evicted {} + expired {} + quarantined {}; refused {}",
            ledger.accepted,
            ledger.delivered,
            ledger.waiting,
            ledger.evicted,
            ledger.expired,
            ledger.quarantined,
            ledger.refused
        ));
    }
    for finding in &report.findings {
        let mark = if finding.kind.is_damage() { "DAMAGED" } else { "note" };
        lines.push(format!("  {mark:<10}  {}", in_words(finding)));
    }
    if report.more_findings > 0 {
        lines.push(format!("  and {} more such lines; all are on standard error of `dump`", report.more_findings));
    }
    lines.into_iter().fold(String::new(), |text, line| text + &line + "\n")
}

fn ranges(report: &Report) -> String {
    let mut text = String::new();
    for (place, (first, last)) in report.ranges.iter().take(RANGES).enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        // Writing to a String never fails.
        let _ = if first == last { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first} to {last}") };
    }
    let shown = report.ranges.len().min(RANGES);
    let hidden = u64::try_from(report.ranges.len() - shown).unwrap_or(0).saturating_add(report.more_ranges);
    if hidden > 0 {
        let _ = write!(text, ", and {}", counted(hidden, "more range"));
    }
    text
}
