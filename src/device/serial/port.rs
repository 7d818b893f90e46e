//! Opening a serial port, and saying in words why that did not work.
//!
//! Constraints: an open never hangs and never takes a port from another process; every failure names its true reason.
//! serialport's own error says "no device" for a busy port and "unknown" for much else, so what it leaves open is asked
//! from the kernel once more, after the failure only: every open of a real port moves its DTR line, which resets some
//! boards.

use super::{ioctl, usb};
use crate::config::{DataBits, Flow, Line, Parity, StopBits, UsbId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tokio_serial::{ErrorKind, SerialPort, SerialPortBuilderExt, SerialStream};

/// Why a port is not open: what happened and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No such file, a dangling link, or a node without hardware behind it.
    #[error("{} is not there; waiting for it to be plugged in", .0.display())]
    Missing(PathBuf),
    /// The kernel does not let us.
    #[error(
        "no permission to open {}; add the service to the group that owns it (often dialout), \
         and if its unit has DevicePolicy=, allow it there with DeviceAllow=",
        .0.display()
    )]
    Forbidden(PathBuf),
    /// No USB adapter of this kind.
    #[error("no USB adapter {0} is there; waiting for it to be plugged in")]
    NoAdapter(UsbId),
    /// Somebody else holds it exclusively or has locked it.
    #[error("another process has {} open; stop that process (`fuser {}` names it)", .0.display(), .0.display())]
    Busy(PathBuf),
    /// A regular file, a directory, a FIFO, or a device of another kind.
    #[error("{} is not a serial port; correct `path`", .0.display())]
    NotSerial(PathBuf),
    /// The driver refuses the line settings or silently takes others.
    #[error("{} does not take {setting}; correct it in the configuration", .path.display())]
    Settings {
        /// The port.
        path: PathBuf,
        /// What it does not take, by the configuration's key.
        setting: String,
    },
    /// It was open and went away.
    #[error("{} has hung up (unplugged, or its other end was closed); waiting for it to come back", .0.display())]
    HungUp(PathBuf),
    /// Anything else, in the kernel's words.
    #[error("{} does not work: {error}; trying again", .path.display())]
    Failed {
        /// The port.
        path: PathBuf,
        /// What the kernel said.
        error: String,
    },
}

/// Opens the port exclusively (TIOCEXCL and an exclusive flock) with all its settings. Returns its path, too: with `usb`, only
/// the search says where it is.
///
/// # Errors
/// A [`Trouble`]; nothing is held then.
pub fn open(config: &Line) -> Result<(SerialStream, PathBuf), Trouble> {
    open_among(Path::new("/sys"), Path::new("/dev"), config)
}

fn open_among(sysfs: &Path, dev: &Path, config: &Line) -> Result<(SerialStream, PathBuf), Trouble> {
    let path = path_of(config, sysfs, dev)?;
    let port = open_at(&path, config)?;
    Ok((port, path))
}

fn open_at(path: &Path, config: &Line) -> Result<SerialStream, Trouble> {
    // Looked at before it is opened: opening has side effects on things that are no serial port.
    let kind = fs::metadata(path).map_err(|error| of_io(path, &error))?.file_type();
    if !kind.is_char_device() {
        return Err(Trouble::NotSerial(path.to_owned()));
    }
    let mut port = tokio_serial::new(path.to_string_lossy(), config.baud)
        .data_bits(data_bits(config.data_bits))
        .parity(parity(config.parity))
        .stop_bits(stop_bits(config.stop_bits))
        .flow_control(flow(config.flow))
        .open_native_async()
        .map_err(|error| of_open(path, &error))?;
    let refused = refused_setting(config, path, &port).or_else(|| special_settings(config, path, &mut port));
    match refused {
        Some(setting) => Err(Trouble::Settings { path: path.to_owned(), setting }),
        None => Ok(port),
    }
}

/// Where the port is now.
fn path_of(config: &Line, sysfs: &Path, dev: &Path) -> Result<PathBuf, Trouble> {
    let Some(adapter) = &config.usb else { return Ok(config.path.clone()) };
    match usb::find(sysfs, dev, adapter) {
        Ok(Some(path)) => Ok(path),
        Ok(None) => Err(Trouble::NoAdapter(adapter.clone())),
        Err(error) => Err(Trouble::Failed { path: "/sys/class/tty".into(), error: error.to_string() }),
    }
}

