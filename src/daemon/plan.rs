//! What a reload has to do: from the configuration that runs and the new one to a list of actions. Pure.
//!
//! What compares equal goes on as it is: a device, the connection to the broker, the session for commands. What has changed is
//! stopped and started anew. Where something has changed that can't be changed in a running process, nothing at all is
//! applied: half of a configuration is one that nobody has written.
//!
//! Streams come, go and change like devices, see `streams`; a stream of Sparkplug is part of its session, and does not.
//!
//! A new key needs nothing here. In `[mqtt]` it makes a new connection, in `[stream.NAME]` it reaches the spool and the
//! publisher, in a device's table it restarts the device, in `[app]`, `[api]` and `[health]` `adjust` tells the flows; anywhere else it needs
//! a restart of pillion, until somebody teaches its flow to change.

use super::streams::Streams;
use crate::config::modbus::Bus;
use crate::config::{Config, Direction, Gpio, Mqtt, Serial};
use crate::homeassistant;
use crate::publish::Link;
use std::collections::BTreeSet;
use std::time::Duration;

/// Tables and keys that can be changed while pillion runs.
const CHANGEABLE: [&str; 9] = ["serial", "modbus", "gpio", "stream", "mqtt", "app", "api", "health", "homeassistant"];
/// Keys among them that can't: what is in every topic, in every flow, and what makes flows that others are wired to.
const FIXED: [&str; 5] = ["mqtt.topic_prefix", "mqtt.max_payload", "app.unit", "app.commands", "app.config"];

/// A configuration with what it reads from elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) config: Config,
    /// What `mqtt.password_file` holds.
    pub(super) password: Option<String>,
    /// Those of the configuration, and those that go out, by their ids.
    pub(super) streams: Streams,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Nothing has changed.
    Nothing,
    /// These keys have, and need a restart.
    Restart(Vec<String>),
    /// These keys have; the actions are in their order.
    Apply { keys: Vec<String>, actions: Vec<Action> },
}

/// A step on the way from one configuration to the next.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// All devices that are stopped come before those that are started: a port may have got another name.
    StopDevice(String),
    StartDevice(Box<Device>),
    /// The spool's streams, with their quotas, ages and priorities.
    Streams,
    /// The application's heartbeat, and what of its log goes out.
    App,
    /// The health flow's interval and limits.
    Health,
    /// The session for commands begins anew.
    Listen,
    /// The publisher begins anew, and does this with its connection.
    Publish(Link),
    /// The local API: who may use it, and which streams take records in. Behind those that are to send them.
    Api,
}

/// A device that has a task of its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Device {
    Serial(Serial),
    Modbus(Bus),
    Gpio(Gpio),
}

impl Device {
    pub(super) fn name(&self) -> &str {
        match self {
            Device::Serial(serial) => &serial.name,
            Device::Modbus(bus) => &bus.name,
            Device::Gpio(gpio) => &gpio.name,
        }
    }

    fn takes_commands(&self) -> bool {
        match self {
            Device::Serial(serial) => serial.commands.is_some(),
            Device::Modbus(bus) => bus.units.iter().any(|unit| unit.commands.is_some()),
            Device::Gpio(Gpio { direction: Direction::Output(output), .. }) => output.commands.is_some(),
            Device::Gpio(_) => false,
        }
    }
}

/// Every device, in the order in which they are shown.
pub(super) fn devices(config: &Config) -> impl Iterator<Item = Device> + '_ {
    let serial = config.serial.iter().cloned().map(Device::Serial);
    let modbus = config.modbus.iter().cloned().map(Device::Modbus);
    serial.chain(modbus).chain(config.gpio.iter().cloned().map(Device::Gpio))
}

/// Whether any device takes commands.
pub(super) fn takes_commands(config: &Config) -> bool {
    devices(config).any(|device| device.takes_commands())
}

