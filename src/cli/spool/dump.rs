//! `pillion spool dump`: the records of a spool, each as a line of JSON.

use super::{Folder, in_words};
use crate::cli::exit::{DATA, Failure, INTERNAL};
use crate::disk::Disk;
use crate::host;
use crate::record::{ClockQuality, Encoding, Sequenced, rfc3339};
use crate::spool::inspect::{Item, inspect};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use serde_json::value::RawValue;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: Folder,
    /// Print also what is done with and not yet removed
    #[arg(long)]
    all: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let spool = arguments.folder.open()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut damaged = 0;
    for stream in &spool.streams {
        let dumped = inspect(&Disk, &stream.dir, host::now(), |item| match item {
            Item::Record { record, waits } if waits || arguments.all => write_line(&mut out, &stream.name, &record),
            Item::Finding(finding) if finding.kind.is_damage() => {
                // Whoever does not read the complaints still gets the exit code.
                let _ = writeln!(io::stderr(), "pillion spool dump: {}/{}", stream.name, in_words(finding));
                Ok(())
            }
            Item::Segment { .. } | Item::Record { .. } | Item::Finding(_) => Ok(()),
        });
        match dumped {
            Ok((report, _)) => damaged += report.damaged,
            Err(error) => return ended(&error),
        }
    }
    match out.flush() {
        Ok(()) if damaged == 0 => Ok(ExitCode::SUCCESS),
        Ok(()) => Ok(DATA.into()),
        Err(error) => ended(&error),
    }
}

/// Standard output takes no more: nothing to complain of if its reader has all that it wants.
fn ended(error: &io::Error) -> Result<ExitCode, Failure> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        _ => Err(Failure::new(INTERNAL, format!("can't write to standard output: {error}"))),
    }
}

fn write_line(out: &mut impl Write, stream: &str, sequenced: &Sequenced) -> io::Result<()> {
    let record = &sequenced.record;
    let (stream, topic) = (Value::from(stream), Value::from(record.topic.as_str()));
    let (seq, ts) = (sequenced.seq, rfc3339(record.time.wall_ms));
    let clock = if record.time.quality == ClockQuality::Unsynced { r#","clock":"unsynced""# } else { "" };
    let (encoding, data) = data(record.encoding, &record.data);
    writeln!(
        out,
        r#"{{"stream":{stream},"seq":{seq},"topic":{topic},"ts":"{ts}"{clock},"encoding":"{encoding}","data":{data}}}"#
    )
}

/// How the record's bytes stand in a line. What is not what its encoding says comes out as base64: a line must be JSON.
fn data(encoding: Encoding, bytes: &[u8]) -> (&'static str, String) {
    let text = std::str::from_utf8(bytes).ok();
    let base64 = || Value::from(BASE64.encode(bytes)).to_string();
    match (encoding, text) {
        (Encoding::Json, Some(text)) if serde_json::from_str::<&RawValue>(text).is_ok() => {
            // A line break in a JSON value stands between its tokens, never in a string.
            ("json", text.trim().replace(['\n', '\r'], " "))
        }
        (Encoding::Text, Some(text)) => ("text", Value::from(text).to_string()),
        (Encoding::Raw, _) => ("raw", base64()),
        (Encoding::Json | Encoding::Text | Encoding::Base64, _) => ("base64", base64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, Timestamp};

    fn line(encoding: Encoding, data: &[u8]) -> String {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };
        let record = Record { topic: "app/\"x\"\n".into(), time, encoding, data: data.to_vec() };
        let mut out = Vec::new();
        write_line(&mut out, "work", &Sequenced { seq: 7, record }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_never_takes_more_than_one_line_of_json() {
        let expected = |rest: &str| {
            let time = r#""ts":"2026-11-23T02:41:07.123Z""#;
            format!(r#"{{"stream":"work","seq":7,"topic":"app/\"x\"\n",{time},{rest}}}"#) + "\n"
        };
        for (encoding, data, rest) in [
            (Encoding::Json, "{\"a\":\n 1}\r\n".as_bytes(), r#""encoding":"json","data":{"a":  1}"#),
            (Encoding::Json, b"not JSON", r#""encoding":"base64","data":"bm90IEpTT04=""#),
            (Encoding::Json, b"", r#""encoding":"base64","data":"""#),
            (Encoding::Text, "two\nlines ü".as_bytes(), r#""encoding":"text","data":"two\nlines ü""#),
            (Encoding::Text, &[0xff], r#""encoding":"base64","data":"/w==""#),
            (Encoding::Base64, &[0, 255], r#""encoding":"base64","data":"AP8=""#),
            (Encoding::Raw, b"raw", r#""encoding":"raw","data":"cmF3""#),
        ] {
            assert_eq!(line(encoding, data), expected(rest));
        }
    }
}
