//! From the merged tree to the result: the small sections, and the whole.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::tree::{Place, Table, Value};
use super::units::{duration_text, size_text};
use super::{
    Config, Gpio, Serial, Surroundings, api, app, batch, discovery, gpio, health, homeassistant, keys, managed, modbus,
    mqtt, serial, sparkplug, streams, values,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[spool]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// When records reach flash.
    pub sync: Sync,
    /// Size of a segment in bytes, 64 KiB to 64 MiB (default 1 MiB).
    pub segment_bytes: u64,
}

/// `spool.sync`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// fdatasync before a record counts as accepted.
    Always,
    /// Records that the broker has not acknowledged after this long are committed to flash together (default 1 s).
    After(Duration),
}

/// What the configuration depends on besides its text.
pub(super) struct Context<'c> {
    pub(super) surroundings: &'c Surroundings,
    /// Name of the main file without its folder and `.toml`.
    pub(super) stem: &'c str,
    /// Absolute; relative paths of the configuration start here.
    pub(super) folder: &'c Path,
    /// Whether a file is there.
    pub(super) is_file: &'c dyn Fn(&Path) -> bool,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
/// unix(7): the path of a socket has 108 bytes with its NUL; `/pillion.sock` takes 13 of them.
const LONGEST_RUNTIME_DIR: usize = 94;

/// The whole configuration. It is valid if `report` has no problem at the end.
pub(super) fn read(table: &Table, report: &mut Report<'_>, context: &Context<'_>) -> Config {
    let root = Section::root(table);
    root.refuse_unknown(report);
    let instance = instance(&root, report, context);
    // As the unit has it: its folders have this name, whatever the instance is called.
    let unit = context.surroundings.instance.as_deref().unwrap_or(&instance);
    let (state_dir, runtime_dir) = directories(&root, report, context, unit);
    let mqtt = mqtt::read(&root, report, context, &instance);
    let spool_section = root.section(report, &keys::SPOOL, "spool", "[spool] and its keys below");
    let spool = spool(&spool_section, report);
    let mut taken = serial::Taken::default();
    let app = app::read(&root, report);
    let apply_dir = root.read(report, "apply_dir", |value| {
        values::absolute_path(values::text(value)?, "/var/lib/pillion-apply/gateway")
    });
    let streams = streams::read(&root, report, &spool_section, spool.segment_bytes, spool.sync);
    let serial = serial::read(&root, report, mqtt.max_payload, &mut taken);
    let modbus = modbus::read(&root, report, mqtt.max_payload, &mut taken);
    let gpio = gpio::read(&root, report, &mut taken.names);
    let homeassistant = homeassistant::read(&root, report, &devices(&serial, &modbus, &gpio));
    if homeassistant.enable {
        batch::refuse_for_homeassistant(&root, report, &streams);
    }
    Config {
        sparkplug: sparkplug::read(&root, report, context, &instance, &streams, &homeassistant),
        homeassistant,
        discovery: discovery::read(&root, report),
        managed_files: managed::read(&root, report, app.unit.as_deref()),
        apply_dir: apply_dir.unwrap_or_else(|| Path::new("/var/lib/pillion-apply").join(unit)),
        app,
        streams,
        serial,
        modbus,
        gpio,
        health: health::read(&root, report),
        api: api::read(&root, report),
        instance,
        state_dir,
        runtime_dir,
        mqtt,
        spool,
    }
}

/// Every device that has values, and how they can be named.
fn devices<'d>(
    serial: &'d [Serial],
    modbus: &'d [modbus::Bus],
    gpio: &'d [Gpio],
) -> Vec<(&'d str, homeassistant::Values)> {
    use homeassistant::Values;
    let names = |unit: &modbus::Unit| unit.polls.iter().map(|poll| poll.name.clone()).collect();
    let units = modbus.iter().flat_map(|bus| &bus.units);
    let serial = serial.iter().map(|device| (device.name.as_str(), Values::Any));
    let units = units.map(|unit| (unit.name.as_str(), Values::Named(names(unit))));
    let lines = gpio.iter().map(|line| (line.name.as_str(), Values::None));
    serial.chain(units).chain(lines).collect()
}

