//! The real chips: the GPIO character device, uAPI v2, by gpiocdev.
//!
//! Constraint: nothing here waits. A read blocks when there is no edge, so the kernel is asked before each one.
//!
//! An output that keeps its value is taken *as is* first, which leaves direction and level alone; then it is read, and then
//! made an output with that value. The kernel sets value and direction in one call, so there is no edge.

use super::chip::{Chips, EdgeEvent, Held, Request, Role, Trouble, shown};
use crate::config::{Bias, GpioLine};
use gpiocdev::chip::Chip;
use gpiocdev::line::{self, EdgeDetection, EdgeKind, Offset, Value};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What `gpioinfo` shows as the lines' user.
const CONSUMER: &str = "pillion";
/// Edges that the kernel holds for us; then it drops the oldest, and their numbers are missing. It takes 48 bytes for each,
/// and 1,024 at the most (`GPIO_V2_LINES_MAX` * 16).
const KERNEL_EDGES: u32 = 256;

/// The machine's chips.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cdev;

/// A line of one of them.
#[derive(Debug)]
pub struct CdevLine {
    request: AsyncFd<gpiocdev::Request>,
    buffer: Vec<u64>,
    chip: String,
}

impl Chips for Cdev {
    type Held = CdevLine;

    fn take(&self, request: &Request<'_>) -> Result<CdevLine, Trouble> {
        let path = find(request.chip)?;
        let chip = Chip::from_path(&path).map_err(|error| of_chip(request.chip, &error))?;
        let offset = offset(&chip, request)?;
        let held = hold(&path, offset, request).map_err(|error| of_line(&chip, offset, request, &error))?;
        let failed = |error: std::io::Error| failed(request.chip, &error.to_string());
        // Deprecated for types whose descriptor may change under it, which the request's can't; its successor is unsafe, and
        // this crate forbids that.
        #[allow(deprecated)]
        let held = AsyncFd::with_interest(held, Interest::READABLE).map_err(failed)?;
        Ok(CdevLine { request: held, buffer: Vec::new(), chip: request.chip.to_owned() })
    }

    fn monotonic_ns(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
    }
}

impl CdevLine {
    fn trouble(&self, error: &gpiocdev::Error) -> Trouble {
        match errno(error) {
            Some(Errno::NODEV | Errno::NXIO | Errno::IO) => Trouble::Gone(self.chip.clone()),
            _ => failed(&self.chip, &error.to_string()),
        }
    }
}

impl Held for CdevLine {
    fn value(&self) -> Result<bool, Trouble> {
        self.request.get_ref().lone_value().map(bool::from).map_err(|error| self.trouble(&error))
    }

    fn drive(&self, value: bool) -> Result<(), Trouble> {
        self.request.get_ref().set_lone_value(Value::from(value)).map_err(|error| self.trouble(&error))
    }

    async fn ready(&self) -> Result<(), Trouble> {
        loop {
            let mut guard = self.request.readable().await.map_err(|error| failed(&self.chip, &error.to_string()))?;
            // True for a hang-up, too: then the read says that the chip is gone.
            if guard.get_inner().has_edge_event().map_err(|error| self.trouble(&error))? {
                return Ok(());
            }
            guard.clear_ready();
        }
    }

    fn edges(&mut self, edges: &mut Vec<EdgeEvent>, most: usize) -> Result<(), Trouble> {
        let size = self.request.get_ref().edge_event_u64_size();
        self.buffer.resize(most.max(1).saturating_mul(size), 0);
        let read = self.request.get_ref().read_edge_events_into_slice(&mut self.buffer);
        let count = read.map_err(|error| self.trouble(&error))?;
        for raw in self.buffer.get(..count).unwrap_or_default().chunks_exact(size) {
            let event = self.request.get_ref().edge_event_from_slice(raw).map_err(|error| self.trouble(&error))?;
            edges.push(EdgeEvent {
                rising: event.kind == EdgeKind::Rising,
                at_ns: event.timestamp_ns,
                line_seqno: event.line_seqno,
            });
        }
        Ok(())
    }
}

/// Where the chip's node is.
fn find(chip: &str) -> Result<PathBuf, Trouble> {
    match node(chip) {
        Some(path) => Ok(path),
        None => labelled(chip),
    }
}

/// The node that a path or a name below `/dev` means; `None` for a label.
fn node(chip: &str) -> Option<PathBuf> {
    let number = chip.strip_prefix("gpiochip");
    let is_name = number.is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()));
    match chip {
        _ if chip.starts_with('/') => Some(PathBuf::from(chip)),
        _ if is_name => Some(Path::new("/dev").join(chip)),
        _ => None,
    }
}

