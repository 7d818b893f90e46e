//! rumqttd, which keeps everything in memory.
//!
//! Not with MQTT 5: a listener for 3.1.1 ends with a panic when it has to pass on a message with properties.

use crate::broker::{Broker, Keeps, Program};
use crate::common::authority::Identity;
use crate::matrix;
use std::net::SocketAddr;
use std::path::Path;

/// One with a plain listener for anyone; `door` has the lines of another one for the sidecar.
fn rumqttd(broker: Broker, door: &[String]) -> Broker {
    let mut configuration = vec![
        "id = 0".to_owned(),
        "[router]".to_owned(),
        "id = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200".to_owned(),
        "max_segment_size = 104857600\nmax_segment_count = 10".to_owned(),
    ];
    configuration.extend(listener("v4.plain", broker.address));
    configuration.extend_from_slice(door);
    let file = broker.write("rumqttd.toml", &configuration);
    let arguments = ["--quiet", "--config", &file].map(str::to_owned).into();
    // tests/run puts it there.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/rumqttd");
    broker.run(Program { path, arguments, environment: Vec::new() })
}

fn listener(table: &str, address: SocketAddr) -> Vec<String> {
    vec![
        format!("[{table}]"),
        format!("name = {table:?}\nlisten = \"{address}\"\nnext_connection_delay_ms = 1"),
        format!("[{table}.connections]"),
        "connection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 100".to_owned(),
        "dynamic_filters = true".to_owned(),
    ]
}

#[test]
fn a_restart_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(rumqttd(Broker::new(Keeps::Nothing), &[]));
}

#[test]
fn tls_never_costs_a_record_or_a_command() {
    let mut broker = Broker::new(Keeps::Nothing);
    let Identity { cert, key } = broker.by_tls();
    let mut door = listener("v4.tls", broker.door.address);
    door.push(format!("[v4.tls.tls]\ncertpath = {cert:?}\nkeypath = {key:?}"));
    matrix::nothing_is_ever_lost_over_a_restart_of(rumqttd(broker, &door));
}
