//! A Modbus bus whose units are somebody else's: pymodbus, from PyPI, which `tests/run` installs.

use super::World;
use crate::common::SOON;
use crate::common::device::Device;
use crate::common::sidecar::Sidecar;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A Python that has pymodbus, where there is one.
pub(super) fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-python/bin/python");
    let has_it = || Command::new(&python).args(["-c", "import pymodbus, serial"]).output().ok();
    has_it().filter(|output| output.status.success())?;
    Some(python)
}

/// The units' process, at the far end of a line that a thread of ours makes of two pseudo terminals.
pub(super) struct Units {
    process: Child,
    stop: Arc<AtomicBool>,
    line: Option<std::thread::JoinHandle<()>>,
}

impl Units {
    pub(super) fn on(python: &Path, near: Device, far: Device) -> Units {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modbus_units.py");
        let mut command = Command::new(python);
        command.arg(script).arg(far.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let line = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                far.write(&near.hear(Duration::from_millis(2)));
                near.write(&far.hear(Duration::from_millis(2)));
            }
        });
        Units { process, stop, line: Some(line) }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.line.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn units_that_others_made_are_never_misread_nor_written_wrongly() {
    let Some(python) = python() else {
        println!("SKIPPED: there is no Python with pymodbus under target/test-python (tests/run installs it)");
        return;
    };
    let world = World::new();
    let mut home = world.home();
    let near = Device::at(home.path("bus"));
    let far = Device::at(home.path("units"));
    let unit = |name: &str, unit: u8, polls: &str| {
        format!("[[modbus.unit]]\nname = \"{name}\"\nunit = {unit}\ncommands = {{}}\n{polls}")
    };
    let poll =
        |name: &str, more: &str| format!("[[modbus.unit.poll]]\nname = \"{name}\"\ninterval = \"100ms\"\n{more}\n");
    let polls = poll("wide", "table = \"input\"\naddress = 10\ntype = \"u32\"")
        + &poll(
            "setpoint",
            "table = \"holding\"\naddress = 5\ntype = \"i16\"\nscale = 0.1\nwrite = true\nverify = true",
        )
        + &poll("pump", "table = \"coil\"\naddress = 1\nwrite = true");
    home.tables = format!("[[modbus]]\nname = \"bus\"\npath = \"{}\"\ntimeout = \"500ms\"\n", near.path().display())
        + &unit("pymodbus-1", 1, &polls)
        + &unit("pymodbus-7", 7, &poll("setpoint", "table = \"holding\"\naddress = 5\nwrite = true"));
    let _units = Units::on(&python, near, far);
    let sidecar = Sidecar::start(home);
    let expect = |device: &str, right: &dyn Fn(&Value) -> bool| {
        let topic = format!("p/device/{device}/data");
        world
            .subscriber
            .expect(&topic, SOON, |inbox| inbox.on(&topic).last().is_some_and(|last| right(&last.envelope["data"])));
    };
    expect("pymodbus-1", &|data| {
        data["wide"] == 110 * 65_536 + 111 && data["setpoint"] == 10.5 && data["pump"] == false
    });
    expect("pymodbus-7", &|data| data["setpoint"] == 505);
    let write = |device: &str, body: &str| {
        let answer = sidecar.request("POST", &format!("/v1/devices/{device}/command"), "", body.as_bytes()).unwrap();
        assert_eq!(answer.code, 200, "{answer:?}");
    };
    write("pymodbus-1", r#"{"setpoint": -21.5}"#);
    write("pymodbus-1", r#"{"pump": true}"#);
    expect("pymodbus-1", &|data| data["setpoint"] == -21.5 && data["pump"] == true);
    expect("pymodbus-7", &|data| data["setpoint"] == 505);
    write("pymodbus-7", r#"{"setpoint": 65535}"#);
    expect("pymodbus-7", &|data| data["setpoint"] == 65_535);
}
