//! The command line: which commands there are, what they are told, how they end.
//!
//! Constraints: exit codes are sysexits (see [`exit`]); results go to standard output, complaints to standard error;
//! a pipe that its reader has closed ends a command quietly. `run`, `check`, `spool` and `demo` have a file or a folder each,
//! which turns arguments into a call of what does the work; the others are clients of the local API:
//!
//! ```text
//! find     which socket is meant
//! client   one request to it, bounded in size and time
//! status   ─> screen (a status as text), quantity, pretty (a document as received)
//! publish  ─> batch (lines of standard input into request bodies)
//! command  ─> pretty
//! reload
//! ```

mod apply;
mod batch;
mod check;
mod client;
mod command;
#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "docs")]
mod docs;
pub mod exit;
mod find;
mod pretty;
mod publish;
mod quantity;
mod reload;
mod run;
mod screen;
mod spool;
mod status;

use clap::{Parser, Subcommand};
use exit::Failure;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

const ABOUT: &str = "\
pillion goes along with the main application of an IoT gateway: it reads serial
devices, Modbus buses and GPIO lines, takes in what the application publishes
and logs, keeps it all in a spool on disk, and delivers it to an MQTT broker
without losing any of it, however bad the link is.";

const EXAMPLES: &str = "\
Examples:
  pillion check --config /etc/pillion/gateway.toml
  systemctl enable --now pillion@gateway       (beside gateway.service)
  pillion status
  echo '{\"temperature\": 21.5}' | pillion publish --topic room/2
  pillion spool verify /var/lib/pillion/gateway

Exit codes: 0 well, 1 degraded or refused, 64 wrong arguments, 65 wrong data,
69 not reachable or in use, 70 internal error, 78 wrong configuration.";

const RUN_EXAMPLE: &str = "\
Usually systemd starts it: systemctl enable --now pillion@gateway
SIGTERM ends it, SIGHUP has it read its configuration again. $PILLION_LOG is the
least severe level that is logged: error, warn, info (the default) or debug.

Exit codes: 0 stopped, 69 another process has its spool or socket, 70 something
broke that should not, 78 wrong configuration.

Example:
  pillion run --config /etc/pillion/gateway.toml";

const CHECK_EXAMPLE: &str = "\
Prints the configuration in force, with all defaults. Warnings and errors go to
standard error, with file, line and key.

Exit codes: 0 it is good, 78 it is not.

Example:
  pillion check --config /etc/pillion/gateway.toml";

const APPLY_EXAMPLE: &str = "\
Usually systemd does it: systemctl enable --now pillion-apply@gateway.path
For each [[managed_file]]: checks what the configuration store has for it, puts
it in place, restarts the application, and puts the old version back if the
application does not go on. A version that failed is not tried again.

Exit codes: 0 all files have what is wanted, 1 one was rejected or rolled back
just now, 70 the folder apply_dir can't be used, 78 wrong configuration.

Example:
  pillion apply --config /etc/pillion/gateway.toml";

const STATUS_EXAMPLE: &str = "\
Without --instance and --socket, $PILLION_SOCKET is asked, or else the only
instance that there is in /run/pillion.

Exit codes: 0 healthy, 1 degraded, 65 no such device (--trace), 69 not reachable.

Examples:
  pillion status
  pillion status --instance gateway --watch
  pillion status --json | jq .streams.telemetry.waiting";

const RELOAD_EXAMPLE: &str = "\
Usually systemd does it: systemctl reload pillion@gateway
What has changed is applied; a device or connection that is configured as before
goes on undisturbed. A wrong configuration changes nothing, and is told with
file, line and key. So does one with a key that takes a restart, which is named:
app.unit, app.commands, app.config, mqtt.topic_prefix, mqtt.max_payload, the
convention of a stream, and all of the tables [spool], [discovery], [sparkplug],
[[managed_file]].

Exit codes: 0 applied, or nothing has changed, 1 it needs a restart and nothing
was applied, 69 not reachable, 78 wrong configuration.

Example:
  pillion reload --instance gateway";

const PUBLISH_EXAMPLE: &str = "\
A line that is JSON is sent as JSON, other text as text, anything else as
base64. Empty lines are skipped. Lines are sent as they come; the command
returns when the last one is durable. A full stream is tried again for 30 s.
The records go to the MQTT topic P/app/T, where P is the configured
mqtt.topic_prefix.

