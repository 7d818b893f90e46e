//! The types that metrics have had, over restarts of the process: a metric that became a double stays one when the same records go
//! out again after a kill. Pure.
//!
//! Constraints: what is remembered is the type alone, and it counts from the first value on: a metric that nobody sends any more is
//! in no birth. A file that can't be read, or has grown too large to be kept, costs its knowledge and nothing else.
//!
//! Format of the file: a JSON object for each device by its name, with the number of the `DataType` for each metric by its name.

use super::metric::Kind;
use std::collections::BTreeMap;

/// The largest file that is kept, in bytes.
pub const MAX_FILE: usize = 256 * 1024;
/// Metrics of a device whose types are remembered.
const MOST: usize = 1024;

/// Types by device and metric.
#[derive(Debug, Default)]
pub(super) struct Types {
    of: BTreeMap<String, BTreeMap<String, Kind>>,
    is_news: bool,
}

impl Types {
    /// As the file has them.
    pub(super) fn read(file: &[u8]) -> Types {
        let numbers: BTreeMap<String, BTreeMap<String, u32>> = serde_json::from_slice(file).unwrap_or_default();
        let kinds = |metrics: BTreeMap<String, u32>| {
            metrics.into_iter().filter_map(|(name, number)| Some((name, Kind::numbered(number)?))).collect()
        };
        Types { of: numbers.into_iter().map(|(device, metrics)| (device, kinds(metrics))).collect(), is_news: false }
    }

    /// What this metric had to be so far.
    pub(super) fn of(&self, device: &str, metric: &str) -> Option<Kind> {
        self.of.get(device)?.get(metric).copied()
    }

    /// A metric has this type now.
    pub(super) fn note(&mut self, device: &str, metric: &str, kind: Kind) {
        if self.of(device, metric) == Some(kind) {
            return;
        }
        self.is_news = true;
        let metrics = self.of.entry(device.to_owned()).or_default();
        // Whose metrics have ever new names has none that is worth it.
        if metrics.len() >= MOST {
            metrics.clear();
        }
        metrics.insert(metric.to_owned(), kind);
    }

    /// The file, if it has to be written.
    pub(super) fn write(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.is_news) {
            return None;
        }
        let numbers = |metrics: &BTreeMap<String, Kind>| {
            metrics.iter().map(|(name, kind)| (name.clone(), kind.number())).collect::<BTreeMap<String, u32>>()
        };
        let file: BTreeMap<_, _> = self.of.iter().map(|(device, metrics)| (device, numbers(metrics))).collect();
        serde_json::to_vec(&file).ok().filter(|file| file.len() <= MAX_FILE)
    }
}
