//! `pillion docs`: manual pages and shell completions, made from the code, for whoever builds a package.
//!
//! Constraints: release binaries are built without it (feature `docs`). There is one source for each fact: the commands'
//! own help, and the example of the configuration with every key, whose comments are its reference ([`reference`]).

mod reference;

use super::exit::{self, Failure};
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the program is, in a line.
const NAME: &str = "sidecar of an IoT gateway's application: devices, store and forward, MQTT";

const ENVIRONMENT: &str = r".SH ENVIRONMENT
.TP
.B PILLION_SOCKET
The socket that is asked without
.B \-\-instance
and
.BR \-\-socket .
.TP
.B PILLION_LOG
The least severe level that
.B pillion run
logs: error, warn, info (the default) or debug.
.TP
.B NO_COLOR
If it is set, nothing is coloured.
";

const FILES: &str = r".SH FILES
.TP
.I /etc/pillion/INSTANCE.toml
The configuration of an instance, see
.BR pillion.toml (5).
.TP
.I /run/pillion/INSTANCE/pillion.sock
The local API: HTTP/1.1 for the application, for
.B pillion status
and for
.BR curl (1).
.TP
.I /var/lib/pillion/INSTANCE
The spool. See
.BR pillion\-spool (1)
to look into it.
.SH SEE ALSO
.BR pillion (1),
.BR pillion.toml (5),
.BR systemd.unit (5)
";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where they go: DIR/man1, DIR/man5 and DIR/completions
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let dir = &arguments.dir;
    write_all(dir).map_err(|error| Failure {
        code: exit::INTERNAL,
        message: format!("{}: {error}; give a folder that can be written", dir.display()),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn write_all(dir: &Path) -> io::Result<()> {
    let folders = ["man1", "man5", "completions"].map(|name| dir.join(name));
    folders.iter().try_for_each(fs::create_dir_all)?;
    let [man1, man5, completions] = folders;
    let mut command = released();
    command.build();
    pages(&command, &man1)?;
    fs::write(man5.join("pillion.toml.5"), reference::page())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "pillion", &completions)?;
    }
    Ok(())
}

/// The command line of the release binary.
fn released() -> clap::Command {
    let whole = super::Arguments::command();
    let is_there = |below: &&clap::Command| !matches!(below.get_name(), "docs" | "demo");
    let below: Vec<_> = whole.get_subcommands().filter(is_there).cloned().collect();
    clap::Command::new("pillion")
        .version(env!("CARGO_PKG_VERSION"))
        .about(NAME)
        .long_about(super::ABOUT)
        .after_help(super::EXAMPLES)
        .subcommand_required(true)
        .subcommands(below)
}

/// A page for the command and one for each below it: `pillion-status.1`.
fn pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").collect();
    let version = env!("CARGO_PKG_VERSION");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long = command.get_long_about().map_or_else(|| format!("{about}."), ToString::to_string);
    let notes = Notes::of(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
    let mut page = format!(
        ".TH {name} 1 \"\" \"pillion {version}\" pillion\n.ad l\n.nh\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n{}\n.SH DESCRIPTION\n{}\n",
        escaped(&name),
        escaped(&about),
        synopsis(command),
        escaped(&long),
    );
    notes.prose.iter().for_each(|text| page += &format!(".PP\n{}\n", escaped(text)));
    let mut options = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render_options_section(&mut options)?;
    page += &String::from_utf8_lossy(&options);
    if !below.is_empty() {
        page += ".SH COMMANDS\n";
        for below in &below {
            let (name, about) = (format!("{name}-{}", below.get_name()), below.get_about().unwrap_or_default());
            page += &format!(".TP\n.BR {} (1)\n{}\n", escaped(&name), escaped(&about.to_string()));
        }
    }
    if let Some(codes) = &notes.exit_codes {
        page += &format!(".SH EXIT STATUS\n{}\n", escaped(codes));
    }
    if name == "pillion" {
        page += ENVIRONMENT;
    }
    if let Some(examples) = &notes.examples {
        page += &format!(".SH EXAMPLES\n.nf\n{}\n.fi\n", escaped(examples));
    }
    page += FILES;
    fs::write(folder.join(format!("{name}.1")), page)?;
    below.into_iter().try_for_each(|below| pages(below, folder))
}

/// How it is called, with the names of what the options take.
fn synopsis(command: &clap::Command) -> String {
    let mut words = vec![format!(".B {}", escaped(command.get_bin_name().unwrap_or_else(|| command.get_name())))];
    let is_shown = |argument: &&clap::Arg| !matches!(argument.get_id().as_str(), "help" | "version");
    let (places, options): (Vec<_>, Vec<_>) = command.get_arguments().filter(is_shown).partition(|a| a.is_positional());
    for argument in options.into_iter().chain(places) {
        let long = argument.get_long().map(|long| format!("\\fB{}\\fR", escaped(&format!("--{long}"))));
        let value = argument.get_action().takes_values().then(|| {
            let names = argument.get_value_names().unwrap_or_default();
            format!("\\fI{}\\fR", names.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>().join(" "))
        });
        let text = long.into_iter().chain(value).collect::<Vec<_>>().join("\\~");
        words.push(if argument.is_required_set() { text } else { format!("[{text}]") });
    }
    if command.has_subcommands() {
        words.push("\\fICOMMAND\\fR".to_owned());
    }
    words.join("\n")
}

/// What stands below the options in a command's help.
#[derive(Default)]
struct Notes {
    prose: Vec<String>,
    exit_codes: Option<String>,
    examples: Option<String>,
}

impl Notes {
    fn of(text: &str) -> Self {
        let mut notes = Notes::default();
        for paragraph in text.split("\n\n") {
            if let Some(examples) = paragraph.strip_prefix("Example") {
                notes.examples = examples.split_once('\n').map(|(_, lines)| lines.to_owned());
            } else if let Some(codes) = paragraph.strip_prefix("Exit codes: ") {
                notes.exit_codes = Some(codes.to_owned());
            } else if !paragraph.is_empty() {
                notes.prose.push(paragraph.to_owned());
            }
        }
        notes
    }
}

/// Text as it is, in the words of roff (groff_char(7), groff(7)): backslashes, dashes, and what would be a request.
fn escaped(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_ever_missing_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path()).unwrap();
        for page in ["pillion", "pillion-run", "pillion-check", "pillion-status", "pillion-spool-verify"] {
            let text = fs::read_to_string(dir.path().join("man1").join(format!("{page}.1"))).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        let reference = fs::read_to_string(dir.path().join("man5/pillion.toml.5")).unwrap();
        assert!(reference.contains(".SS [[serial]]\n") && reference.contains("\\fBkeep_alive = "), "{reference}");
        assert_eq!(fs::read_dir(dir.path().join("completions")).unwrap().count(), 3);
        let page = fs::read_to_string(dir.path().join("man1/pillion.1")).unwrap();
        let bash = fs::read_to_string(dir.path().join("completions/pillion.bash")).unwrap();
        assert!(page.contains("pillion\\-status (1)") && bash.contains("pillion__subcmd__status"), "{page}");
        for absent in ["docs", "demo"] {
            assert!(
                !page.contains(&format!("pillion\\-{absent}")) && !bash.contains(&format!("subcmd__{absent}")),
                "{absent}"
            );
            assert!(!dir.path().join(format!("man1/pillion-{absent}.1")).exists());
        }
    }

    #[test]
    fn no_line_of_text_ever_becomes_a_request() {
        assert_eq!(escaped(".so /etc/passwd\n'x\na\\b --c"), "\\&.so /etc/passwd\n\\&'x\na\\eb \\-\\-c");
    }
}
