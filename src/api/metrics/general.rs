//! The sidecar itself as numbers: which one it is, and its verdict.

use super::family::{Family, flag, gauge, info, many};
use super::text::Text;
use crate::stats::{HealthState, Status};

const BUILD: Family<()> = info("pillion_build", "The version that runs.");
const TARGET: Family<()> = info("pillion_target", "Which sidecar this is, of which application, on which machine.");

const GENERAL: &[Family<Status>] = &[
    flag("pillion_healthy", "Whether everything that is configured works.", |status| {
        status.health.state == HealthState::Healthy
    }),
    gauge("pillion_health_reasons", "Things that are wrong now; /v1/health names them.", |status| {
        many(status.health.reasons.len())
    }),
    gauge("pillion_uptime_seconds", "Time since the sidecar started.", |status| status.uptime_s),
    gauge("pillion_resident_memory_bytes", "Resident memory of the sidecar.", |status| status.host.rss_bytes),
];

pub(super) fn write(text: &mut Text, status: &Status) {
    text.family(&BUILD, [(vec![("version", status.version.as_str())], &())]);
    let mut target = vec![("sidecar", status.instance.as_str())];
    target.extend(status.app.as_ref().and_then(|app| Some(("unit", app.unit.as_deref()?))));
    target.extend([("host", status.host.name.as_str()), ("boot_id", status.host.boot_id.as_str())]);
    text.family(&TARGET, [(target, &())]);
    text.families(GENERAL, || [(vec![], status)]);
}
