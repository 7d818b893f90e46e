//! What pillion takes of the machine: memory under load, and the processor while nothing happens.
//!
//! Memory is what the kernel books for the unit's control group, all of it: memory.peak. That has every page which pillion was the
//! first to touch: its 4 MiB of program as well, if nobody had that in memory before, and what of the spool's files the kernel has
//! in its cache.
//!
//! Emulated time says nothing of a processor: how many instructions QEMU carries out in a second depends on this side. So the
//! machine's clock goes by its instructions here (`Clock::Instructions`), 2 ns for each, and what the kernel books for a
//! control group is a count of them: pillion's own, its children's, and the kernel's in their system calls. A processor with
//! 500 million instructions a second is at the low end of what gateways have. Interrupts that come while pillion runs are
//! booked on it as well; caches and memory that a real processor waits for are not in it.

use crate::common::sidecar::STREAM;
use crate::common::{LONG, SOON};
use crate::gateway::Gateway;
use crate::machine::{Clock, PACE};
use std::collections::BTreeMap;
use std::time::Duration;

/// One health document, two keep-alives of the broker.
const QUIET: Duration = Duration::from_secs(60);

/// What of a processor: a thousandth.
const LIMIT: f64 = 0.001;

/// Twice, and a quiet time between: for each thread of the unit its name, its number, and how often it has gone to sleep; and
/// the microseconds of the processor that the whole control group has had.
const BOOKS: &str = r#"group=/sys/fs/cgroup$(systemctl show -P ControlGroup pillion@gateway.service)
processes=$(cat $group/cgroup.procs)
books() {
    for process in $processes; do
        awk '/^Name/ {name = $2} /^Pid/ {id = $2} /^voluntary/ {print name, id, $2}' /proc/$process/task/*/status
    done
    awk '/^usage_usec/ {print "usage", 0, $2}' $group/cpu.stat
}
before=$(books); sleep "$1"; after=$(books); echo "$before"; echo; echo "$after""#;

/// What `BOOKS` says of one time, by name and number.
fn books(said: &str) -> BTreeMap<(&str, &str), u64> {
    let mut all = BTreeMap::new();
    for line in said.lines() {
        let [name, id, number] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        all.insert((name, id), number.parse().unwrap());
    }
    all
}

/// Carries out the lines of its standard input while it samples the memory of pillion's control group; says what that was made of
/// when it was the most.
const HELD: &str = r#"group=/sys/fs/cgroup$(systemctl show -P ControlGroup pillion@gateway.service)
bash > /dev/null <&0 & load=$!
most=0
while kill -0 $load 2> /dev/null; do
    read -r now < $group/memory.current
    ((now <= most)) || { most=$now; parts=$(< $group/memory.stat); }
    sleep 0.05
done
wait $load && awk -v most=$most '/^(anon|file|shmem|kernel|sock|inactive_file) / {all = all ", " $1 " " $2} END {print most all}' <<< "$parts""#;

#[test]
fn a_load_never_takes_ten_mebibytes_of_the_machine() {
    let Some(gateway) = Gateway::install() else { return };
    let machine = &gateway.machine;
    // As behind a boot: pillion is the first to touch its program. Else that counts as memory of whoever installed it.
    machine.shell("sync && echo 3 > /proc/sys/vm/drop_caches");
    gateway.start();
    println!("at rest: {} bytes", gateway.memory("current"));
    let publish = format!(
        "perl -e 'printf(\"%0128d\\n\", $_) for 1 .. 20000' |
            pillion publish --instance gateway --topic orders --stream {STREAM}"
    );
    let hold = |what: &str, load: &str| {
        let outcome = machine.try_run_within(LONG, HELD, load.as_bytes()).unwrap();
        assert_eq!(outcome.code, 0, "{}", outcome.said);
        println!("{what}: {}; at most until now: {}", outcome.said, gateway.memory("peak"));
    };
    // With a broker, then without, then the drain of what has gathered.
    hold("with a broker", &publish);
    gateway.relay.cut();
    hold("without", &publish);
    gateway.relay.open();
    gateway.expect_status("the drain", |status| status["streams"][STREAM]["waiting"] == 0);
    println!("drained: {}; at most until now: {}", gateway.memory("current"), gateway.memory("peak"));
    assert!(gateway.memory("peak") < 10 << 20);
}

#[test]
fn a_quiet_minute_never_takes_a_thousandth_of_a_processor() {
    let Some(gateway) = Gateway::install_by(Clock::Instructions) else { return };
    let machine = &gateway.machine;
    let _adapter = machine.plug_in();
    let path = machine.expect("the adapter's name", "ls /dev/serial/by-id/*");
    gateway.configure(
        "sync = \"1s\"",
        &format!(
            "[app]\nunit = \"gateway.service\"\n[health]\ninterval = \"60s\"\n\
             [[serial]]\nname = \"meter\"\npath = {path:?}\nbaud = 9600\n\
             [[gpio]]\nname = \"door\"\nchip = \"gpiochip0\"\nline = 3\ndirection = \"input\"\n"
        ),
    );
    gateway.start();
    for device in ["meter", "door"] {
        gateway.expect_device(device, "online");
    }
    gateway.expect_status("the application's log to be followed", |status| status["logs"]["state"] == "following");
    gateway.expect_status("all to be delivered", |status| {
        status["streams"].as_object().unwrap().values().all(|stream| stream["waiting"] == 0)
    });

    let script = format!("set -- {}\n{BOOKS}", QUIET.as_secs());
    let outcome = machine.try_run_within(QUIET + SOON, &script, b"").unwrap_or_else(|| panic!("no answer"));
    assert_eq!(outcome.code, 0, "{}", outcome.said);
    let said = outcome.said;
    let (before, after) = said.split_once("\n\n").unwrap();
    let (before, after) = (books(before), books(after));
    // Threads for blocking calls come and go.
    let taken = |of: &(&str, &str)| after[of] - before.get(of).unwrap_or(&0);
    for of in after.keys().filter(|(name, _)| *name != "usage") {
        println!("{} {} went to sleep {} times in {QUIET:?}", of.0, of.1, taken(of));
    }
    let usage = Duration::from_micros(taken(&("usage", "0")));
    let instructions = usage.as_secs_f64() * PACE as f64 / 1e6;
    let share = usage.div_duration_f64(QUIET);
    println!(
        "pillion took {instructions:.2} million instructions in {QUIET:?}: {:.4} % of a processor of {} million a second",
        share * 100.0,
        PACE / 1_000_000
    );
    assert!(gateway.status()["link"]["state"] == "connected");
    assert!(share < LIMIT, "{usage:?} of {QUIET:?}");
}
