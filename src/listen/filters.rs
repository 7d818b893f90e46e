//! What is subscribed to, and whom a message is for. Pure.
//!
//! Each filter has a SUBSCRIBE of its own, so that a broker that denies one is not kept from granting the others. States of
//! a filter, from one connection to the next:
//!
//! ```text
//!          SUBSCRIBE          SUBACK
//! Unasked ───────────> Asked ────────> Granted
//!                        └───────────> Denied          told in the status, asked for again on the next connection
//! SetAside                                             not asked for: a message that can't be taken seems to be kept there
//! ```

use crate::sparkplug::Node;

/// Whom a message is for. In this order their filters are set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receiver {
    /// Other gateways: the filter is configured.
    Neighbour,
    /// The edge node in Sparkplug.
    Node,
    /// One of its devices.
    NodeDevice,
    /// The configuration store: `P/config/#`.
    Settings,
    /// The application: `P/app/set/#`.
    Application,
    /// A device: `P/device/+/set`.
    Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unasked,
    Asked(u16),
    Granted,
    Denied,
    SetAside,
}

/// All filters. See the module's head.
#[derive(Debug)]
pub struct Filters {
    prefix: String,
    /// That of the neighbours.
    neighbours: String,
    /// Whose commands of Sparkplug are asked for.
    node: Option<Node>,
    /// In the order in which they are asked for.
    all: Vec<(Receiver, State)>,
    /// The packet id of the latest SUBSCRIBE of this connection.
    latest_id: u16,
}

impl Filters {
    /// For these receivers, below this prefix; `neighbours` is their filter.
    pub fn new(prefix: &str, neighbours: &str, receivers: &[Receiver]) -> Filters {
        // Devices first: their commands are what can be too late.
        let mut all: Vec<_> = receivers.iter().map(|receiver| (*receiver, State::Unasked)).collect();
        all.sort_by_key(|(receiver, _)| std::cmp::Reverse(*receiver));
        Filters { prefix: prefix.to_owned(), neighbours: neighbours.to_owned(), node: None, all, latest_id: 0 }
    }

    /// With the edge node in Sparkplug, if there is one.
    pub fn with_node(self, node: Option<Node>) -> Filters {
        Filters { node, ..self }
    }

    /// A connection begins.
    pub fn reset(&mut self) {
        self.latest_id = 0;
        for (_, state) in self.all.iter_mut().filter(|(_, state)| *state != State::SetAside) {
            *state = State::Unasked;
        }
    }

    /// The receivers whose filters are to be asked for on this connection.
    pub fn unasked(&self) -> Vec<Receiver> {
        self.all.iter().filter(|(_, state)| *state == State::Unasked).map(|(receiver, _)| *receiver).collect()
    }

    /// The filter, and the packet id of its SUBSCRIBE, which is sent now.
    pub fn ask(&mut self, receiver: Receiver) -> (String, u16) {
        // Ids are free again when they have been answered; there are never so many under way.
        self.latest_id = self.latest_id.checked_add(1).unwrap_or(1);
        let id = self.latest_id;
        if let Some((_, state)) = self.all.iter_mut().find(|(of, _)| *of == receiver) {
            *state = State::Asked(id);
        }
        (self.filter(receiver), id)
    }

    /// A SUBACK has come. Whose was it?
    pub fn answered(&mut self, id: u16, granted: bool) -> Option<Receiver> {
        let (receiver, state) = self.all.iter_mut().find(|(_, state)| *state == State::Asked(id))?;
        *state = if granted { State::Granted } else { State::Denied };
        Some(*receiver)
    }

    /// Whether no answer is missing.
    pub fn all_answered(&self) -> bool {
        self.all.iter().all(|(_, state)| matches!(state, State::Granted | State::Denied | State::SetAside))
    }

    /// Whether the broker grants anything at all.
    pub fn any_granted(&self) -> bool {
        self.all.iter().any(|(_, state)| *state == State::Granted)
    }

    /// The first filter whose answer is missing.
    pub fn unanswered(&self) -> Option<String> {
        self.all.iter().find(|(_, state)| matches!(state, State::Asked(_))).map(|(of, _)| self.filter(*of))
    }

    /// The filters that the broker does not grant.
    pub fn denied(&self) -> Vec<String> {
        self.all.iter().filter(|(_, state)| *state == State::Denied).map(|(of, _)| self.filter(*of)).collect()
    }

    /// The filters that were set aside.
    pub fn set_aside(&self) -> Vec<String> {
        self.all.iter().filter(|(_, state)| *state == State::SetAside).map(|(of, _)| self.filter(*of)).collect()
    }

    /// Sets one more filter aside, unless it is the last one.
    pub fn set_next_aside(&mut self) {
        let mut left: Vec<_> = self.all.iter_mut().filter(|(_, state)| *state != State::SetAside).collect();
        left.sort_by_key(|(receiver, _)| *receiver);
        if let [(_, state), _, ..] = left.as_mut_slice() {
            *state = State::SetAside;
        }
    }

    /// Takes back what was set aside.
    pub fn try_all_again(&mut self) {
        for (_, state) in &mut self.all {
            *state = State::Unasked;
        }
    }

