//! The listen flow with a broker that this test plays itself, packet by packet.
#![cfg(test)]

use bytes::BytesMut;
use pillion::command::{Origin, Request};
use pillion::config::{Mqtt, Server};
use pillion::host;
use pillion::inbound::{Delivered, Settings};
use pillion::listen::alive::Alive;
use pillion::listen::{Listener, Outlets, Wiring};
use pillion::network::Network;
use pillion::pulse::Heart;
use pillion::record::Submission;
use pillion::stats::{LinkState, LinkStatus, SessionStatus};
use rumqttc::QoS;
use rumqttc::mqttbytes::Error as Incomplete;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);
const SET: &str = "p/device/meter/set";

/// The broker's end of a connection.
struct Peer {
    stream: TcpStream,
    unread: BytesMut,
}

impl Peer {
    async fn read(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.unread, 1 << 20) {
                Ok(packet) => return packet,
                Err(Incomplete::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let read = self.stream.read_buf(&mut self.unread);
            assert!(timeout(DEADLINE, read).await.expect("a packet in time").unwrap() > 0, "hung up");
        }
    }

    async fn write(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 1 << 24).unwrap();
        // Who does not want it hangs up before the end.
        let _ = self.stream.write_all(&bytes).await;
    }

    async fn publish(&mut self, payload: &str, pkid: u16, dup: bool) {
        let publish = Publish { pkid, dup, ..Publish::new(SET, QoS::AtLeastOnce, payload) };
        self.write(Packet::Publish(publish)).await;
    }

    async fn publish_at(&mut self, topic: &str, pkid: u16, retain: bool) {
        let publish = Publish { pkid, retain, ..Publish::new(topic, QoS::AtLeastOnce, "x") };
        self.write(Packet::Publish(publish)).await;
    }

    /// Answers so many SUBSCRIBEs: what is below `denied` gets a no.
    async fn grant(&mut self, count: usize, denied: &str) -> Vec<String> {
        let mut filters = Vec::new();
        for _ in 0..count {
            let Packet::Subscribe(subscribe) = self.read().await else { panic!("no SUBSCRIBE") };
            assert_eq!(subscribe.filters.len(), 1);
            filters.push(subscribe.filters[0].path.clone());
            let code = match subscribe.filters[0].path.starts_with(denied) {
                true => SubscribeReasonCode::Failure,
                false => SubscribeReasonCode::Success(QoS::AtLeastOnce),
            };
            self.write(Packet::SubAck(SubAck::new(subscribe.pkid, vec![code]))).await;
        }
        filters
    }

    /// The next PUBACK; pings are answered.
    async fn acknowledged(&mut self) -> u16 {
        loop {
            match self.read().await {
                Packet::PubAck(PubAck { pkid }) => return pkid,
                Packet::PingReq => self.write(Packet::PingResp).await,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The flow, between a broker and a dispatch flow that are both this test.
struct Rig {
    broker: TcpListener,
    requests: mpsc::Receiver<Request>,
    messages: mpsc::Receiver<Delivered>,
    settings: mpsc::Receiver<Settings>,
    events: mpsc::Receiver<Submission>,
    status: watch::Receiver<SessionStatus>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    _heart: Heart,
    _dir: TempDir,
}

impl Rig {
    /// With devices that take commands, and nothing else.
    async fn start(room: usize) -> Self {
        Rig::start_with(room, false).await
    }

    async fn start_with(room: usize, application: bool) -> Self {
        Rig::start_patient(room, application, Duration::from_secs(20)).await
    }

    async fn start_patient(room: usize, application: bool, ack_timeout: Duration) -> Self {
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mqtt = Mqtt {
            version: Default::default(),
            tls: Default::default(),
            servers: vec![Server {
                tls: false,
                websocket: None,
                host: "127.0.0.1".into(),
                port: broker.local_addr().unwrap().port(),
            }],
            client_id: "gw".into(),
            topic_prefix: "p".into(),
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(30),
            inflight: 128,
            ack_timeout,
            fall_back: None,
            max_payload: 256 * 1024,
            backfill_rate: 0,
            budget: None,
        };
        let (to_test, requests) = mpsc::channel(room);
        let (to_inbox, messages) = mpsc::channel(room);
        let (to_store, settings) = mpsc::channel(room);
        let (submissions, events) = mpsc::channel(8);
        let (status_in, status) = watch::channel(SessionStatus::default());
        let (stop, stopped) = watch::channel(false);
        let heart = Heart::default();
        let wiring = Wiring {
            outlets: Outlets {
                devices: Some(to_test),
                application: application.then_some(to_inbox),
                settings: application.then_some(to_store),
                neighbours: None,
                sparkplug: None,
            },
            submissions,
            status: status_in,
            link: watch::channel(LinkStatus::default()).1,
            network: Network::still(),
            clock: host::now,
            pulse: heart.pulse("listen"),
            stop: stopped,
        };
        let alive = Alive::open(dir.path().join("alive"), "boot".into());
        let task = tokio::spawn(Listener::new(mqtt, None, alive, wiring).run());
        Rig { broker, requests, messages, settings, events, status, stop, task, _heart: heart, _dir: dir }
    }

    /// The next connection, up to its CONNACK.
    async fn connected(&self, session_present: bool) -> (Peer, Connect) {
        let (stream, _) = timeout(DEADLINE, self.broker.accept()).await.expect("a connection in time").unwrap();
        let mut peer = Peer { stream, unread: BytesMut::new() };
        let Packet::Connect(connect) = peer.read().await else { panic!("no CONNECT") };
        peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, session_present))).await;
        (peer, connect)
    }

    /// The next connection, up to its SUBACK.
    async fn subscribed(&mut self, session_present: bool) -> Peer {
        let (mut peer, connect) = self.connected(session_present).await;
        assert_eq!((connect.client_id.as_str(), connect.clean_session), ("gw-commands", false));
        let Packet::Subscribe(subscribe) = peer.read().await else { panic!("no SUBSCRIBE") };
        assert_eq!(subscribe.filters[0].path, "p/device/+/set");
        let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
        peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, granted))).await;
        let connected = self.status.wait_for(|status| status.state == LinkState::Connected);
        timeout(DEADLINE, connected).await.expect("connected in time").unwrap();
        peer
    }

    /// The next command, and how it came.
    async fn request(&mut self) -> (String, Came) {
        let request = timeout(DEADLINE, self.requests.recv()).await.expect("a command in time").unwrap();
        assert_eq!(request.device, "meter");
        let Origin::Broker { packet, redelivered, waited, noted, .. } = request.origin else { panic!("local") };
        (String::from_utf8(request.payload).unwrap(), Came { packet, redelivered, waited, noted })
    }
}

