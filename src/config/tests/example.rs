//! Holds the example and the documented defaults to what is read.

use super::parsed;
use crate::config::{
    Batching, Bias, Commands, Direction, Edge, Gpio, GpioLine, Input, Line, Mqtt, Output, Rs485, Safe, Serial, Stream,
    Tls,
};
use std::time::Duration;

#[test]
fn the_example_never_fails_the_check_and_never_shows_another_default() {
    let example = include_str!("../../../systemd/gateway.toml");
    let as_it_is = parsed(example).unwrap();
    assert_eq!(as_it_is.warnings, []);
    // Lines such as `#key = value` are the defaults, or examples of what has none.
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let all: String = example.lines().map(|line| uncommented(line) + "\n").collect();
    let all = parsed(&all).unwrap_or_else(|problems| panic!("{problems}")).config;
    let default = parsed("").unwrap().config;
    assert_eq!(
        (&all.instance, &all.state_dir, &all.runtime_dir),
        (&default.instance, &default.state_dir, &default.runtime_dir)
    );
    assert_eq!((&all.spool, &all.health), (&default.spool, &default.health));
    let mqtt = Mqtt { username: None, password_file: None, tls: Tls::default(), budget: None, ..all.mqtt };
    assert_eq!(mqtt, default.mqtt);
    let (Stream { max_age, batch, quiet_hours, .. }, of_default) = (all.streams[1].clone(), default.streams[1].clone());
    assert_eq!(all.streams[1], Stream { max_age, batch, quiet_hours, ..of_default });
    let batching = parsed("[stream.telemetry]\nbatch = {}").unwrap().config.streams[1].batch;
    assert_eq!(batch, batching.map(|batching| Batching { delay: Duration::from_millis(500), ..batching }));
    let minimal = parsed("[[serial]]\nname = \"meter\"\npath = \"/dev/ttyUSB0\"").unwrap().config;
    let Serial { line: Line { path, rs485, dtr, rts, .. }, commands, .. } = all.serial[0].clone();
    let plain = Rs485 {
        rts_on_send: true,
        delay_before_send: Duration::ZERO,
        delay_after_send: Duration::ZERO,
        rx_during_tx: false,
    };
    assert_eq!(rs485, Some(plain));
    let Some(Commands { rate: 10, ttl, .. }) = &commands else { panic!("{commands:?}") };
    assert_eq!(*ttl, Duration::from_secs(60));
    let line = Line { path, rs485, dtr, rts, ..minimal.serial[0].line.clone() };
    assert_eq!(all.serial[0], Serial { line, commands, ..minimal.serial[0].clone() });
    let minimal = "modbus = [{ name = \"bus1\", path = \"/dev/a\", unit = [{ name = \"inverter1\", unit = 1, poll = [{ name = \
                   \"power\", table = \"input\", address = 100 }] }] }]";
    let (shown, minimal) = (&all.modbus[0], &parsed(minimal).unwrap().config.modbus[0]);
    let line = Line { path: shown.line.path.clone(), ..minimal.line.clone() };
    assert_eq!((&shown.line, shown.timeout), (&line, minimal.timeout));
    let (unit, default) = (&shown.units[0], &minimal.units[0]);
    assert_eq!((unit.backoff, unit.max_backoff), (default.backoff, default.max_backoff));
    let (poll, default) = (&unit.polls[0], &default.polls[0]);
    assert_eq!((poll.interval, poll.word_order, poll.offset), (default.interval, default.word_order, default.offset));
    // What an example shows without a default is given here: debounce, safe, commands.
    let minimal = |more: &str| {
        let text = format!("[[gpio]]\nname = \"x\"\nchip = \"gpiochip0\"\nline = 0\n{more}");
        parsed(&text).unwrap_or_else(|problems| panic!("{problems}")).config.gpio[0].clone()
    };
    let named = |index: usize, line: Gpio| Gpio {
        name: all.gpio[index].name.clone(),
        line: all.gpio[index].line.clone(),
        ..line
    };
    assert_eq!(all.gpio[0], named(0, minimal("direction = \"input\"\ndebounce = \"10ms\"")));
    assert_eq!(all.gpio[1], named(1, minimal("direction = \"input\"\ncounter = {}")));
    assert_eq!(all.gpio[2], named(2, minimal("direction = \"output\"\nsafe = false\ncommands = {}")));
}

#[test]
fn the_framings_of_the_example_never_fail_the_check() {
    let example = include_str!("../../../systemd/gateway.toml");
    let table = |line: &'static str| Some(&line[line.find("{ kind")?..line.find(" }")? + 2]);
    let framings: Vec<&str> = example.lines().filter_map(table).collect();
    assert_eq!(framings.len(), 8, "{framings:?}");
    for framing in framings {
        let text = format!("[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = {framing}");
        parsed(&text).unwrap_or_else(|problems| panic!("{framing}: {problems}"));
    }
}

#[test]
fn the_defaults_of_a_line_are_never_others_than_documented() {
    let lines = parsed(
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n\
         [[gpio]]\nname = \"b\"\nchip = \"c\"\nline = 2\ndirection = \"input\"\ncounter = {}\n\
         [[gpio]]\nname = \"c\"\nchip = \"c\"\nline = \"L\"\ndirection = \"output\"\nsafe = true\n",
    );
    let lines = lines.unwrap().config.gpio;
    assert_eq!((lines[0].bias, lines[0].active_low, &lines[2].line), (Bias::AsIs, false, &GpioLine::Name("L".into())));
    let ten = Duration::from_secs(10);
    assert_eq!(lines[0].direction, Direction::Input(Input { edge: Edge::Both, debounce: None, counter: None }));
    assert_eq!(lines[1].direction, Direction::Input(Input { edge: Edge::Rising, debounce: None, counter: Some(ten) }));
    let safe = Some(Safe { value: true, after: Duration::from_secs(30) });
    assert_eq!(lines[2].direction, Direction::Output(Output { initial: None, safe, hold: false, commands: None }));
}
