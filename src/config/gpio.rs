//! `[[gpio]]`: single lines of GPIO chips.

use super::devices::{Names, Taken, sections};
use super::effective::{Toml, quoted};
use super::reader::{Report, Section};
use super::tree::Value;
use super::units::duration_text;
use super::{Commands, commands, keys, values};
use std::time::Duration;

/// `[[gpio]]`: one line of a chip
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpio {
    /// `[a-z0-9_-]{1,32}`, unique over all devices.
    pub name: String,
    /// `gpiochipN`, a path, or the chip's label; the chip may be absent.
    pub chip: String,
    /// Which line of the chip.
    pub line: GpioLine,
    /// What pulls the line where nothing drives it (default: as it is).
    pub bias: Bias,
    /// Whether a low level is `true` (default no).
    pub active_low: bool,
    /// `direction`, with the keys that belong to it.
    pub direction: Direction,
}

/// `line`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpioLine {
    /// Counted from 0.
    Offset(u32),
    /// As the board's device tree or firmware calls it; 31 bytes at the most.
    Name(String),
}

/// `bias`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Bias {
    #[default]
    AsIs,
    PullUp,
    PullDown,
    Disabled,
}

/// `direction`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// The line is read.
    Input(Input),
    /// The line is driven.
    Output(Output),
}

/// A `[[gpio]]` with `direction = "input"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What is published, or counted (default both; with a counter rising). In terms of `true` and `false`, so after
    /// `active_low`.
    pub edge: Edge,
    /// How long a level must last to count, 1 ms to 10 s; `None`: every edge counts.
    pub debounce: Option<Duration>,
    /// Edges are counted, and the count is published this often, 100 ms to 1 day. `None`: each edge is a record.
    pub counter: Option<Duration>,
}

/// `edge`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// From `false` to `true`.
    Rising,
    /// From `true` to `false`.
    Falling,
    /// Each of them.
    Both,
    /// None: the level is read when the line is opened, and then no more.
    None,
}

/// A `[[gpio]]` with `direction = "output"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The value when the line is opened; `None` (`"keep"`, default): the one that it has.
    pub initial: Option<bool>,
    /// What the line falls back to.
    pub safe: Option<Safe>,
    /// Whether the line is left alone when pillion stops (default no: then it gets its safe value, if it has one).
    pub hold: bool,
    /// Which commands it takes; `None`: none at all.
    pub commands: Option<Commands>,
}

/// `safe` and `safe_after`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safe {
    /// The value.
    pub value: bool,
    /// How long the broker or the application must be away before it is applied, 0 to 1 day (default 30 s).
    pub after: Duration,
}

/// `GPIO_MAX_NAME_SIZE` of the kernel's uAPI, with the NUL at its end.
const LONGEST_NAME: usize = 31;
const LARGEST_OFFSET: i64 = 65_535;
const DEBOUNCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));
const DAY: Duration = Duration::from_secs(86_400);
const COUNT_INTERVAL: (Duration, Duration) = (Duration::from_millis(100), DAY);
const DEFAULT_COUNT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_SAFE_AFTER: Duration = Duration::from_secs(30);
const EXAMPLE_COUNTER: &str = "counter = { interval = \"10s\" }";

const EDGES: [(&str, Edge); 4] =
    [("both", Edge::Both), ("rising", Edge::Rising), ("falling", Edge::Falling), ("none", Edge::None)];
const BIASES: [(&str, Bias); 4] =
    [("as-is", Bias::AsIs), ("pull-up", Bias::PullUp), ("pull-down", Bias::PullDown), ("disabled", Bias::Disabled)];

/// The keys that one direction has and the other has not.
const INPUT_KEYS: [&str; 3] = ["edge", "debounce", "counter"];
const OUTPUT_KEYS: [&str; 5] = ["initial", "safe", "safe_after", "hold", "commands"];

