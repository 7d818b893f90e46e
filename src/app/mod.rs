//! The application beside us, as systemd knows it: what it logs.

pub mod journal;
