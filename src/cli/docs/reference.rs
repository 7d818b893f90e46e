//! `pillion.toml(5)`, made from the example of the configuration.
//!
//! Constraints: it fits on 80 columns, and there is nothing in it that the example has not. What the example looks like:
//!
//! ```text
//! # Text                     a paragraph: about what stands below it
//! #    indented              shown as it is; with a gap in it, a thing and what it means
//! [table]  #[[table]]        a section; the paragraph above it is about it
//! #key = value   # text      a key, and what is to be said about it
//!                # text      goes on
//! ```

use super::escaped;

/// Its comments explain every key.
const EXAMPLE: &str = include_str!("../../../systemd/gateway.toml");

/// A line of the example.
enum Line<'a> {
    Blank,
    Text(&'a str),
    Table(&'a str),
    /// A key with its value, and what is said about it.
    Key(&'a str, &'a str),
    More(&'a str),
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let bare = line.strip_prefix('#').unwrap_or(line);
        let comment = |text: &'a str| text.trim_start().trim_start_matches('#').trim();
        match bare.chars().next() {
            None => Line::Blank,
            Some('[') => Line::Table(bare.trim()),
            Some('a'..='z') => match bare.find(" # ") {
                Some(gap) => {
                    Line::Key(bare.get(..gap).unwrap_or_default().trim(), comment(bare.get(gap..).unwrap_or_default()))
                }
                None => Line::Key(bare.trim(), ""),
            },
            Some(_) if line.starts_with(' ') => Line::More(comment(line)),
            Some(_) => Line::Text(bare.strip_prefix(' ').unwrap_or(bare)),
        }
    }
}

/// All but how to use the example as a file.
fn lines() -> impl Iterator<Item = Line<'static>> {
    EXAMPLE.lines().skip_while(|line| !line.starts_with("# Durations")).map(Line::of)
}

/// The page, in the words of man(7).
pub(super) fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH pillion.toml 5 \"\" \"pillion {version}\" pillion\n\
         .ad l\n.nh\n.SH NAME\npillion.toml \\- configuration of the pillion sidecar\n\
         .SH SYNOPSIS\n.I /etc/pillion/INSTANCE.toml\n.br\n.I /etc/pillion/INSTANCE.toml.d/*.toml\n\
         .SH DESCRIPTION\nThe configuration of one instance, in TOML. Everything but devices has a default. An unknown key is an\n\
         error, and\n.BR pillion\\-check (1)\nsays what is wrong and what would be right, with file, line and key.\n\
         A file to begin with is\n.IR /etc/pillion/example.toml .\n\
         .PP\nShown is the default of each key, or an example where there is none. PREFIX is mqtt.topic_prefix.\n"
    );
    // What is above a table belongs to it.
    let mut above: Vec<&str> = Vec::new();
    for line in lines() {
        match line {
            Line::Text(text) => above.push(text),
            Line::Blank => page += &paragraph(&std::mem::take(&mut above)),
            Line::Table(name) => {
                page += &format!(".SS {}\n{}", escaped(name), paragraph(&std::mem::take(&mut above)));
            }
            Line::Key(key, text) => {
                page += &paragraph(&std::mem::take(&mut above));
                page += &tagged(key, text);
            }
            Line::More(text) => page += &format!(".br\n{}\n", escaped(text)),
        }
    }
    page + &paragraph(&above) + ".SH SEE ALSO\n.BR pillion (1),\n.BR pillion\\-check (1)\n"
}

/// A thing and what it means.
fn tagged(thing: &str, text: &str) -> String {
    let text = if text.is_empty() { "\\&".to_owned() } else { escaped(text) };
    format!(".TP\n{}\n{text}\n", bold(thing))
}

/// In a line of text: a request would take quotes for its own.
fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// Lines of text, filled; those that are indented are shown as they are, or as a thing and what it means.
fn paragraph(lines: &[&str]) -> String {
    let mut roff = String::new();
    let mut begins = true;
    for line in lines {
        if line.trim().is_empty() {
            begins = true;
            continue;
        }
        let Some(indented) = line.strip_prefix("  ").map(str::trim) else {
            roff += if std::mem::take(&mut begins) { ".PP\n" } else { "" };
            roff += &format!("{}\n", escaped(line));
            continue;
        };
        begins = true;
        roff += &match indented.split_once("   ") {
            Some((thing, text)) => tagged(thing, text.trim()),
            None => format!(".IP\n{}\n", bold(indented)),
        };
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_or_table_of_the_example_is_ever_missing_from_the_page() {
        let page = page();
        for line in lines() {
            match line {
                Line::Key(key, text) => {
                    assert!(page.contains(&format!("\n{}\n", bold(key))), "{key}");
                    assert!(page.contains(&escaped(text)), "{text}");
                }
                Line::Table(name) => assert!(page.contains(&format!("\n.SS {name}\n")), "{name}"),
                Line::Text(text) | Line::More(text) => {
                    assert!(page.contains(&escaped(text.split("   ").last().unwrap().trim())), "{text}")
                }
                Line::Blank => {}
            }
        }
        assert!(page.contains("\n\\fBkeep_alive = \"30s\"\\fR\n") && page.contains(".SS [[modbus.unit.poll]]"));
    }
}