/// Where it may appear.
pub fn places(config: &Line) -> Vec<PathBuf> {
    if config.usb.is_some() {
        return vec!["/dev/ttyUSB0".into()];
    }
    // A link is made after the node that it leads to.
    vec![config.path.clone()]
}

/// What the driver refuses of the settings that termios does not have.
fn special_settings(config: &Line, path: &Path, port: &mut SerialStream) -> Option<String> {
    let refused = |key: &str, error: &dyn std::fmt::Display| Some(format!("`{key}` ({error})"));
    if let Some(Err(error)) = config.rs485.as_ref().map(|rs485| ioctl::set_rs485(&*port, rs485)) {
        return refused("rs485", &error);
    }
    if let Some(Err(error)) = config.dtr.map(|level| port.write_data_terminal_ready(level)) {
        return refused("dtr", &error);
    }
    if let Some(Err(error)) = config.rts.map(|level| port.write_request_to_send(level)) {
        return refused("rts", &error);
    }
    if config.low_latency
        && let Err(error) = ioctl::set_low_latency(&*port)
    {
        // Slower, and good for all else.
        let path = path.display();
        tracing::warn!(%path, "low_latency of {path} can't be set: {error}");
    }
    None
}

/// What a failed read says about the port.
pub fn of_read(path: &Path, error: &io::Error) -> Trouble {
    let gone = [Errno::IO, Errno::NXIO, Errno::NODEV].map(|errno| errno.raw_os_error());
    match error.raw_os_error() {
        Some(errno) if gone.contains(&errno) => Trouble::HungUp(path.to_owned()),
        _ => Trouble::Failed { path: path.to_owned(), error: error.to_string() },
    }
}

/// What serialport's error means. On Linux it maps EBUSY (TIOCEXCL) and a flock that is held to `NoDevice`, and
/// nothing else.
fn of_open(path: &Path, error: &tokio_serial::Error) -> Trouble {
    match error.kind() {
        ErrorKind::NoDevice => Trouble::Busy(path.to_owned()),
        ErrorKind::Io(kind) => of_io(path, &kind.into()),
        _ => match probe(path) {
            Err(errno) => of_errno(path, errno),
            // It opens and it is a terminal, so it was the settings that failed.
            Ok(()) => Trouble::Settings { path: path.to_owned(), setting: format!("its line settings ({error})") },
        },
    }
}

fn of_io(path: &Path, error: &io::Error) -> Trouble {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Trouble::Missing(path),
        io::ErrorKind::PermissionDenied => Trouble::Forbidden(path),
        _ => Trouble::Failed { path, error: error.to_string() },
    }
}

fn of_errno(path: &Path, errno: Errno) -> Trouble {
    match errno {
        // EIO: a node like ttyS4 for which the machine has no hardware, or a terminal that hangs up just now.
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::IO => Trouble::Missing(path.to_owned()),
        Errno::BUSY => Trouble::Busy(path.to_owned()),
        Errno::NOTTY => Trouble::NotSerial(path.to_owned()),
        _ => of_io(path, &errno.into()),
    }
}

/// Opens the path and asks whether it is a terminal, for the kernel's own error.
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::termios::tcgetattr(&file).map(drop)
}

/// The first setting that the driver did not take, though it reported no error (termios(3): success means that any of
/// the changes was carried out).
fn refused_setting(config: &Line, path: &Path, port: &SerialStream) -> Option<String> {
    if !port.baud_rate().is_ok_and(|actual| is_near(config.baud, actual)) {
        return Some(format!("`baud = {}`", config.baud));
    }
    // A pseudo terminal has no wire: it is always 8 bits without parity, and works with any.
    if is_pseudo(path) {
        return None;
    }
    let same = |is_same: bool, key: &str| (!is_same).then(|| format!("`{key}` as it is configured"));
    same(port.data_bits().is_ok_and(|actual| actual == data_bits(config.data_bits)), "data_bits")
        .or_else(|| same(port.parity().is_ok_and(|actual| actual == parity(config.parity)), "parity"))
        .or_else(|| same(port.stop_bits().is_ok_and(|actual| actual == stop_bits(config.stop_bits)), "stop_bits"))
        .or_else(|| same(port.flow_control().is_ok_and(|actual| actual == flow(config.flow)), "flow"))
}

