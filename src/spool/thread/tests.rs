//! Tests of the thread on the real disk.

mod notes;

use super::*;
use crate::config::{Stream, Sync, WhenFull};
use crate::pulse::Heart;
use crate::record::{ClockQuality, Encoding, Sequenced, Timestamp};
use crate::spool::fs::LogFile;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, LazyLock, Mutex};
use std::time::Instant;

const T: StreamId = StreamId::TELEMETRY;
const WINDOW: Sync = Sync::After(Duration::from_millis(50));

fn clock() -> Timestamp {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let mono_ms = u64::try_from(START.elapsed().as_millis()).unwrap();
    Timestamp { wall_ms: 1_795_401_667_123 + mono_ms, mono_ms, quality: ClockQuality::Trusted }
}

fn options(dir: &Path, sync: Sync) -> Options {
    let stream = |name: &str| Stream {
        name: name.to_owned(),
        max_bytes: 64 << 20,
        max_age: None,
        when_full: WhenFull::DropOldest,
        convention: Default::default(),
        priority: 1,
        batch: None,
        quiet_hours: None,
    };
    let streams = ["event", "telemetry", "log"].map(stream).to_vec();
    Options {
        dir: dir.to_owned(),
        streams,
        sync,
        runtime_dir: None,
        segment_bytes: 1 << 20,
        boot_id: [0; 16],
        backfill_rate: 0,
    }
}

fn open(dir: &Path, sync: Sync) -> (Handle, mpsc::Receiver<Batch>) {
    start(options(dir, sync), clock, Heart::default().pulse("spool")).unwrap()
}

/// With a heart that tells when the thread has done all that was asked before, pushes included.
fn open_with_heart(dir: &Path) -> (Handle, mpsc::Receiver<Batch>, Heart) {
    let heart = Heart::default();
    let (handle, batches) = start(options(dir, WINDOW), clock, heart.pulse("spool")).unwrap();
    (handle, batches, heart)
}

fn submission(
    count: usize,
    size: usize,
    durability: Durability,
) -> (Submission, oneshot::Receiver<Result<Accepted, Refusal>>) {
    let record = Record { topic: "t".into(), time: clock(), encoding: Encoding::Text, data: vec![b'x'; size] };
    let (reply, answer) = oneshot::channel();
    (Submission { stream: T, records: vec![record; count], durability, note: None, reply: Some(reply) }, answer)
}

async fn append(handle: &Handle, count: usize, size: usize, durability: Durability) -> Result<Accepted, Refusal> {
    let (submission, answer) = submission(count, size, durability);
    handle.append(submission).await.unwrap();
    answer.await.unwrap()
}

/// Returns when the thread has done all that was asked before, pushes included: it answers the heart at the end of a round.
async fn catch_up(handle: &Handle, heart: &Heart) {
    handle.report().await.unwrap();
    heart.ask();
    handle.beat();
    until(|| heart.stuck().is_empty()).await;
}

async fn next(batches: &mut mpsc::Receiver<Batch>) -> Option<Batch> {
    tokio::time::timeout(Duration::from_secs(10), batches.recv()).await.unwrap()
}

/// All that was pushed, without waiting.
fn pushed(batches: &mut mpsc::Receiver<Batch>, epoch: u64) -> Vec<Sequenced> {
    let mut records = Vec::new();
    while let Ok(batch) = batches.try_recv() {
        if batch.stream == T && batch.epoch == epoch {
            records.extend(batch.records);
        }
    }
    records
}

fn cost_of(records: &[Sequenced]) -> usize {
    records.iter().map(|record| cost(&record.record)).sum()
}

/// Holds up who comes by while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn shut(&self) {
        *self.shut.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.shut.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        drop(self.opened.wait_while(self.shut.lock().unwrap(), |shut| *shut).unwrap());
    }
}

/// The real disk, with fsyncs of segments and the writing of notes counted and held up on demand.
#[derive(Default)]
struct Gated {
    syncs: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    notes: Arc<AtomicUsize>,
    note_gate: Arc<Gate>,
}

struct GatedFile {
    file: Box<dyn LogFile>,
    syncs: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    is_segment: bool,
}

