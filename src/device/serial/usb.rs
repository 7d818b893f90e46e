//! Finding a USB serial adapter by what it says of itself: vendor, product and serial number.
//!
//! The kernel shows them in sysfs (Documentation/ABI/stable/sysfs-class-tty, testing/sysfs-bus-usb): `/sys/class/tty/ttyUSB0/device` leads into
//! the folder of a USB interface, and the folder of the whole adapter, one or two above it, holds `idVendor`, `idProduct` and, if
//! it has one, `serial`. No udev is needed for it.

use crate::config::UsbId;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders that are looked into above a port's own.
const DEPTH: usize = 4;

/// The device node of the first such adapter by name: the first port of one that has several.
///
/// `sysfs` is `/sys`, `dev` is `/dev`. `None`: no such adapter is plugged in.
pub fn find(sysfs: &Path, dev: &Path, wanted: &UsbId) -> io::Result<Option<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sysfs.join("class/tty"))? {
        let entry = entry?;
        if is_wanted(&entry.path().join("device"), wanted) {
            names.push(entry.file_name());
        }
    }
    // ttyUSB9 comes before ttyUSB10.
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names.first().map(|name| dev.join(name)))
}

/// Whether this folder belongs to the adapter that is wanted. One that vanishes meanwhile does not.
fn is_wanted(device: &Path, wanted: &UsbId) -> bool {
    let Ok(device) = fs::canonicalize(device) else { return false };
    let adapter = device.ancestors().take(DEPTH).find(|folder| folder.join("idVendor").is_file());
    let Some(adapter) = adapter else { return false };
    let read = |name: &str| fs::read_to_string(adapter.join(name)).ok().map(|text| text.trim().to_owned());
    let number = |name: &str| read(name).and_then(|text| u16::from_str_radix(&text, 16).ok());
    number("idVendor") == Some(wanted.vendor)
        && number("idProduct") == Some(wanted.product)
        && (wanted.serial.is_none() || read("serial") == wanted.serial)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As the kernel lays it out.
    pub(in crate::device::serial) fn plug(sysfs: &Path, tty: &str, adapter: &str, ids: (&str, &str, Option<&str>)) {
        let folder = sysfs.join("devices/usb1").join(adapter);
        let port = folder.join(format!("{adapter}:1.0")).join(tty);
        fs::create_dir_all(&port).unwrap();
        let (vendor, product, serial) = ids;
        fs::write(folder.join("idVendor"), format!("{vendor}\n")).unwrap();
        fs::write(folder.join("idProduct"), format!("{product}\n")).unwrap();
        if let Some(serial) = serial {
            fs::write(folder.join("serial"), format!("{serial}\n")).unwrap();
        }
        let class = sysfs.join("class/tty").join(tty);
        fs::create_dir_all(&class).unwrap();
        std::os::unix::fs::symlink(&port, class.join("device")).unwrap();
    }

    #[test]
    fn an_adapter_is_never_taken_for_another() {
        let sysfs = tempfile::tempdir().unwrap();
        plug(sysfs.path(), "ttyUSB10", "1-1", ("0403", "6001", Some("A1")));
        plug(sysfs.path(), "ttyUSB9", "1-2", ("0403", "6001", Some("B2")));
        plug(sysfs.path(), "ttyACM0", "1-3", ("2341", "0043", None));
        // A port of the board, and one that vanishes.
        fs::create_dir_all(sysfs.path().join("class/tty/ttyS0")).unwrap();
        std::os::unix::fs::symlink("/nowhere", sysfs.path().join("class/tty/ttyS0/device")).unwrap();

        let find = |vendor, product, serial: Option<&str>| {
            let wanted = UsbId { vendor, product, serial: serial.map(str::to_owned) };
            find(sysfs.path(), Path::new("/dev"), &wanted).unwrap()
        };
        assert_eq!(find(0x0403, 0x6001, Some("A1")), Some("/dev/ttyUSB10".into()));
        assert_eq!(find(0x0403, 0x6001, Some("B2")), Some("/dev/ttyUSB9".into()));
        assert_eq!(find(0x0403, 0x6001, None), Some("/dev/ttyUSB9".into()), "the first of them");
        assert_eq!(find(0x2341, 0x0043, None), Some("/dev/ttyACM0".into()));
        assert_eq!(find(0x2341, 0x0043, Some("A1")), None);
        assert_eq!(find(0x0403, 0x6002, None), None);
    }
}
