//! Reading `[[modbus]]`, its units and their polls.

use super::{Bus, Kind, Poll, Publish, Table, Unit, WordOrder, standard_gap};
use crate::config::reader::{Report, Section};
use crate::config::serial::{self, Taken};
use crate::config::tree::{Node, Value};
use crate::config::units::size_text;
use crate::config::{Commands, Line, Parity, commands, framing, keys, port, values};
use std::collections::BTreeMap;
use std::time::Duration;

const MOST_BUSES: usize = 16;
const MOST_UNITS: usize = 64;
const MOST_POLLS: usize = 128;
/// Function 16 writes this many registers at most (Application Protocol V1.1b3, section 6.12).
const MOST_WORDS: i64 = 123;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const UNIT_EXAMPLE: &str = "[[modbus.unit]]";
const POLL_EXAMPLE: &str = "[[modbus.unit.poll]]";

/// Reads all buses, in the order of the files.
pub(in crate::config) fn read(
    root: &Section<'_>,
    report: &mut Report<'_>,
    max_payload: usize,
    taken: &mut Taken,
) -> Vec<Bus> {
    let sections = tables(root, report, "modbus", &keys::MODBUS, MOST_BUSES, "[[modbus]]");
    sections.iter().map(|section| bus(section, report, max_payload, taken)).collect()
}

/// The tables of a list under `key`; what is something else is noted.
fn tables<'t>(
    owner: &Section<'t>,
    report: &mut Report<'_>,
    key: &str,
    schema: &'static keys::Schema,
    most: usize,
    example: &str,
) -> Vec<Section<'t>> {
    let list: Option<&'t Vec<Node>> = owner.read(report, key, |value| match value {
        Value::List(list) if list.len() > most => Err(format!("there are {}; give at most {most}", list.len())),
        Value::List(list) => Ok(list),
        other => Err(format!("{} is not a list; write {example} once for each", values::show(other))),
    });
    let mut sections = Vec::new();
    for (index, node) in list.into_iter().flatten().enumerate() {
        let path = |name: Option<&str>| match name {
            Some(name) => format!("{}.{name}", owner.key(key)),
            None => format!("{}[{index}]", owner.key(key)),
        };
        match &node.value {
            Value::Table(table) => {
                let name = match table.get("name").map(|entry| &entry.node.value) {
                    Some(Value::Text(name)) => values::name(name).ok(),
                    _ => None,
                };
                sections.push(Section::at(schema, path(name), node.place, table));
            }
            other => {
                let message = format!("{} is not a table; write {example} and its keys below", values::show(other));
                report.problem(node.place, path(None), message);
            }
        }
    }
    sections
}

fn bus(section: &Section<'_>, report: &mut Report<'_>, max_payload: usize, taken: &mut Taken) -> Bus {
    section.refuse_unknown(report);
    let name = serial::name(section, report, "\"bus1\"");
    // The standard's default is 19,200 baud and even parity (Modbus over Serial Line V1.02, section 2.5.1).
    let (path, usb) = serial::path_or_usb(section, report);
    let line = Line {
        usb,
        baud: serial::baud(section, report).unwrap_or(19_200),
        parity: serial::parity(section, report).unwrap_or(Parity::Even),
        stop_bits: serial::stop_bits(section, report),
        rs485: port::rs485(section, report),
        low_latency: section.read(report, "low_latency", values::boolean).unwrap_or(false),
        ..Line::at(path)
    };
    taken.note(section, report, &name, Some(&line.path));
    let timeout = |value| values::duration(value, 10 * MILLISECOND..=10 * SECOND, "300ms");
    let least = standard_gap(line.baud);
    let gap = |value| {
        let gap = values::duration(value, MILLISECOND..=SECOND, "10ms")?;
        match gap < least {
            true => {
                let micros = least.as_micros();
                Err(format!("is shorter than the standard's 3.5 characters, {micros} µs; give more or remove the line"))
            }
            false => Ok(gap),
        }
    };
    let timeout = section.read(report, "timeout", timeout).unwrap_or(300 * MILLISECOND);
    let gap = section.read(report, "gap", gap).unwrap_or(least);
    let sections = tables(section, report, "unit", &keys::MODBUS_UNIT, MOST_UNITS, UNIT_EXAMPLE);
    if sections.is_empty() && !section.has("unit") {
        let message = format!("is missing; write {UNIT_EXAMPLE} once for each unit on this bus");
        report.conclusion(section.place("unit"), section.key("unit"), message);
    }
    let mut addresses = BTreeMap::new();
    let mut units = Vec::new();
    for section in &sections {
        let unit = unit(section, report, max_payload, taken);
        if let Some(first) = addresses.insert(unit.unit, section.place("unit"))
            && unit.unit != 0
        {
            let first = report.where_is(first);
            let message = format!(
                "{} is the address of the unit at {first}; give each unit of a bus its own, or give all polls to one unit",
                unit.unit
            );
            report.problem(section.place("unit"), section.key("unit"), message);
        }
        units.push(unit);
    }
    Bus { name, line, timeout, gap, units }
}