/// What leads from `old` to `new`.
pub(super) fn plan(old: &Settings, new: &Settings) -> Plan {
    if old == new {
        return Plan::Nothing;
    }
    let mut keys = old.config.differences(&new.config);
    if old.password != new.password && !keys.iter().any(|key| key == "mqtt.password_file") {
        keys.push("mqtt.password_file (what it holds)".to_owned());
    }
    let mut fixed: Vec<String> = keys.iter().filter(|key| !is_changeable(key)).cloned().collect();
    let sparkplug = |settings: &Settings| settings.streams.of_sparkplug().map(str::to_owned).collect::<BTreeSet<_>>();
    let of_its_session = &sparkplug(old) ^ &sparkplug(new);
    fixed.extend(of_its_session.into_iter().map(|name| format!("stream.{name}.convention")));
    if keys.is_empty() {
        match rest(&old.config) == rest(&new.config) {
            true => keys.push("the order of devices".to_owned()),
            // It is not printed, then: better a restart too many.
            false => fixed.push("something without a name".to_owned()),
        }
    }
    if !fixed.is_empty() {
        return Plan::Restart(fixed);
    }
    Plan::Apply { keys, actions: actions(old, new) }
}

fn is_changeable(key: &str) -> bool {
    let table = key.split(['.', ' ', '[']).next().unwrap_or_default();
    CHANGEABLE.contains(&table) && !FIXED.contains(&key)
}

/// All but the devices.
fn rest(config: &Config) -> Config {
    Config { serial: Vec::new(), modbus: Vec::new(), gpio: Vec::new(), ..config.clone() }
}

fn actions(old: &Settings, new: &Settings) -> Vec<Action> {
    let (before, after): (Vec<Device>, Vec<Device>) = (devices(&old.config).collect(), devices(&new.config).collect());
    let mut actions = Vec::new();
    actions.extend(missing_in(&after, &before).map(|device| Action::StopDevice(device.name().to_owned())));
    actions.extend(missing_in(&before, &after).map(|device| Action::StartDevice(Box::new(device.clone()))));
    if old.streams != new.streams || old.config.mqtt.backfill_rate != new.config.mqtt.backfill_rate {
        actions.push(Action::Streams);
    }
    if old.config.app != new.config.app {
        actions.push(Action::App);
    }
    if old.config.health != new.config.health {
        actions.push(Action::Health);
    }
    let link = link(old, new);
    if link != Link::Keep || takes_commands(&old.config) != takes_commands(&new.config) {
        actions.push(Action::Listen);
    }
    // The host's name is the same in both.
    let announced = |settings: &Settings| homeassistant::documents(&settings.config, "");
    if old.config.mqtt != new.config.mqtt
        || old.streams != new.streams
        || announced(old) != announced(new)
        || link != Link::Keep
    {
        actions.push(Action::Publish(link));
    }
    if old.config.api != new.config.api || old.streams.open() != new.streams.open() {
        actions.push(Action::Api);
    }
    actions
}

/// Those of `these` that `others` don't have in the same form.
fn missing_in<'d>(others: &'d [Device], these: &'d [Device]) -> impl Iterator<Item = &'d Device> {
    these.iter().filter(|device| !others.contains(device))
}

fn link(old: &Settings, new: &Settings) -> Link {
    let (before, after) = (connection(&old.config.mqtt), connection(&new.config.mqtt));
    match old.password == new.password && before == after {
        true => Link::Keep,
        false if old.password == new.password && admission(&before) == admission(&after) => Link::Replace,
        false => Link::Move,
    }
}

/// `[mqtt]` without the keys that no connection depends on.
fn connection(mqtt: &Mqtt) -> Mqtt {
    Mqtt { inflight: 0, ack_timeout: Duration::ZERO, backfill_rate: 0, budget: None, ..mqtt.clone() }
}