struct Came {
    packet: Option<u16>,
    redelivered: bool,
    waited: Option<Duration>,
    noted: oneshot::Sender<()>,
}

#[tokio::test]
async fn nothing_is_ever_acknowledged_before_it_is_noted_or_out_of_turn() {
    let mut rig = Rig::start(8).await;
    let mut peer = rig.subscribed(false).await;
    for packet in 1..=3 {
        peer.publish("on", packet, packet == 3).await;
    }
    let (_, first) = rig.request().await;
    let (_, second) = rig.request().await;
    let (_, third) = rig.request().await;
    assert_eq!((first.packet, first.redelivered, third.redelivered), (Some(1), false, true));
    assert_eq!(first.waited, Some(Duration::ZERO), "the broker had no session, so nothing has waited");
    second.noted.send(()).unwrap();
    // One that is to come again is left out.
    drop(third.noted);
    first.noted.send(()).unwrap();
    assert_eq!((peer.acknowledged().await, peer.acknowledged().await), (1, 2));
    peer.publish("off", 4, false).await;
    rig.request().await.1.noted.send(()).unwrap();
    assert_eq!(peer.acknowledged().await, 4);
    rig.stop.send_replace(true);
    assert_eq!(peer.read().await, Packet::Disconnect);
    timeout(DEADLINE, rig.task).await.expect("an end in time").unwrap();
}

#[tokio::test]
async fn what_comes_again_is_never_acknowledged_on_the_strength_of_the_old_connection() {
    let mut rig = Rig::start(8).await;
    let mut peer = rig.subscribed(false).await;
    peer.publish("on", 1, false).await;
    let (_, old) = rig.request().await;
    drop(peer);
    let mut peer = rig.subscribed(true).await;
    // Too late: this is for a connection that is no more.
    let _ = old.noted.send(());
    peer.publish("on", 1, true).await;
    let (_, again) = rig.request().await;
    assert!(again.redelivered && again.waited.is_some_and(|waited| waited > Duration::ZERO), "{:?}", again.waited);
    peer.publish("off", 2, false).await;
    rig.request().await.1.noted.send(()).unwrap();
    again.noted.send(()).unwrap();
    assert_eq!((peer.acknowledged().await, peer.acknowledged().await), (1, 2));
}