impl LogFile for GatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.is_segment {
            self.syncs.fetch_add(1, Ordering::SeqCst);
            self.gate.pass();
        }
        self.file.sync()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

impl FileSystem for Gated {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        Disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        Disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let (syncs, gate) = (Arc::clone(&self.syncs), Arc::clone(&self.gate));
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        Ok(Box::new(GatedFile { file: Disk.create(path)?, syncs, gate, is_segment }))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Disk.open(path)
    }
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        Disk.truncate(path, length)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.ends_with("note") {
            self.notes.fetch_add(1, Ordering::SeqCst);
            self.note_gate.pass();
        }
        Disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }
}

async fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < deadline, "it takes too long");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn two_processes_never_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, _batches) = open(dir.path(), WINDOW);
    let second = start(options(dir.path(), WINDOW), clock, Heart::default().pulse("spool"));
    let Err(StartError::InUse(path)) = second else { panic!("it opened twice") };
    assert_eq!(path, dir.path());
    append(&handle, 3, 10, Durability::Power).await.unwrap();
    handle.close().await.unwrap();
    let (handle, _batches) = open(dir.path(), WINDOW);
    assert_eq!(append(&handle, 1, 10, Durability::Window).await.unwrap().first, 4);
    handle.close().await.unwrap();
    assert_eq!(handle.report().await.unwrap_err(), Closed);
}

#[tokio::test]
async fn a_lock_that_a_killed_process_leaves_for_a_moment_never_keeps_the_next_one_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    // As a child has it that was not its own program yet when its parent was killed.
    let left = File::create(dir.path().join("lock")).unwrap();
    left.try_lock().unwrap();
    let child = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(left);
    });
    let (handle, _batches) = open(dir.path(), WINDOW);
    child.join().unwrap();
    handle.close().await.unwrap();
}

#[tokio::test]
async fn two_processes_never_share_a_runtime_tier() {
    let dir = tempfile::tempdir().unwrap();
    let with_runtime = |state: &str| Options {
        runtime_dir: Some(dir.path().join("run")),
        boot_id: [7; 16],
        ..options(&dir.path().join(state), WINDOW)
    };
    let (handle, _batches) = start(with_runtime("one"), clock, Heart::default().pulse("spool")).unwrap();
    let second = start(with_runtime("two"), clock, Heart::default().pulse("spool"));
    let Err(StartError::InUse(path)) = second else { panic!("it opened twice") };
    assert_eq!(path, dir.path().join("run"));
    handle.close().await.unwrap();
}

/// On the real file system: a kill leaves the files as they are.
#[tokio::test]
async fn what_a_ledger_calls_accepted_is_never_lost_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let with_runtime = |run: &str| Options {
        runtime_dir: Some(dir.path().join(run)),
        boot_id: [7; 16],
        ..options(&dir.path().join("state"), Sync::After(Duration::from_secs(600)))
    };
    let (handle, _batches) = start(with_runtime("run"), clock, Heart::default().pulse("spool")).unwrap();
    let (first, _answer) = submission(5, 100, Durability::Window);
    handle.append(first).await.unwrap();
    assert_eq!(handle.report().await.unwrap()[T.index()].waiting, 5);
    // What the kill leaves; the process itself goes on and stops in peace.
    let copy = dir.path().join("copy/telemetry");
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(dir.path().join("run/telemetry")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    handle.close().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let (handle, _batches) = start(with_runtime("copy"), clock, Heart::default().pulse("spool")).unwrap();
    assert_eq!(handle.report().await.unwrap()[T.index()].waiting, 5);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn submissions_that_wait_together_never_cost_an_fsync_each() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Gated::default();
    let (syncs, gate) = (Arc::clone(&fs.syncs), Arc::clone(&fs.gate));
    let (handle, _batches) =
        start_on(Arc::new(fs), options(dir.path(), Sync::Always), clock, Heart::default().pulse("spool")).unwrap();
    gate.shut();
    let (first, mut answer) = submission(1, 10, Durability::Window);
    handle.append(first).await.unwrap();
    until(|| syncs.load(Ordering::SeqCst) == 1).await;
    assert!(answer.try_recv().is_err(), "sync = \"always\": not before fdatasync has returned");
    let mut answers = Vec::new();
    for _ in 0..20 {
        let (submission, answer) = submission(2, 10, Durability::Power);
        handle.append(submission).await.unwrap();
        answers.push(answer);
    }
    gate.open();
    assert_eq!(answer.await.unwrap().unwrap(), Accepted { first: 1, last: 1 });
    for (answer, number) in answers.into_iter().zip(0..) {
        let accepted = answer.await.unwrap().unwrap();
        assert_eq!(accepted, Accepted { first: 2 + 2 * number, last: 3 + 2 * number });
    }
    assert_eq!(syncs.load(Ordering::SeqCst), 2);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn who_comes_too_late_never_waits_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Gated::default();
    let (syncs, gate) = (Arc::clone(&fs.syncs), Arc::clone(&fs.gate));
    let (handle, _batches) =
        start_on(Arc::new(fs), options(dir.path(), Sync::Always), clock, Heart::default().pulse("spool")).unwrap();
    gate.shut();
    let (first, answer) = submission(1, 10, Durability::Window);
    handle.append(first).await.unwrap();
    until(|| syncs.load(Ordering::SeqCst) == 1).await;
    let (reply, done) = oneshot::channel();
    handle.send(Request::Close(reply)).await.unwrap();
    let (late, refused) = submission(1, 10, Durability::Window);
    handle.append(late).await.unwrap();
    gate.open();
    assert!(answer.await.unwrap().is_ok());
    done.await.unwrap();
    assert_eq!(refused.await.unwrap(), Err(Refusal::Stopping));
}

