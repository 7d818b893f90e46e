//! Tests that need a real mosquitto.

mod rig;
