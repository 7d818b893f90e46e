//! GPIO devices against a chip of our own: what is published and driven, and what happens when the chip goes.

// clippy.toml exempts test functions; this exempts what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pillion::command::{Data, Order, PROGRESS, Progress};
use pillion::config::{Bias, Direction, Edge, Gpio, GpioLine, Input, Output, Safe};
use pillion::device::Wiring;
use pillion::device::gpio::chip::{Chips, EdgeEvent, Held, Request, Role, Trouble};
use pillion::device::gpio::counter::{Keep, line};
use pillion::device::gpio::liveness::{Liveness, Missing};
use pillion::device::gpio::run;
use pillion::host;
use pillion::pulse::Heart;
use pillion::record::Submission;
use pillion::stats::{DeviceState, DeviceStatus};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Long enough for a loaded machine; nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct World {
    level: bool,
    edges: VecDeque<EdgeEvent>,
    /// Every request, and every value that was driven.
    asked: Vec<Role>,
    driven: Vec<bool>,
    seqno: u32,
    trouble: Option<Trouble>,
    no_debounce: bool,
}

/// A chip with one line.
#[derive(Clone, Default)]
struct Chip(Arc<(Mutex<World>, Notify)>);

impl Chip {
    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_one();
        result
    }

    /// An edge after `lost` others that the kernel has dropped.
    fn edge(&self, rising: bool, lost: u32) {
        let at_ns = self.monotonic_ns();
        self.with(|world| {
            world.level = rising;
            world.seqno += lost + 1;
            world.edges.push_back(EdgeEvent { rising, at_ns, line_seqno: world.seqno });
        });
    }
}

impl Chips for Chip {
    type Held = Chip;

    fn take(&self, request: &Request<'_>) -> Result<Chip, Trouble> {
        self.with(|world| {
            world.asked.push(request.role);
            if let Some(trouble) = &world.trouble {
                return Err(trouble.clone());
            }
            match request.role {
                Role::Read { debounce: Some(_), .. } if world.no_debounce => {
                    let setting = "`debounce`".to_owned();
                    Err(Trouble::Settings { chip: "c".into(), line: "1".into(), setting, error: "no".into() })
                }
                Role::Drive(Some(value)) => {
                    world.level = value;
                    Ok(self.clone())
                }
                _ => Ok(self.clone()),
            }
        })
    }

    fn monotonic_ns(&self) -> u64 {
        host::now().mono_ms * 1_000_000
    }
}

impl Held for Chip {
    fn value(&self) -> Result<bool, Trouble> {
        let world = self.0.0.lock().unwrap();
        world.trouble.clone().map_or(Ok(world.level), Err)
    }

    fn drive(&self, value: bool) -> Result<(), Trouble> {
        self.with(|world| match &world.trouble {
            Some(trouble) => Err(trouble.clone()),
            None => {
                world.level = value;
                world.driven.push(value);
                Ok(())
            }
        })
    }

    async fn ready(&self) -> Result<(), Trouble> {
        loop {
            {
                let world = self.0.0.lock().unwrap();
                if let Some(trouble) = &world.trouble {
                    return Err(trouble.clone());
                }
                if !world.edges.is_empty() {
                    return Ok(());
                }
            }
            self.0.1.notified().await;
        }
    }

    fn edges(&mut self, edges: &mut Vec<EdgeEvent>, most: usize) -> Result<(), Trouble> {
        self.with(|world| {
            let count = most.min(world.edges.len());
            edges.extend(world.edges.drain(..count));
        });
        Ok(())
    }
}

/// The task of one line, with this test at the other ends of its wiring.
struct Bridge {
    chip: Chip,
    records: mpsc::Receiver<Submission>,
    status: watch::Receiver<DeviceStatus>,
    orders: mpsc::Sender<Order>,
    missing: watch::Sender<Option<Missing>>,
    stop: watch::Sender<bool>,
    _heart: Heart,
    task: JoinHandle<()>,
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap())?;
    std::fs::write(path, content)
}

fn keep(dir: &TempDir) -> Keep {
    Keep { runtime_dir: dir.path().join("run"), state_dir: dir.path().join("state"), replace: write }
}

impl Bridge {
    fn start(chip: &Chip, direction: Direction, keep: Keep, room: usize) -> Self {
        let config = Gpio {
            name: "line".into(),
            chip: "c".into(),
            line: GpioLine::Offset(1),
            bias: Bias::AsIs,
            active_low: false,
            direction,
        };
        let (submissions, records) = mpsc::channel(room);
        let (status_in, status) = watch::channel(DeviceStatus::closed("gpio", 0));
        let (stop, stop_out) = watch::channel(false);
        let (orders, orders_out) = mpsc::channel(8);
        let (missing, liveness) = watch::channel(None);
        let heart = Heart::default();
        let pulse = heart.pulse("line");
        let wiring = Wiring {
            orders: orders_out,
            traces: mpsc::channel(1).1,
            submissions,
            status: status_in,
            clock: host::now,
            pulse,
            stop: stop_out,
        };
        let task = tokio::spawn(run(config, wiring, chip.clone(), keep, Liveness::new(liveness)));
        Bridge { chip: chip.clone(), records, status, orders, missing, stop, _heart: heart, task }
    }