    /// Whom a message on this topic is for, and what is left of the topic for it: a device's name, or what is below its
    /// filter.
    pub fn route<'t>(&self, topic: &'t str) -> Option<(Receiver, &'t str)> {
        let is_wanted = |receiver| self.all.iter().any(|(of, _)| *of == receiver);
        let neighbour = || is_status(&self.neighbours, topic).then_some((Receiver::Neighbour, topic));
        self.ours(topic).or_else(|| self.nodes(topic)).or_else(neighbour).filter(|(receiver, _)| is_wanted(*receiver))
    }

    fn ours<'t>(&self, topic: &'t str) -> Option<(Receiver, &'t str)> {
        let below = topic.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?;
        let (receiver, rest) = if let Some(name) = device_of(below) {
            (Receiver::Device, name)
        } else if below == "app/set" {
            (Receiver::Application, "")
        } else if let Some(rest) = below.strip_prefix("app/set/") {
            (Receiver::Application, rest)
        } else {
            (Receiver::Settings, below.strip_prefix("config/")?)
        };
        Some((receiver, rest))
    }

    fn nodes<'t>(&self, topic: &'t str) -> Option<(Receiver, &'t str)> {
        let node = self.node.as_ref()?;
        let device = || node.commanded(topic).map(|device| (Receiver::NodeDevice, device));
        if topic == node.commands() { Some((Receiver::Node, "")) } else { device() }
    }

    fn filter(&self, receiver: Receiver) -> String {
        let of_node = |filter: fn(&Node) -> String| self.node.as_ref().map(filter).unwrap_or_default();
        let below = match receiver {
            Receiver::Neighbour => return self.neighbours.clone(),
            Receiver::Node => return of_node(Node::commands),
            Receiver::NodeDevice => return of_node(Node::device_commands),
            Receiver::Settings => "config/#",
            Receiver::Application => "app/set/#",
            Receiver::Device => "device/+/set",
        };
        format!("{}/{below}", self.prefix)
    }
}

/// Whether a topic matches a filter of which `+` is the only wildcard.
fn is_status(filter: &str, topic: &str) -> bool {
    let (mut wanted, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// NAME of `device/NAME/set`.
fn device_of(below: &str) -> Option<&str> {
    let name = below.strip_prefix("device/")?.strip_suffix("/set")?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::Receiver::{Application, Device, Settings};
    use super::*;

    fn filters() -> Filters {
        Filters::new("p/x", "", &[Application, Device, Settings])
    }

    #[test]
    fn no_topic_ever_reaches_a_receiver_that_it_does_not_name() {
        let filters = filters();
        assert_eq!(filters.route("p/x/device/meter/set"), Some((Device, "meter")));
        assert_eq!(filters.route("p/x/app/set"), Some((Application, "")));
        assert_eq!(filters.route("p/x/app/set/mode/now"), Some((Application, "mode/now")));
        assert_eq!(filters.route("p/x/config/limits/high"), Some((Settings, "limits/high")));
        for topic in [
            "p/x/device//set",
            "p/x/device/set",
            "p/x/device/a/b/set",
            "p/x/device/meter/get",
            "p/xdevice/meter/set",
            "q/p/x/device/meter/set",
            "p/x/device/meter/set/",
            "p/x/app/setting",
            "p/x/app/orders",
            "p/x/config",
            "p/x/config-reported/a",
            "p/x",
            "",
        ] {
            assert_eq!(filters.route(topic), None, "{topic}");
        }
        assert_eq!(Filters::new("p/x", "", &[Device]).route("p/x/config/a"), None, "nobody wants it");
        let neighbours = Filters::new("p/x", "p/+/status", &[Receiver::Neighbour, Device]);
        assert_eq!(neighbours.route("p/y/status"), Some((Receiver::Neighbour, "p/y/status")));
        assert_eq!(neighbours.route("p/x/device/a/set"), Some((Device, "a")));
        for topic in ["p/y/z/status", "p/status", "p/y/health", "p/y/status/", "p/x/config/status"] {
            assert_eq!(neighbours.route(topic), None, "{topic}");
        }
    }

    #[test]
    fn a_denied_filter_never_disturbs_the_others() {
        let mut filters = filters();
        assert_eq!(filters.unasked(), [Device, Application, Settings]);
        let asked: Vec<_> = filters.unasked().into_iter().map(|receiver| filters.ask(receiver)).collect();
        assert_eq!(asked[0], ("p/x/device/+/set".to_owned(), 1));
        assert_eq!(filters.answered(2, false), Some(Application));
        assert_eq!(filters.answered(2, true), None, "answered already");
        assert_eq!((filters.all_answered(), filters.any_granted()), (false, false));
        assert_eq!(filters.answered(1, true), Some(Device));
        assert_eq!(filters.answered(3, true), Some(Settings));
        assert!(filters.all_answered() && filters.any_granted());
        assert_eq!(filters.denied(), ["p/x/app/set/#"]);
        filters.reset();
        assert_eq!((filters.unasked().len(), filters.denied().len()), (3, 0), "they are all asked for again");
    }

    #[test]
    fn setting_aside_never_takes_the_last_one() {
        let mut filters = filters();
        (0..5).for_each(|_| filters.set_next_aside());
        assert_eq!(filters.set_aside(), ["p/x/app/set/#", "p/x/config/#"]);
        filters.reset();
        assert_eq!(filters.unasked(), [Device]);
        filters.try_all_again();
        assert_eq!(filters.unasked().len(), 3);
    }
}
