//! `pillion docs`: manual pages and shell completions, made from the code, for whoever builds a package.
//!
//! Constraints: release binaries are built without it (feature `docs`). There is one source for each fact: the commands'
//! own help, and the example of the configuration with every key, whose comments are its reference.

use super::exit::{self, Failure};
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The reference of the configuration.
const EXAMPLE: &str = include_str!("../../systemd/gateway.toml");

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
.B pillion spool
to look into it.
.SH SEE ALSO
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
    let mut command = super::Arguments::command();
    command.build();
    pages(&command, &man1)?;
    fs::write(man5.join("pillion.toml.5"), reference())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "pillion", &completions)?;
    }
    Ok(())
}

/// A page for the command and one for each below it: `pillion-status.1`.
fn pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let below: Vec<_> = command.get_subcommands().filter(|below| !is_left_out(below)).collect();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone().display_name(&name)).manual("pillion");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if !below.is_empty() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_help() {
        page.extend_from_slice(format!(".SH NOTES\n.nf\n{}\n.fi\n", escaped(&text.to_string())).as_bytes());
    }
    page.extend_from_slice(FILES.as_bytes());
    fs::write(folder.join(format!("{name}.1")), page)?;
    below.into_iter().try_for_each(|below| pages(below, folder))
}

/// Not in the release binary, or about itself.
fn is_left_out(command: &clap::Command) -> bool {
    matches!(command.get_name(), "docs" | "demo" | "help")
}

/// `pillion.toml(5)`: the example, whose comments explain every key.
fn reference() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH pillion.toml 5 \"\" \"pillion {version}\" pillion\n\
         .SH NAME\npillion.toml \\- configuration of the pillion sidecar\n\
         .SH SYNOPSIS\n/etc/pillion/INSTANCE.toml\n.br\n/etc/pillion/INSTANCE.toml.d/*.toml\n\
         .SH DESCRIPTION\nThe configuration of one instance, in TOML. Every key has a default. An unknown key is an error, and\n\
         .B pillion check\nsays what is wrong and what would be right, with file, line and key.\n\
         .SH KEYS\n.nf\n{}\n.fi\n\
         .SH SEE ALSO\n.BR pillion (1)\n",
        escaped(EXAMPLE)
    )
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
        assert!(reference.contains("[[serial]]") && reference.contains("#keep_alive = "));
        assert_eq!(fs::read_dir(dir.path().join("completions")).unwrap().count(), 3);
        assert!(!dir.path().join("man1/pillion-docs.1").exists());
    }

    #[test]
    fn no_line_of_text_ever_becomes_a_request() {
        assert_eq!(escaped(".so /etc/passwd\n'x\na\\b --c"), "\\&.so /etc/passwd\n\\&'x\na\\eb \\-\\-c");
    }
}
