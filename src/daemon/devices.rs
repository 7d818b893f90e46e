//! The devices' tasks: one for each device that is configured, and what the other flows have to know of them.

use crate::command::Order;
use crate::config::modbus::{Bus, Unit};
use crate::config::{Commands, Direction, Gpio, Serial};
use crate::device::gpio::cdev::Cdev;
use crate::device::gpio::counter::Keep;
use crate::device::gpio::liveness::{Liveness, Missing};
use crate::device::{self, Wiring};
use crate::disk::{Disk, FileSystem as _, replace};
use crate::host;
use crate::pulse::Heart;
use crate::record::Submission;
use crate::stats::{AppStatus, DeviceStatus, LinkState, LinkStatus, TraceRequest};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The devices of the configuration.
pub(super) struct Configured {
    pub(super) serial: Vec<Serial>,
    pub(super) modbus: Vec<Bus>,
    pub(super) gpio: Vec<Gpio>,
}

/// What the tasks stand on.
pub(super) struct Ground<'d> {
    pub(super) submissions: &'d mpsc::Sender<Submission>,
    /// Questions for the last bytes of the serial devices, by name.
    pub(super) asked: BTreeMap<String, mpsc::Receiver<TraceRequest>>,
    pub(super) link: watch::Receiver<LinkStatus>,
    pub(super) app: watch::Receiver<AppStatus>,
    pub(super) runtime_dir: &'d Path,
    pub(super) state_dir: &'d Path,
    pub(super) heart: &'d mut Heart,
    pub(super) stop: &'d watch::Receiver<bool>,
    pub(super) sources: &'d mut JoinSet<&'static str>,
}

/// What the other flows have to know of the devices.
#[derive(Default)]
pub(super) struct Devices {
    /// What each says of itself.
    pub(super) shown: Vec<(String, watch::Receiver<DeviceStatus>)>,
    /// What each allows.
    pub(super) rules: BTreeMap<String, Option<Commands>>,
    /// Those that take commands.
    pub(super) orders_to: BTreeMap<String, mpsc::Sender<Order>>,
}

/// Starts every device's task.
pub(super) fn start(configured: Configured, mut ground: Ground<'_>) -> Devices {
    let mut devices = Devices::default();
    for serial in configured.serial {
        let traces = ground.asked.remove(&serial.name);
        let wiring = devices.wire(&serial.name, "serial", serial.commands.as_ref(), traces, &mut ground);
        ground.sources.spawn(async move {
            device::serial::run(serial, wiring).await;
            "device"
        });
    }
    for bus in configured.modbus {
        let wiring = devices.wire(&bus.name, "modbus", None, None, &mut ground);
        let mut unit = |unit: &Unit| {
            let (orders, status) = devices.add(&unit.name, "modbus-unit", unit.commands.as_ref());
            device::modbus::UnitWiring { orders, status }
        };
        let units = bus.units.iter().map(&mut unit).collect();
        ground.sources.spawn(async move {
            device::modbus::run(bus, wiring, units).await;
            "device"
        });
    }
    let liveness = (!configured.gpio.is_empty()).then(|| liveness(ground.link.clone(), ground.app.clone()));
    for gpio in configured.gpio {
        let Some(liveness) = liveness.clone() else { break };
        let commands = match &gpio.direction {
            Direction::Input(_) => None,
            Direction::Output(output) => output.commands.as_ref(),
        };
        let wiring = devices.wire(&gpio.name, "gpio", commands, None, &mut ground);
        let keep = Keep {
            runtime_dir: ground.runtime_dir.to_owned(),
            state_dir: ground.state_dir.to_owned(),
            replace: replace_file,
        };
        ground.sources.spawn(async move {
            device::gpio::run(gpio, wiring, Cdev, keep, liveness).await;
            "device"
        });
    }
    devices
}

impl Devices {
    /// A new device's ends of its channels.
    fn add(
        &mut self,
        name: &str,
        kind: &str,
        commands: Option<&Commands>,
    ) -> (mpsc::Receiver<Order>, watch::Sender<DeviceStatus>) {
        let (status, shown) = watch::channel(DeviceStatus::closed(kind, host::now().wall_ms));
        let (to_device, orders) = mpsc::channel(device::ORDERS);
        self.shown.push((name.to_owned(), shown));
        self.rules.insert(name.to_owned(), commands.cloned());
        if commands.is_some() {
            self.orders_to.insert(name.to_owned(), to_device);
        }
        (orders, status)
    }

    /// A new device that has a task of its own.
    fn wire(
        &mut self,
        name: &str,
        kind: &str,
        commands: Option<&Commands>,
        traces: Option<mpsc::Receiver<TraceRequest>>,
        ground: &mut Ground<'_>,
    ) -> Wiring {
        let (orders, status) = self.add(name, kind, commands);
        Wiring {
            orders,
            traces: traces.unwrap_or_else(|| mpsc::channel(1).1),
            submissions: ground.submissions.clone(),
            status,
            clock: host::now,
            pulse: ground.heart.pulse(format!("device {name}")),
            stop: ground.stop.clone(),
        }
    }
}

/// Replaces a file as a whole, in a folder that is made if need be.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        Disk.create_dir_all(folder)?;
    }
    replace(&Disk, path, content)
}

/// What outputs depend on: the link, and the application where it is watched. That one is not known does not make it missing.
fn liveness(mut link: watch::Receiver<LinkStatus>, mut app: watch::Receiver<AppStatus>) -> Liveness {
    let link_is_missing = |link: &LinkStatus| !matches!(link.state, LinkState::Connected | LinkState::Draining);
    let missing = move |link: &LinkStatus, app: &AppStatus| {
        let app_is_missing = app.is_lost().then_some(Missing::App);
        app_is_missing.or_else(|| link_is_missing(link).then_some(Missing::Link))
    };
    let (tell, told) = watch::channel(missing(&link.borrow_and_update(), &app.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            let change = tokio::select! {
                change = link.changed() => change,
                change = app.changed() => change,
            };
            if change.is_err() {
                return;
            }
            let now = missing(&link.borrow_and_update(), &app.borrow_and_update());
            tell.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
    });
    Liveness::new(told)
}