    /// The data of the next records.
    async fn said(&mut self, count: usize) -> Vec<String> {
        let mut said = Vec::new();
        while said.len() < count {
            let submission = timeout(DEADLINE, self.records.recv()).await.expect("a record in time").expect("runs");
            said.extend(submission.records.into_iter().map(|record| String::from_utf8(record.data).unwrap()));
        }
        said
    }

    async fn state(&mut self, state: DeviceState) -> DeviceStatus {
        let reached = self.status.wait_for(|status| status.state == state);
        timeout(DEADLINE, reached).await.expect("in time").unwrap().clone()
    }

    async fn order(&self, text: &str) -> Progress {
        let (progress, mut told) = mpsc::channel(PROGRESS);
        let order = Order { data: Data::Bytes(text.into()), expires_ms: u64::MAX, progress };
        self.orders.send(order).await.unwrap();
        timeout(DEADLINE, told.recv()).await.expect("an answer in time").expect("an answer")
    }

    async fn stop(self) -> Chip {
        self.stop.send(true).unwrap();
        timeout(DEADLINE, self.task).await.expect("ends in time").unwrap();
        self.chip
    }
}

fn input(edge: Edge, counter_ms: Option<u64>) -> Direction {
    Direction::Input(Input { edge, debounce: None, counter: counter_ms.map(Duration::from_millis) })
}

fn output(initial: Option<bool>, safe: Option<bool>, hold: bool) -> Direction {
    let safe = safe.map(|value| Safe { value, after: Duration::ZERO });
    Direction::Output(Output { initial, safe, hold, commands: None })
}

#[tokio::test]
async fn no_edge_and_no_lost_edge_ever_goes_untold() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    chip.with(|world| world.level = true);
    let mut bridge = Bridge::start(&chip, input(Edge::Both, None), keep(&dir), 8);
    assert_eq!(bridge.said(1).await, ["{\"value\":true}"]);
    chip.edge(false, 0);
    assert_eq!(bridge.said(1).await, ["{\"value\":false,\"edge\":\"falling\"}"]);
    chip.edge(true, 3);
    let expected = ["{\"value\":true,\"edge\":\"rising\"}", "{\"value\":true,\"lost\":3}"];
    assert_eq!(bridge.said(2).await, expected);
    let gpio = bridge.status.borrow().gpio.clone().unwrap();
    assert_eq!((gpio.edges, gpio.lost, gpio.value), (2, 3, Some(true)));
    bridge.stop().await;
}

#[tokio::test]
async fn a_chip_that_returns_never_needs_a_restart() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    let mut bridge = Bridge::start(&chip, input(Edge::Both, None), keep(&dir), 8);
    bridge.said(1).await;
    chip.with(|world| world.trouble = Some(Trouble::Gone("c".into())));
    let gone = bridge.state(DeviceState::Offline).await;
    assert!(gone.reason.unwrap().starts_with("c is gone"));
    chip.with(|world| (world.trouble, world.level, world.seqno) = (None, true, 0));
    assert_eq!(bridge.said(1).await, ["{\"value\":true}"]);
    chip.edge(false, 0);
    assert_eq!(bridge.said(1).await, ["{\"value\":false,\"edge\":\"falling\"}"]);
    assert_eq!(bridge.status.borrow().opens, 2);
    bridge.stop().await;
}

#[tokio::test]
async fn a_refused_debounce_never_keeps_a_line_from_being_read() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    chip.with(|world| world.no_debounce = true);
    let debounce = Some(Duration::from_millis(20));
    let config = Direction::Input(Input { edge: Edge::Rising, debounce, counter: None });
    let mut bridge = Bridge::start(&chip, config, keep(&dir), 8);
    bridge.said(1).await;
    assert_eq!(bridge.status.borrow().gpio.clone().unwrap().debounce.as_deref(), Some("software"));
    for rising in [true, false, true] {
        chip.edge(rising, 0);
    }
    assert_eq!(bridge.said(1).await, ["{\"value\":true,\"edge\":\"rising\"}"], "once, when it has lasted");
    bridge.stop().await;
}

