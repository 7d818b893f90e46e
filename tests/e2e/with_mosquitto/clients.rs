//! The clients of `tests/clients`, which the README points to, against the real binary: each publishes a record, says that it is
//! alive, and reads commands as a stream.

use crate::common::SOON;
use crate::common::mosquitto::Mosquitto;
use crate::common::operator::Operator;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::subscriber::Subscriber;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("SKIPPED: {program} is missing");
    }
    there
}

/// What a client, begun with these words, does against a real sidecar.
fn works(client: &[&str]) {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::at(broker.address());
    let mut home = Home::new([format!("mqtt://{}", broker.address())]);
    home.tables += "[app]\ncommands = true\nheartbeat_timeout = \"60s\"\n";
    let sidecar = Sidecar::start(home);
    let socket = sidecar.home.socket();
    let run = |words: &[&str]| {
        let mut command = Command::new(client[0]);
        command.args(&client[1..]).arg(&socket).args(words).stdin(Stdio::null());
        command
    };
    let published = run(&["publish"]).output().unwrap();
    assert!(published.status.success(), "{published:?}");
    assert!(String::from_utf8_lossy(&published.stdout).contains('1'), "{published:?}");
    subscriber.expect("the record", SOON, |inbox| inbox.count("p/app/room/2") == 1);
    let seen = subscriber.read(|inbox| inbox.on("p/app/room/2").next().unwrap().envelope.clone());
    assert_eq!(seen["data"]["celsius"], 22.5, "{seen}");
    let beat = run(&["beat"]).output().unwrap();
    assert!(beat.status.success(), "{beat:?}");
    let heartbeat = |status: &serde_json::Value| status["api"]["requests"]["POST /v1/heartbeat"]["ok"] == 1;
    sidecar.expect_status("the heartbeat", heartbeat);

    sidecar.expect_status("the subscription", |status| status["health"]["state"] == "healthy");
    let mut reader = Running(run(&["commands"]).stdout(Stdio::piped()).spawn().unwrap());
    let (tell, told) = mpsc::channel();
    let lines = BufReader::new(reader.0.stdout.take().unwrap()).lines();
    let ears = std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| {
            let _ = tell.send(line);
        });
    });
    let mut operator = Operator::at(broker.address());
    for mode in ["night", "day"] {
        // The next one is sent when this one has been read: a client that waits for the end would never show it.
        operator.publish("p/app/set/mode", format!("\"{mode}\""), false);
        let line = told.recv_timeout(SOON).unwrap();
        assert!(line.contains("mode") && line.contains(mode), "{line}");
    }
    operator.leave();
    drop(reader);
    ears.join().unwrap();
    // A client that has gone leaves nothing behind.
    sidecar.expect_status("the end of the stream", |status| status["api"]["open"] == 1);
    assert!(!run(&["commands", "x"]).stderr(Stdio::null()).output().unwrap().status.success());
}

#[test]
fn a_client_in_shell_never_stops_working() {
    if is_there("curl") {
        works(&["sh", &format!("{CLIENTS}/client.sh")]);
    }
}

#[test]
fn a_client_in_python_never_stops_working() {
    if is_there("python3") {
        works(&["python3", &format!("{CLIENTS}/client.py")]);
    }
}

#[test]
fn a_client_in_node_never_stops_working() {
    if is_there("node") {
        works(&["node", &format!("{CLIENTS}/client.js")]);
    }
}

#[test]
fn a_client_in_c_never_stops_working() {
    if is_there("cc") {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("client");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&binary);
        assert!(cc.arg(Path::new(CLIENTS).join("client.c")).status().unwrap().success());
        works(&[binary.to_str().unwrap()]);
    }
}