fn unit(section: &Section<'_>, report: &mut Report<'_>, max_payload: usize, taken: &mut Taken) -> Unit {
    section.refuse_unknown(report);
    let name = serial::name(section, report, "\"inverter\"");
    taken.note(section, report, &name, None);
    let address = |value: &Value| values::number(value, 1..=247, "give the unit's address, 1 to 247");
    let backoff = |value| values::duration(value, 100 * MILLISECOND..=HOUR, "1s");
    let backoff = section.read(report, "backoff", backoff).unwrap_or(SECOND);
    let max_backoff = |value| values::duration(value, backoff..=DAY, "1m");
    let max_backoff = section.read(report, "max_backoff", max_backoff).unwrap_or(backoff.max(60 * SECOND));
    let unit = section.required(report, "unit", "1", address).unwrap_or(0);
    let commands = commands::read(section, report);
    let sections = tables(section, report, "poll", &keys::MODBUS_POLL, MOST_POLLS, POLL_EXAMPLE);
    if sections.is_empty() && !section.has("poll") {
        let message = format!("is missing; write {POLL_EXAMPLE} once for each value of this unit");
        report.conclusion(section.place("poll"), section.key("poll"), message);
    }
    let mut names = BTreeMap::new();
    let mut polls: Vec<Poll> = Vec::new();
    for section in &sections {
        let poll = poll(section, report);
        let place = section.place("name");
        if !poll.name.is_empty()
            && let Some(first) = names.insert(poll.name.clone(), place)
        {
            let message = format!(
                "{} is the name of the poll at {}; give each poll of a unit its own",
                values::quoted(&poll.name),
                report.where_is(first)
            );
            report.problem(place, section.key("name"), message);
        }
        polls.push(poll);
    }
    check_commands(section, report, commands.as_ref(), &polls);
    let bytes = framing::ENVELOPE + polls.iter().map(longest_member).sum::<usize>();
    if bytes > max_payload {
        let message = format!(
            "all its polls together make messages of up to {bytes} bytes, more than mqtt.max_payload ({}); make \
             max_payload larger, or remove some",
            size_text(u64::try_from(max_payload).unwrap_or(u64::MAX))
        );
        report.conclusion(section.place("poll"), section.key("poll"), message);
    }
    Unit { name, unit, backoff, max_backoff, commands, polls }
}

fn check_commands(section: &Section<'_>, report: &mut Report<'_>, commands: Option<&Commands>, polls: &[Poll]) {
    let place = section.place("commands");
    let can_write = polls.iter().any(|poll| poll.write);
    match commands {
        Some(commands) if commands.reply.is_some() => {
            let message = "a unit's answer is awaited anyway, for the timeout of its bus; remove it".to_owned();
            report.problem(place, format!("{}.reply", section.key("commands")), message);
        }
        Some(_) if !can_write => {
            let message = "none of its polls may be written; give write = true to those that may, or remove it";
            report.conclusion(place, section.key("commands"), message.to_owned());
        }
        None if can_write => {
            let message = "is missing, and a poll has write = true; write commands = {} to take commands for it";
            report.conclusion(place, section.key("commands"), message.to_owned());
        }
        _ => {}
    }
}

/// `"name":value,` at its longest. A character of a string can take six bytes in JSON.
fn longest_member(poll: &Poll) -> usize {
    const NUMBER: usize = 48;
    let value = match poll.kind {
        Kind::Text { words } => usize::from(words) * 12 + 2,
        _ => NUMBER,
    };
    poll.name.len() + 4 + value
}

