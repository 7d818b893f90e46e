//! Network interfaces: their state below `/sys/class/net`, their addresses from the kernel.
//!
//! Only those that are hardware or have an address are shown, or a machine with containers would show dozens; the loopback never.

use super::read;
use crate::stats::Interface;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// Interfaces that are shown, and addresses of each.
const MOST: usize = 16;
/// Longest name: `IFNAMSIZ` of the kernel, with its NUL.
const NAME: usize = 16;

/// Tells every address with the name of its interface.
pub type Addresses = fn() -> Vec<(String, IpAddr)>;

/// What this machine's kernel says, over netlink: nothing where that is forbidden.
pub fn addresses() -> Vec<(String, IpAddr)> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.into_iter().map(|interface| (interface.name.clone(), interface.ip())).collect()
}

/// Whether this address is one of this machine's now. Where that can't be known it is.
pub fn is_ours(address: IpAddr) -> bool {
    let addresses = addresses();
    addresses.is_empty() || addresses.iter().any(|(_, ours)| *ours == address)
}

pub(super) fn interfaces(root: &Path, addresses: &[(String, IpAddr)]) -> BTreeMap<String, Interface> {
    let folder = root.join("sys/class/net");
    let mut interfaces = BTreeMap::new();
    for name in read::names(&folder) {
        let own = addresses.iter().filter(|(of, _)| *of == name).map(|(_, address)| *address);
        let addresses: Vec<IpAddr> = own.filter(|address| !is_noise(address)).take(MOST).collect();
        let is_hardware = folder.join(&name).join("device").exists();
        let is_told = name != "lo" && name.len() < NAME && (is_hardware || !addresses.is_empty());
        if is_told && interfaces.len() < MOST {
            let state = read::line(&folder.join(&name).join("operstate")).unwrap_or_else(|| "unknown".to_owned());
            interfaces.insert(name, Interface { state, addresses });
        }
    }
    interfaces
}

/// Every interface has an address of its link with IPv6; it leads nowhere else.
fn is_noise(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}