/// The only chip with this label. One that can't be opened is passed over, unless no other has the label.
fn labelled(label: &str) -> Result<PathBuf, Trouble> {
    let mut found = None;
    let mut forbidden = None;
    for entry in std::fs::read_dir("/dev").into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        // A link would make one chip two.
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link || !name.to_string_lossy().starts_with("gpiochip") {
            continue;
        }
        match Chip::from_path(&path).and_then(|chip| chip.info()) {
            Ok(info) if info.label == label => {
                if found.replace(path).is_some() {
                    return Err(Trouble::Ambiguous(label.to_owned()));
                }
            }
            Ok(_) => {}
            Err(error) => {
                if let trouble @ Trouble::Forbidden(_) = of_chip(&path.to_string_lossy(), &error) {
                    forbidden = Some(trouble);
                }
            }
        }
    }
    found.ok_or_else(|| forbidden.unwrap_or_else(|| Trouble::Missing(label.to_owned())))
}

fn offset(chip: &Chip, request: &Request<'_>) -> Result<Offset, Trouble> {
    let no_line = || Trouble::NoLine { chip: request.chip.to_owned(), line: shown(request.line) };
    let info = chip.info().map_err(|error| of_chip(request.chip, &error))?;
    match request.line {
        GpioLine::Offset(offset) if *offset < info.num_lines => Ok(*offset),
        GpioLine::Offset(_) => Err(no_line()),
        GpioLine::Name(name) => chip.find_line_info(name).map(|line| line.offset).ok_or_else(no_line),
    }
}

fn hold(path: &Path, offset: Offset, request: &Request<'_>) -> gpiocdev::Result<gpiocdev::Request> {
    let take = |config: &line::Config| {
        gpiocdev::Request::builder()
            .on_chip(path)
            .with_consumer(CONSUMER)
            .with_kernel_event_buffer_size(if config.edge_detection.is_some() { KERNEL_EDGES } else { 0 })
            .from_line_config(config)
            .with_line(offset)
            .request()
    };
    let mut config = line::Config { active_low: request.active_low, ..line::Config::default() };
    match request.role {
        Role::Read { rising, falling, debounce } => {
            config.as_input();
            config.bias = bias(request.bias);
            config.debounce_period = debounce;
            config.edge_detection = match (rising, falling) {
                (true, true) => Some(EdgeDetection::BothEdges),
                (true, false) => Some(EdgeDetection::RisingEdge),
                (false, true) => Some(EdgeDetection::FallingEdge),
                (false, false) => None,
            };
            take(&config)
        }
        Role::Drive(Some(value)) => {
            config.as_output(Value::from(value));
            config.bias = bias(request.bias);
            take(&config)
        }
        Role::Drive(None) => {
            // The kernel takes a bias together with a direction only.
            let held = take(&config)?;
            let value = held.lone_value()?;
            config.as_output(value);
            config.bias = bias(request.bias);
            let mut whole = gpiocdev::request::Config::default();
            whole.from_line_config(&config).with_line(offset);
            held.reconfigure(&whole)?;
            Ok(held)
        }
    }
}

fn bias(bias: Bias) -> Option<line::Bias> {
    match bias {
        Bias::AsIs => None,
        Bias::PullUp => Some(line::Bias::PullUp),
        Bias::PullDown => Some(line::Bias::PullDown),
        Bias::Disabled => Some(line::Bias::Disabled),
    }
}

/// What a failed opening says about the chip.
fn of_chip(chip: &str, error: &gpiocdev::Error) -> Trouble {
    let shown = chip.to_owned();
    match (error, errno(error)) {
        (gpiocdev::Error::GpioChip(..), _) | (_, Some(Errno::NOTTY)) => Trouble::NotChip(shown),
        (_, Some(Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV)) => Trouble::Missing(shown),
        (_, Some(Errno::ACCESS | Errno::PERM)) => Trouble::Forbidden(shown),
        _ => failed(chip, &error.to_string()),
    }
}

