//! What the flows have to know of Sparkplug, if any stream has that convention.

use crate::config::Config;
use crate::listen::{self, Presence};
use crate::mqtt::{About, Message};
use crate::publish::sparkplug::{FILE_NAME, Sparkplug};
use crate::publish::{Farewell, STATUS_TOPIC};
use crate::sparkplug::{Node, Session, declared};
use tokio::sync::watch;

/// For both connections.
pub(super) struct Ends {
    pub(super) publishing: Sparkplug,
    pub(super) listening: listen::Sparkplug,
}

/// `birth` is what is said on `P/status`.
pub(super) fn ends(config: &Config, birth: &str, farewell: Farewell) -> Option<Ends> {
    let node = Node::new(config.sparkplug.as_ref()?);
    let (rebirths, requests) = watch::channel(0);
    let session = Session::new(node.clone(), declared(config));
    let status = |payload: &str| Message {
        topic: format!("{}/{STATUS_TOPIC}", config.mqtt.topic_prefix),
        payload: payload.as_bytes().to_vec(),
        retain: true,
        about: About::json(),
    };
    let presence = Presence { birth: status(birth), will: status(&farewell.will), stopped: status(&farewell.stopped) };
    Some(Ends {
        publishing: Sparkplug::open(session, requests, config.runtime_dir.join(FILE_NAME)),
        listening: listen::Sparkplug { node, rebirths, presence },
    })
}
