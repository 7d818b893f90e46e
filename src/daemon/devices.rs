//! The devices' tasks: one for each device that is configured, and the roster of them for the other flows.

use super::plan::Device;
use crate::command::Order;
use crate::config::modbus::Unit;
use crate::config::{Commands, Direction};
use crate::device::gpio::cdev::Cdev;
use crate::device::gpio::counter::Keep;
use crate::device::gpio::liveness::{Liveness, Missing};
use crate::device::{self, Wiring};
use crate::disk::{Disk, FileSystem as _, replace};
use crate::host;
use crate::pulse::Heart;
use crate::record::Submission;
use crate::roster::{Member, Roster};
use crate::stats::{AppStatus, DeviceStatus, LinkState, LinkStatus, TraceRequest};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::timeout;

/// What the tasks stand on.
pub(super) struct Ground {
    pub(super) submissions: mpsc::Sender<Submission>,
    pub(super) link: watch::Receiver<LinkStatus>,
    pub(super) app: watch::Receiver<AppStatus>,
    pub(super) runtime_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) heart: Heart,
}

/// The tasks, by the names of their devices.
pub(super) struct Devices {
    ground: Ground,
    /// Made with the first line that depends on it.
    liveness: Option<Liveness>,
    running: BTreeMap<String, Running>,
    /// Those that were told to end and have not yet.
    ending: HashMap<Id, (String, Running)>,
    tasks: JoinSet<()>,
    /// Whether one has ended that nobody had told to.
    is_broken: bool,
    /// Tells the other flows.
    roster: watch::Sender<Roster>,
}

/// A device's task.
struct Running {
    stop: watch::Sender<bool>,
    task: AbortHandle,
    /// The device as the others see it; a bus with its units.
    members: Vec<Member>,
}

impl Devices {
    /// None yet. They are told to `roster`.
    pub(super) fn new(ground: Ground, roster: watch::Sender<Roster>) -> Self {
        Devices {
            ground,
            liveness: None,
            running: BTreeMap::new(),
            ending: HashMap::new(),
            tasks: JoinSet::new(),
            is_broken: false,
            roster,
        }
    }

    /// Starts a device's task. The other flows hear of it with [`Devices::announce`].
    pub(super) fn start(&mut self, device: Device) {
        let name = device.name().to_owned();
        let (stop, stopped) = watch::channel(false);
        let mut members = Vec::new();
        let (asks, asked) = mpsc::channel(1);
        let task = match device {
            Device::Serial(serial) => {
                let wiring =
                    self.wire(&name, "serial", serial.commands.as_ref(), Some((asks, asked)), stopped, &mut members);
                self.tasks.spawn(device::serial::run(serial, wiring))
            }
            Device::Modbus(bus) => {
                let wiring = self.wire(&name, "modbus", None, None, stopped, &mut members);
                let mut unit = |unit: &Unit| {
                    let (member, orders, status) = member(&unit.name, "modbus-unit", unit.commands.as_ref(), None);
                    members.push(member);
                    device::modbus::UnitWiring { orders, status }
                };
                let units = bus.units.iter().map(&mut unit).collect();
                self.tasks.spawn(device::modbus::run(bus, wiring, units))
            }
            Device::Gpio(gpio) => {
                let commands = match &gpio.direction {
                    Direction::Input(_) => None,
                    Direction::Output(output) => output.commands.as_ref(),
                };
                let wiring = self.wire(&name, "gpio", commands, None, stopped, &mut members);
                let Ground { link, app, runtime_dir, state_dir, .. } = &self.ground;
                let liveness = self.liveness.get_or_insert_with(|| liveness(link.clone(), app.clone())).clone();
                let keep =
                    Keep { runtime_dir: runtime_dir.clone(), state_dir: state_dir.clone(), replace: replace_file };
                self.tasks.spawn(device::gpio::run(gpio, wiring, Cdev, keep, liveness))
            }
        };
        self.running.insert(name, Running { stop, task, members });
    }

    /// Ends the tasks of these devices: what they have read is handed over, and their ports are free when this returns. One
    /// that does not end within `patience` is ended all the same. Cancel-safe: whoever stops others waits for these, too.
    pub(super) async fn stop(&mut self, names: &[String], patience: Duration) {
        for name in names {
            if let Some(running) = self.running.remove(name) {
                running.stop.send_replace(true);
                self.ending.insert(running.task.id(), (name.clone(), running));
            }
        }
        let all_ended = async {
            while !self.ending.is_empty() {
                match self.tasks.join_next_with_id().await {
                    Some(ended) => self.ended(ended),
                    None => return,
                }
            }
        };
        if timeout(patience, all_ended).await.is_err() {
            for (_, (device, running)) in self.ending.drain() {
                tracing::warn!(device, "device {device} did not end in time");
                running.task.abort();
            }
        }
    }

    /// Ends all of them.
    pub(super) async fn stop_all(&mut self, patience: Duration) {
        let names: Vec<String> = self.running.keys().cloned().collect();
        self.stop(&names, patience).await;
    }

    /// Returns when a task has ended that nobody has told to. Cancel-safe.
    pub(super) async fn broken(&mut self) {
        while !self.is_broken {
            match self.tasks.join_next_with_id().await {
                Some(ended) => self.ended(ended),
                None => std::future::pending().await,
            }
        }
    }

