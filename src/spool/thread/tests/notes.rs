//! Notes of submissions.

use super::*;
use crate::record::Note;
use std::fs;

/// What comes of a note.
struct Noted {
    file: PathBuf,
    answer: oneshot::Receiver<Result<Accepted, Refusal>>,
    failed: oneshot::Receiver<String>,
    safe: oneshot::Receiver<()>,
}

/// Appends a record of this size with a note at `file`.
async fn append_noted(handle: &Handle, size: usize, file: &Path) -> Noted {
    let (submission, answer) = submission(1, size, Durability::Process);
    let ((tell_failed, failed), (tell_safe, safe)) = (oneshot::channel(), oneshot::channel());
    let note = Note { file: file.to_owned(), content: b"noted".to_vec(), failed: tell_failed, safe: tell_safe };
    handle.append(Submission { note: Some(note), ..submission }).await.unwrap();
    Noted { file: file.to_owned(), answer, failed, safe }
}

fn start_gated(options: Options) -> (Handle, mpsc::Receiver<Batch>, Gated) {
    let fs = Gated::default();
    let shared = Gated {
        syncs: Arc::clone(&fs.syncs),
        gate: Arc::clone(&fs.gate),
        notes: Arc::clone(&fs.notes),
        note_gate: Arc::clone(&fs.note_gate),
    };
    let (handle, batches) = start_on(Arc::new(fs), options, clock, Heart::default().pulse("spool")).unwrap();
    (handle, batches, shared)
}

#[tokio::test]
async fn nobody_ever_gets_a_record_before_it_and_its_note_would_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (state, file) = (dir.path().join("state"), dir.path().join("note"));
    let tiered = Options { runtime_dir: Some(dir.path().join("run")), boot_id: [7; 16], ..options(&state, WINDOW) };
    for options in [tiered, options(&state, WINDOW), options(&state, Sync::Always)] {
        let is_always = options.sync == Sync::Always;
        let (handle, mut batches, fs) = start_gated(options);
        fs.note_gate.shut();
        let mut noted = append_noted(&handle, 10, &file).await;
        until(|| fs.notes.load(Ordering::SeqCst) == 1).await;
        // What a kill right now would leave.
        assert!(batches.try_recv().is_err() && noted.answer.try_recv().is_err());
        let segments = [state.join("telemetry"), dir.path().join("run/telemetry")];
        let files = segments.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
        let segment = files
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|name| name == "seg"))
            .unwrap();
        assert!(fs::read(segment).unwrap().ends_with(b"xxxxxxxxxx"), "the record is written before its note");
        assert_eq!(is_always, fs.syncs.load(Ordering::SeqCst) > 0, "and synced where that is wanted");
        fs.note_gate.open();
        let accepted = noted.answer.await.unwrap().unwrap();
        assert_eq!(next(&mut batches).await.unwrap().records[0].seq, accepted.last);
        assert_eq!(fs::read(&noted.file).unwrap(), b"noted");
        handle.acknowledge(vec![(T, accepted.last)]).await.unwrap();
        handle.close().await.unwrap();
        fs::remove_file(&file).unwrap();
        let _ = fs::remove_dir_all(&state);
        let _ = fs::remove_dir_all(dir.path().join("run"));
    }
}

#[tokio::test]
async fn a_record_is_never_called_safe_before_flash_or_the_broker_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("note");
    let (handle, mut batches, fs) = start_gated(options(&dir.path().join("state"), WINDOW));
    fs.gate.shut();
    let mut noted = append_noted(&handle, 10, &file).await;
    noted.answer.await.unwrap().unwrap();
    until(|| fs.syncs.load(Ordering::SeqCst) == 1).await;
    assert!(noted.safe.try_recv().is_err(), "not before fdatasync has returned");
    fs.gate.open();
    noted.safe.await.unwrap();
    assert!(noted.failed.await.is_err());
    handle.close().await.unwrap();
    while batches.recv().await.is_some() {}

    // With the broker faster than the window, nothing of it comes to flash.
    let slow = Sync::After(Duration::from_secs(3600));
    let (handle, _batches, fs) = start_gated(options(&dir.path().join("other"), slow));
    let mut noted = append_noted(&handle, 10, &file).await;
    let accepted = noted.answer.await.unwrap().unwrap();
    handle.report().await.unwrap();
    assert!(noted.safe.try_recv().is_err());
    let left = handle.newest(T, "t").await.await.unwrap();
    assert_eq!(left.record.unwrap().seq, accepted.last);
    handle.acknowledge(vec![(T, accepted.last)]).await.unwrap();
    noted.safe.await.unwrap();
    left.safe.await.unwrap();
    assert_eq!(fs.syncs.load(Ordering::SeqCst), 0);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_note_never_tells_of_records_that_were_not_accepted_and_never_costs_one() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, _batches) = open(&dir.path().join("state"), WINDOW);
    let noted = append_noted(&handle, 17 << 20, &dir.path().join("note")).await;
    assert!(noted.answer.await.unwrap().is_err());
    assert!(!noted.file.exists());
    let noted = append_noted(&handle, 10, &dir.path().join("nowhere/note")).await;
    noted.answer.await.unwrap().unwrap();
    assert!(noted.failed.await.unwrap().contains("nowhere/note: No such file"));
    noted.safe.await.unwrap();
    handle.close().await.unwrap();
}
