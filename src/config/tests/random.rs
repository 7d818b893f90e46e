//! Random configurations: those that are valid read the same when printed, and none makes the reader panic.

use super::{check_round_trip, parsed, parsed_in, surroundings};
use crate::config::{Loaded, Source, Surroundings, parse};
use proptest::prelude::*;
use std::path::Path;

const FRAMINGS: &[&str] = &[
    "{ max = MAX }",
    "{ kind = \"lines\", max = MAX, delimiter = \"\\u0003\\\\;\", crc = \"crc32\" }",
    "{ kind = \"cobs\", max = MAX, crc = \"crc16-ccitt\" }",
    "{ kind = \"slip\", max = MAX }",
    "{ kind = \"length-prefixed\", max = MAX, length_bytes = 4, endian = \"little\", includes_header = true, idle = \"MAXms\" }",
    "{ kind = \"fixed\", size = MAX, idle = \"MAXms\" }",
    "{ kind = \"idle-gap\", max = MAX, gap = \"MAXms\", crc = \"crc16-modbus\" }",
];

/// A valid document of random values.
fn valid() -> impl Strategy<Value = String> {
    let prefix = "[a-z]{1,9}(/[a-zA-Z0-9 ]{1,9}){0,3}";
    let mqtt = (1..65_536u32, 1..=65_535u32, 1000..3_600_000u64, 2..8192u64, 0..=1_000_000u32, prefix).prop_map(
        |(inflight, keep_alive, ack, payload, rate, prefix)| {
            format!(
                "[mqtt]\nservers = [\"mqtt://h{inflight}:{inflight}\"]\ninflight = {inflight}\nkeep_alive = \
                 \"{keep_alive}s\"\nack_timeout = \"{ack}ms\"\nfall_back = \"{ack}ms\"\nmax_payload = \
                 \"{payload}KiB\"\nbackfill_rate = \
                 {rate}\ntopic_prefix = \"{prefix}/{{host}}\"\nusername = \"\\\"{prefix}\\\\\"\n"
            )
        },
    );
    let spool =
        (prop_oneof![Just("always".to_owned()), (10..3_600_000u64).prop_map(|n| format!("{n}ms"))], 64..32_768u64)
            .prop_map(|(sync, segment)| format!("[spool]\nsync = \"{sync}\"\nsegment_bytes = \"{segment}KiB\"\n"));
    let batch = (1..=1000u16, 1..=64u8, 0..=3_600_000u32, any::<(bool, bool)>()).prop_map(
        |(records, size, delay, (array, deflate))| {
            let format = if array { "array" } else { "ndjson" };
            let compress = if deflate { "deflate" } else { "none" };
            format!(
                "batch = {{ records = {records}, bytes = \"{size}KiB\", delay = \"{delay}ms\", format = \"{format}\", \
                 compress = \"{compress}\" }}\n"
            )
        },
    );
    let hours = (0..24u8, 0..60u8, 1..23u8).prop_map(|(hour, minute, length)| {
        format!("quiet_hours = \"{hour:02}:{minute:02}Z-{:02}:{minute:02}Z\"\n", (hour + length) % 24)
    });
    let batch = (prop::option::of(batch), prop::option::of(hours))
        .prop_map(|(batch, hours)| batch.unwrap_or_default() + &hours.unwrap_or_default());
    let stream = ("[a-z0-9_-]{1,32}", 65_536..1_000_000u64, 1..1000u32, any::<u8>(), any::<bool>(), batch).prop_map(
        |(name, bytes, age, priority, reject, batch)| {
            let when_full = if reject { "reject" } else { "drop-oldest" };
            let body = format!(
                "max_bytes = \"{bytes}KiB\"\nmax_age = \"{age}h\"\npriority = {priority}\nwhen_full = \"{when_full}\"\n\
                 {batch}"
            );
            (name, body)
        },
    );
    let streams = prop::collection::btree_map("[a-z0-9_-]{1,32}", stream, 0..4).prop_map(|streams| {
        streams.into_iter().map(|(name, (_, body))| format!("[stream.{name}]\n{body}")).collect::<String>()
    });
    let word = |words: &'static [&'static str]| prop::sample::select(words);
    let serial = (
        1..u32::MAX,
        5..=8u8,
        word(&["none", "even", "odd"]),
        1..=2u8,
        word(&["none", "software", "hardware"]),
        (1..=1400u32, word(FRAMINGS)),
        word(&["auto", "text", "base64", "raw"]),
    );
    let serials = prop::collection::btree_map("[a-z0-9_-]{1,32}", serial, 0..4).prop_map(|devices| {
        let one = |(name, (baud, data, parity, stop, flow, (max, framing), payload))| {
            let framing = str::replace(framing, "MAX", &u32::to_string(&max));
            format!(
                "[[serial]]\nname = \"{name}\"\npath = \"/dev/{name}\"\nbaud = {baud}\ndata_bits = {data}\nparity = \
                 \"{parity}\"\nstop_bits = {stop}\nflow = \"{flow}\"\nframing = {framing}\npayload = \"{payload}\"\n"
            )
        };
        devices.into_iter().map(one).collect::<String>()
    });
    let input =
        (word(&["both", "rising", "falling"]), prop::option::of(1..10_000u32), prop::option::of(100..86_400_000u32))
            .prop_map(|(edge, debounce, counter)| {
                let debounce = debounce.map(|ms| format!("debounce = \"{ms}ms\"\n")).unwrap_or_default();
                let counter = counter.map(|ms| format!("counter.interval = \"{ms}ms\"\n")).unwrap_or_default();
                format!("direction = \"input\"\nedge = \"{edge}\"\n{debounce}{counter}")
            });
    let output = (
        word(&["true", "false", "\"keep\""]),
        prop::option::of((any::<bool>(), 0..86_400u32)),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(initial, safe, hold, commands)| {
            let safe = safe.map(|(safe, after)| format!("safe = {safe}\nsafe_after = \"{after}s\"\n"));
            let commands = if commands { "commands = { allow = [\"o*\"] }\n" } else { "" };
            format!(
                "direction = \"output\"\ninitial = {initial}\n{}hold = {hold}\n{commands}",
                safe.unwrap_or_default()
            )
        });
    let bias = word(&["as-is", "pull-up", "pull-down", "disabled"]);
    let chip = word(&["gpiochip0", "/dev/gpiochip1", "a \\\"label\\\""]);
    let gpio = (prop_oneof![input, output], bias, chip, prop::option::of("[A-Z][A-Z0-9 ]{0,29}"), any::<bool>());
    let gpios = prop::collection::vec(gpio, 0..3).prop_map(|lines| {
        let one = |(index, (body, bias, chip, line, low)): (usize, (String, &str, &str, Option<String>, bool))| {
            let line = line.map_or_else(|| index.to_string(), |name| format!("\"{name}{index}\""));
            format!(
                "[[gpio]]\nname = \"number-{index}-of-the-gpio-lines\"\nchip = \"{chip}\"\nline = {line}\nactive_low = \
                 {low}\nbias = \"{bias}\"\n{body}"
            )
        };
        lines.into_iter().enumerate().map(one).collect::<String>()
    });
    (mqtt, spool, streams, serials, gpios)
        .prop_map(|(mqtt, spool, streams, serials, gpios)| mqtt + &spool + &streams + &serials + &gpios)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_valid_configuration_ever_reads_differently_when_printed(text in valid()) {
        check_round_trip(&text);
    }

    #[test]
    fn no_text_ever_panics(text in ".*", more in "[a-z=\\[\\]{}\"'#.,\\n ]*") {
        let sources = [Source::new("a.toml", &text), Source::new("b.toml", &more)];
        let _ = parse(&sources, &surroundings(), Path::new("/"), &|_| false);
    }

    #[test]
    fn no_damage_to_a_valid_file_ever_panics(
        text in valid(),
        at in any::<prop::sample::Index>(),
        length in 0..20usize,
        with in "[a-z0-9=\\[\\]{}\"'#.,\\n\\\\ é]{0,6}",
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        chars.splice(start..end, with.chars());
        let damaged: String = chars.into_iter().collect();
        match parsed(&damaged) {
            Ok(_) => check_round_trip(&damaged),
            Err(problems) => {
                prop_assert!(problems.count() > 0);
                for problem in &problems.list {
                    prop_assert!(!problem.message.is_empty() && problem.to_string().len() < 1000);
                    prop_assert!(problem.line <= damaged.lines().count() + 1);
                }
            }
        }
    }

    #[test]
    fn no_strange_host_or_instance_ever_breaks_a_topic(host in ".*", instance in ".*") {
        let surroundings = Surroundings { host, instance: Some(instance), ..Surroundings::default() };
        if let Ok(Loaded { config, .. }) = parsed_in(&surroundings, "") {
            prop_assert_eq!(config.mqtt.topic_prefix.split('/').count(), 3);
            prop_assert!(!config.mqtt.topic_prefix.contains(['+', '#', '\0']));
        }
    }
}