#[tokio::test]
async fn a_full_dispatch_flow_never_makes_it_hold_more() {
    let mut rig = Rig::start(1).await;
    let mut peer = rig.subscribed(false).await;
    for packet in 1..=20 {
        peer.publish(&packet.to_string(), packet, false).await;
    }
    for packet in 1..=20_u16 {
        let (payload, came) = rig.request().await;
        assert_eq!((payload, came.packet), (packet.to_string(), Some(packet)));
        came.noted.send(()).unwrap();
        assert_eq!(peer.acknowledged().await, packet);
    }
}

#[tokio::test]
async fn a_poisoned_session_is_never_kept_for_ever_nor_given_up_at_once() {
    let mut rig = Rig::start(8).await;
    for _ in 0..2 {
        let mut peer = rig.subscribed(true).await;
        peer.publish("good", 1, true).await;
        peer.publish(&"x".repeat(300_000), 2, true).await;
        assert_eq!(rig.request().await.0, "good");
    }
    let (mut peer, connect) = rig.connected(false).await;
    assert!(connect.clean_session, "the session is given up");
    assert_eq!(peer.read().await, Packet::Disconnect);
    let event = timeout(DEADLINE, rig.events.recv()).await.expect("an event in time").unwrap();
    assert!(String::from_utf8_lossy(&event.records[0].data).contains("commands-lost"));
    rig.subscribed(false).await;
    assert_eq!(rig.status.borrow().resets, 1);
}

#[tokio::test]
async fn a_broker_that_denies_the_subscription_never_goes_unnoticed() {
    let mut rig = Rig::start(8).await;
    let (mut peer, _) = rig.connected(false).await;
    let Packet::Subscribe(subscribe) = peer.read().await else { panic!("no SUBSCRIBE") };
    peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, vec![SubscribeReasonCode::Failure]))).await;
    let denied = rig.status.wait_for(|status| {
        status.state == LinkState::Disconnected
            && status.reason.as_ref().is_some_and(|reason| reason.contains("does not allow to subscribe"))
    });
    timeout(DEADLINE, denied).await.expect("a reason in time").unwrap();
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_a_subscription_never_leaves_open_which_one() {
    let mut rig = Rig::start_with(8, true).await;
    let (mut peer, _) = rig.connected(false).await;
    peer.grant(1, "none").await;
    assert!(matches!(peer.read().await, Packet::Subscribe(_)));
    drop(peer);
    let told = rig.status.wait_for(|status| {
        status
            .reason
            .as_ref()
            .is_some_and(|reason| reason.ends_with("without an answer to a subscription to p/app/set/#"))
    });
    timeout(DEADLINE, told).await.expect("a reason in time").unwrap();
}

#[tokio::test]
async fn a_broker_that_never_answers_a_subscription_never_keeps_the_flow() {
    let mut rig = Rig::start_patient(8, false, Duration::from_millis(200)).await;
    let (mut mute, _) = rig.connected(false).await;
    assert!(matches!(mute.read().await, Packet::Subscribe(_)));
    // It lives: what it says is no answer, though.
    mute.write(Packet::PingResp).await;
    rig.subscribed(false).await;
}

#[tokio::test]
async fn a_denied_filter_never_disturbs_the_others() {
    let mut rig = Rig::start_with(8, true).await;
    let (mut peer, _) = rig.connected(false).await;
    let filters = peer.grant(3, "p/app/").await;
    assert_eq!(filters, ["p/device/+/set", "p/app/set/#", "p/config/#"]);
    let connected = rig.status.wait_for(|status| status.state == LinkState::Connected);
    let denied = timeout(DEADLINE, connected).await.expect("connected in time").unwrap().denied.clone();
    assert_eq!(denied, ["p/app/set/#"]);
    peer.publish("on", 1, false).await;
    rig.request().await.1.noted.send(()).unwrap();
    assert_eq!(peer.acknowledged().await, 1);
}