fn instance(root: &Section<'_>, report: &mut Report<'_>, context: &Context<'_>) -> String {
    let option = context.surroundings.instance.as_deref();
    let (default, origin) = match option {
        Some(option) => (option, "--instance"),
        None => (context.stem, "the name of the file"),
    };
    if !root.has("instance") {
        if let Err(problem) = values::instance(default) {
            let message = format!("{problem} (it comes from {origin}); give another with instance = \"…\"");
            report.conclusion(Place::MAIN, "instance".to_owned(), message);
        }
        return default.to_owned();
    }
    let given = root.read(report, "instance", |value| values::instance(values::text(value)?)).unwrap_or_default();
    if let Some(option) = option
        && option != given
    {
        let message = format!("is used, and --instance {} is not; make them the same", values::quoted(option));
        report.warning(root.place("instance"), "instance".to_owned(), message);
    }
    given.to_owned()
}

fn directories(root: &Section<'_>, report: &mut Report<'_>, context: &Context<'_>, unit: &str) -> (PathBuf, PathBuf) {
    let mut directory = |key: &str, variable: &str, given: Option<&PathBuf>, parent: &str| {
        let default = Path::new(parent).join(unit);
        let example = default.to_string_lossy();
        if root.has(key) {
            let read = |value| values::absolute_path(values::text(value)?, &example);
            return root.read(report, key, read).unwrap_or(default);
        }
        let Some(given) = given else { return default };
        match values::absolute_path(&given.to_string_lossy(), &example) {
            Ok(_) => given.clone(),
            Err(problem) => {
                report.problem(Place::MAIN, key.to_owned(), format!("{problem} (it comes from ${variable})"));
                default
            }
        }
    };
    let surroundings = context.surroundings;
    let state_dir =
        directory("state_dir", "STATE_DIRECTORY", surroundings.state_directory.as_ref(), "/var/lib/pillion");
    let runtime_dir =
        directory("runtime_dir", "RUNTIME_DIRECTORY", surroundings.runtime_directory.as_ref(), "/run/pillion");
    let length = runtime_dir.as_os_str().len();
    if length > LONGEST_RUNTIME_DIR {
        let message = format!(
            "has {length} bytes, too many for the path of a socket in it; give one of at most {LONGEST_RUNTIME_DIR}"
        );
        report.problem(root.place("runtime_dir"), "runtime_dir".to_owned(), message);
    }
    if state_dir == runtime_dir {
        let message = "is the same as state_dir; give two, for one survives power cuts and the other does not";
        report.conclusion(root.place("runtime_dir"), "runtime_dir".to_owned(), message.to_owned());
    }
    (state_dir, runtime_dir)
}

fn spool(section: &Section<'_>, report: &mut Report<'_>) -> Spool {
    section.refuse_unknown(report);
    let sync = section.read(report, "sync", |value| match value {
        Value::Text(text) if text == "always" => Ok(Sync::Always),
        Value::Text(text) if !text.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(format!("{} is not known; write \"always\" or a duration such as \"1s\"", values::quoted(text)))
        }
        value => values::duration(value, Duration::from_millis(10)..=HOUR, "1s").map(Sync::After),
    });
    let segment_bytes = section.read(report, "segment_bytes", |value| values::size(value, 64 * KIB..=64 * MIB, "1MiB"));
    Spool { sync: sync.unwrap_or(Sync::After(Duration::from_secs(1))), segment_bytes: segment_bytes.unwrap_or(MIB) }
}

impl Spool {
    /// The section as TOML.
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[spool]");
        match self.sync {
            Sync::Always => out.text("sync", "always"),
            Sync::After(window) => out.text("sync", &duration_text(window)),
        }
        out.text("segment_bytes", &size_text(self.segment_bytes));
    }
}
