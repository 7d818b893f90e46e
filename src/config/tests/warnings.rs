//! What is allowed and has to be said all the same.

use super::{parsed_in, surroundings, warnings};
use crate::config::{Loaded, Surroundings};
use std::path::Path;

#[test]
fn plain_mqtt_over_a_network_never_goes_without_a_warning() {
    let told = warnings(
        "[mqtt]\nservers = [\"mqtt://localhost\", \"mqtt://127.0.0.9\", \"mqtt://[::1]:1\", \"mqtt://127.evil.example\"]",
    );
    assert_eq!(
        told,
        [
            "gateway.toml:2:70: mqtt.servers[3]: plain MQTT to a remote host: all that goes to 127.evil.example and comes \
          back, the password too, can be read and changed on the way; write mqtts:// for TLS, or use it only on a \
          network that you trust"
        ]
    );
}

#[test]
fn a_server_is_never_in_the_list_twice() {
    let text = "[mqtt]\nservers = [\"mqtt://localhost\", \"MQTT://localhost:1883\"]";
    assert_eq!(warnings(text), ["gateway.toml:2:32: mqtt.servers[1]: is in the list already; it is used once"]);
    assert_eq!(parsed_in(&surroundings(), text).unwrap().config.mqtt.servers.len(), 1);
}

#[test]
fn a_batch_that_costs_flash_never_goes_without_a_warning() {
    let said = "gateway.toml:2:9: stream.log.batch: records wait up to \"5s\" for their batch, and what has waited for \
                spool.sync (\"1s\") is written to flash; make delay shorter or spool.sync longer, if flash shall be spared";
    assert_eq!(warnings("[stream.log]\nbatch = {}"), [said]);
    for quiet in [
        "[stream.log]\nbatch = { delay = \"999ms\" }",
        "[stream.log]\nbatch = {}\n[spool]\nsync = \"always\"",
        "[stream.log]\nbatch = {}\n[spool]\nsync = \"6s\"",
    ] {
        assert_eq!(warnings(quiet), [""; 0]);
    }
}

#[test]
fn keys_for_tls_never_stand_unused_without_a_warning() {
    let told = warnings("[mqtt]\nca_file = \"ca.pem\"\nservers = [\"mqtt://localhost\"]");
    assert_eq!(
        told,
        ["gateway.toml:2:11: mqtt.ca_file: is not used: no server has mqtts:// or wss://, so nothing is encrypted"]
    );
    let none: [String; 0] = [];
    assert_eq!(warnings("[mqtt]\nca_file = \"ca.pem\"\nservers = [\"mqtts://broker.example\"]"), none);
}

#[test]
fn a_framing_that_one_lost_byte_breaks_never_goes_without_a_warning() {
    let told = |framing: &str| {
        warnings(&format!("[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = {{ kind = {framing} }}")).join("\n")
    };
    let warning = "gateway.toml:4:20: serial.a.framing.kind: after one lost byte every frame is wrong until the port is \
                   opened again; give crc if the device sends one, or idle if it pauses between frames";
    for framing in ["\"length-prefixed\"", "\"fixed\", size = 9"] {
        assert_eq!(told(framing), warning);
        assert_eq!(told(&format!("{framing}, idle = \"1s\"")), "");
        assert_eq!(told(&format!("{framing}, crc = \"crc32\"")), "");
    }
}

#[test]
fn a_host_name_never_smuggles_a_level_or_a_wildcard_into_a_topic() {
    let surroundings = Surroundings { host: "a/b+#{host}\0".to_owned(), ..surroundings() };
    let Loaded { config, warnings } = parsed_in(&surroundings, "[mqtt]\nclient_id = \"fixed\"").unwrap();
    assert_eq!(config.mqtt.topic_prefix, "pillion/a-b---host--/gateway");
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "gateway.toml:1:2: mqtt.topic_prefix: the host name \"a/b+#{host}\\0\" does not fit into a topic; {host} stands \
          for \"a-b---host--\""
        ]
    );
}

#[test]
fn the_option_for_the_instance_never_beats_the_file() {
    let surroundings = Surroundings { instance: Some("option".to_owned()), ..surroundings() };
    assert_eq!(parsed_in(&surroundings, "").unwrap().config.instance, "option");
    let Loaded { config, warnings } = parsed_in(&surroundings, "instance = \"file\"").unwrap();
    assert_eq!(config.instance, "file");
    // The unit's folders have its name.
    assert_eq!(config.state_dir, Path::new("/var/lib/pillion/option"));
    assert_eq!(config.apply_dir, Path::new("/var/lib/pillion-apply/option"));
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["gateway.toml:1:12: instance: is used, and --instance \"option\" is not; make them the same"]
    );
}
