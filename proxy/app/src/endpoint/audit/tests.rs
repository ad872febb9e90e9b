//! What is written, and how every way to tamper with it is found.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;

use super::chain::{files, sequence_of};
use super::*;

fn now() -> Moment {
    Moment { at: "2026-11-20T21:05:02Z".to_owned(), clock: ClockState::Synced }
}

fn record(reason: &str) -> Record {
    Record {
        action: Action::Apply,
        actor: "file:store.yaml".to_owned(),
        fields: vec![("reason", json!(reason)), ("ticket", Value::Null)],
    }
}

fn written(directory: &Path, count: usize) -> Audit {
    let mut audit = Audit::new(directory);
    for index in 0..count {
        audit.write(&record(&index.to_string()), &now()).unwrap();
    }
    audit
}

fn only(directory: &Path) -> PathBuf {
    let files = files(directory).unwrap();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

#[test]
fn a_log_that_nobody_touched_is_whole() {
    let folder = tempfile::TempDir::new().unwrap();
    let audit = written(folder.path(), 5);
    let (standing, broken) = verify(folder.path()).unwrap();
    assert_eq!(broken, None);
    assert_eq!((standing.sequence, standing.records), (5, 5));
    assert_eq!(audit.standing(), Some((5, standing.head.as_str())));
    drop(audit);
    // Another process goes on with the same chain.
    let next = written(folder.path(), 1);
    assert_eq!(next.standing().unwrap().0, 6);
    assert_eq!(verify(folder.path()).unwrap().1, None);
}

#[test]
fn what_was_told_is_on_disk() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut audit = written(folder.path(), 1);
    let look = Record { action: Action::Fetch, ..record("now") };
    audit.write(&look, &now()).unwrap();
    assert_eq!((audit.standing().unwrap().0, audit.synced().unwrap().sequence), (2, 1));
    audit.sync().unwrap();
    let (sequence, hash) = audit.standing().unwrap();
    assert_eq!(audit.synced(), Some(&Head { sequence, hash: hash.to_owned() }));
    assert_eq!(Head::left_in(folder.path()).as_ref(), audit.synced());
    // One that has written nothing has nothing to wait for.
    Audit::new(&folder.path().join("none")).sync().unwrap();
}

#[test]
fn nobody_else_reads_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let place = folder.path().join("audit");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(written(&place, 1));
    assert_eq!((mode(&place), mode(&only(&place))), (0o700, 0o600));
    // What an earlier version has left open is closed.
    fs::set_permissions(only(&place), fs::Permissions::from_mode(0o644)).unwrap();
    drop(written(&place, 1));
    assert_eq!(mode(&only(&place)), 0o600);
}

#[test]
fn every_way_to_tamper_is_found() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change, usize); 6] = [
        ("a word is changed", |lines| lines[1] = lines[1].replace("\"1\"", "\"x\""), 3),
        ("a record is taken out", |lines| drop(lines.remove(1)), 2),
        ("the first is taken out", |lines| drop(lines.remove(0)), 1),
        ("two are exchanged", |lines| lines.swap(1, 2), 2),
        ("one is repeated", |lines| lines.insert(1, lines[0].clone()), 2),
        ("one is made up", |lines| lines[2] = lines[2].replace("sha256:", "sha256:0"), 3),
    ];
    for (what, change, line) in changes {
        let folder = tempfile::TempDir::new().unwrap();
        drop(written(folder.path(), 4));
        let file = only(folder.path());
        let text = fs::read_to_string(&file).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let broken = verify(folder.path()).unwrap().1;
        assert_eq!(broken.map(|broken| broken.line), Some(line), "{what}");
        // Whoever goes on writing says so, and the place stays broken.
        drop(written(folder.path(), 1));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"action\":\"ChainBroken\""), "{what}");
        assert_eq!(verify(folder.path()).unwrap().1.map(|one| one.line), Some(line), "{what}");
    }
}

#[test]
fn two_processes_write_one_chain() {
    let folder = tempfile::TempDir::new().unwrap();
    let (mut old, mut next) = (written(folder.path(), 2), written(folder.path(), 1));
    old.write(&record("in turns"), &now()).unwrap();
    next.write(&record("in turns"), &now()).unwrap();
    old.write(&record("in turns"), &now()).unwrap();
    let (standing, broken) = verify(folder.path()).unwrap();
    assert_eq!((standing.sequence, standing.records, broken), (6, 6, None));
}

