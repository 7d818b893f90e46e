//! `[discovery]`: which other gateways are looked for.

use super::reader::{Report, Section};
use super::{keys, values};

pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>) -> Option<String> {
    let section = root.section(report, &keys::DISCOVERY, "discovery", "[discovery] and its keys below");
    section.refuse_unknown(report);
    section.read(report, "filter", |value| filter(values::text(value)?).map(str::to_owned))
}

/// A topic filter (MQTT 3.1.1 section 4.7) of statuses, and of nothing else.
fn filter(text: &str) -> Result<&str, String> {
    let text = values::mqtt_text(text, 1024)?;
    let levels: Vec<&str> = text.split('/').collect();
    let is_level = |level: &&str| !level.is_empty() && (*level == "+" || !level.contains(['+', '#']));
    match levels.iter().all(is_level) && levels.len() > 1 && levels.last() == Some(&"status") && !text.starts_with('$')
    {
        true => Ok(text),
        false => Err(format!(
            "{} is no filter of statuses; end it with /status, with + for any level before, as in \"pillion/+/+/status\"",
            values::quoted(text)
        )),
    }
}
