//! One line of `journalctl --output=json` as a line of the log: a pure decoder.
//!
//! What journalctl writes (systemd 252, `man journalctl` and `man systemd.journal-fields`): every field is a member, a string
//! as a rule. What is not printable comes as a list of byte values, a field that is there several times as a list of
//! strings or lists, and what is too large without `--all` as null.

use crate::logline::{Code, LogLine, rfc3339_us, shorten};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// The application's own fields of a line, at the most.
const FIELDS: usize = 32;
/// Bytes of such a field that are kept.
const FIELD: usize = 1024;
/// Bytes of its name; the journal takes no longer ones.
const NAME: usize = 64;
/// Bytes of a cursor: with all of its numbers at their largest it has 145.
const CURSOR: usize = 160;
/// syslog(3): a line without a priority is `info`.
const INFO: u8 = 6;

/// Fields that are in the line already, or that journald and its clients add to every line.
const WELL_KNOWN: [&str; 17] = [
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_FACILITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "SYSLOG_TIMESTAMP",
    "SYSLOG_RAW",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "TID",
    "UNIT",
    "USER_UNIT",
    "INVOCATION_ID",
    "USER_INVOCATION_ID",
    "OBJECT_SYSTEMD_UNIT",
    "OBJECT_PID",
];

/// A place in the journal: the line that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// `None` where this is none that could be given to journalctl.
    pub fn parse(text: &str) -> Option<Cursor> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'=' | b';');
        let cursor = Cursor(text.to_owned());
        let whole = text.len() <= CURSOR && text.bytes().all(is_plain) && cursor.part("s").is_some();
        (whole && cursor.part("i").is_some()).then_some(cursor)
    }

    /// As journalctl takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn part(&self, name: &str) -> Option<&str> {
        self.0.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).filter(|part| !part.is_empty())
    }

    /// Whether both name the same line. Its number is another one after it has moved from the volatile journal to the one on
    /// disk; its boot, time since boot and checksum are not.
    pub fn is_same_line(&self, other: &Cursor) -> bool {
        let same =
            |names: &[&str]| names.iter().all(|name| self.part(name).is_some() && self.part(name) == other.part(name));
        same(&["s", "i"]) || same(&["b", "m", "x"])
    }

    /// A short name for the line: the number that the journal gave it, behind the beginning of the id of that numbering.
    pub fn id(&self) -> String {
        let numbering = self.part("s").unwrap_or_default();
        format!("{}:{}", numbering.get(..8).unwrap_or(numbering), self.part("i").unwrap_or_default())
    }

    /// When the line was written to the journal, in microseconds since 1970.
    pub fn wall_us(&self) -> Option<u64> {
        u64::from_str_radix(self.part("t")?, 16).ok()
    }
}

/// A line, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place in the journal.
    pub cursor: Cursor,
    /// When it was logged, in microseconds since 1970.
    pub wall_us: u64,
    /// What it says.
    pub line: LogLine,
}

/// Why a line is no entry.
#[derive(Debug, thiserror::Error)]
pub enum NoEntry {
    /// It is no JSON object.
    #[error("no JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// Nobody could go on behind it.
    #[error("no cursor in it")]
    Cursor,
}

impl Entry {
    /// Decodes a line. `cut`: the end of some value in it is missing already.
    pub fn decode(json: &[u8], cut: bool) -> Result<Entry, NoEntry> {
        let mut members: Map<String, Value> = serde_json::from_slice(json)?;
        let cursor = members.get("__CURSOR").and_then(Value::as_str).and_then(Cursor::parse).ok_or(NoEntry::Cursor)?;
        let number = |name: &str| members.get(name).and_then(single).and_then(|text| text.parse::<u64>().ok());
        let wall_us = number("_SOURCE_REALTIME_TIMESTAMP").or_else(|| number("__REALTIME_TIMESTAMP"));
        let wall_us = wall_us.or_else(|| cursor.wall_us()).unwrap_or(0);
        let pid = number("_PID").or_else(|| number("SYSLOG_PID")).and_then(|pid| u32::try_from(pid).ok());
        let priority = number("PRIORITY").and_then(|priority| u8::try_from(priority).ok()).filter(|level| *level <= 7);
        let code_line = number("CODE_LINE").and_then(|line| u32::try_from(line).ok());
        let text = |name: &str| members.get(name).and_then(single).filter(|text| !text.is_empty());
        let code = Code { file: text("CODE_FILE"), line: code_line, func: text("CODE_FUNC") };
        let identifier = text("SYSLOG_IDENTIFIER").or_else(|| text("_COMM"));
        let message = members.remove("MESSAGE");
        let (message, encoding, lost) = message.as_ref().map_or((String::new(), None, false), message_of);
        let (fields, shortened) = own_fields(members);
        let line = LogLine {
            id: Some(cursor.id()),
            ts: rfc3339_us(wall_us),
            priority: priority.unwrap_or(INFO),
            message,
            encoding,
            truncated: cut || lost || shortened,
            pid,
            identifier: identifier.map(|mut name| {
                shorten(&mut name, FIELD);
                name
            }),
            code: (code != Code::default()).then_some(code),
            fields,
        };
        Ok(Entry { cursor, wall_us, line })
    }
}