/// What a refused request says about the line.
fn of_line(chip: &Chip, offset: Offset, request: &Request<'_>, error: &gpiocdev::Error) -> Trouble {
    let (name, line) = (request.chip.to_owned(), shown(request.line));
    match errno(error) {
        Some(Errno::BUSY) => {
            let user = chip.line_info(offset).map(|info| info.consumer).unwrap_or_default();
            let by = if user.is_empty() { "the kernel or another process".to_owned() } else { format!("\"{user}\"") };
            Trouble::Busy { chip: name, line, by }
        }
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO | Errno::RANGE) => {
            let setting = settings(request);
            Trouble::Settings { chip: name, line, setting, error: words(error) }
        }
        Some(Errno::PERM) => {
            // The kernel's answer for a line that firmware keeps for itself, or that can't be driven.
            Trouble::Settings { chip: name, line, setting: "its direction".to_owned(), error: words(error) }
        }
        Some(Errno::NODEV) => Trouble::Gone(name),
        _ => failed(&format!("line {line} of {name}"), &words(error)),
    }
}

/// The configured keys that a driver may not know.
fn settings(request: &Request<'_>) -> String {
    let mut keys = Vec::new();
    if let Role::Read { rising, falling, debounce } = request.role {
        if rising || falling {
            keys.push("edges (`edge`; only \"none\" works where the chip has no interrupts)");
        }
        if debounce.is_some() {
            keys.push("`debounce`");
        }
    }
    if request.bias != Bias::AsIs {
        keys.push("`bias`");
    }
    if keys.is_empty() { "its direction".to_owned() } else { keys.join(" or ") }
}

fn failed(what: &str, error: &str) -> Trouble {
    Trouble::Failed { what: what.to_owned(), error: error.to_owned() }
}

/// The kernel's words, without the library's.
fn words(error: &gpiocdev::Error) -> String {
    errno(error).map_or_else(|| error.to_string(), |errno| std::io::Error::from(errno).to_string())
}

fn errno(error: &gpiocdev::Error) -> Option<Errno> {
    let raw = match error {
        gpiocdev::Error::Os(errno) | gpiocdev::Error::Uapi(_, gpiocdev_uapi::Error::Os(errno)) => errno.0,
        _ => return None,
    };
    Some(Errno::from_raw_os_error(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(chip: &str) -> Request<'_> {
        let role = Role::Read { rising: true, falling: true, debounce: None };
        Request { chip, line: &GpioLine::Offset(3), bias: Bias::AsIs, active_low: false, role }
    }

    fn refused(chip: &str) -> Trouble {
        Cdev.take(&request(chip)).unwrap_err()
    }

    #[test]
    fn what_is_no_chip_is_never_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "data").unwrap();
        let none = dir.path().join("none");
        for path in [file.as_path(), dir.path(), Path::new("/dev/null"), Path::new("/dev/zero"), Path::new("/")] {
            let path = path.to_string_lossy();
            assert_eq!(refused(&path), Trouble::NotChip(path.clone().into_owned()));
        }
        for path in [none, file.join("below")] {
            let path = path.to_string_lossy();
            assert_eq!(refused(&path), Trouble::Missing(path.clone().into_owned()));
        }
        assert_eq!(refused("gpiochip9999"), Trouble::Missing("gpiochip9999".into()));
        assert_eq!(refused("no such label"), Trouble::Missing("no such label".into()));
    }

    #[test]
    fn a_name_is_never_taken_for_a_label() {
        assert_eq!(node("gpiochip12"), Some("/dev/gpiochip12".into()));
        assert_eq!(node("/dev/mychip"), Some("/dev/mychip".into()));
        for label in ["gpiochip", "gpiochip1a", "pinctrl-bcm2835", "ft232h"] {
            assert_eq!(node(label), None, "{label}");
        }
    }

    #[test]
    fn reasons_are_never_confused() {
        let os = |errno: Errno| gpiocdev::Error::from(std::io::Error::from(errno));
        let of = |errno| of_chip("c", &os(errno));
        assert_eq!(of(Errno::NOENT), Trouble::Missing("c".into()));
        assert_eq!(of(Errno::ACCESS), Trouble::Forbidden("c".into()));
        assert_eq!(of(Errno::NOTTY), Trouble::NotChip("c".into()));
        assert!(matches!(of(Errno::MFILE), Trouble::Failed { .. }));
        assert_eq!(settings(&request("c")), "edges (`edge`; only \"none\" works where the chip has no interrupts)");
        let pulled = Request { bias: Bias::PullUp, role: Role::Drive(None), ..request("c") };
        assert_eq!(settings(&pulled), "`bias`");
    }

    #[test]
    fn the_clock_of_edges_never_stands_still() {
        let first = Cdev.monotonic_ns();
        assert!(first > 0 && Cdev.monotonic_ns() >= first);
    }
}
