//! `[sparkplug]`: what pillion is called there, if any stream has that convention.

use super::effective::Toml;
use super::mqtt::expand;
use super::reader::{Report, Section};
use super::sections::Context;
use super::{Convention, HomeAssistant, Stream, keys, mqtt, values};
use crate::record::StreamId;

/// `[sparkplug]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparkplug {
    /// The group id, without `/`, `+` and `#`.
    pub group: String,
    /// The edge node id, unique in the group, expanded (default `{host}-{instance}`).
    pub node: String,
}

const LONGEST_ID: usize = 256;

pub(super) fn read(
    root: &Section<'_>,
    report: &mut Report<'_>,
    context: &Context<'_>,
    instance: &str,
    streams: &[Stream],
    homeassistant: &HomeAssistant,
) -> Option<Sparkplug> {
    let section = root.section(report, &keys::SPARKPLUG, "sparkplug", "[sparkplug] and its keys below");
    section.refuse_unknown(report);
    let host = mqtt::topic_safe(&context.surroundings.host);
    let mut read = |key| section.read(report, key, |value| id(&expand(values::text(value)?, &host, instance)?));
    let (group, node) = (read("group"), read("node"));
    let is_sparkplug = |stream: &&Stream| stream.convention == Convention::Sparkplug;
    let Some(first) = streams.iter().find(is_sparkplug) else {
        if section.has("group") {
            let message = "is not used: no stream has convention = \"sparkplug\"".to_owned();
            report.warning(section.place("group"), section.key("group"), message);
        }
        return None;
    };
    for stream in streams.iter().filter(|stream| is_sparkplug(stream) && stream.batch.is_some()) {
        let message = "a message of Sparkplug has one record; remove this batch, or the stream's convention".to_owned();
        report.conclusion(root.place("stream"), format!("stream.{}.batch", stream.name), message);
    }
    if !section.has("group") {
        let message = format!(
            "is missing, and stream {} has convention = \"sparkplug\"; give one, such as group = \"site-1\"",
            first.name
        );
        let place = if root.has("sparkplug") { section.place("group") } else { root.place("stream") };
        report.conclusion(place, section.key("group"), message);
    }
    if homeassistant.enable && streams.get(StreamId::TELEMETRY.index()).as_ref().is_some_and(is_sparkplug) {
        let message =
            "is not possible with convention = \"sparkplug\" of stream telemetry, which Home Assistant can't read; \
                       remove one of them"
                .to_owned();
        report.conclusion(root.place("homeassistant"), "homeassistant.enable".to_owned(), message);
    }
    let default = || expand("{host}-{instance}", &host, instance).unwrap_or_default();
    Some(Sparkplug { group: group.unwrap_or_default(), node: node.unwrap_or_else(default) })
}

/// What can be one level of a topic.
fn id(text: &str) -> Result<String, String> {
    let text = values::mqtt_text(text, LONGEST_ID)?;
    match text.contains(['/', '+', '#']) {
        true => Err(format!("{} can't be a part of a topic; leave out /, + and #", values::quoted(text))),
        false => Ok(text.to_owned()),
    }
}

impl Sparkplug {
    /// As the effective configuration shows it.
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[sparkplug]");
        out.text("group", &self.group);
        out.text("node", &self.node);
    }
}
