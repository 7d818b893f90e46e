//! Secrets that only root can read, handed over by systemd.

use crate::common::authority::{Authority, NOW};
use crate::common::mosquitto::Mosquitto;
use crate::common::sidecar::STREAM;
use crate::common::subscriber::Subscriber;
use crate::gateway::{APP, Gateway, SIDECAR};
use std::net::TcpListener;
use std::process::Command;

const SECRETS: &str = "/etc/pillion/secrets";

#[test]
fn a_secret_is_never_readable_by_others_and_never_out_of_reach_for_the_service() {
    let Some(gateway) = Gateway::boot() else { return };
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let passwords = folder.path().join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["gw", "open sesame"]).status();
    assert!(made.is_ok_and(|status| status.success()), "mosquitto_passwd comes with mosquitto");
    let mut tls = None;
    let broker = Mosquitto::start_with(|plain| {
        let address = TcpListener::bind((plain.ip(), 0)).and_then(|probe| probe.local_addr()).unwrap();
        tls = Some(address);
        let server = authority.issue(&address.ip().to_string(), NOW);
        format!(
            "password_file {}\nlistener {} {}\ncertfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\nuser root\n",
            passwords.display(),
            address.port(),
            address.ip(),
            server.cert.display(),
            server.key.display(),
            authority.own.display(),
        )
    });
    let subscriber = Subscriber::at(broker.address());
    let ours = authority.issue("gateway", NOW);
    for (file, name) in [(&ours.cert, "gw.pem"), (&ours.key, "gw.key")] {
        gateway.container.write(&format!("{SECRETS}/{name}"), &std::fs::read_to_string(file).unwrap());
    }
    gateway.container.write("/etc/pillion/ca.pem", &std::fs::read_to_string(&authority.own).unwrap());
    gateway.container.write(&format!("{SECRETS}/mqtt.password"), "open sesame\n");
    gateway.configure(&format!(
        "[mqtt]\nservers = [\"mqtts://{}\"]\nca_file = \"ca.pem\"\nusername = \"gw\"\npassword_file = \"mqtt.password\"\n\
         cert_file = \"gw.pem\"\nkey_file = \"gw.key\"\n",
        tls.unwrap()
    ));
    gateway.container.shell(&format!("chown -R root:root {SECRETS} && chmod -R u=rwX,go= {SECRETS}"));
    let denied = gateway.container.run(&["runuser", "--user", "pillion", "--", "cat", &format!("{SECRETS}/gw.key")]);
    assert!(!denied.status.success(), "{denied:?}");

    // Without them it says what is missing, and that no other try helps.
    gateway.container.shell(&format!("systemctl start {APP}"));
    gateway.expect_state(SIDECAR, "failed");
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --output=cat"));
    assert!(journal.contains("mqtt.password_file: /etc/pillion/mqtt.password: No such file"), "{journal}");

    let example = include_str!("../../systemd/credentials.conf");
    gateway.container.write("/etc/systemd/system/pillion@gateway.service.d/credentials.conf", example);
    gateway.container.shell(&format!("systemctl daemon-reload && systemctl stop {APP}"));
    gateway.start();
    gateway.publish("a record");
    subscriber.expect_text(STREAM, "a record");
    // Nor does the copy for the service have another reader.
    let copy = "/run/credentials/pillion@gateway.service/gw.key";
    gateway.container.shell(&format!("test -e {copy}"));
    gateway.container.shell("useradd stranger");
    let denied = gateway.container.run(&["runuser", "--user", "stranger", "--", "cat", copy]);
    assert!(!denied.status.success(), "{denied:?}");
}