/// Reads all lines, in the order of the files.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, names: &mut Names) -> Vec<Gpio> {
    let mut lines = Taken::default();
    let mut devices = Vec::new();
    for section in sections(root, report, &keys::GPIO, "gpio") {
        let device = device(&section, report);
        names.claim(&section, report, &device.name);
        // What is absent or wrong is empty here, and was reported.
        if !device.chip.is_empty()
            && let Some(shown) = shown(&device.line)
        {
            let of_chip = format!("{shown} of {}", device.chip);
            lines.claim(&section, report, "line", of_chip.clone().into(), &of_chip);
        }
        devices.push(device);
    }
    devices
}

fn shown(line: &GpioLine) -> Option<String> {
    match line {
        GpioLine::Offset(offset) => Some(offset.to_string()),
        GpioLine::Name(name) => (!name.is_empty()).then(|| name.clone()),
    }
}

fn device(section: &Section<'_>, report: &mut Report<'_>) -> Gpio {
    section.refuse_unknown(report);
    let name = |value| values::name(values::text(value)?).map(str::to_owned);
    let is_output = section.required(report, "direction", "\"input\"", |value| {
        values::choice(value, &[("input", false), ("output", true)])
    });
    match is_output {
        Some(true) => refuse(section, report, &INPUT_KEYS, "input"),
        Some(false) => refuse(section, report, &OUTPUT_KEYS, "output"),
        None => {}
    }
    let direction = match is_output {
        Some(true) => Direction::Output(output(section, report)),
        _ => Direction::Input(input(section, report)),
    };
    Gpio {
        name: section.required(report, "name", "\"door\"", name).unwrap_or_default(),
        chip: section.required(report, "chip", "\"gpiochip0\"", chip).unwrap_or_default(),
        line: section.required(report, "line", "3", line).unwrap_or(GpioLine::Name(String::new())),
        bias: section.choice(report, "bias", &BIASES).unwrap_or_default(),
        active_low: section.read(report, "active_low", flag).unwrap_or(false),
        direction,
    }
}

/// Notes keys that only a line of the other direction has.
fn refuse(section: &Section<'_>, report: &mut Report<'_>, keys: &[&str], owner: &str) {
    for key in keys.iter().filter(|key| section.has(key)) {
        let message = format!("only an {owner} has this; remove it, or write direction = \"{owner}\"");
        report.problem(section.place(key), section.key(key), message);
    }
}

fn input(section: &Section<'_>, report: &mut Report<'_>) -> Input {
    let counter = section.has("counter").then(|| counter(section, report));
    let edge = section.choice(report, "edge", &EDGES);
    let debounce = section.read(report, "debounce", |value| values::duration(value, DEBOUNCE.0..=DEBOUNCE.1, "10ms"));
    if edge == Some(Edge::None) {
        for key in ["counter", "debounce"].into_iter().filter(|key| section.has(key)) {
            let message =
                "has nothing to do with edge = \"none\"; remove it, or write \"both\", \"rising\" or \"falling\"";
            report.conclusion(section.place(key), section.key(key), message.to_owned());
        }
    }
    let usual = if counter.is_some() { Edge::Rising } else { Edge::Both };
    Input { edge: edge.unwrap_or(usual), debounce, counter }
}

fn counter(device: &Section<'_>, report: &mut Report<'_>) -> Duration {
    let section = device.section(report, &keys::COUNTER, "counter", EXAMPLE_COUNTER);
    section.refuse_unknown(report);
    let interval = |value| values::duration(value, COUNT_INTERVAL.0..=COUNT_INTERVAL.1, "10s");
    section.read(report, "interval", interval).unwrap_or(DEFAULT_COUNT_INTERVAL)
}