#[tokio::test]
async fn a_publisher_never_gets_more_than_its_credit() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, mut batches, heart) = open_with_heart(dir.path());
    let record = 1000 + 1 + 96;
    for _ in 0..20 {
        append(&handle, 100, 1000, Durability::Window).await.unwrap();
    }
    catch_up(&handle, &heart).await;
    let mut got = pushed(&mut batches, 0);
    assert!((CREDIT..CREDIT + record).contains(&cost_of(&got)), "{}", cost_of(&got));
    // Acknowledgements are no credit.
    handle.acknowledge(vec![(T, 100)]).await.unwrap();
    catch_up(&handle, &heart).await;
    assert!(pushed(&mut batches, 0).is_empty());
    let mut granted = 0;
    while got.len() < 2000 {
        handle.grant(10_000).await.unwrap();
        granted += 10_000;
        catch_up(&handle, &heart).await;
        got.extend(pushed(&mut batches, 0));
        assert!(cost_of(&got) < CREDIT + granted + record);
    }
    let numbers: Vec<u64> = got.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, (1..=2000).collect::<Vec<_>>());
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_rewind_never_leaves_out_what_was_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, mut batches, heart) = open_with_heart(dir.path());
    append(&handle, 150, 1000, Durability::Power).await.unwrap();
    append(&handle, 50, 1000, Durability::Window).await.unwrap();
    catch_up(&handle, &heart).await;
    assert_eq!(pushed(&mut batches, 0).len(), 200);
    for (epoch, acknowledged) in [(1, 0), (2, 10), (3, 170)] {
        handle.acknowledge(vec![(T, acknowledged)]).await.unwrap();
        handle.rewind(epoch).await.unwrap();
        catch_up(&handle, &heart).await;
        let numbers: Vec<u64> = pushed(&mut batches, epoch).iter().map(|record| record.seq).collect();
        assert_eq!(numbers, (acknowledged + 1..=200).collect::<Vec<_>>());
    }
    // The credit is whole again after each: three times 200 kB went through without a grant.
    let status = handle.report().await.unwrap().swap_remove(T.index());
    assert_eq!((status.delivered, status.waiting), (170, 30));
    handle.close().await.unwrap();
}

