//! A systemd and a journal that say what the test wants: stand-ins for `systemctl` and `journalctl` in a folder of the sidecar's,
//! which its PATH names first.

use super::sidecar::Home;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The programs: `systemctl show … UNIT` and `systemctl show --property=SystemState`, and `journalctl …`. Each answer is a file;
/// where there is none, the program fails as the real one does without a bus.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "${0%/*}"
echo "systemctl $*" >> asked
[ -e hangs ] && exec sleep 600
for last; do :; done
case $last in --property=SystemState) exec cat system ;; esac
cat unit 2> /dev/null || { echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2; exit 1; }
"#;
const JOURNALCTL: &str = r#"#!/bin/sh
cd "${0%/*}"
echo "journalctl $*" >> asked
[ -e hangs ] && exec sleep 600
case "$*" in
    *--follow*) exec sleep 600 ;;
    *_PID=1*) exec cat journal ;;
    *_SYSTEMD_INVOCATION_ID=*) exec cat lines ;;
esac
# From the line with that cursor on, as the real one does; from the start, if there is none.
for argument; do
    case $argument in --cursor=*) cursor="${argument#--cursor=}" ;; esac
done
[ -n "$cursor" ] && grep --quiet --fixed-strings "$cursor" log && exec sed -n "/$cursor/,\$p" log
exec cat log
"#;

/// The answers.
#[derive(Debug)]
pub struct Systemd {
    folder: PathBuf,
}

impl Systemd {
    /// Puts them into the sidecar's folder and before all others on its PATH. Nothing is known of any unit yet.
    pub fn stand_in(home: &mut Home) -> Systemd {
        let folder = home.path("bin");
        fs::create_dir_all(&folder).unwrap();
        for (name, script) in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)] {
            let path = folder.join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        home.environment.insert("PATH".to_owned(), format!("{}:/usr/bin:/bin", folder.display()));
        let systemd = Systemd { folder };
        systemd.system("running");
        systemd.journal("");
        systemd.lines("");
        systemd.log("");
        systemd
    }

    /// What `systemctl show UNIT` says from now on.
    pub fn unit(&self, lines: &str) {
        replace(&self.folder.join("unit"), &format!("LoadState=loaded\n{lines}\n"));
    }

    /// The unit runs, in this invocation and with this main process.
    pub fn running(&self, invocation: &str, pid: u32) {
        self.unit(&format!(
            "ActiveState=active\nSubState=running\nResult=success\nMainPID={pid}\nNRestarts=0\nInvocationID={invocation}"
        ));
    }

    /// The state of the whole system.
    pub fn system(&self, state: &str) {
        replace(&self.folder.join("system"), &format!("SystemState={state}\n"));
    }

    /// What the journal holds of the application's own, the oldest line first.
    pub fn log(&self, lines: &str) {
        replace(&self.folder.join("log"), lines);
    }

    /// What it holds of the last run, the newest line first.
    pub fn lines(&self, lines: &str) {
        replace(&self.folder.join("lines"), lines);
    }

    /// What the journal holds of systemd's messages about it, the newest one first.
    pub fn journal(&self, lines: &str) {
        replace(&self.folder.join("journal"), lines);
    }

    /// Neither answers any more.
    pub fn hang(&self) {
        replace(&self.folder.join("hangs"), "");
    }

    /// They answer again.
    pub fn go_on(&self) {
        fs::remove_file(self.folder.join("hangs")).unwrap();
    }

    /// What they were asked so far, a line for each question.
    pub fn asked(&self) -> String {
        fs::read_to_string(self.folder.join("asked")).unwrap_or_default()
    }
}

/// As a whole: the programs read while the test writes.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}
