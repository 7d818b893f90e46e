//! The machine: it boots, carries out commands, has its button pressed, its adapter pulled and its power cut.
//!
//! Constraints: booting takes seconds, so all tests share one machine and take turns; it is booted for the first. It is
//! never dropped then, so a shell stands between us and QEMU, which ends it and removes its files when our end of a pipe is
//! closed, however this process ends. Two disks outlive a power cut. Both lose what the kernel had in its page cache, and the data
//! disk also what its own write cache had (`disk`). The root disk is as the image has it when the first test begins.

use crate::common::SOON;
use crate::disk::{self, Disk, Loss};
use fastrand::Rng;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long booting may take on a machine that is busy with other tests. It takes 5 to 10 s else.
const BOOT: Duration = Duration::from_secs(240);

/// Where this machine's loopback device is in QEMU's own network.
pub const HOST: &str = "10.0.2.2";

/// Runs QEMU ($2 and on) until a line comes (a power cut) or standard input ends, which is the end of the machine's folder ($1).
const GUARDIAN: &str = r#"folder=$1; shift
"$@" > "$folder/qemu.log" 2>&1 & qemu=$!
if read -r _; then folder=; fi
kill -9 $qemu; wait $qemu
[ -z "$folder" ] || rm -rf "$folder""#;

/// An emulated ARM machine that runs.
#[derive(Debug)]
pub struct Machine {
    image: PathBuf,
    folder: PathBuf,
    disk: Disk,
    clock: Clock,
    /// From power on to power off.
    life: Life,
}

/// What the machine's clock goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Our clock, with two processors that are as fast as QEMU and the other tests let them be.
    Time,
    /// While its one processor is busy, by the instructions that it carries out: `PACE` a second, however busy this side is.
    Instructions,
}

/// Instructions a second of a processor whose clock goes by them; QEMU wants a power of two of nanoseconds for each.
pub const PACE: u64 = 500_000_000;

#[derive(Debug)]
struct Life {
    guardian: Child,
    monitor: Mutex<BufReader<UnixStream>>,
    /// Connections to this port of ours are connections to the agent.
    port: u16,
}

/// What became of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    /// Standard output and error, without the last end of line.
    pub said: String,
}

