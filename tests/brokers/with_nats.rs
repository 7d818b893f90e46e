//! NATS: MQTT on top of JetStream; one node, and a cluster of three that keeps everything three times.

use crate::broker::{Broker, Keeps, Program};
use crate::common::operator::Operator;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::subscriber::Subscriber;
use crate::common::{LONG, seed};
use crate::matrix::{self, BACK_BY, RECORDS, STATUS};
use fastrand::Rng;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Instant;

/// How often a node is killed.
const KILLS: usize = 3;

fn program(broker: &Broker, name: &str, mqtt: &str, more: &str) -> Program {
    let configuration = [
        format!("server_name: {name}"),
        format!("listen: \"{}\"", broker.port()),
        format!("mqtt {{ listen: \"{}\"{mqtt} }}", broker.address),
        format!("jetstream {{ store_dir: {:?} }}", broker.path("store")),
        more.to_owned(),
    ];
    let arguments = vec!["-c".to_owned(), broker.write("nats.conf", &configuration)];
    Program { path: "nats-server".into(), arguments, environment: Vec::new() }
}

fn nats() -> Broker {
    let broker = Broker::new(Keeps::All);
    let program = program(&broker, "one", "", "");
    broker.run(program)
}

/// Three nodes that know each other.
fn cluster() -> Vec<Broker> {
    let nodes: Vec<_> = (0..3).map(|_| Broker::new(Keeps::All)).collect();
    let inner: Vec<SocketAddr> = nodes.iter().map(Broker::port).collect();
    let routes = inner.iter().map(|address| format!("\"nats://{address}\"")).collect::<Vec<_>>().join(", ");
    let launch = |(number, node): (usize, Broker)| {
        let cluster = format!("cluster {{ name: three, listen: \"{}\", routes: [ {routes} ] }}", inner[number]);
        let program = program(&node, &format!("node-{number}"), ", stream_replicas: 3", &cluster);
        node.launched(program)
    };
    let mut nodes: Vec<_> = nodes.into_iter().enumerate().map(launch).collect();
    nodes.iter_mut().for_each(Broker::expect_answer);
    nodes
}

/// The node that the sidecar is connected to, once it has connected more often than so many times; and how often it has.
fn in_use(sidecar: &Sidecar, nodes: &[Broker], connects: u64) -> (usize, u64) {
    let count = |status: &Value| status["link"]["connects"].as_u64().unwrap();
    let status = sidecar.expect_status("a connection to a node", |status| {
        status["link"]["state"] == "connected" && count(status) > connects
    });
    let server = status["link"]["server"].as_str().unwrap_or_default();
    (nodes.iter().position(|node| url(node) == server).unwrap(), count(&status))
}

fn url(node: &Broker) -> String {
    format!("mqtt://{}", node.address)
}

#[test]
fn a_restart_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(nats());
}

#[test]
fn a_topic_that_it_does_not_know_never_holds_up_the_others() {
    let ledger = matrix::a_topic_never_holds_up_the_others_of(&nats(), "with.dot", 5);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&5.into(), &5.into()), "{ledger}");
}

#[test]
fn a_prefix_with_a_dot_never_goes_without_a_hint() {
    let broker = nats();
    let mut home = Home::new([url(&broker)]);
    home.prefix = "pillion/gw.site.example".to_owned();
    let sidecar = Sidecar::start(home);
    sidecar.expect_status("the hint", |status| {
        let reason = status["link"]["reason"].as_str().unwrap_or_default();
        reason.contains(
            "NATS does so for a topic with a dot, and here is pillion/gw.site.example/status: see mqtt.topic_prefix",
        )
    });
}

#[test]
fn no_death_of_the_node_in_use_ever_costs_a_record() {
    let mut rng = Rng::with_seed(seed());
    let mut nodes = cluster();
    let mut home_of_consumer = rng.usize(..nodes.len());
    let mut consumer = Subscriber::keeping(nodes[home_of_consumer].address, "p/#");
    let mut order: Vec<String> = nodes.iter().map(url).collect();
    rng.shuffle(&mut order);
    let sidecar = Sidecar::start(Home::new(order));
    consumer.expect_latest(STATUS, |status| status["state"] == "online");

    let texts: Vec<String> = (0..RECORDS).map(|number| format!("record {number}")).collect();
    std::thread::scope(|scope| {
        let sidecar = &sidecar;
        scope.spawn(|| texts.chunks(matrix::BATCH).for_each(|batch| sidecar.publish_lines("orders", batch)));
        for kill in 0..KILLS {
            let third = RECORDS / KILLS;
            let moment = kill * third + rng.usize(..third * 3 / 4);
            sidecar.expect_status("the moment of the next kill", |status| matrix::delivered(status) >= moment);
            let (victim, connects) = in_use(sidecar, &nodes, 0);
            if home_of_consumer == victim {
                home_of_consumer = (victim + 1) % nodes.len();
                consumer.connect(nodes[home_of_consumer].address);
            }
            nodes[victim].kill();
            let killed = Instant::now();
            let (survivor, _) = in_use(sidecar, &nodes, connects);
            let away = killed.elapsed();
            println!("node {victim} killed at {moment}; back at node {survivor} after {away:?}");
            assert!(survivor != victim && away < BACK_BY);
            nodes[victim].start();
        }
    });
    matrix::expect_all(&consumer, &sidecar, &texts);
    Operator::at(nodes[home_of_consumer].address).publish("p/device/none/set", "{}", false);
    consumer.expect("what others publish", LONG, |inbox| inbox.latest("p/device/none/set").is_some());
}