Exit codes: 0 all accepted, 1 refused (full stream or disk), 65 wrong data,
69 not reachable.

Examples:
  echo '{\"temperature\": 21.5}' | pillion publish --topic room/2
  ./read-meter | pillion publish --topic meter/7 --sync --instance gateway";

const COMMAND_EXAMPLE: &str = "\
The device must have commands = { ... } in the configuration, which also says
what it may be told. A line of text is sent as it is; JSON with a key data is an
envelope: {\"id\": ..., \"ttl\": ..., \"data\": ...}. The reply is printed as JSON.

Exit codes: 0 done, 1 failed or still under way, 65 refused or expired,
69 not reachable.

Examples:
  pillion command meter STATUS
  pillion command valve OPEN --id open-17 --ttl 10s
  echo '{\"data\": \"SET 21.5\"}' | pillion command heating --instance gateway";

#[cfg(feature = "demo")]
const DEMO_HELP: &str = "\
Takes less than 30 seconds and leaves nothing behind, also after ^C. Needs no
terminal, no network, no configuration: all of it happens on this machine.

Exit codes: 0 nothing was lost, 1 something was, 70 the demo itself can't be
run here, 130 interrupted.";

#[derive(Debug, Parser)]
#[command(name = "pillion", version, about = ABOUT, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar in the foreground until SIGTERM
    #[command(after_help = RUN_EXAMPLE)]
    Run(Configuration),
    /// Check a configuration and print what it comes to
    #[command(after_help = CHECK_EXAMPLE)]
    Check(Configuration),
    /// Write the managed files of a configuration, usually started by systemd as root
    #[command(after_help = APPLY_EXAMPLE)]
    Apply(Configuration),
    /// Show how a running sidecar is doing
    #[command(after_help = STATUS_EXAMPLE)]
    Status(status::Arguments),
    /// Have a running sidecar read its configuration again
    #[command(after_help = RELOAD_EXAMPLE)]
    Reload(reload::Arguments),
    /// Send each line of standard input as one record
    #[command(after_help = PUBLISH_EXAMPLE)]
    Publish(publish::Arguments),
    /// Have a device do something, and print what became of it
    #[command(name = "command", after_help = COMMAND_EXAMPLE)]
    Tell(command::Arguments),
    /// Look into a spool that no process has open, and save what is in it
    #[command(subcommand)]
    Spool(spool::Command),
    /// Show the whole path with nothing installed: a simulated device, a broker, an outage, the drain
    #[cfg(feature = "demo")]
    #[command(after_help = DEMO_HELP)]
    Demo,
    /// Write manual pages and shell completions
    #[cfg(feature = "docs")]
    Docs(docs::Arguments),
}

#[derive(Debug, clap::Args)]
struct Configuration {
    /// The configuration, usually /etc/pillion/INSTANCE.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the instance, if the file has none [default: the file's]
    #[arg(long, value_name = "NAME", value_parser = find::instance_name)]
    instance: Option<String>,
}

/// Parses the arguments, does what they ask for, and says how it ended.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap; they go to standard output and are none.
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let (name, outcome) = match arguments.command {
        Command::Run(of) => return run::run(&of.config, of.instance.as_deref()),
        Command::Check(of) => return check::run(&of.config, of.instance.as_deref()),
        Command::Apply(of) => return apply::run(&of.config, of.instance.as_deref()),
        #[cfg(feature = "demo")]
        Command::Demo => return demo::run(),
        #[cfg(feature = "docs")]
        Command::Docs(arguments) => ("docs", docs::run(&arguments)),
        Command::Status(arguments) => ("status", status::run(&arguments)),
        Command::Reload(arguments) => ("reload", reload::run(&arguments)),
        Command::Publish(arguments) => ("publish", publish::run(&arguments)),
        Command::Tell(arguments) => ("command", command::run(&arguments)),
        Command::Spool(command) => ("spool", spool::run(&command)),
    };
    outcome.unwrap_or_else(|Failure { code, message }| {
        let _ = writeln!(std::io::stderr(), "pillion {name}: {message}");
        code.into()
    })
}