/// What decides, with the password, who lets us in: all but the keys for which no broker turns anybody away. Where it has
/// changed, the next connection may never come, and nobody shall believe us to be there.
fn admission(connection: &Mqtt) -> Mqtt {
    Mqtt { keep_alive: Duration::ZERO, fall_back: None, password_file: None, ..connection.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, Surroundings, parse};
    use std::path::Path;

    fn settings(text: &str) -> Settings {
        let surroundings = Surroundings { host: "pi".to_owned(), ..Surroundings::default() };
        let sources = [Source::new(Path::new("/etc/pillion/gateway.toml"), text)];
        let config = parse(&sources, &surroundings, Path::new("/etc/pillion"), &|_| false).unwrap().config;
        let streams = Streams::new(&config.streams, []);
        Settings { config, password: None, streams }
    }

    /// Behind this one.
    fn next(old: &Settings, text: &str) -> Settings {
        let new = settings(text);
        Settings { streams: old.streams.next(&new.config.streams).unwrap(), ..new }
    }

    fn between(old: &str, new: &str) -> Plan {
        let old = settings(old);
        plan(&old, &next(&old, new))
    }

    fn actions_between(old: &str, new: &str) -> Vec<Action> {
        match between(old, new) {
            Plan::Apply { actions, .. } => actions,
            other => panic!("{other:?}"),
        }
    }

    fn serial(name: &str, rest: &str) -> String {
        format!("[[serial]]\nname = \"{name}\"\npath = \"/dev/{name}\"\n{rest}\n")
    }

    fn device(name: &str, rest: &str) -> Device {
        devices(&settings(&serial(name, rest)).config).next().unwrap()
    }

    #[test]
    fn what_has_not_changed_is_never_touched() {
        let meter = serial("meter", "");
        assert_eq!(between(&meter, &format!("# the same\n{meter}baud = 9600\n")), Plan::Nothing);
        // Only the other device is.
        let (one, two) = (serial("pump", "baud = 300"), serial("pump", "baud = 1200"));
        assert_eq!(
            actions_between(&format!("{meter}{one}"), &format!("{meter}{two}")),
            [Action::StopDevice("pump".to_owned()), Action::StartDevice(Box::new(device("pump", "baud = 1200")))]
        );
    }

    #[test]
    fn a_device_that_moves_in_the_file_never_restarts() {
        let (a, b) = (serial("a", ""), serial("b", ""));
        assert_eq!(actions_between(&format!("{a}{b}"), &format!("{b}{a}")), []);
    }

    #[test]
    fn a_port_is_never_opened_before_its_former_owner_has_let_go() {
        let (old, new) =
            ("[[serial]]\nname = \"a\"\npath = \"/dev/x\"\n", "[[serial]]\nname = \"b\"\npath = \"/dev/x\"\n");
        let actions = actions_between(old, new);
        assert_eq!(actions[0], Action::StopDevice("a".to_owned()));
        assert!(matches!(&actions[1], Action::StartDevice(device) if device.name() == "b"), "{actions:?}");
        assert_eq!(actions.len(), 2);
    }

    #[test]
    fn a_connection_is_never_dropped_for_what_it_does_not_depend_on() {
        let keep = |new: &str| actions_between("", new);
        assert_eq!(keep("[mqtt]\ninflight = 7\nack_timeout = \"7s\""), [Action::Publish(Link::Keep)]);
        assert_eq!(keep("[mqtt]\nbudget = \"1MiB/day\""), [Action::Publish(Link::Keep)]);
        assert_eq!(keep("[mqtt]\nbackfill_rate = 7"), [Action::Streams, Action::Publish(Link::Keep)]);
        assert_eq!(keep("[stream.log]\nmax_age = \"1d\""), [Action::Streams, Action::Publish(Link::Keep)]);
        assert_eq!(keep("[health]\ninterval = \"7s\""), [Action::Health]);
        for key in ["heartbeat_timeout = \"30s\"", "log_level = \"err\"", "log_rate = 7", "recorder = \"1KiB\""] {
            assert_eq!(keep(&format!("[app]\n{key}")), [Action::App]);
        }
    }

    #[test]
    fn a_connection_never_ends_without_a_word_where_the_next_one_may_be_refused() {
        let next = |new: &str| actions_between("", &format!("[mqtt]\n{new}"));
        for welcome in ["keep_alive = \"7s\"", "fall_back = \"7s\""] {
            assert_eq!(next(welcome), [Action::Listen, Action::Publish(Link::Replace)], "{welcome}");
        }
        for stranger in [
            "servers = [\"mqtt://localhost:1884\"]",
            "username = \"other\"",
            "client_id = \"other\"",
            "version = \"5\"",
            "ca_file = \"/etc/other.pem\"",
        ] {
            assert_eq!(next(stranger), [Action::Listen, Action::Publish(Link::Move)], "{stranger}");
        }
    }

    #[test]
    fn the_local_api_never_offers_a_stream_before_all_others_know_it() {
        let keep = [Action::Streams, Action::Publish(Link::Keep), Action::Api];
        let old = settings("[stream.b]\n");
        let Plan::Apply { keys, actions } = plan(&old, &next(&old, "[stream.a]\n")) else { panic!() };
        assert_eq!(actions, keep);
        assert_eq!(keys, ["stream.a (new)", "stream.b (gone)"]);
        // What goes out makes no difference any more.
        let new = next(&old, "[stream.a]\n");
        assert_eq!(plan(&new, &next(&new, "[stream.a]\n")), Plan::Nothing);
        assert_eq!(actions_between("", "[api]\nallow_users = [\"app\"]"), [Action::Api]);
    }

    #[test]
    fn what_home_assistant_knows_is_never_older_than_the_devices() {
        let with = |more: &str| format!("[homeassistant]\nenable = true\n{more}");
        let pump = serial("pump", "");
        let start = Action::StartDevice(Box::new(device("pump", "")));
        assert_eq!(actions_between(&with(""), &with(&pump)), [start, Action::Publish(Link::Keep)]);
        assert_eq!(actions_between("", &with("")), [Action::Publish(Link::Keep)]);
    }

    #[test]
    fn a_new_password_in_the_same_file_never_goes_unnoticed() {
        let old = settings("");
        let new = Settings { password: Some("new".to_owned()), ..old.clone() };
        let keys = vec!["mqtt.password_file (what it holds)".to_owned()];
        let actions = vec![Action::Listen, Action::Publish(Link::Move)];
        assert_eq!(plan(&old, &new), Plan::Apply { keys, actions });
    }

    #[test]
    fn commands_never_wait_for_a_session_that_nobody_has() {
        let new = serial("meter", "commands = {}");
        let actions = actions_between("", &new);
        assert_eq!(actions, [Action::StartDevice(Box::new(device("meter", "commands = {}"))), Action::Listen]);
    }

    #[test]
    fn half_a_configuration_is_never_applied() {
        let new = format!("[spool]\nsync = \"2s\"\n[mqtt]\nkeep_alive = \"7s\"\n{}", serial("meter", ""));
        assert_eq!(between("", &new), Plan::Restart(vec!["spool.sync".to_owned()]));
        for (text, key) in [
            (
                "instance = \"other\"\n[mqtt]\ntopic_prefix = \"pillion/pi/gateway\"\nclient_id = \"pi-gateway\"",
                "instance",
            ),
            ("[mqtt]\ntopic_prefix = \"p\"", "mqtt.topic_prefix"),
            ("[mqtt]\nmax_payload = \"1KiB\"", "mqtt.max_payload"),
            ("[sparkplug]\ngroup = \"g\"\n[stream.mine]\nconvention = \"sparkplug\"", "stream.mine.convention"),
            (
                "[sparkplug]\ngroup = \"g\"\n[stream.telemetry]\nconvention = \"sparkplug\"",
                "stream.telemetry.convention",
            ),
            ("[app]\nunit = \"gw.service\"", "app.unit"),
            ("[app]\ncommands = true", "app.commands"),
            ("[app]\nconfig = true", "app.config"),
            ("[discovery]\nfilter = \"site/+/status\"", "discovery (new)"),
        ] {
            let Plan::Restart(keys) = between("", text) else { panic!("{text}") };
            assert!(keys.contains(&key.to_owned()), "{text}: {keys:?}");
        }
    }
}