#[tokio::test]
async fn an_idle_thread_never_wakes_up() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    fn counting_clock() -> Timestamp {
        ASKED.fetch_add(1, Ordering::SeqCst);
        clock()
    }
    let dir = tempfile::tempdir().unwrap();
    let heart = Heart::default();
    let long = Sync::After(Duration::from_secs(60));
    let (handle, mut batches) = start(options(dir.path(), long), counting_clock, heart.pulse("spool")).unwrap();
    let accepted = append(&handle, 10, 100, Durability::Window).await.unwrap();
    next(&mut batches).await.unwrap();
    handle.acknowledge(vec![(T, accepted.last)]).await.unwrap();
    catch_up(&handle, &heart).await;
    // Done before the window was over: nothing is due, and the thread doesn't even look at the clock.
    let asked = ASKED.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ASKED.load(Ordering::SeqCst), asked);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn records_never_stay_in_memory_longer_than_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Gated::default();
    let syncs = Arc::clone(&fs.syncs);
    let (handle, batches) =
        start_on(Arc::new(fs), options(dir.path(), WINDOW), clock, Heart::default().pulse("spool")).unwrap();
    // A publisher that is gone stops nothing.
    drop(batches);
    append(&handle, 10, 100, Durability::Window).await.unwrap();
    until(|| syncs.load(Ordering::SeqCst) == 1).await;
    handle.close().await.unwrap();
    let (handle, mut batches) = open(dir.path(), WINDOW);
    let batch = next(&mut batches).await.unwrap();
    let numbers: BTreeSet<u64> = batch.records.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, (1..=10).collect());
    handle.close().await.unwrap();
}

#[tokio::test]
async fn handles_that_are_all_gone_never_leave_the_spool_open() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, mut batches) = open(dir.path(), WINDOW);
    append(&handle, 1, 100, Durability::Window).await.unwrap();
    drop(handle);
    while next(&mut batches).await.is_some() {}
    let spool = || start(options(dir.path(), WINDOW), clock, Heart::default().pulse("spool")).ok();
    let (mut again, deadline) = (spool(), Instant::now() + Duration::from_secs(10));
    while again.is_none() && Instant::now() < deadline {
        again = spool();
    }
    let (handle, _batches) = again.unwrap();
    assert_eq!(handle.report().await.unwrap()[T.index()].waiting, 1, "it was closed in order");
    assert!(handle.close().await.unwrap(), "all is on flash");
}

#[tokio::test]
async fn a_folder_that_cant_be_written_never_keeps_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, "no folder").unwrap();
    let (handle, mut batches) = open(&file.join("spool"), WINDOW);
    let accepted = append(&handle, 1, 100, Durability::Window).await.unwrap();
    loop {
        let batch = next(&mut batches).await.unwrap();
        if batch.stream == T {
            assert_eq!(batch.records[0].seq, accepted.first);
            break;
        }
    }
    assert!(matches!(append(&handle, 1, 100, Durability::Power).await, Err(Refusal::NotDurable(_))));
    assert!(handle.report().await.unwrap()[T.index()].disk_error.is_some());
    assert!(!handle.close().await.unwrap(), "not all is on flash");
}

#[tokio::test]
async fn a_stream_that_is_read_again_never_repeats_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, mut batches, heart) = open_with_heart(dir.path());
    handle.rewind(1).await.unwrap();
    append(&handle, 3, 10, Durability::Process).await.unwrap();
    let log = || Submission {
        stream: StreamId::LOG,
        records: vec![Record { topic: "t".into(), time: clock(), encoding: Encoding::Text, data: b"log".to_vec() }],
        durability: Durability::Process,
        note: None,
        reply: None,
    };
    handle.append(log()).await.unwrap();
    catch_up(&handle, &heart).await;
    assert_eq!(pushed(&mut batches, 1).iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2, 3]);
    handle.acknowledge(vec![(T, 1)]).await.unwrap();
    handle.read_again(T, 2).await.unwrap();
    catch_up(&handle, &heart).await;
    let batch = next(&mut batches).await.unwrap();
    assert_eq!((batch.stream, batch.epoch, batch.records.len(), batch.records[0].seq), (T, 2, 2, 2));
    assert!(batches.try_recv().is_err(), "nothing else comes again");
    // The others go on in their epoch, until all is read again.
    handle.append(log()).await.unwrap();
    let batch = next(&mut batches).await.unwrap();
    assert_eq!((batch.stream, batch.epoch), (StreamId::LOG, 1));
    handle.rewind(3).await.unwrap();
    assert!([next(&mut batches).await, next(&mut batches).await].iter().flatten().all(|batch| batch.epoch == 3));
}
