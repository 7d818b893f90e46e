//! The brokers that people run, each as a real process: mosquitto, rumqttd, NATS and RabbitMQ, and a cluster of NATS nodes.
//!
//! `matrix` has the one test that all of them have to pass; the files `with_…` have a broker's configurations, and what is
//! peculiar to it. A broker that is not installed fails its tests; `tests/run` installs it, or else leaves them out and says so.
#![cfg(test)]
// This needs but a part of the rig.
#![allow(dead_code)]

#[path = "../common/mod.rs"]
mod common;

mod broker;
mod matrix;
mod with_mosquitto;
mod with_nats;
mod with_rabbitmq;
mod with_rumqttd;