#[test]
fn half_a_record_is_cut_off() {
    let folder = tempfile::TempDir::new().unwrap();
    drop(written(folder.path(), 2));
    let file = only(folder.path());
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend_from_slice(b"{\"seq\":3,\"at\":\"20");
    fs::write(&file, bytes).unwrap();
    assert_eq!(written(folder.path(), 1).standing().unwrap().0, 3);
    let (standing, broken) = verify(folder.path()).unwrap();
    assert_eq!((standing.records, broken), (3, None));
}

#[test]
fn files_are_bounded_and_the_chain_goes_through_them() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut audit = Audit::new(folder.path());
    let long = "x".repeat(60_000);
    let per_file = usize::try_from(FILE_BYTES_MAX).unwrap() / 60_000 + 1;
    let (mut rotated, mut count) = (0, 0);
    while rotated < 2 {
        let mut one = record(&long);
        // Records of no state are not waited for, so that the test is quick.
        one.action = Action::Reject;
        audit.write(&one, &now()).unwrap();
        count += 1;
        rotated = files(folder.path()).unwrap().len() - 1;
        assert!(count <= 2 * per_file);
    }
    drop(audit);
    assert_eq!(written(folder.path(), 1).standing().unwrap().0, count as u64 + 1);
    let (standing, broken) = verify(folder.path()).unwrap();
    assert_eq!((standing.records, broken), (count + 1, None));
    // What is read begins where it is asked to, and ends where it must.
    let last = read(folder.path(), count as u64, 10, 1 << 20).unwrap();
    assert_eq!(sequence_of(last.trim_ascii_end()), Some(count as u64 + 1));
    assert_eq!(read(folder.path(), 0, 2, 1 << 20).unwrap().split(|b| *b == b'\n').count(), 3);
    assert_eq!(read(folder.path(), 0, 10, 70_000).unwrap().len() / 60_000, 1);
    // No rotation has taken the oldest file away: there are fewer than are kept.
    fs::remove_file(&files(folder.path()).unwrap()[0]).unwrap();
    let why = verify(folder.path()).unwrap().1.map(|broken| broken.why);
    assert_eq!(why, Some("files before this one are missing"));
}

#[test]
fn a_disk_that_takes_nothing_is_told_and_tried_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let place = folder.path().join("audit");
    fs::write(&place, "in the way").unwrap();
    let mut audit = Audit::new(&place);
    assert!(audit.write(&record("x"), &now()).is_err() && audit.failure.is_some());
    fs::remove_file(&place).unwrap();
    audit.write(&record("x"), &now()).unwrap();
    assert_eq!((audit.failure.is_none(), audit.standing().unwrap().0), (true, 1));
    assert!(read(&folder.path().join("nowhere"), 0, 1, 1).unwrap().is_empty());
}

/// Cuts the last `count` lines off.
fn cut(file: &Path, count: usize) {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let left: String =
        lines[..lines.len() - count].iter().map(|line| format!("{line}\n")).collect();
    // In place, as an editor or `truncate` does.
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(left.len() as u64).unwrap();
}

/// Writes other bytes of the same length, at a time that the file system can tell from before.
fn overwrite(file: &Path, bytes: &[u8]) {
    let look = || Look::of(&fs::metadata(file).unwrap());
    let before = look();
    while look() == before {
        fs::write(file, bytes).unwrap();
    }
}

/// What a look at the whole log comes to.
fn checked(audit: &mut Audit) -> Option<Broken> {
    if let Some(found) = audit.to_check().and_then(|check| check.look().unwrap()) {
        audit.checked(found, &now()).unwrap();
    }
    audit.broken().cloned()
}

fn breaks(directory: &Path) -> usize {
    of_action(directory, Action::ChainBroken).unwrap().len()
}

const GONE: &str = "a record that was written is not there any more";

