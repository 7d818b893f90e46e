//! Files that are written from keys of the configuration, with a stand-in for systemctl: old or new, and never a broken one.

use super::World;
use crate::common::operator::Operator;
use crate::common::seed;
use crate::common::sidecar::{Home, Sidecar};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

/// Fails the application as soon as its file holds BREAK, writes down what it is told, and has it take its time for a file that
/// holds SLOW. What holds LOOSE opens its folder to others.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")/.." || exit 9
echo "$*" >> systemctl.log
state=active
grep -q BREAK etc/app.toml 2> /dev/null && state=failed
[ "$1" = show ] || ! grep -q LOOSE etc/app.toml 2> /dev/null || chmod 777 etc
[ "$1" = show ] || ! grep -q SLOW etc/app.toml 2> /dev/null || sleep 4
[ "$1" != show ] || printf 'ActiveState=%s\nResult=exit-code\nNRestarts=0\n' "$state"
"#;

/// Fails for a file that holds WRONG.
const CHECK: &str = "#!/bin/sh\n! grep -q WRONG \"$1\" || { echo \"line 1: WRONG is wrong\" >&2; exit 3; }\n";

fn home(world: &World) -> Home {
    let mut home = world.home();
    for (path, text) in [("bin/systemctl", SYSTEMCTL), ("bin/check", CHECK)] {
        let path = home.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(home.path("etc")).unwrap();
    fs::set_permissions(home.path("etc"), Permissions::from_mode(0o755)).unwrap();
    home.environment.insert("PATH".to_owned(), format!("{}:/usr/bin:/bin", home.path("bin").display()));
    let (check, target) = (home.path("bin/check"), home.path("etc/app.toml"));
    home.tables += &format!(
        "[app]\nunit = \"no-such-app.service\"\nlogs = false\n[[managed_file]]\nkey = \"app.toml\"\npath = {target:?}\n\
         check = [{check:?}, \"{{file}}\"]\nhealthy_within = \"3s\"\nmode = \"0600\"\n"
    );
    home
}

/// A sidecar that has the first version of the file, which is applied.
fn start(world: &World, operator: &mut Operator) -> Sidecar {
    let sidecar = Sidecar::start(home(world));
    want(&sidecar, operator, "version = 1\n");
    assert_eq!(apply(&sidecar), (Some(0), true));
    assert_eq!(content(&sidecar), "version = 1\n");
    sidecar
}

/// Puts it into the broker, and waits until the sidecar has it.
fn want(sidecar: &Sidecar, operator: &mut Operator, text: &str) {
    operator.publish("p/config/app.toml", text, true);
    let deadline = std::time::Instant::now() + crate::common::SOON;
    while sidecar.request("GET", "/v1/config/app.toml", "", b"").unwrap().json["data"] != text {
        assert!(std::time::Instant::now() < deadline, "the key did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The exit code, and whether anything was done.
fn apply(sidecar: &Sidecar) -> (Option<i32>, bool) {
    let config = sidecar.home.path("test.toml");
    let output = sidecar.home.run(&["apply", "--config", config.to_str().unwrap()], b"");
    println!("apply: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), !output.stdout.is_empty() || !output.stderr.is_empty())
}

fn target(sidecar: &Sidecar) -> PathBuf {
    sidecar.home.path("etc/app.toml")
}

fn content(sidecar: &Sidecar) -> String {
    fs::read_to_string(target(sidecar)).unwrap()
}

/// How often the unit was restarted.
fn restarts(sidecar: &Sidecar) -> usize {
    let log = fs::read_to_string(sidecar.home.path("systemctl.log")).unwrap_or_default();
    log.lines().filter(|line| *line == "restart -- no-such-app.service").count()
}

fn expect_report(world: &World, right: impl Fn(&Value) -> bool) {
    world.subscriber.expect_latest("p/config-reported/app.toml", right);
}

#[test]
fn a_version_that_breaks_the_application_never_stays_or_comes_again() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    let mut sidecar = start(&world, &mut operator);
    assert_eq!(fs::metadata(target(&sidecar)).unwrap().permissions().mode() & 0o777, 0o600);
    expect_report(&world, |report| report["applied"].is_string());
    want(&sidecar, &mut operator, "version = 2 # BREAK\n");
    assert!(sidecar.home.path("run/apply-wanted").exists(), "systemd is told");
    assert_eq!(apply(&sidecar), (Some(1), true));
    assert_eq!((content(&sidecar).as_str(), restarts(&sidecar)), ("version = 1\n", 3), "and back again");
    expect_report(&world, |report| report["rolled-back"].as_str().is_some_and(|why| why.contains("failed")));
    assert_eq!(apply(&sidecar), (Some(0), false), "not again");
    // A kill before it is noted that this was told would have it told again: at least once.
    sidecar.expect_status("the note of what was told", |_| {
        fs::read_to_string(sidecar.home.path("state/config/told")).is_ok_and(|told| told.contains("rolled-back"))
    });
    sidecar.kill();
    sidecar.start_again();
    assert_eq!((apply(&sidecar), restarts(&sidecar)), ((Some(0), false), 3));
    want(&sidecar, &mut operator, "version = 3\n");
    assert_eq!((apply(&sidecar), content(&sidecar).as_str()), ((Some(0), true), "version = 3\n"));
    expect_report(&world, |report| report["applied"].is_string());
    let told = |inbox: &crate::common::subscriber::Inbox| {
        let events = inbox.on("p/event").map(|event| event.envelope["data"].clone());
        let events: Vec<_> = events.filter(|event| event["type"] == "managed-file").collect();
        events.iter().map(|event| event["result"].clone()).collect::<Vec<_>>()
    };
    world.subscriber.expect("three events", crate::common::SOON, |inbox| told(inbox).len() == 3);
    assert_eq!(world.subscriber.read(told), [json!("applied"), json!("rolled-back"), json!("applied")], "each once");
}

#[test]
fn a_version_is_never_taken_back_for_a_unit_that_takes_longer_to_stop_than_it_must_be_healthy() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    let sidecar = start(&world, &mut operator);
    want(&sidecar, &mut operator, "version = 2 # SLOW\n");
    assert_eq!((apply(&sidecar), content(&sidecar).as_str()), ((Some(0), true), "version = 2 # SLOW\n"));
    assert_eq!(restarts(&sidecar), 2);
    // And then it is looked on for as long as ever.
    want(&sidecar, &mut operator, "version = 3 # SLOW, BREAK\n");
    assert_eq!((apply(&sidecar), content(&sidecar).as_str()), ((Some(1), true), "version = 2 # SLOW\n"));
}

#[test]
fn a_version_that_fails_its_check_never_touches_anything() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    let sidecar = start(&world, &mut operator);
    want(&sidecar, &mut operator, "version = WRONG\n");
    assert_eq!(apply(&sidecar), (Some(1), true));
    assert_eq!((content(&sidecar).as_str(), restarts(&sidecar)), ("version = 1\n", 1));
    expect_report(&world, |report| {
        report["rejected"].as_str().is_some_and(|why| why.contains("check failed") && why.contains("line 1: WRONG"))
    });
    // Where others can write, nothing is written.
    fs::set_permissions(sidecar.home.path("etc"), Permissions::from_mode(0o777)).unwrap();
    want(&sidecar, &mut operator, "version = 2\n");
    assert_eq!((apply(&sidecar), content(&sidecar).as_str()), ((Some(1), true), "version = 1\n"));
    fs::set_permissions(sidecar.home.path("etc"), Permissions::from_mode(0o755)).unwrap();
    let precious = sidecar.home.path("precious");
    fs::rename(target(&sidecar), &precious).unwrap();
    symlink(&precious, target(&sidecar)).unwrap();
    want(&sidecar, &mut operator, "version = 3\n");
    assert_eq!((apply(&sidecar), fs::read_to_string(&precious).unwrap().as_str()), ((Some(1), true), "version = 1\n"));
}

#[test]
fn a_file_that_can_t_be_put_back_never_holds_up_the_others() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    let mut home = home(&world);
    let other = home.path("other/file");
    fs::create_dir(other.parent().unwrap()).unwrap();
    fs::set_permissions(other.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    home.tables += &format!("[[managed_file]]\nkey = \"zz\"\npath = {other:?}\naction = \"none\"\n");
    let sidecar = Sidecar::start(home);
    want(&sidecar, &mut operator, "version = 1\n");
    assert_eq!(apply(&sidecar), (Some(0), true));
    want(&sidecar, &mut operator, "version = 2 # BREAK, LOOSE\n");
    operator.publish("p/config/zz", "other = 1\n", true);
    sidecar.expect_status("both keys", |status| status["config"]["keys"] == 2);
    assert_eq!(apply(&sidecar), (Some(70), true));
    assert_eq!(fs::read_to_string(&other).unwrap(), "other = 1\n");
    assert_eq!(content(&sidecar), "version = 2 # BREAK, LOOSE\n", "nobody may write where everybody can");
    fs::set_permissions(sidecar.home.path("etc"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!((apply(&sidecar), content(&sidecar).as_str()), ((Some(1), true), "version = 1\n"));
}

#[test]
fn an_enemy_in_the_sidecars_folder_never_gets_root_to_read_or_wait() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    let sidecar = start(&world, &mut operator);
    let keys = sidecar.home.path("state/config");
    symlink("/etc/passwd", keys.join("00000090.key")).unwrap();
    symlink("/dev/zero", keys.join("00000091.key")).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, keys.join("00000000.key"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::write(keys.join("00000092.key"), vec![b'x'; 10_000_000]).unwrap();
    assert_eq!((apply(&sidecar), content(&sidecar).as_str()), ((Some(0), false), "version = 1\n"));
}

#[test]
fn no_kill_of_apply_ever_leaves_anything_but_the_old_or_the_new_version() {
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    let sidecar = start(&world, &mut operator);
    let config = sidecar.home.path("test.toml");
    let mut old = "version = 1\n".to_owned();
    for version in 2..8 {
        let is_bad = version % 2 == 0;
        let fill = "x".repeat(20_000);
        let new = format!("version = {version} # {} {fill}\n", if is_bad { "BREAK" } else { "fine" });
        want(&sidecar, &mut operator, &new);
        for _ in 0..3 {
            let mut child = sidecar.home.command(&["apply", "--config", config.to_str().unwrap()]).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(rng.u64(..400_000)));
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            child.wait().unwrap();
            let there = content(&sidecar);
            assert!(there == old || there == new, "version {version}: {} bytes", there.len());
        }
        apply(&sidecar);
        let there = content(&sidecar);
        assert_eq!(there == new, !is_bad, "version {version}");
        assert!(there == old || there == new);
        old = there;
    }
    let mut left: Vec<_> =
        fs::read_dir(sidecar.home.path("etc")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["app.toml"]);
}