    /// Takes note of the end of a task: one that was told to, one that did not end in time, or one that nobody had told to.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        if self.ending.remove(&id).is_none() {
            self.is_broken |= self.running.values().any(|running| running.task.id() == id);
        }
    }

    /// Tells the other flows which devices there are: those of `order` that run, in this order.
    pub(super) fn announce(&self, order: impl Iterator<Item = Device>) {
        let running = order.filter_map(|device| self.running.get(device.name()));
        self.roster.send_replace(running.flat_map(|running| running.members.iter().cloned()).collect());
    }

    /// A new device that has a task of its own.
    fn wire(
        &self,
        name: &str,
        kind: &str,
        commands: Option<&Commands>,
        traces: Option<(mpsc::Sender<TraceRequest>, mpsc::Receiver<TraceRequest>)>,
        stop: watch::Receiver<bool>,
        members: &mut Vec<Member>,
    ) -> Wiring {
        let (asks, asked) = traces.unzip();
        let (member, orders, status) = member(name, kind, commands, asks);
        members.push(member);
        Wiring {
            orders,
            traces: asked.unwrap_or_else(|| mpsc::channel(1).1),
            submissions: self.ground.submissions.clone(),
            status,
            clock: host::now,
            pulse: self.ground.heart.pulse(format!("device {name}")),
            stop,
        }
    }
}

/// A new device's ends of its channels.
fn member(
    name: &str,
    kind: &str,
    commands: Option<&Commands>,
    traces: Option<mpsc::Sender<TraceRequest>>,
) -> (Member, mpsc::Receiver<Order>, watch::Sender<DeviceStatus>) {
    let (status, shown) = watch::channel(DeviceStatus::closed(kind, host::now().wall_ms));
    let (to_device, orders) = mpsc::channel(device::ORDERS);
    let (commands, to_device) = (commands.cloned(), commands.map(|_| to_device));
    (Member { name: name.to_owned(), status: shown, commands, orders: to_device, traces }, orders, status)
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

#[cfg(test)]
mod tests {
    use super::super::{STOP, plan};
    use super::*;
    use crate::config::{Source, Surroundings, parse};
    use crate::stats::{AppState, HeartbeatState};
    use std::future::poll_fn;
    use std::task::Poll;

    #[tokio::test]
    async fn outputs_never_go_on_when_those_are_lost_who_could_have_switched_them() {
        let (tell_link, link) = watch::channel(LinkStatus::default());
        let (tell_app, app) = watch::channel(AppStatus::default());
        let mut liveness = liveness(link, app);
        assert_eq!(liveness.missing(), Some(Missing::Link), "there is none yet");
        let mut after = async |state, app_state, heartbeat| {
            tell_link.send_modify(|link| link.state = state);
            tell_app.send_modify(|app| (app.state, app.heartbeat.state) = (app_state, heartbeat));
            let told = timeout(Duration::from_secs(20), liveness.changed()).await;
            told.unwrap_or_else(|_| panic!("nobody tells of {state:?}, {app_state:?}, {heartbeat:?}"));
            liveness.missing()
        };
        use HeartbeatState::{Alive, Lost, Off};
        use LinkState::{Connected, Connecting, Disconnected, Draining};
        assert_eq!(after(Connected, AppState::Running, Alive).await, None);
        assert_eq!(after(Connected, AppState::Running, Lost).await, Some(Missing::App), "it hangs");
        assert_eq!(after(Draining, AppState::Unknown, Off).await, None, "that nobody knows is not enough");
        for state in [AppState::Restarting, AppState::Stopped, AppState::Failed] {
            assert_eq!(after(Connected, state, Off).await, Some(Missing::App), "{state:?}");
            assert_eq!(after(Connected, AppState::Running, Off).await, None);
        }
        for state in [Connecting, Disconnected] {
            assert_eq!(after(state, AppState::Running, Off).await, Some(Missing::Link), "{state:?}");
            assert_eq!(after(Connected, AppState::Running, Off).await, None);
        }
        assert_eq!(after(Disconnected, AppState::Failed, Off).await, Some(Missing::App));
        assert_eq!(after(Disconnected, AppState::Running, Off).await, Some(Missing::Link), "one of them is back");
    }

    #[tokio::test]
    async fn a_stop_that_is_given_up_never_leaves_a_device_that_nobody_waits_for() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground {
            submissions: mpsc::channel(1).0,
            link: watch::channel(LinkStatus::default()).1,
            app: watch::channel(AppStatus::default()).1,
            runtime_dir: folder.path().into(),
            state_dir: folder.path().into(),
            heart: Heart::default(),
        };
        let surroundings = Surroundings { host: "pi".to_owned(), ..Surroundings::default() };
        let text = "[[serial]]\nname = \"a\"\npath = \"/nowhere/a\"\n[[serial]]\nname = \"b\"\npath = \"/nowhere/b\"\n";
        let sources = [Source::new(Path::new("/etc/pillion/gateway.toml"), text)];
        let config = parse(&sources, &surroundings, Path::new("/etc/pillion"), &|_| false).unwrap().config;
        let mut devices = Devices::new(ground, watch::channel(Roster::from([])).0);
        plan::devices(&config).for_each(|device| devices.start(device));
        // A reload stops them, and is ended by a stop of all.
        let names = ["a", "b"].map(str::to_owned);
        let mut given_up = Box::pin(devices.stop(&names, STOP));
        assert!(poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_pending())).await);
        drop(given_up);
        devices.stop_all(STOP).await;
        assert!(devices.tasks.is_empty() && !devices.is_broken);
        // One that nobody had told to.
        let (stop, stopped) = watch::channel(true);
        let wiring = devices.wire("c", "serial", None, None, stopped, &mut Vec::new());
        let task = devices.tasks.spawn(device::serial::run(config.serial[0].clone(), wiring));
        devices.running.insert("c".to_owned(), Running { stop, task, members: Vec::new() });
        timeout(STOP, devices.broken()).await.unwrap();
    }
}