/// Whether two rates are the same to a UART: within 2 %, as the kernel has it (`tty_termios_encode_baud_rate`).
fn is_near(wanted: u32, actual: u32) -> bool {
    wanted.abs_diff(actual) <= wanted / 50
}

fn is_pseudo(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|path| path.starts_with("/dev/pts"))
}

fn data_bits(bits: DataBits) -> tokio_serial::DataBits {
    match bits {
        DataBits::Five => tokio_serial::DataBits::Five,
        DataBits::Six => tokio_serial::DataBits::Six,
        DataBits::Seven => tokio_serial::DataBits::Seven,
        DataBits::Eight => tokio_serial::DataBits::Eight,
    }
}

fn parity(parity: Parity) -> tokio_serial::Parity {
    match parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    }
}

fn stop_bits(bits: StopBits) -> tokio_serial::StopBits {
    match bits {
        StopBits::One => tokio_serial::StopBits::One,
        StopBits::Two => tokio_serial::StopBits::Two,
    }
}

fn flow(flow: Flow) -> tokio_serial::FlowControl {
    match flow {
        Flow::None => tokio_serial::FlowControl::None,
        Flow::Software => tokio_serial::FlowControl::Software,
        Flow::Hardware => tokio_serial::FlowControl::Hardware,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_never_confused() {
        let path = Path::new("/dev/ttyUSB0");
        let of = |errno| of_errno(path, errno);
        assert_eq!(of(Errno::BUSY), Trouble::Busy(path.into()));
        for errno in [Errno::NOENT, Errno::NXIO, Errno::NODEV, Errno::IO, Errno::NOTDIR] {
            assert_eq!(of(errno), Trouble::Missing(path.into()), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM] {
            assert_eq!(of(errno), Trouble::Forbidden(path.into()), "{errno}");
        }
        assert_eq!(of(Errno::NOTTY), Trouble::NotSerial(path.into()));
        assert!(matches!(of(Errno::MFILE), Trouble::Failed { .. }));

        let of = |errno: Errno| of_read(path, &errno.into());
        assert_eq!(of(Errno::IO), Trouble::HungUp(path.into()));
        assert!(matches!(of(Errno::NOMEM), Trouble::Failed { .. }));
    }

    #[test]
    fn a_divisor_that_does_not_fit_exactly_is_never_refused() {
        assert!(is_near(115_200, 115_384) && is_near(9600, 9600));
        assert!(!is_near(250_000, 9600) && !is_near(9600, 10_000) && !is_near(1, 0));
    }

    #[test]
    fn what_is_no_serial_port_is_never_opened_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        fs::write(&file, "data").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        for path in [file.as_path(), &fifo, dir.path(), Path::new("/dev/null")] {
            assert_eq!(open(&Line::at(path)).unwrap_err(), Trouble::NotSerial(path.to_owned()));
        }
        for path in [dir.path().join("none"), file.join("below")] {
            assert_eq!(open(&Line::at(&path)).unwrap_err(), Trouble::Missing(path));
        }
    }

    #[tokio::test]
    async fn an_adapter_that_was_found_never_goes_without_its_path() {
        let (sysfs, dev) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        usb::tests::plug(sysfs.path(), "ttyUSB3", "1-1", ("0403", "6001", None));
        let (_other_end, slave) = serialport::TTYPort::pair().unwrap();
        let node = dev.path().join("ttyUSB3");
        std::os::unix::fs::symlink(slave.name().unwrap(), &node).unwrap();
        let adapter = UsbId { vendor: 0x0403, product: 0x6001, serial: None };
        let config = Line { usb: Some(adapter), ..Line::at("") };
        let (_port, path) = open_among(sysfs.path(), dev.path(), &config).unwrap();
        assert_eq!(path, node);
    }
}