/// A field's bytes: text, or base64 where they are none.
enum Content {
    Text(String),
    Base64(String),
}

impl Content {
    fn of(bytes: Vec<u8>) -> Content {
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Content::Text(text),
            Ok(text) => Content::Base64(BASE64.encode(text)),
            Err(error) => Content::Base64(BASE64.encode(error.as_bytes())),
        }
    }

    fn into_string(self) -> String {
        match self {
            Content::Text(text) | Content::Base64(text) => text,
        }
    }
}

/// The values of a field, of which there is one as a rule. A value that journalctl left out is none.
fn contents(value: &Value) -> Vec<Content> {
    let bytes = |items: &[Value]| -> Option<Vec<u8>> {
        items.iter().map(|item| item.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(Content::of(text.clone().into_bytes())),
        Value::Array(items) => bytes(items).map(Content::of),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    match value {
        Value::Array(items) if !items.is_empty() && bytes(items).is_none() => items.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    }
}

fn single(value: &Value) -> Option<String> {
    contents(value).into_iter().next().map(Content::into_string)
}

/// The message, its encoding, and whether journalctl left it out.
fn message_of(value: &Value) -> (String, Option<String>, bool) {
    match contents(value).into_iter().next() {
        Some(Content::Text(text)) => (text, None, false),
        Some(Content::Base64(text)) => (text, Some("base64".to_owned()), false),
        None => (String::new(), None, true),
    }
}

/// What the application said in fields of its own, and whether some of it is left out.
fn own_fields(members: Map<String, Value>) -> (Map<String, Value>, bool) {
    let mut fields = Map::new();
    let mut shortened = false;
    for (name, value) in members {
        if name.starts_with('_') || WELL_KNOWN.contains(&name.as_str()) {
            continue;
        }
        if fields.len() == FIELDS || name.len() > NAME {
            shortened = true;
            continue;
        }
        let mut texts: Vec<String> = contents(&value).into_iter().map(Content::into_string).collect();
        shortened |= texts.is_empty() || texts.len() > FIELDS;
        texts.truncate(FIELDS);
        let share = FIELD / texts.len().max(1);
        texts.iter_mut().for_each(|text| shortened |= shorten(text, share));
        let value = match texts.len() {
            0 => Value::Null,
            1 => texts.pop().into(),
            _ => texts.into(),
        };
        fields.insert(name, value);
    }
    (fields, shortened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const CURSOR_TEXT: &str = "s=09c27740231349c99b12fc8f4209ac61;i=2f25;b=32c6360e54824836ad1d92f9b67ca2d0;m=802c90da;\
                               t=661170a10b8c6;x=d7f3e656f6fcf7d2";

    /// A line of this message and these members as journalctl writes it.
    fn decode(mut members: Value) -> LogLine {
        members["__CURSOR"] = json!(CURSOR_TEXT);
        Entry::decode(members.to_string().as_bytes(), false).unwrap().line
    }

    #[test]
    fn a_line_of_journalctl_never_changes_its_meaning() {
        // systemd 252: what PID 1 says of a unit whose process ended, and what the unit itself printed.
        let pid_1 = include_bytes!("../../../tests/fixtures/journal/exit.json");
        let Entry { cursor, wall_us, line } = Entry::decode(pid_1, false).unwrap();
        assert_eq!((cursor.as_str(), wall_us), (CURSOR_TEXT, 1_795_601_441_274_021));
        let expected = json!({
            "id": "09c27740:2f25", "ts": "2026-11-25T10:10:41.274021Z", "priority": 5, "pid": 1, "identifier": "systemd",
            "message": "gx.service: Main process exited, code=exited, status=3/NOTIMPLEMENTED",
            "code": { "file": "src/core/unit.c", "line": 5671, "func": "unit_log_process_exit" },
            "fields": {
                "COMMAND": "ExecStart", "EXIT_CODE": "exited", "EXIT_STATUS": "3",
                "MESSAGE_ID": "98e322203f7a4ed290d09fe03c09fe15",
            },
        });
        assert_eq!(serde_json::to_value(&line).unwrap(), expected);
    }

    #[test]
    fn bytes_that_are_no_text_are_never_lost() {
        let colours = decode(json!({ "MESSAGE": "two\nlines \u{1b}[31m".as_bytes() }));
        assert_eq!((colours.message.as_str(), colours.encoding), ("two\nlines \u{1b}[31m", None));
        for bytes in [&b"bin\xff"[..], b"a\0b", b"\xf0\x9f"] {
            let line = decode(json!({ "MESSAGE": bytes }));
            assert_eq!(line.encoding.as_deref(), Some("base64"));
            assert_eq!(BASE64.decode(line.message).unwrap(), bytes);
        }
        assert_eq!(decode(json!({ "MESSAGE": "a\0b" })).message, "YQBi");
    }

    #[test]
    fn an_odd_field_never_costs_the_line() {
        let line = decode(
            json!({ "MESSAGE": ["first", [115]], "PRIORITY": "9", "_PID": "x", "CODE_LINE": "-1", "TAG": ["a", [98, 255], null],
            "EMPTY": "", "NONE": null, "OBJ": { "a": 1 }, "PRIVATE": 5, "_HIDDEN": "h", "CODE_FILE": "" }),
        );
        assert_eq!((line.message.as_str(), line.priority, line.pid, line.code), ("first", 6, None, None));
        let fields = json!({ "TAG": ["a", "Yv8="], "EMPTY": "", "NONE": null, "OBJ": null, "PRIVATE": null });
        assert_eq!((Value::Object(line.fields), line.truncated), (fields, true));
        let missing = decode(json!({ "PRIORITY": "3", "MESSAGE": null }));
        assert_eq!((missing.message.as_str(), missing.priority, missing.truncated), ("", 3, true));
        assert_eq!(missing.ts, "2026-11-25T10:10:41.274054Z", "from the cursor");
        assert_eq!(decode(json!({ "MESSAGE": [] })).message, "");
        let named = decode(json!({ "MESSAGE": "m", "_COMM": "sh", "SYSLOG_PID": "7" }));
        assert_eq!((named.identifier.as_deref(), named.pid), (Some("sh"), Some(7)));
    }

    #[test]
    fn no_line_ever_has_more_than_it_may() {
        let mut members = json!({ "MESSAGE": "m", "LONG": "ü".repeat(FIELD), "MANY": vec!["z"; 100] });
        (0..100).for_each(|number| members[format!("X{number}")] = json!("v"));
        members["N".repeat(65)] = json!("v");
        let line = decode(members);
        assert!(line.truncated && line.fields.len() == FIELDS);
        assert_eq!(line.fields["LONG"].as_str().unwrap().len(), FIELD);
        assert_eq!(line.fields["MANY"].as_array().unwrap().len(), FIELDS);
    }

    #[test]
    fn what_has_no_place_in_the_journal_is_never_taken() {
        for cursor in
            ["", "s=", "s=1", "i=1", "s=1;i=", "s=1;i=1 --file=x", "s=1;i=1\n", &format!("s=1;i={}", "1".repeat(300))]
        {
            let members = json!({ "__CURSOR": cursor, "MESSAGE": "m" });
            assert!(matches!(Entry::decode(members.to_string().as_bytes(), false), Err(NoEntry::Cursor)), "{cursor}");
        }
        for rubbish in [&b""[..], b"[]", b"{", b"-- No entries --", b"\xff", b"{\"MESSAGE\":\"\xff\"}"] {
            assert!(Entry::decode(rubbish, false).is_err());
        }
    }

    #[test]
    fn a_line_is_known_again_in_the_journal_on_disk() {
        let cursor = |text: &str| Cursor::parse(text).unwrap();
        let volatile = cursor("s=aa;i=1;b=b1;m=5;t=9;x=7");
        assert!(volatile.is_same_line(&cursor("s=bb;i=3;b=b1;m=5;t=9;x=7")), "moved");
        assert!(volatile.is_same_line(&cursor("s=aa;i=1;b=b1;m=5;t=a;x=7")));
        assert!(!volatile.is_same_line(&cursor("s=aa;i=2;b=b1;m=6;t=9;x=7")));
        assert!(!volatile.is_same_line(&cursor("s=bb;i=1;b=b2;m=5;t=9;x=7")));
        assert!(!cursor("s=a;i=1").is_same_line(&cursor("s=b;i=1")), "nothing else is known");
    }

    proptest! {
        #[test]
        fn no_input_ever_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut: bool) {
            let _ = Entry::decode(&bytes, cut);
        }

        #[test]
        fn a_message_never_loses_a_byte(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let line = decode(json!({ "MESSAGE": bytes }));
            let back = match line.encoding {
                Some(_) => BASE64.decode(line.message).unwrap(),
                None => line.message.into_bytes(),
            };
            prop_assert_eq!(back, bytes);
        }
    }
}
