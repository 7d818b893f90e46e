//! What differs between two configurations, by the names of keys.
//!
//! Both are taken as [`Config::to_toml`] prints them, which is a line for every key that counts. So a new key needs nothing
//! here, and no value is told, only names: `mqtt.keep_alive`, `serial.meter.baud`, and for a whole table `serial.meter (new)`.

use super::Config;
use std::collections::{BTreeMap, BTreeSet};

/// Every table with its keys and their values, as printed.
type Tables = BTreeMap<String, BTreeMap<String, String>>;

impl Config {
    /// The keys that differ in `other`, in the order of their names.
    pub fn differences(&self, other: &Config) -> Vec<String> {
        let (old, new) = (tables(&self.to_toml()), tables(&other.to_toml()));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let mut differences = Vec::new();
        // A whole table stands for those below it.
        let mut whole: Option<String> = None;
        for name in names {
            if whole.as_ref().is_some_and(|whole| name.starts_with(&format!("{whole}."))) {
                continue;
            }
            match (old.get(name), new.get(name)) {
                (Some(old), Some(new)) => {
                    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
                    differences.extend(differing.map(|key| dotted(name, key)));
                }
                (before, _) => {
                    let what = if before.is_none() { "new" } else { "gone" };
                    differences.push(format!("{name} ({what})"));
                    whole = Some(name.clone());
                }
            }
        }
        differences
    }
}

fn tables(text: &str) -> Tables {
    let mut tables = Tables::new();
    let mut table = String::new();
    // The list that the present element is of, and the names of the elements that it is in: of `[[modbus]]`, of
    // `[[modbus.unit]]` in it.
    let (mut list, mut names): (&str, Vec<String>) = ("", Vec::new());
    let mut is_new = false;
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            if root(header) != root(list) {
                names.clear();
            }
            (list, is_new) = (header, true);
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (table, is_new) = (name.to_owned(), false);
        } else if let Some((key, value)) = line.split_once(" = ") {
            if std::mem::take(&mut is_new) {
                names.truncate(list.split('.').count() - 1);
                let element = match key {
                    "name" | "key" => {
                        names.push(value.trim_matches('"').to_owned());
                        names.iter().fold(root(list).to_owned(), |table, name| format!("{table}.{name}"))
                    }
                    _ => list.to_owned(),
                };
                // Those without a name of their own are counted.
                let mut numbered = (1..).map(|number| format!("{element}[{number}]"));
                let free = |name: &String| !tables.contains_key(name);
                table = Some(element.clone()).filter(free).or_else(|| numbered.find(free)).unwrap_or(element);
            }
            tables.entry(table.clone()).or_default().insert(key.to_owned(), value.to_owned());
        }
    }
    tables
}

fn root(list: &str) -> &str {
    list.split('.').next().unwrap_or_default()
}

fn dotted(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

#[cfg(test)]
mod tests {
    use crate::config::{Source, Surroundings, parse};
    use std::path::Path;

    fn differences(old: &str, new: &str) -> Vec<String> {
        let config = |text| {
            let surroundings = Surroundings { host: "pi".to_owned(), ..Surroundings::default() };
            let sources = [Source::new(Path::new("/etc/pillion/gateway.toml"), text)];
            parse(&sources, &surroundings, Path::new("/etc/pillion"), &|_| false).unwrap().config
        };
        config(old).differences(&config(new))
    }

    const METER: &str = "[[serial]]\nname = \"meter\"\npath = \"/dev/meter\"\n";
    const BUS: &str = "[[modbus]]\nname = \"bus\"\npath = \"/dev/bus\"\n[[modbus.unit]]\nname = \"inverter\"\nunit = 1\n\
        [[modbus.unit.poll]]\nname = \"power\"\ntable = \"input\"\naddress = 1\ninterval = \"1s\"\n";

    #[test]
    fn what_is_said_twice_in_other_words_never_differs() {
        let old = "[mqtt]\nkeep_alive = \"60s\"\n";
        assert_eq!(differences(old, "# a comment\nmqtt.keep_alive = \"1m\"\nhealth = {}\n"), Vec::<String>::new());
        assert_eq!(differences(METER, &format!("{METER}baud = 9600\n")), Vec::<String>::new());
    }

    #[test]
    fn a_key_that_differs_is_never_left_unnamed() {
        let new = format!("[mqtt]\nusername = \"gw\"\ninflight = 7\n{METER}baud = 300\n");
        assert_eq!(differences(METER, &new), ["mqtt.inflight", "mqtt.username", "serial.meter.baud"]);
        assert_eq!(differences("", "[stream.mine]\n"), ["stream.mine (new)"]);
        assert_eq!(differences("instance = \"a\"", "instance = \"a\"\nstate_dir = \"/x\""), ["state_dir"]);
    }

    #[test]
    fn what_has_no_name_is_never_taken_for_another() {
        let sensor = |field: &str, unit: &str| {
            format!(
                "[[homeassistant.sensor]]\ndevice = \"meter\"\nfield = \"{field}\"\nunit_of_measurement = \"{unit}\"\n"
            )
        };
        let old = format!("{METER}{BUS}{}{}", sensor("a", "V"), sensor("b", "A"));
        let new = format!("{METER}{BUS}{}{}", sensor("a", "mV"), sensor("b", "A"));
        assert_eq!(differences(&old, &new), ["homeassistant.sensor.unit_of_measurement"]);
        let new = format!("{METER}{BUS}{}{}", sensor("a", "V"), sensor("b", "mA"));
        assert_eq!(differences(&old, &new), ["homeassistant.sensor[1].unit_of_measurement"]);
    }

    #[test]
    fn a_device_that_comes_or_goes_never_takes_more_than_a_word() {
        assert_eq!(differences("", METER), ["serial.meter (new)"]);
        assert_eq!(differences(&format!("{METER}{BUS}"), METER), ["modbus.bus (gone)"]);
        let scaled = format!("{BUS}scale = 0.1\n");
        assert_eq!(differences(BUS, &scaled), ["modbus.bus.inverter.power.scale"]);
    }
}