fn output(section: &Section<'_>, report: &mut Report<'_>) -> Output {
    let initial = section.read(report, "initial", |value| match value {
        Value::Boolean(value) => Ok(Some(*value)),
        Value::Text(text) if text == "keep" => Ok(None),
        other => Err(format!("{} is not known; write true, false or \"keep\"", values::show(other))),
    });
    let after = section.read(report, "safe_after", |value| values::duration(value, Duration::ZERO..=DAY, "30s"));
    let safe = section.read(report, "safe", flag);
    if section.has("safe_after") && !section.has("safe") {
        let message = "there is no safe value to be applied; give one, such as safe = false, or remove this";
        report.conclusion(section.place("safe_after"), section.key("safe_after"), message.to_owned());
    }
    let commands = commands::read(section, report);
    if commands.as_ref().is_some_and(|commands| commands.reply.is_some()) {
        let message = "a line has no answer to wait for; remove reply".to_owned();
        report.problem(section.place("commands"), section.key("commands"), message);
    }
    Output {
        initial: initial.flatten(),
        safe: safe.map(|value| Safe { value, after: after.unwrap_or(DEFAULT_SAFE_AFTER) }),
        hold: section.read(report, "hold", flag).unwrap_or(false),
        commands,
    }
}

fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(flag) => Ok(*flag),
        other => Err(format!("{} is neither true nor false; write one of them, without quotes", values::show(other))),
    }
}

/// A path, a name below /dev, or a label.
fn chip(value: &Value) -> Result<String, String> {
    let text = values::text(value)?;
    if text.contains('/') || text.is_empty() {
        values::absolute_path(text, "/dev/gpiochip0")?;
        return Ok(text.to_owned());
    }
    match text {
        _ if text.chars().all(|c| c.is_ascii_digit()) => {
            Err(format!("{} is not a chip; did you mean \"gpiochip{text}\"?", values::quoted(text)))
        }
        _ => short(text).map(str::to_owned),
    }
}

fn line(value: &Value) -> Result<GpioLine, String> {
    const ADVICE: &str = "give the line's number on its chip, from 0, or its name in quotes";
    match value {
        Value::Text(text) if !text.is_empty() && !text.chars().all(|c| c.is_ascii_digit()) => {
            short(text).map(|name| GpioLine::Name(name.to_owned()))
        }
        value => values::number(value, 0..=LARGEST_OFFSET, ADVICE).map(GpioLine::Offset),
    }
}

/// A name that the kernel can have.
fn short(text: &str) -> Result<&str, String> {
    match text.len() {
        _ if text.chars().any(char::is_control) => {
            Err(format!("{} holds a control character; remove it", values::quoted(text)))
        }
        0..=LONGEST_NAME => Ok(text),
        bytes => Err(format!("has {bytes} bytes; the kernel's names have {LONGEST_NAME} at the most (see gpioinfo)")),
    }
}

impl Gpio {
    /// As the effective configuration shows it.
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[[gpio]]");
        out.text("name", &self.name);
        out.text("chip", &self.chip);
        match &self.line {
            GpioLine::Offset(offset) => out.plain("line", offset),
            GpioLine::Name(name) => out.text("line", name),
        }
        let direction = match self.direction {
            Direction::Input(_) => "input",
            Direction::Output(_) => "output",
        };
        out.text("direction", direction);
        out.choice("bias", &BIASES, self.bias);
        out.plain("active_low", self.active_low);
        match &self.direction {
            Direction::Input(input) => input.toml(out),
            Direction::Output(output) => output.toml(out),
        }
    }
}

impl Input {
    fn toml(&self, out: &mut Toml) {
        out.choice("edge", &EDGES, self.edge);
        if let Some(debounce) = self.debounce {
            out.text("debounce", &duration_text(debounce));
        }
        if let Some(interval) = self.counter {
            out.plain("counter", format!("{{ interval = {} }}", quoted(&duration_text(interval))));
        }
    }
}

impl Output {
    fn toml(&self, out: &mut Toml) {
        match self.initial {
            Some(value) => out.plain("initial", value),
            None => out.text("initial", "keep"),
        }
        if let Some(Safe { value, after }) = self.safe {
            out.plain("safe", value);
            out.text("safe_after", &duration_text(after));
        }
        out.plain("hold", self.hold);
        if let Some(commands) = &self.commands {
            out.plain("commands", commands.toml());
        }
    }
}
