//! What became of a managed file: what `pillion apply` writes down, and the sidecar reads.
//!
//! Format of `APPLY_DIR/NAME.json`, NAME being [`name_of`] the key: [`Ledger`] as JSON. Fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// Bytes of a file that are looked at.
pub const MAX_LEDGER: usize = 16 * 1024;

/// What is known of a managed file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The key.
    pub key: String,
    /// Where the file stands.
    pub state: State,
    /// Whether there was a file before the one that is being tried; it is kept as `NAME.old`.
    #[serde(default)]
    pub had_old: bool,
    /// What became of the latest value.
    #[serde(default)]
    pub last: Option<Outcome>,
}

/// Where a managed file stands. See `apply` for what follows what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The old version is kept, and the new one is being put in its place.
    Replacing {
        /// Of the new one.
        etag: String,
    },
    /// The new version is in its place. Does the application go on with it?
    Probation {
        /// Of the new one.
        etag: String,
    },
    /// The old version is being put back.
    RollingBack {
        /// Of the one that failed.
        etag: String,
        /// Why.
        reason: String,
    },
}

/// What became of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The value's ETag in the configuration store.
    pub etag: String,
    /// What became of it.
    pub result: Result,
    /// Why it was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Result {
    /// The file has it, and the application goes on.
    Applied,
    /// Nothing was touched.
    Rejected,
    /// The application did not go on with it, and has the old version again.
    RolledBack,
}

impl Outcome {
    /// What goes to `P/config-reported/KEY`.
    pub fn report(&self) -> serde_json::Value {
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.result {
            Result::Applied => serde_json::json!({ "applied": self.etag }),
            Result::Rejected => serde_json::json!({ "rejected": reason, "etag": self.etag }),
            Result::RolledBack => serde_json::json!({ "rolled-back": reason, "etag": self.etag }),
        }
    }
}

/// The name of a key's files: letters, digits, `_`, `.` and `-` stand for themselves, but for a point at the start; of others,
/// and of `%`, the bytes in hexadecimal. Longer ones than a file can have are cut off and get a sum.
pub fn name_of(key: &str) -> String {
    let mut name = String::new();
    for byte in key.bytes() {
        match byte {
            b'.' if name.is_empty() => name += "%2E",
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => name.push(char::from(byte)),
            other => name += &format!("%{other:02X}"),
        }
    }
    if name.len() > 180 {
        let sum = crc::Crc::<u64>::new(&crc::CRC_64_XZ).checksum(key.as_bytes());
        name = format!("{}%{sum:016x}", name.get(..160).unwrap_or_default());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_ever_names_a_file_elsewhere() {
        assert_eq!(name_of("app.toml"), "app.toml");
        assert_eq!(name_of("../etc/passwd"), "%2E.%2Fetc%2Fpasswd");
        assert_eq!(name_of(".."), "%2E.");
        assert_ne!(name_of("a/b"), name_of("a%2Fb"));
        let [one, other] = ["x", "y"].map(|end| name_of(&format!("{}{end}", "/".repeat(500))));
        assert!(one.len() < 200 && one != other);
    }

    #[test]
    fn the_form_on_disk_never_changes() {
        let outcome = Outcome { etag: "ab-1".into(), result: Result::RolledBack, reason: Some("it died".into()) };
        let state = State::RollingBack { etag: "ab-1".into(), reason: "it died".into() };
        let ledger = Ledger { key: "app.toml".into(), state, had_old: true, last: Some(outcome) };
        let text = r#"{"key":"app.toml","state":{"rolling-back":{"etag":"ab-1","reason":"it died"}},"had_old":true,"last":{"etag":"ab-1","result":"rolled-back","reason":"it died"}}"#;
        assert_eq!(serde_json::to_string(&ledger).unwrap(), text);
        assert_eq!(serde_json::from_str::<Ledger>(text).unwrap(), ledger);
        assert_eq!(serde_json::to_string(&State::Idle).unwrap(), r#""idle""#);
    }
}
