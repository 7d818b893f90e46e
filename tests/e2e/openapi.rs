//! The description of the local API, held against the real binary by schemathesis.

use crate::common::device::Device;
use crate::common::fake_broker::{FakeBroker, Script};
use crate::common::own_address;
use crate::common::sidecar::{Home, Sidecar};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Whatever is not in the description: a status, a media type, a header, a document of another shape, a method.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,unsupported_method";

/// A port in front of the socket: schemathesis speaks TCP only.
struct Front {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    fn of(socket: &Path) -> Front {
        let listener = TcpListener::bind((own_address(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (socket, stops) = (socket.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if stops.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from_client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Write);
                });
                let (mut from_server, mut to_client) = (server, client);
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from_server, &mut to_client);
                    let _ = to_client.shutdown(Shutdown::Both);
                });
            }
        });
        Front { address, stop, thread: Some(thread) }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn no_answer_is_ever_outside_of_the_description() {
    let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-python/bin/schemathesis"));
    if !program.exists() {
        println!("SKIPPED: schemathesis is missing; tests/run installs it");
        return;
    }
    let broker = FakeBroker::start(Script::POLITE, 0);
    let mut home = Home::new([broker.url()]);
    // The device of the examples. It takes no commands, and so each is refused at once.
    let meter = Device::at(home.path("meter"));
    home.serial("meter", meter.path(), "");
    let sidecar = Sidecar::start(home);
    meter.line("22.5");
    sidecar.expect_status("health", |status| {
        status["health"]["state"] == "healthy" && status["devices"]["meter"]["frames"] == 1
    });
    let front = Front::of(&sidecar.home.socket());
    let url = format!("http://{}", front.address);
    let mut schemathesis = Command::new(program);
    schemathesis.args(["run", &format!("{url}/v1/openapi.json"), "--url", &url, "--checks", CHECKS]);
    schemathesis.args(["--max-examples", "40", "--request-timeout", "30", "--no-color", "--seed", "1"]);
    let output = schemathesis.current_dir(sidecar.home.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success());
    assert_eq!(sidecar.request("GET", "/v1/health", "", b"").unwrap().code, 200);
}
