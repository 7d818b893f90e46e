//! One file's text as a table: what can be understood of it, and what is said about TOML that is broken.
//!
//! Constraints: text that is hopeless costs neither stack nor memory; no message repeats the text, which may be a password.

use super::reader::{Report, Source};
use super::tree::{self, Place, Table};
use toml::de::DeTable;
use toml_parser::lexer::TokenKind;

/// Syntax errors of one file that are told: later ones are mostly echoes of the first.
const MOST_SYNTAX_ERRORS: usize = 10;
/// Inline tables within each other; `framing` needs one.
const MOST_INLINE_TABLES: usize = 8;

/// What can be understood of one file; what can't is noted, one problem for each line.
pub(super) fn document(file: usize, source: &Source, report: &mut Report<'_>) -> Table {
    if let Some(offset) = too_deep(source.text()) {
        let message = "tables are nested deeper here than any key of pillion; remove them".to_owned();
        report.syntax(Place { file, offset: Some(offset) }, message);
        return Table::new();
    }
    let (document, mut errors) = DeTable::parse_recoverable(source.text());
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let text = source.text().as_bytes();
    let mut told = 0;
    let mut previous = None;
    for error in errors {
        let start = error.span().map_or(0, |span| span.start);
        let line_break =
            previous.is_none_or(|previous| text.get(previous..start).is_some_and(|gap| gap.contains(&b'\n')));
        previous = Some(start);
        if line_break && told < MOST_SYNTAX_ERRORS {
            told += 1;
            report.syntax(Place { file, offset: Some(start) }, in_our_words(error.message()));
        }
    }
    tree::from_toml(file, document.into_inner())
}

/// Where inline tables are nested too deeply. The parser limits their depth and the length of each dotted key, but
/// both together make trees whose mere release overflows the stack.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_INLINE_TABLES {
            return Some(token.span().start());
        }
    }
    None
}

/// The parser's messages for the commonest slips say what it expected and not what to do. The text itself is not
/// repeated: it may be a password.
fn in_our_words(message: &str) -> String {
    let advice = match message {
        _ if message.starts_with("string values must be quoted") => {
            "a value is missing or has no quotes; text stands in straight ones, as in key = \"text\""
        }
        _ if message.starts_with("invalid boolean") => {
            "neither true nor false; text stands in straight quotes, as in key = \"text\""
        }
        "duplicate key" => "this key or table is here for the second time; make one of the two",
        _ if message.starts_with("unexpected leading zero") => "a number can't begin with 0; remove it",
        _ => message,
    };
    format!("not valid TOML: {advice}")
}
