//! rumqttd, which keeps everything in memory.

use crate::broker::{Broker, Keeps, Program};
use crate::matrix;
use std::path::Path;

fn rumqttd() -> Broker {
    let broker = Broker::new(Keeps::Nothing);
    let configuration = [
        "id = 0".to_owned(),
        "[router]".to_owned(),
        "id = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200".to_owned(),
        "max_segment_size = 104857600\nmax_segment_count = 10".to_owned(),
        "[v4.1]".to_owned(),
        format!("name = \"v4-1\"\nlisten = \"{}\"\nnext_connection_delay_ms = 1", broker.address),
        "[v4.1.connections]".to_owned(),
        "connection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 100".to_owned(),
        "dynamic_filters = true".to_owned(),
    ];
    let file = broker.write("rumqttd.toml", &configuration);
    let arguments = ["--quiet", "--config", &file].map(str::to_owned).into();
    // tests/run puts it there.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/rumqttd");
    broker.run(Program { path, arguments, environment: Vec::new() })
}

#[test]
fn a_restart_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(rumqttd());
}
