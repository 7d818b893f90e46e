//! What one would use instead of pillion.
//!
//! (a) A publisher made of rumqttc alone: its messages come from memory, nothing is kept, nothing comes back after a crash. A
//!     process of its own (this binary in another role), so that CPU and memory are its own.
//! (b) `mosquitto_pub -l -q 1` that reads a file.
//! (c) `socat | mosquitto_pub -l -q 1` that reads a serial line.

use super::process::Process;
use super::scratch::Scratch;
use super::sidecar::{PREFIX, WINDOW};
use super::{Broken, Result, gauges};
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, NetworkOptions, QoS};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The first argument that makes this binary the publisher of (a).
pub const PUBLISHER_ROLE: &str = "bare-rumqttc";
/// Messages between the publisher's task and rumqttc's event loop.
const CHANNEL: usize = 256;

/// Starts (a), which publishes at once and then waits for the end of its standard input.
pub fn bare_rumqttc(port: u16, records: usize, scratch: &Scratch) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(PUBLISHER_ROLE).arg(port.to_string()).arg(records.to_string());
    Process::start("bare rumqttc", command.stdin(Stdio::piped()).stdout(Stdio::null()), scratch)
}

/// The other side of [`bare_rumqttc`].
pub fn publisher_role(arguments: &[String]) -> Result<()> {
    let [port, records] = arguments else { return Err("it takes a port and a number of records".into()) };
    let (port, records) = (port.parse()?, records.parse()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(publish(port, records))?;
    // The bench looks at this process before it lets it go.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn publish(port: u16, records: usize) -> Result<()> {
    let mut options = MqttOptions::new("bare-rumqttc", "127.0.0.1", port);
    options.set_inflight(WINDOW);
    let (client, mut eventloop) = AsyncClient::new(options, CHANNEL);
    // As pillion has it.
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    eventloop.set_network_options(network);
    let sender = tokio::spawn(async move {
        for number in 0..records {
            let topic = topic_of(number, records);
            client.publish_bytes(topic, QoS::AtLeastOnce, false, Bytes::from(record(number))).await?;
        }
        // Whoever drops the client ends the event loop.
        Ok::<_, Broken>(client)
    });
    acknowledged(&mut eventloop, records).await?;
    sender.await??.disconnect().await?;
    // What is left is the DISCONNECT; rumqttc reports the broker's reaction as an error.
    while eventloop.poll().await.is_ok() {}
    Ok(())
}

async fn acknowledged(eventloop: &mut EventLoop, records: usize) -> Result<()> {
    let mut waiting = records;
    while waiting > 0 {
        if let Event::Incoming(Incoming::PubAck(_)) = eventloop.poll().await? {
            waiting -= 1;
        }
    }
    Ok(())
}

/// The first and the last record have topics of their own, so that an observer can wait for them alone.
pub fn topic_of(number: usize, records: usize) -> String {
    let name = match number {
        0 => "first",
        _ if number + 1 == records => "last",
        _ => "record",
    };
    format!("{PREFIX}/app/{name}")
}

/// A record of 128 bytes: one JSON value.
pub fn record(number: usize) -> String {
    let record = format!("{{\"number\":{number:>10},\"text\":\"{:x<97}\"}}", "");
    debug_assert_eq!(record.len(), 128);
    record
}

/// Starts (b), which ends by itself.
pub fn mosquitto_pub_from_file(port: u16, lines: &Path, scratch: &Scratch) -> Result<Process> {
    let mut command = mosquitto_pub(port, "app/record");
    Process::start("mosquitto_pub", command.stdin(File::open(lines)?).stdout(Stdio::null()), scratch)
}

fn mosquitto_pub(port: u16, topic: &str) -> Command {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-l", "-t", &format!("{PREFIX}/{topic}")]);
    command
}

/// (c): two processes and a pipe.
pub struct Pipeline {
    socat: Process,
    mosquitto_pub: Process,
}

impl Pipeline {
    /// Reads this terminal, publishes its lines.
    pub fn start(port: u16, topic: &str, terminal: &Path, scratch: &Scratch) -> Result<Pipeline> {
        let mut socat = Command::new("socat");
        socat.arg("-u").arg(format!("OPEN:{},rawer", terminal.display())).arg("STDOUT");
        let mut socat = Process::start("socat", socat.stdin(Stdio::null()).stdout(Stdio::piped()), scratch)?;
        let pipe = socat.stdout().ok_or("socat has no standard output")?;
        let mut publisher = mosquitto_pub(port, topic);
        let mosquitto_pub = Process::start("mosquitto_pub", publisher.stdin(pipe).stdout(Stdio::null()), scratch)?;
        Ok(Pipeline { socat, mosquitto_pub })
    }

    /// CPU time of both, so far.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(gauges::cpu(self.socat.id())? + gauges::cpu(self.mosquitto_pub.id())?)
    }

    /// Ends both.
    pub fn stop(self) -> Result<()> {
        self.socat.terminate(false)?;
        // It reads the end of its input.
        self.mosquitto_pub.finish()
    }
}