fn poll(section: &Section<'_>, report: &mut Report<'_>) -> Poll {
    section.refuse_unknown(report);
    let name = serial::name(section, report, "\"power\"");
    let table = section.required(report, "table", "\"holding\"", |value| values::choice(value, &Table::WORDS));
    let advice = "give the address as the protocol counts, 0 to 65535 (register 40001 of a manual is often holding 0)";
    let address = section.required(report, "address", "100", |value| values::number(value, 0..=65_535, advice));
    let (table, address) = (table.unwrap_or(Table::Holding), address.unwrap_or(0));
    let kind = kind(section, report, table);
    let interval = |value| values::duration(value, 50 * MILLISECOND..=DAY, "5s");
    let mut poll = Poll {
        name,
        table,
        address,
        kind,
        word_order: WordOrder::Big,
        scale: 1.0,
        offset: 0.0,
        interval: section.read(report, "interval", interval).unwrap_or(5 * SECOND),
        publish: publish(section, report, kind),
        write: section.read(report, "write", boolean).unwrap_or(false),
        verify: section.read(report, "verify", boolean).unwrap_or(false),
    };
    if kind.is_number() && poll.count() > 1 {
        poll.word_order =
            section.read(report, "word_order", |v| values::choice(v, &WordOrder::WORDS)).unwrap_or(WordOrder::Big);
    } else {
        refuse(section, report, "word_order", "is for numbers of several registers only; remove it");
    }
    if kind.is_number() {
        let scale = |value: &Value| {
            number(value, "give a number from 1e-9 to 1e9, or a negative one, such as 0.1", |scale| {
                (1e-9..=1e9).contains(&scale.abs())
            })
        };
        let offset = |value: &Value| {
            number(value, "give a number from -1e12 to 1e12, such as -40", |offset| offset.abs() <= 1e12)
        };
        poll.scale = section.read(report, "scale", scale).unwrap_or(1.0);
        poll.offset = section.read(report, "offset", offset).unwrap_or(0.0);
    } else {
        refuse(section, report, "scale", "is for numbers only; remove it");
        refuse(section, report, "offset", "is for numbers only; remove it");
    }
    if u32::from(address) + u32::from(poll.count()) > 65_536 {
        let message = format!(
            "{address} and the {} behind it go beyond 65535, the last address; give at most {}",
            poll.count() - 1,
            u32::from(u16::MAX) + 1 - u32::from(poll.count())
        );
        report.problem(section.place("address"), section.key("address"), message);
    }
    if poll.write && !matches!(table, Table::Coil | Table::Holding) {
        let message = format!("table \"{}\" can only be read; remove it, or give another table", table.word());
        report.problem(section.place("write"), section.key("write"), message);
    }
    if poll.verify && !poll.write {
        let message = "is about what is written; give write = true too, or remove it".to_owned();
        report.problem(section.place("verify"), section.key("verify"), message);
    }
    poll
}

/// `type` and `words`.
fn kind(section: &Section<'_>, report: &mut Report<'_>, table: Table) -> Kind {
    let given = section.read(report, "type", |value| match values::choice(value, &Kind::WORDS)? {
        Kind::Bool if !table.is_bits() => {
            Err(format!("\"bool\" is for coils and discrete inputs, not for table \"{}\"; give \"u16\"", table.word()))
        }
        Kind::Bool => Ok(Kind::Bool),
        _ if table.is_bits() => Err(format!(
            "{} is not for table \"{}\", which holds bits; give \"bool\"",
            values::show(value),
            table.word()
        )),
        kind => Ok(kind),
    });
    let kind = given.unwrap_or(if table.is_bits() { Kind::Bool } else { Kind::U16 });
    let Kind::Text { .. } = kind else {
        refuse(section, report, "words", "is the length of a string; remove it, every other type has its own");
        return kind;
    };
    let most = "give the string's length in registers of two characters, 1 to 123";
    let words = section.required(report, "words", "8", |value| values::number(value, 1..=MOST_WORDS, most));
    Kind::Text { words: words.unwrap_or(1) }
}

/// `publish` and `deadband`.
fn publish(section: &Section<'_>, report: &mut Report<'_>, kind: Kind) -> Publish {
    let change = section.choice(report, "publish", &[("always", false), ("change", true)]).unwrap_or(false);
    if !kind.is_number() {
        refuse(section, report, "deadband", "is for numbers only; remove it");
    } else if !change {
        refuse(section, report, "deadband", "is for publish = \"change\" only; give that too, or remove it");
    }
    let deadband = |value: &Value| number(value, "give a number of at least 0, such as 0.5", |band| band >= 0.0);
    match change {
        true if kind.is_number() => Publish::Change(section.read(report, "deadband", deadband).unwrap_or(0.0)),
        true => Publish::Change(0.0),
        false => Publish::Always,
    }
}

/// Notes that a key has no meaning here, if it is given.
fn refuse(section: &Section<'_>, report: &mut Report<'_>, key: &str, message: &str) {
    if section.has(key) {
        report.problem(section.place(key), section.key(key), message.to_owned());
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(flag) => Ok(*flag),
        other => Err(format!("{} is neither true nor false; write one of them, without quotes", values::show(other))),
    }
}

/// A finite number, whole or not.
fn number(value: &Value, advice: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    let number = match value {
        Value::Integer(text, _) | Value::Float(text) => text.replace('_', "").parse::<f64>().ok(),
        Value::Text(text) if text.parse::<f64>().is_ok() => {
            return Err(format!("{} is text; remove the quotes; {advice}", values::show(value)));
        }
        _ => None,
    };
    match number {
        Some(number) if number.is_finite() && fits(number) => Ok(number),
        Some(_) => Err(format!("{} is out of range; {advice}", values::show(value))),
        None => Err(format!("{} is not a number; {advice}", values::show(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_gap_is_never_told_wrongly() {
        assert_eq!(standard_gap(9600).as_micros(), 4010);
        assert_eq!(standard_gap(19_200).as_micros(), 2005);
        assert_eq!(standard_gap(115_200).as_micros(), 1750);
    }
}