#[test]
fn what_is_cut_off_while_it_is_written_is_missed_at_the_next_look_or_record() {
    for looks in [true, false] {
        let folder = tempfile::TempDir::new().unwrap();
        let mut audit = written(folder.path(), 5);
        assert_eq!(checked(&mut audit), None);
        cut(&only(folder.path()), 2);
        if looks {
            assert_eq!(checked(&mut audit).unwrap().why, GONE);
        }
        audit.write(&record("next"), &now()).unwrap();
        assert_eq!((audit.broken().unwrap().why, breaks(folder.path())), (GONE, 1));
        // The hole shows for ever: the next record has the number that it would have had.
        assert_eq!(audit.standing().unwrap().0, 7);
        assert_eq!(verify(folder.path()).unwrap().1.unwrap().line, 4);
        assert_eq!(checked(&mut audit).unwrap().why, GONE, "it stays so");
        assert_eq!(breaks(folder.path()), 1, "it is written down once");
    }
}

#[test]
fn what_is_cut_off_while_nothing_runs_is_missed_at_the_next_start() {
    let folder = tempfile::TempDir::new().unwrap();
    drop(written(folder.path(), 5));
    cut(&only(folder.path()), 1);
    assert_eq!(verify(folder.path()).unwrap().1.unwrap().why, GONE, "also without a process");
    let next = written(folder.path(), 1);
    assert_eq!((next.broken().unwrap().why, next.standing().unwrap().0), (GONE, 7));
    assert_eq!(breaks(folder.path()), 1);
    // All of it.
    let folder = tempfile::TempDir::new().unwrap();
    drop(written(folder.path(), 5));
    fs::remove_file(only(folder.path())).unwrap();
    let next = written(folder.path(), 1);
    assert_eq!((next.broken().unwrap().why, next.standing().unwrap().0), (GONE, 7));
}

#[test]
fn a_byte_in_an_earlier_file_is_missed_while_it_runs_and_at_the_next_start() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut audit = written(folder.path(), 3);
    audit.open.as_mut().unwrap().rotate(folder.path()).unwrap();
    audit.write(&record("in the second file"), &now()).unwrap();
    assert_eq!(checked(&mut audit), None);
    let first = files(folder.path()).unwrap()[0].clone();
    let bytes = fs::read(&first).unwrap();
    let middle = bytes.iter().position(|byte| *byte == b'1').unwrap();
    let mut changed = bytes.clone();
    changed[middle + 20] ^= 1;
    overwrite(&first, &changed);
    let found = checked(&mut audit).unwrap();
    assert_eq!((found.file, breaks(folder.path())), (first.clone(), 1));
    let mut next = written(folder.path(), 1);
    assert_eq!(next.broken(), None, "a start reads the newest file");
    assert_eq!(checked(&mut next).unwrap().file, first, "and then all");
    // A byte of the file that is written, of the same length.
    let folder = tempfile::TempDir::new().unwrap();
    let mut audit = written(folder.path(), 3);
    let file = only(folder.path());
    let text = fs::read_to_string(&file).unwrap().replace("store.yaml", "stare.yaml");
    overwrite(&file, text.as_bytes());
    assert!(checked(&mut audit).is_some());
}

#[test]
fn a_log_that_is_moved_away_begins_anew_and_says_so() {
    let folder = tempfile::TempDir::new().unwrap();
    let place = folder.path().join("audit");
    let mut audit = written(&place, 3);
    fs::rename(&place, folder.path().join("audit.kept")).unwrap();
    assert_eq!(checked(&mut audit).unwrap().why, GONE);
    audit.write(&record("next"), &now()).unwrap();
    let mut next = written(&place, 1);
    assert_eq!((checked(&mut next), next.standing().unwrap().0), (None, 6));
    assert_eq!(verify(&place).unwrap().1, None);
    assert_eq!(verify(&folder.path().join("audit.kept")).unwrap().1, None);
}

#[test]
fn what_somebody_remembers_has_to_be_there() {
    let folder = tempfile::TempDir::new().unwrap();
    let audit = written(folder.path(), 3);
    let known = audit.synced().unwrap().clone();
    drop(audit);
    let mut next = written(folder.path(), 1);
    next.must_have(&known, &now()).unwrap();
    assert_eq!(next.broken(), None);
    let other = Head { hash: NOTHING.to_owned(), ..known };
    next.must_have(&other, &now()).unwrap();
    assert_eq!((next.broken().unwrap().why, breaks(folder.path())), (GONE, 1));
    assert!(std::mem::take(&mut next.tells));
}