#[tokio::test]
async fn a_count_never_loses_what_the_kernel_dropped_or_what_was_before_a_restart() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    write(&keep(&dir).state("line"), &line(100)).unwrap();
    write(&keep(&dir).runtime("line"), b"torn").unwrap();
    // An interval that never comes: the stop publishes.
    let day = Some(86_400_000);
    let mut bridge = Bridge::start(&chip, input(Edge::Rising, day), keep(&dir), 8);
    bridge.state(DeviceState::Online).await;
    assert!(bridge.status.borrow().gpio.clone().unwrap().notice.unwrap().contains("the file is damaged"));
    chip.edge(true, 4);
    let counted = bridge.status.clone();
    let look = async {
        while counted.borrow().gpio.as_ref().unwrap().count != Some(105) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, look).await.expect("counted in time");
    bridge.stop.send(true).unwrap();
    assert_eq!(bridge.said(1).await, ["{\"count\":105,\"delta\":5}"]);
    bridge.stop().await;
    for path in [keep(&dir).runtime("line"), keep(&dir).state("line")] {
        assert_eq!(std::fs::read(&path).unwrap(), line(105), "{}", path.display());
    }
    // Again, and by the interval this time.
    chip.with(|world| world.seqno = 0);
    let mut bridge = Bridge::start(&chip, input(Edge::Rising, Some(100)), keep(&dir), 8);
    assert_eq!(bridge.said(1).await, ["{\"count\":105,\"delta\":0}"]);
    bridge.stop().await;
}

#[tokio::test]
async fn adopting_a_line_never_drives_it() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    chip.with(|world| world.level = true);
    let mut bridge = Bridge::start(&chip, output(None, None, false), keep(&dir), 8);
    assert_eq!(bridge.said(1).await, ["{\"value\":true,\"cause\":\"start\"}"]);
    let chip = bridge.stop().await;
    chip.with(|world| {
        assert_eq!((&world.asked[..], &world.driven[..]), (&[Role::Drive(None)][..], &[][..]));
        assert!(world.level, "nor does the stop");
    });
}

#[tokio::test]
async fn an_order_is_never_done_before_the_line_is_driven() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    let mut bridge = Bridge::start(&chip, output(Some(false), None, false), keep(&dir), 8);
    bridge.said(1).await;
    assert_eq!(bridge.order("on").await, Progress::Done);
    assert!(chip.with(|world| world.level));
    assert_eq!(bridge.said(1).await, ["{\"value\":true,\"cause\":\"command\"}"]);
    assert_eq!(bridge.order("{\"pulse\":\"50ms\",\"value\":false}").await, Progress::Done);
    let pulse = ["{\"value\":false,\"cause\":\"command\"}", "{\"value\":true,\"cause\":\"pulse-end\"}"];
    assert_eq!(bridge.said(2).await, pulse);
    let Progress::Refused(reason) = bridge.order("perhaps").await else { panic!("not refused") };
    assert!(reason.contains("possible are true, false"), "{reason}");
    let (progress, mut told) = mpsc::channel(PROGRESS);
    bridge.orders.send(Order { data: Data::Bytes(b"off".into()), expires_ms: 0, progress }).await.unwrap();
    assert_eq!(told.recv().await, Some(Progress::Expired));
    chip.with(|world| world.trouble = Some(Trouble::Gone("c".into())));
    bridge.state(DeviceState::Offline).await;
    assert!(matches!(bridge.order("off").await, Progress::Failed(_)));
    assert_eq!(bridge.stop().await.with(|world| world.driven.clone()), [true, false, true]);
}

#[tokio::test]
async fn a_full_spool_never_keeps_a_line_from_its_safe_value() {
    let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
    let mut bridge = Bridge::start(&chip, output(Some(true), Some(false), true), keep(&dir), 1);
    bridge.state(DeviceState::Online).await;
    // Nobody reads the records: one fills the channel, the others wait.
    assert_eq!(bridge.order("toggle").await, Progress::Done);
    assert_eq!(bridge.order("toggle").await, Progress::Done);
    bridge.missing.send(Some(Missing::Link)).unwrap();
    let safe = async {
        while chip.with(|world| world.level) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, safe).await.expect("safe in time");
    let said = bridge.said(4).await;
    assert_eq!(said[3], "{\"value\":false,\"cause\":\"safe\"}");
    assert_eq!(bridge.order("on").await, Progress::Done, "somebody is in charge");
    // `safe_after` is 0 here, so it comes again at once.
    assert_eq!(bridge.said(2).await[1], "{\"value\":false,\"cause\":\"safe\"}");
    bridge.missing.send(None).unwrap();
    bridge.stop().await;
}

#[tokio::test]
async fn a_stop_never_forgets_the_safe_value_and_never_applies_it_to_a_line_that_is_held() {
    for (hold, after) in [(false, false), (true, true)] {
        let (chip, dir) = (Chip::default(), TempDir::new().unwrap());
        let mut bridge = Bridge::start(&chip, output(Some(true), Some(false), hold), keep(&dir), 8);
        bridge.said(1).await;
        assert_eq!(bridge.stop().await.with(|world| world.level), after, "hold = {hold}");
    }
}