/// The machine, for this test alone until the guard is dropped; the first one boots it. `None`, and a word about it, where
/// there is no image.
pub fn shared() -> Option<MutexGuard<'static, Machine>> {
    static MACHINE: OnceLock<Option<Mutex<Machine>>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| match std::env::var_os("PILLION_MACHINE") {
        Some(image) => Some(Mutex::new(Machine::boot(image.into()))),
        None => {
            println!("SKIPPED: PILLION_MACHINE does not say where the machine's image is; tests/run makes one");
            None
        }
    });
    // A test that failed has left nothing that the next one does not put right.
    Some(machine.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Machine {
    fn boot(image: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        disk::copy(&image.join("root.img"), &folder.join("root.img"));
        let disk = Disk::new(&folder);
        let life = Life::begin(&image, &folder, &disk, Clock::Time);
        let machine = Machine { image, folder, disk, clock: Clock::Time, life };
        machine.expect_boot();
        machine.shell("/sbin/mkfs.ext4 -q /dev/disk/by-id/virtio-data && sync");
        machine
    }

    /// Cuts the power and boots again. Chance has its part in what is left on the data disk.
    pub fn cut_power(&mut self, rng: &mut Rng) -> Loss {
        self.life.guardian.stdin.take().unwrap().write_all(b"cut\n").unwrap();
        self.life.guardian.wait().unwrap();
        let loss = self.disk.power_off(rng);
        self.life = Life::begin(&self.image, &self.folder, &self.disk, self.clock);
        self.expect_boot();
        loss
    }

    /// Boots again if the clock is another one.
    pub fn go_by(&mut self, clock: Clock) {
        if self.clock != clock {
            self.clock = clock;
            self.shell("sync");
            self.cut_power(&mut Rng::new());
        }
    }

    /// Carries out a command line of bash, as root, with this standard input. `None` if the machine went away meanwhile.
    pub fn try_run(&self, command: &str, input: &[u8]) -> Option<Outcome> {
        self.try_run_within(SOON, command, input)
    }

    /// The same for one that takes its time.
    pub fn try_run_within(&self, limit: Duration, command: &str, input: &[u8]) -> Option<Outcome> {
        let mut connection = self.life.order(command, input).ok()?;
        connection.set_read_timeout(Some(limit)).ok()?;
        let mut answer = Vec::new();
        // It may also end with an error; what counts is whether all has come.
        let _ = connection.read_to_end(&mut answer);
        let end = answer.iter().rposition(|byte| *byte == 0)?;
        let code = std::str::from_utf8(&answer[end + 1..]).ok()?.parse().ok()?;
        Some(Outcome { code, said: String::from_utf8_lossy(&answer[..end]).trim_end().to_owned() })
    }

    /// Carries out a command line that must succeed, and returns what it says.
    pub fn shell(&self, command: &str) -> String {
        let outcome = self.try_run(command, b"").unwrap_or_else(|| panic!("{command}: no answer\n{}", self.console()));
        assert_eq!(outcome.code, 0, "{command}\n{}", outcome.said);
        outcome.said
    }

    /// Begins to carry out a command line; the connection has what it says, and a NUL and the exit code at the end.
    pub fn begin(&self, command: &str) -> TcpStream {
        self.life.order(command, b"").unwrap()
    }

    /// Waits until a command line succeeds, and returns what it says. Nothing tells of a change in there, so it is tried again
    /// and again.
    pub fn expect(&self, what: &str, command: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let outcome = self.try_run(command, b"");
            match outcome {
                Some(Outcome { code: 0, said }) => return said,
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                outcome => panic!("waited {SOON:?} for {what}: {command}\n{outcome:?}"),
            }
        }
    }

    /// Copies a file of this side into the machine, as an executable one.
    pub fn copy(&self, file: &Path, inside: &str) {
        let content = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.write(inside, &content);
        self.shell(&format!("chmod 755 {inside}"));
    }

    /// Writes a file in the machine, and makes its folder.
    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) {
        let content = content.as_ref();
        let command = format!("mkdir -p \"$(dirname {inside})\" && cat > {inside} && stat -c %s {inside}");
        let outcome = self.try_run(&command, content).unwrap_or_else(|| panic!("{inside}: no answer"));
        assert_eq!(outcome.said, content.len().to_string(), "{inside}");
    }

    /// The clock in there, in milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.shell("date +%s%3N").parse().unwrap()
    }

    /// Presses the power button: line 3 of the GPIO chip rises, and falls after 100 ms.
    pub fn press_button(&self) {
        self.monitor("system_powerdown", json!({}));
    }

    /// Every level that a pin of the GPIO chip was given since power on, in their order: QEMU notes each change of an output.
    pub fn levels(&self, pin: u8) -> Vec<bool> {
        let trace = fs::read_to_string(self.folder.join("trace")).unwrap();
        let marks = [false, true].map(|level| format!(" setting output {pin} to {}", u8::from(level)));
        let of = |line: &str| marks.iter().position(|mark| line.ends_with(mark)).map(|level| level == 1);
        trace.lines().filter(|line| line.starts_with("pl061_set_output ")).filter_map(of).collect()
    }

    /// Plugs the USB serial adapter in. It is pulled out when the far end of its line, which this is, is dropped.
    pub fn plug_in(&self) -> UnixStream {
        let far_end = UnixStream::connect(self.folder.join("usb")).unwrap();
        far_end.set_read_timeout(Some(SOON)).unwrap();
        far_end
    }

    /// What the kernel and systemd have said on the serial console, and QEMU itself.
    pub fn console(&self) -> String {
        let read = |name| fs::read(self.folder.join(name)).unwrap_or_default();
        ["qemu.log", "console"].map(|name| String::from_utf8_lossy(&read(name)).into_owned()).concat()
    }

    /// A command to QEMU's monitor.
    pub fn monitor(&self, command: &str, arguments: Value) -> Value {
        ask(&mut self.life.monitor.lock().unwrap_or_else(PoisonError::into_inner), command, arguments)
    }

    fn expect_boot(&self) {
        let deadline = Instant::now() + BOOT;
        // The socket is there before all else; the target is when the last unit is.
        while self.try_run("systemctl start multi-user.target", b"").is_none_or(|outcome| outcome.code != 0) {
            assert!(
                Instant::now() < deadline,
                "the machine has not booted in {BOOT:?}; its console:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Life {
    /// Switches the power on.
    fn begin(image: &Path, folder: &Path, disk: &Disk, clock: Clock) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        for name in ["console", "monitor", "usb", "trace"] {
            // Of the life before.
            let _ = fs::remove_file(folder.join(name));
        }
        let mut command = Command::new("sh");
        command.args(["-c", GUARDIAN, "guardian"]).arg(folder).arg("qemu-system-aarch64");
        command.args("-machine virt -cpu cortex-a53 -m 512 -nodefaults -no-user-config -no-reboot".split(' '));
        command.args(match clock {
            Clock::Time => "-smp 2 -accel tcg,thread=multi,tb-size=256".split(' '),
            Clock::Instructions => "-smp 1 -accel tcg,thread=single,tb-size=256 -icount shift=1,sleep=on".split(' '),
        });
        command.args(["-display", "none"]);
        command.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(image.join("initrd"));
        let arguments = "console=ttyAMA0 quiet panic=-1 audit=0 mitigations=off cryptomgr.notests net.ifnames=0 systemd.show_status=0";
        command.args(["-append", arguments]);
        command.args(["-serial", &format!("file:{}", path("console"))]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", path("monitor"))]);
        for (id, options) in
            [("root", format!("format=raw,file={},cache.no-flush=on", path("root.img"))), ("data", disk.power_on())]
        {
            command.args(["-drive", &format!("if=none,id={id},{options}")]);
            command.args(["-device", &format!("virtio-blk-device,drive={id},serial={id}")]);
        }
        command.args([
            "-netdev",
            "user,id=net,hostfwd=tcp:127.0.0.1:0-:7000",
            "-device",
            "virtio-net-device,netdev=net",
        ]);
        command.args(["-chardev", &format!("socket,id=usb,path={},server=on,wait=off", path("usb"))]);
        command.args(["-device", "qemu-xhci", "-device", "usb-serial,chardev=usb"]);
        command.args(["-trace", "pl061_set_output", "-D", &path("trace")]);
        // Not ended by the keyboard before it has tidied up.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let guardian = command.spawn().unwrap();

        let deadline = Instant::now() + SOON;
        let monitor = loop {
            match UnixStream::connect(folder.join("monitor")) {
                Ok(monitor) => break monitor,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => {
                    panic!("QEMU does not start ({error}): {:?}", fs::read_to_string(folder.join("qemu.log")))
                }
            }
        };
        monitor.set_read_timeout(Some(SOON)).unwrap();
        let mut monitor = BufReader::new(monitor);
        ask(&mut monitor, "qmp_capabilities", json!({}));
        // The port is the kernel's choice, and this the one way to hear of it.
        let usernet = json!({"command-line": "info usernet"});
        let answer = ask(&mut monitor, "human-monitor-command", usernet);
        let table = answer.as_str().unwrap();
        let forward = table.lines().find(|line| line.contains("HOST_FORWARD")).expect(table);
        let port = forward.split_whitespace().nth(3).unwrap().parse().expect(forward);
        Life { guardian, monitor: Mutex::new(monitor), port }
    }

    /// Sends a command line and its standard input to the agent.
    fn order(&self, command: &str, input: &[u8]) -> std::io::Result<TcpStream> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.set_read_timeout(Some(SOON))?;
        connection.write_all(format!("{}\n{command}", command.len()).as_bytes())?;
        connection.write_all(input)?;
        connection.shutdown(Shutdown::Write)?;
        Ok(connection)
    }
}

/// Asks QEMU's monitor; events, which come in between, are passed over.
fn ask(monitor: &mut BufReader<UnixStream>, command: &str, arguments: Value) -> Value {
    let order = json!({"execute": command, "arguments": arguments});
    monitor.get_mut().write_all(format!("{order}\n").as_bytes()).unwrap();
    loop {
        let mut line = String::new();
        assert!(monitor.read_line(&mut line).unwrap() > 0, "QEMU has ended");
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer.get("error").is_none(), "{order}: {answer}");
        if let Some(result) = answer.get_mut("return") {
            return result.take();
        }
    }
}
