//! What the local API says of the machine, against what the machine says itself.

use crate::common::fake_broker::{FakeBroker, Script};
use crate::common::sidecar::{Home, Sidecar};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap().lines().next().unwrap().to_owned()
}

fn uptime() -> u64 {
    line("/proc/uptime").split('.').next().unwrap().parse().unwrap()
}

/// Our own addresses by the kernel's routing table (proc(5), `/proc/net/fib_trie`): those with a line `/32 host LOCAL` below.
fn own_addresses() -> BTreeSet<Ipv4Addr> {
    let text = fs::read_to_string("/proc/net/fib_trie").unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let own = lines.windows(2).filter(|pair| pair[1].starts_with("/32 host LOCAL"));
    let addresses = own.map(|pair| pair[0].trim_start_matches(['|', '-', ' ']).parse::<Ipv4Addr>().unwrap());
    addresses.filter(|address| !address.is_loopback()).collect()
}

#[test]
fn the_environment_never_contradicts_the_machine() {
    let broker = FakeBroker::start(Script::POLITE, 0);
    let mut home = Home::new([broker.url()]);
    home.tables += "[app]\nunit = \"gateway.service\"\n";
    let sidecar = Sidecar::start(home);
    let before = uptime();
    let answer = sidecar.request("GET", "/v1/environment", "", b"").unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    let told = answer.json;
    let after = uptime();

    assert_eq!((&told["instance"], &told["topic_prefix"]), (&Value::from("test"), &Value::from("p")));
    assert_eq!(told["app"]["unit"], "gateway.service");
    let path = |name: &str| sidecar.home.path(name).display().to_string();
    assert_eq!((&told["state_dir"], &told["runtime_dir"]), (&path("state").into(), &path("run").into()));

    let (machine, host) = (&told["machine"], &told["host"]);
    assert_eq!(host["name"], line("/proc/sys/kernel/hostname"));
    assert_eq!(host["boot_id"], line("/proc/sys/kernel/random/boot_id"));
    assert_eq!(machine["kernel"], line("/proc/sys/kernel/osrelease"));
    let uname = Command::new("uname").arg("-m").output().unwrap().stdout;
    assert_eq!(machine["architecture"], String::from_utf8_lossy(&uname).trim());
    let release = fs::read_to_string("/etc/os-release").unwrap();
    assert!(release.contains(&format!("PRETTY_NAME=\"{}\"", machine["os"]["name"].as_str().unwrap())), "{machine}");
    let cpus = fs::read_to_string("/proc/stat").unwrap();
    let cpus = cpus.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    assert_eq!(machine["cpus"], cpus);

    let up = host["uptime_s"].as_u64().unwrap();
    assert!((before..=after).contains(&up), "{before} {up} {after}");
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    assert_eq!(host["memory"]["total_bytes"], total.unwrap().parse::<u64>().unwrap() * 1024);
    // The average over fifteen minutes moves by less than this in the time that two reads are apart.
    let load: f64 = line("/proc/loadavg").split(' ').nth(2).unwrap().parse().unwrap();
    assert!((host["load"]["avg15"].as_f64().unwrap() - load).abs() < 0.5, "{load} {host}");
    for kind in fs::read_dir("/proc/pressure").into_iter().flatten() {
        let kind = kind.unwrap().file_name().into_string().unwrap();
        // Where it is switched off the files can't be read.
        let is_there = fs::read_to_string(format!("/proc/pressure/{kind}")).is_ok() && kind != "irq";
        assert_eq!(host["pressure"][&kind].is_object(), is_there, "{kind}: {host}");
    }
    let stat = Command::new("stat").args(["-f", "-c", "%S %b %c"]).arg(path("state")).output().unwrap().stdout;
    let numbers: Vec<u64> =
        String::from_utf8(stat).unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(host["disk"]["total_bytes"], numbers[0] * numbers[1]);
    assert_eq!(host["disk"]["inodes"].as_u64().unwrap_or(0), numbers[2]);

    let interfaces = host["network"].as_object();
    let of_interfaces = interfaces.into_iter().flatten().flat_map(|(_, of)| of["addresses"].as_array().unwrap());
    let addresses: Vec<IpAddr> = of_interfaces.map(|address| address.as_str().unwrap().parse().unwrap()).collect();
    let v4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    assert_eq!(v4.collect::<BTreeSet<_>>(), own_addresses(), "{host}");

    assert_eq!(sidecar.request("POST", "/v1/environment", "", b"").unwrap().code, 405);
    // The status has the same of the machine, and shows it.
    assert_eq!(sidecar.status()["host"]["disk"]["total_bytes"], host["disk"]["total_bytes"]);
    let socket = sidecar.home.socket();
    let shown = sidecar.home.run(&["status", "--socket", socket.to_str().unwrap()], b"");
    let words: Vec<String> = String::from_utf8(shown.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
    assert!(words.join(" ").contains(" available, disk "), "{words:?}");
    let metrics = sidecar.request("GET", "/metrics", "", b"").unwrap().text;
    let sample = format!("pillion_host_memory_total_bytes {}", host["memory"]["total_bytes"]);
    assert!(metrics.lines().any(|line| line == sample), "{metrics}");
}