#[tokio::test]
async fn no_message_ever_reaches_another_flow_than_its_own_or_is_acknowledged_for_it() {
    let mut rig = Rig::start_with(8, true).await;
    let (mut peer, _) = rig.connected(false).await;
    peer.grant(3, "none").await;
    peer.publish_at("p/app/set/mode/now", 1, false).await;
    peer.publish_at("p/config/a/b", 2, true).await;
    peer.publish_at("p/elsewhere", 3, true).await;
    let message = timeout(DEADLINE, rig.messages.recv()).await.expect("a message in time").unwrap();
    assert_eq!((message.topic.as_str(), message.retained, message.packet), ("mode/now", false, Some(1)));
    let round = timeout(DEADLINE, rig.settings.recv()).await.expect("a round in time").unwrap();
    assert!(matches!(round, Settings::Round { remembered: false, .. }), "{round:?}");
    let key = timeout(DEADLINE, rig.settings.recv()).await.expect("a key in time").unwrap();
    let Settings::Message(key) = key else { panic!("{key:?}") };
    assert_eq!((key.topic.as_str(), key.retained, key.payload.as_slice()), ("a/b", true, b"x".as_slice()));
    // The later one is ready first; it has to wait for its turn.
    key.noted.send(()).unwrap();
    message.noted.send(()).unwrap();
    assert_eq!([peer.acknowledged().await, peer.acknowledged().await, peer.acknowledged().await], [1, 2, 3]);
}

#[tokio::test]
async fn keys_never_count_as_complete_while_some_may_still_come() {
    let mut rig = Rig::start_with(256, true).await;
    let (mut peer, _) = rig.connected(true).await;
    peer.grant(3, "none").await;
    assert!(matches!(rig.settings.recv().await, Some(Settings::Round { remembered: true, .. })));
    peer.publish_at("p/config/a", 1, true).await;
    let Some(Settings::Message(key)) = rig.settings.recv().await else { panic!("no key") };
    // So many other messages may have cost us one: it is asked for again.
    for packet in 100..=200 {
        peer.publish_at("p/app/set/x", packet, false).await;
        rig.messages.recv().await.unwrap().noted.send(()).unwrap();
    }
    assert!(rig.settings.try_recv().is_err(), "a key is not acknowledged");
    key.noted.send(()).unwrap();
    let mut acknowledged = 0;
    let again = loop {
        match peer.read().await {
            Packet::PubAck(_) => acknowledged += 1,
            Packet::PingReq => peer.write(Packet::PingResp).await,
            Packet::Subscribe(subscribe) => break subscribe,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((acknowledged, again.filters[0].path.as_str()), (102, "p/config/#"));
    assert!(matches!(rig.settings.recv().await, Some(Settings::Round { .. })), "nothing was complete before");
    let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
    peer.write(Packet::SubAck(SubAck::new(again.pkid, granted))).await;
    assert_eq!(peer.read().await, Packet::PingReq);
    peer.write(Packet::PingResp).await;
    let complete = timeout(DEADLINE, rig.settings.recv()).await.expect("an end in time");
    assert!(matches!(complete, Some(Settings::Complete)), "{complete:?}");
    drop(peer);
    assert!(matches!(rig.settings.recv().await, Some(Settings::Lost)));
}

#[tokio::test]
async fn a_message_that_is_kept_and_can_never_be_taken_never_costs_the_commands() {
    let mut rig = Rig::start_with(8, true).await;
    for session in [true, false] {
        for _ in 0..2 {
            let (mut peer, connect) = rig.connected(session).await;
            assert!(!connect.clean_session);
            peer.grant(3, "none").await;
            let huge =
                Publish { pkid: 1, retain: true, ..Publish::new("p/config/x", QoS::AtLeastOnce, vec![0; 300_000]) };
            peer.write(Packet::Publish(huge)).await;
        }
        let (mut peer, connect) = rig.connected(false).await;
        assert!(connect.clean_session, "the session is given up");
        assert_eq!(peer.read().await, Packet::Disconnect);
        timeout(DEADLINE, rig.events.recv()).await.expect("an event in time").unwrap();
        while rig.settings.try_recv().is_ok() {}
    }
    let (mut peer, _) = rig.connected(false).await;
    assert_eq!(peer.grant(2, "none").await, ["p/device/+/set", "p/app/set/#"]);
    let aside = rig.status.wait_for(|status| status.state == LinkState::Connected && !status.set_aside.is_empty());
    assert_eq!(timeout(DEADLINE, aside).await.expect("told in time").unwrap().set_aside, ["p/config/#"]);
}
