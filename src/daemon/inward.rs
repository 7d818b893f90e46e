//! The flows that keep what comes from the broker for the application, each if it is configured.

use crate::config::Config;
use crate::disk::Disk;
use crate::inbound::{Inbox, Neighbour, SettingsNews, SettingsStore};
use crate::pulse::Heart;
use crate::record::Submission;
use crate::stats::{InboxStatus, SettingsStatus};
use crate::{host, inbox, listen, neighbours, settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Questions of local clients that wait for a flow.
const REQUESTS: usize = 16;

/// What the flows stand on.
pub(super) struct Ground<'d> {
    pub(super) submissions: &'d mpsc::Sender<Submission>,
    pub(super) heart: &'d Heart,
    pub(super) stop: &'d watch::Receiver<bool>,
    pub(super) sources: &'d mut JoinSet<&'static str>,
}

/// What the other flows have to know of them.
#[derive(Default)]
pub(super) struct Inward {
    /// For the listen flow.
    pub(super) outlets: listen::Outlets,
    /// For the local API.
    pub(super) inbox: Option<Inbox>,
    /// For the status.
    pub(super) inbox_shown: Option<watch::Receiver<InboxStatus>>,
    /// The same of the configuration store.
    pub(super) settings: Option<SettingsStore>,
    pub(super) settings_shown: Option<watch::Receiver<SettingsStatus>>,
    /// Other gateways, for the local API.
    pub(super) neighbours: Option<watch::Receiver<BTreeMap<String, Neighbour>>>,
}

/// Starts the flows.
pub(super) fn start(config: &Config, mut ground: Ground<'_>) -> Inward {
    let mut inward = Inward::default();
    if config.app.commands {
        inward.start_inbox(config, &mut ground);
    }
    if config.app.config || !config.managed_files.is_empty() {
        inward.start_settings(config, &mut ground);
    }
    if let Some(filter) = &config.discovery {
        inward.start_neighbours(filter.clone(), config, &mut ground);
    }
    inward
}

impl Inward {
    fn start_inbox(&mut self, config: &Config, ground: &mut Ground<'_>) {
        let (to_inbox, messages) = mpsc::channel(inbox::WAITING);
        let (ask, requests) = mpsc::channel(REQUESTS);
        let (latest, latest_shown) = watch::channel(0);
        let (status, shown) = watch::channel(InboxStatus::default());
        let wiring = inbox::Wiring {
            messages,
            requests,
            latest,
            submissions: ground.submissions.clone(),
            status,
            clock: host::now,
            pulse: ground.heart.pulse("inbox"),
            stop: ground.stop.clone(),
        };
        let folder = inbox::folder(&config.state_dir);
        ground.sources.spawn(async move {
            inbox::run(Arc::new(Disk), folder, wiring).await;
            "inbox"
        });
        self.outlets.application = Some(to_inbox);
        self.inbox = Some(Inbox { requests: ask, latest: latest_shown });
        self.inbox_shown = Some(shown);
    }

    fn start_settings(&mut self, config: &Config, ground: &mut Ground<'_>) {
        let (to_store, from_broker) = mpsc::channel(settings::WAITING);
        let (ask, requests) = mpsc::channel(REQUESTS);
        let (news, news_shown) = watch::channel(SettingsNews::default());
        let (status, shown) = watch::channel(SettingsStatus::default());
        let wiring = settings::Wiring {
            settings: from_broker,
            requests,
            news,
            managed: settings::managed::Managed {
                keys: config.managed_files.iter().map(|file| file.key.clone()).collect(),
                apply_dir: config.apply_dir.clone(),
                trigger: config.runtime_dir.join("apply-wanted"),
                told: settings::store::folder(&config.state_dir).join("told"),
            },
            submissions: ground.submissions.clone(),
            status,
            clock: host::now,
            pulse: ground.heart.pulse("settings"),
            stop: ground.stop.clone(),
        };
        let folder = settings::store::folder(&config.state_dir);
        ground.sources.spawn(async move {
            settings::run(Arc::new(Disk), folder, wiring).await;
            "settings"
        });
        self.outlets.settings = Some(to_store);
        self.settings = Some(SettingsStore { requests: ask, news: news_shown });
        self.settings_shown = Some(shown);
    }

    fn start_neighbours(&mut self, filter: String, config: &Config, ground: &mut Ground<'_>) {
        let (heard, messages) = mpsc::channel(neighbours::WAITING);
        let (table, shown) = watch::channel(BTreeMap::new());
        let wiring = neighbours::Wiring {
            messages,
            table,
            own: config.mqtt.topic_prefix.clone(),
            clock: host::now,
            pulse: ground.heart.pulse("neighbours"),
            stop: ground.stop.clone(),
        };
        ground.sources.spawn(async move {
            neighbours::run(wiring).await;
            "neighbours"
        });
        self.outlets.neighbours = Some((filter, heard));
        self.neighbours = Some(shown);
    }
}
