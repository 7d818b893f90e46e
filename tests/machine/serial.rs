//! A serial device behind a USB adapter, which is pulled and plugged in again.

use crate::common::SOON;
use crate::gateway::{Gateway, SIDECAR};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn an_adapter_that_is_pulled_never_stays_away_or_takes_pillion_along() {
    let Some(gateway) = Gateway::install() else { return };
    let machine = &gateway.machine;
    let plugged = machine.plug_in();
    let path = machine.expect("the adapter's name", "ls /dev/serial/by-id/*");
    drop(plugged);
    machine.expect("the adapter to be gone", "! test -e /dev/ttyUSB0");
    // The adapter that comes later is the first of its kind that the kernel hears of.
    machine.shell("modprobe -r ftdi_sio usbserial && ! grep ttyUSB /proc/devices");
    let commands = "commands = { allow = [\"*\"] }";
    gateway.configure(
        "sync = \"1s\"",
        &format!("[[serial]]\nname = \"meter\"\npath = {path:?}\nbaud = 9600\n{commands}\n"),
    );
    gateway.start();
    gateway.expect_device("meter", "offline");
    let descriptors = format!("ls /proc/$(systemctl show -P MainPID {SIDECAR})/fd | wc -l");
    let process = gateway.property("MainPID");
    let mut open = Vec::new();

    for round in 1..=6 {
        let mut far_end = machine.plug_in();
        gateway.expect_device("meter", "online");
        let lines: Vec<String> = (0..20).map(|number| format!("round {round} line {number}")).collect();
        far_end.write_all((lines.join("\r\n") + "\r\n").as_bytes()).unwrap();
        gateway.subscriber.expect_texts("telemetry", lines, SOON);
        gateway.command("meter", &format!("SET {round}"));
        let mut line = String::new();
        BufReader::new(&far_end).read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), format!("SET {round}"));
        // A last line that has no time to get across whole.
        far_end.write_all(b"torn").unwrap();
        drop(far_end);
        gateway.expect_device("meter", "offline");
        machine.expect("the adapter to be gone", "! test -e /dev/ttyUSB0");
        open.push(machine.shell(&descriptors));
    }
    assert_eq!(gateway.property("MainPID"), process, "pillion was not restarted");
    // The spool opens files for the first records.
    assert!(open.windows(2).all(|pair| pair[0] == pair[1]), "descriptors are left over: {open:?}");
    let status = gateway.status();
    assert_eq!(status["devices"]["meter"]["opens"], 6, "{status:#}");
    gateway.subscriber.read(|inbox| {
        let texts: Vec<_> = inbox.on("p/device/meter/data").map(|arrival| &arrival.envelope["data"]).collect();
        assert_eq!(texts.len(), 6 * 20, "nothing is invented, and nothing comes twice: {texts:?}");
        assert!(texts.iter().all(|text| matches!(text, Value::String(_))), "{texts:?}");
    });
}

#[test]
fn an_adapter_that_is_pulled_in_the_middle_of_a_flow_never_tears_a_line() {
    let Some(gateway) = Gateway::install() else { return };
    let machine = &gateway.machine;
    let path = {
        let _plugged = machine.plug_in();
        machine.expect("the adapter's name", "ls /dev/serial/by-id/*")
    };
    machine.expect("the adapter to be gone", "! test -e /dev/ttyUSB0");
    gateway.configure("sync = \"1s\"", &format!("[[serial]]\nname = \"meter\"\npath = {path:?}\nbaud = 115200\n"));
    gateway.start();
    let process = gateway.property("MainPID");
    let topic = "p/device/meter/data";
    let mut sent = Vec::new();
    for round in 1..=5 {
        let far_end = machine.plug_in();
        gateway.expect_device("meter", "online");
        let pulled = AtomicBool::new(false);
        // Lines go on while the adapter is pulled; how many of the last ones have left it then, nobody knows.
        sent.push(std::thread::scope(|scope| {
            let flow = scope.spawn(|| {
                let lines = (1..).map(|number| format!("round {round} line {number}"));
                let send = |line: &String| (&far_end).write_all(format!("{line}\r\n").as_bytes()).is_ok();
                lines.take_while(|line| !pulled.load(Ordering::Relaxed) && send(line)).collect::<Vec<_>>()
            });
            let first = format!("round {round} line 50");
            gateway.subscriber.expect("the flow", SOON, |inbox| inbox.on(topic).any(|one| one.text() == first));
            far_end.shutdown(Shutdown::Both).unwrap();
            pulled.store(true, Ordering::Relaxed);
            flow.join().unwrap()
        }));
        drop(far_end);
        gateway.expect_device("meter", "offline");
        machine.expect("the adapter to be gone", "! test -e /dev/ttyUSB0");
    }
    gateway.expect_status("all to be delivered", |status| status["streams"]["telemetry"]["waiting"] == 0);
    gateway.subscriber.flush();
    gateway.subscriber.read(|inbox| {
        inbox.assert_in_order();
        let came: Vec<&str> = inbox.on(topic).map(|one| one.text()).collect();
        let mut rest = &came[..];
        for lines in &sent {
            let whole = rest.iter().zip(lines).take_while(|(came, sent)| *came == sent).count();
            assert!(whole >= 50, "after {whole} of {} lines came {:?}", lines.len(), rest.get(whole));
            println!("{whole} of {} lines came before the adapter was gone", lines.len());
            rest = &rest[whole..];
        }
        assert!(rest.is_empty(), "these are not what was sent, or came again: {rest:?}");
    });
    assert_eq!(gateway.property("MainPID"), process, "pillion was not restarted");
}
