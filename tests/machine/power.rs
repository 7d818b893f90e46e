//! Power cuts of the whole machine with the spool on its data disk.

use crate::common::{LONG, seed, sidecar::STREAM};
use crate::gateway::Gateway;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::time::Instant;

/// How often the power is cut. Each cut costs the time that the machine takes to boot.
const CUTS: u32 = 20;

/// Publishes lines of text to `STREAM`, one each 5 ms, until the power goes, and says of each request what was accepted.
fn flow(text: &str) -> String {
    format!(
        "perl -e '$| = 1; for (;; select(undef, undef, undef, 0.005)) {{ printf(\"{text} %d\\n\", ++$number) }}' |
            pillion publish --instance gateway --topic orders --stream {STREAM} --verbose 2>&1"
    )
}

/// What a line such as `pillion publish: lines 3 to 4: accepted as work:9 to work:10` says: the first line's number, and the
/// records' ones.
fn accepted(said: &str) -> Option<(u64, std::ops::RangeInclusive<u64>)> {
    let (place, records) = said.split_once(": accepted as ")?;
    let (first, last) = records.split_once(" to ")?;
    let number = |record: &str| record.rsplit(':').next()?.parse().ok();
    let line = place.rsplit_once("line")?.1.trim_start_matches('s').split_whitespace().next()?;
    Some((line.parse().ok()?, number(first)?..=number(last)?))
}

#[test]
fn no_power_cut_of_the_machine_ever_costs_an_acknowledged_record_or_the_next_start() {
    let Some(mut gateway) = Gateway::install() else { return };
    let mut rng = Rng::with_seed(seed());
    let mut texts = BTreeMap::new();
    let start = Instant::now();
    for life in 0..=CUTS {
        gateway.machine.shell("mkdir -p /var/lib/pillion && mount /dev/disk/by-id/virtio-data /var/lib/pillion");
        gateway.configure("sync = \"always\"\nsegment_bytes = \"64KiB\"", "");
        // It always starts.
        gateway.start();
        let ledger = gateway.status()["streams"][STREAM].clone();
        assert_eq!(ledger["quarantined"], 0, "after cut {life}: {ledger}");
        if life == CUTS {
            break;
        }
        if life % 2 == 1 {
            gateway.relay.cut();
        }
        let text = format!("life {life} record");
        let mut said = BufReader::new(gateway.machine.begin(&flow(&text))).lines();
        let mut left = rng.usize(20..100);
        let mut take = |line: String| {
            let (first, records) = accepted(&line).unwrap_or_else(|| panic!("{line}"));
            texts.extend(records.zip(first..).map(|(record, line)| (record, format!("{text} {line}"))));
        };
        while left > 0 {
            take(said.next().expect("the flow has ended").unwrap());
            left -= 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(..50)));
        let loss = gateway.machine.cut_power(&mut rng);
        println!("cut {life}: of {} sectors in the disk's write cache {} are lost", loss.at_risk, loss.lost);
        // What was said before the cut, and has not been read yet.
        said.map_while(Result::ok).filter(|line| accepted(line).is_some()).for_each(&mut take);
        gateway.relay.open();
    }
    println!("{} records were acknowledged over {CUTS} cuts, in {:?}", texts.len(), start.elapsed());
    let last = *texts.last_key_value().unwrap().0;
    gateway
        .subscriber
        .expect("the last record", LONG, |inbox| inbox.of(STREAM).last().is_some_and(|arrival| arrival.seq >= last));
    gateway.subscriber.read(|inbox| {
        inbox.assert_in_order();
        let came: BTreeMap<u64, &str> = inbox.of(STREAM).iter().map(|one| (one.seq, one.text())).collect();
        let lost: Vec<_> = texts.iter().filter(|(seq, text)| came.get(seq) != Some(&text.as_str())).collect();
        assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), texts.len());
    });
}
