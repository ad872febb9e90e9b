//! The cache on a real disk: one writer and many readers, crashes, damage, no room.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tillgate_core::mirror::tags::Known;
use tillgate_core::mirror::{CacheSpec, Code, Digest, TagSpec};

use super::part::Discard;
use super::read::all;
use super::*;
use crate::clock;
use crate::error::Failure;
use crate::metrics::{Metrics, MirrorMeters};

fn spec(directory: &Path, bytes_max: u64) -> CacheSpec {
    CacheSpec { directory: directory.into(), bytes_max, free_bytes_min: 0 }
}

fn open(directory: &Path, bytes_max: u64) -> Arc<Store> {
    let meters = MirrorMeters::register(&Metrics::new("test"));
    Store::open(spec(directory, bytes_max), meters).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patient = async { tokio::time::timeout(Duration::from_secs(20), story).await };
    runtime.block_on(patient).expect("in time")
}

/// A blob that differs from others of its size.
fn blob(seed: u8, bytes: usize) -> (Vec<u8>, Digest) {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let bytes: Vec<u8> = (0..bytes).map(next).collect();
    let digest = digest_of(&bytes);
    (bytes, digest)
}

fn begin(store: &Arc<Store>, digest: Digest) -> Ticket {
    let Claim::Begin(ticket) = store.claim(digest) else { panic!("it is there or comes") };
    ticket
}

/// Fetches a blob in pieces.
async fn put(store: &Arc<Store>, bytes: &[u8], digest: Digest) -> std::io::Result<()> {
    let mut part = Part::open(begin(store, digest)).await?;
    if let Err(error) = part.is_of(bytes.len() as u64).await {
        part.fail(Broken::past_disk("no room"), Discard::Nothing).await;
        return Err(error);
    }
    let from = usize::try_from(part.written()).unwrap();
    for piece in bytes[from..].chunks(100_000) {
        part.gather(piece.to_vec().into());
        part.flush().await?;
    }
    assert!(part.check().await?);
    part.finish().await
}

async fn get(store: &Arc<Store>, digest: Digest) -> Result<Vec<u8>, Failure> {
    match store.claim(digest) {
        Claim::Stored(bytes) => all(store.read(digest, 0..bytes).await.unwrap()).await,
        Claim::Join(live) => {
            // It may have been found wrong already.
            let total = live.total().await.map_err(|broken| broken.failure.unwrap())?;
            all(store.follow_live(&live, 0..total).unwrap()).await
        }
        Claim::Begin(_) | Claim::PastDisk => panic!("it is not there"),
    }
}

#[test]
fn readers_get_what_is_there_and_follow_the_rest() {
    let folder = folder();
    let (bytes, digest) = blob(1, 700_001);
    run(async {
        let store = open(folder.path(), 1 << 30);
        let mut part = Part::open(begin(&store, digest)).await.unwrap();
        let live = Arc::clone(part.live());
        let early = tokio::spawn({
            let (store, live) = (Arc::clone(&store), Arc::clone(&live));
            async move {
                let total = live.total().await.unwrap();
                all(store.follow_live(&live, 0..total).unwrap()).await
            }
        });
        part.is_of(bytes.len() as u64).await.unwrap();
        part.gather(bytes[..400_000].to_vec().into());
        assert_eq!(part.flush().await.unwrap(), 400_000);
        assert_eq!(store.size(&digest), Some(700_001));
        let Claim::Join(joined) = store.claim(digest) else { panic!("it is not whole") };
        let mut late = store.follow_live(&joined, 5..700_001).unwrap();
        let first = std::future::poll_fn(|cx| late.poll_next(cx)).await.unwrap().unwrap();
        assert_eq!(first[..], bytes[5..5 + first.len()]);
        part.gather(bytes[400_000..].to_vec().into());
        part.flush().await.unwrap();
        // All is there, but nobody gets the last byte before the check.
        let mut last = store.follow_live(&joined, 700_000..700_001).unwrap();
        let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(last.poll_next(cx))).await;
        assert!(waits.is_pending());
        assert!(part.check().await.unwrap());
        part.finish().await.unwrap();
        assert_eq!(early.await.unwrap().unwrap(), bytes);
        assert_eq!(all(late).await.unwrap(), bytes[5 + first.len()..]);
        assert_eq!(all(last).await.unwrap(), bytes[700_000..]);
        assert_eq!(get(&store, digest).await.unwrap(), bytes);
        let part = all(store.read(digest, 10..20).await.unwrap()).await;
        assert_eq!(part.unwrap(), bytes[10..20]);
        assert_eq!(store.holds(), (700_001, 1));
    });
}

#[test]
fn what_is_wrong_is_never_whole_for_anybody() {
    let folder = folder();
    let (mut bytes, digest) = blob(2, 300_000);
    bytes[299_999] ^= 1;
    run(async {
        let store = open(folder.path(), 1 << 30);
        let mut part = Part::open(begin(&store, digest)).await.unwrap();
        let live = Arc::clone(part.live());
        part.is_of(300_000).await.unwrap();
        let reader = store.follow_live(&live, 0..300_000).unwrap();
        part.gather(bytes.into());
        part.flush().await.unwrap();
        assert!(!part.check().await.unwrap());
        let failure = Some(Failure::DigestMismatch);
        let broken = Broken::new(Code::DigestMismatch, failure, "wrong");
        part.fail(broken, Discard::All).await;
        assert_eq!(all(reader).await, Err(Failure::DigestMismatch));
        assert_eq!(live.ended().await.unwrap_err().code, Code::DigestMismatch);
        assert_eq!(store.holds(), (0, 0));
        assert_eq!(fs::read_dir(folder.path().join("parts")).unwrap().count(), 0);
        // The next one begins anew.
        assert_eq!(Part::open(begin(&store, digest)).await.unwrap().written(), 0);
    });
}

#[test]
fn a_process_that_died_is_gone_on_with() {
    let folder = folder();
    let (bytes, digest) = blob(3, 600_000);
    run(async {
        let store = open(folder.path(), 1 << 30);
        let mut part = Part::open(begin(&store, digest)).await.unwrap();
        part.is_of(600_000).await.unwrap();
        part.gather(bytes[..250_000].to_vec().into());
        part.flush().await.unwrap();
        let live = Arc::clone(part.live());
        // Dropped without a word: whoever waits is told.
        drop(part);
        assert_eq!(live.ended().await.unwrap_err().code, Code::Unavailable);
        drop(store);
        let store = open(folder.path(), 1 << 30);
        let part = Part::open(begin(&store, digest)).await.unwrap();
        assert_eq!((part.written(), part.total()), (250_000, Some(600_000)));
        drop(part);
        put(&store, &bytes, digest).await.unwrap();
        assert_eq!(get(&store, digest).await.unwrap(), bytes);
        drop(store);
        let store = open(folder.path(), 1 << 30);
        assert_eq!(store.holds(), (600_000, 1));
        assert_eq!(get(&store, digest).await.unwrap(), bytes);
    });
}

#[test]
fn damage_by_a_crash_of_the_machine_is_found_when_it_is_read() {
    let folder = folder();
    let (bytes, digest) = blob(4, 500_000);
    let (right, right_digest) = blob(5, 400_000);
    run(async {
        let store = open(folder.path(), 1 << 30);
        put(&store, &bytes, digest).await.unwrap();
        put(&store, &right, right_digest).await.unwrap();
        drop(store);
        // Another boot, without a farewell.
        fs::write(folder.path().join("boot"), "another").unwrap();
        let hex = digest.hex();
        let path = folder.path().join("blobs").join(&hex[..2]).join(&hex);
        let mut damaged = bytes.clone();
        damaged[1000] ^= 4;
        fs::write(&path, damaged).unwrap();
        let store = open(folder.path(), 1 << 30);
        assert_eq!(get(&store, digest).await, Err(Failure::DigestMismatch));
        assert!(!path.exists());
        assert_eq!(get(&store, right_digest).await.unwrap(), right);
        put(&store, &bytes, digest).await.unwrap();
        assert_eq!(get(&store, digest).await.unwrap(), bytes);
        // A file that went away is fetched anew, not an error for ever.
        fs::remove_file(&path).unwrap();
        assert!(store.read(digest, 0..10).await.is_err());
        put(&store, &bytes, digest).await.unwrap();
        store.close();
        drop(store);
        let store = open(folder.path(), 1 << 30);
        assert!(matches!(store.claim(digest), Claim::Stored(_)), "closed well: nothing is due");
    });
}

#[test]
fn room_is_made_by_what_is_used_least_and_never_by_what_is_pinned() {
    let folder = folder();
    run(async {
        let store = open(folder.path(), 1000);
        let blobs: Vec<_> = (10..14).map(|seed| blob(seed, 300)).collect();
        store.pin(BTreeSet::from([blobs[0].1]));
        for (bytes, digest) in &blobs[..3] {
            put(&store, bytes, *digest).await.unwrap();
        }
        assert_eq!(store.holds(), (900, 3));
        put(&store, &blobs[3].0, blobs[3].1).await.unwrap();
        assert_eq!(store.holds(), (900, 3));
        assert!(matches!(store.claim(blobs[0].1), Claim::Stored(300)));
        let (large, digest) = blob(20, 701);
        let full = put(&store, &large, digest).await.unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(store.holds(), (900, 3), "nothing went for what cannot fit");
        let (fits, digest) = blob(21, 700);
        put(&store, &fits, digest).await.unwrap();
        assert_eq!(store.holds(), (1000, 2));
    });
}

#[test]
fn a_directory_that_is_not_ours_to_use_is_a_clear_error() {
    let folder = folder();
    fs::write(folder.path().join("letters.txt"), "dear").unwrap();
    let error = Disk::open(folder.path()).unwrap_err();
    assert!(matches!(error, CacheError::NotOurs(_)), "{error}");
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("layout"), "tillgate image cache 9\n").unwrap();
    assert!(matches!(Disk::open(&other).unwrap_err(), CacheError::OtherLayout(_)));
    let file = folder.path().join("letters.txt");
    assert!(matches!(Disk::open(&file).unwrap_err(), CacheError::Io { .. }));
    // Somebody else's: the kernel's for a user, and whose we make it as root.
    let stranger = Path::new("/proc/1");
    let ours = fs::metadata("/proc/self").unwrap().uid();
    let theirs = if ours == 0 {
        std::os::unix::fs::chown(&other, Some(65_534), None).unwrap();
        other.as_path()
    } else {
        stranger
    };
    let error = Disk::open(theirs).unwrap_err();
    assert!(matches!(error, CacheError::Owner { .. }), "{error}");
    assert!(error.to_string().contains("belongs to the user"), "{error}");
}

#[test]
fn a_directory_in_use_is_waited_for() {
    let folder = folder();
    let (bytes, digest) = blob(6, 1000);
    run(async {
        let first = open(folder.path(), 1 << 30);
        put(&first, &bytes, digest).await.unwrap();
        let second = open(folder.path(), 1 << 30);
        assert!(matches!(second.claim(digest), Claim::PastDisk));
        second.recover(clock::now()).await;
        assert!(matches!(second.claim(digest), Claim::PastDisk), "it is not time");
        drop(first);
        let later = clock::now() + Duration::from_secs(60);
        second.recover(later).await;
        assert!(matches!(second.claim(digest), Claim::Stored(1000)));
        second.degrade(&std::io::ErrorKind::StorageFull.into());
        assert!(matches!(second.claim(digest), Claim::Stored(1000)), "what is there is served");
        assert!(matches!(second.claim(blob(7, 1).1), Claim::PastDisk));
        second.recover(later + Duration::from_secs(60)).await;
        assert!(matches!(second.claim(blob(7, 1).1), Claim::Begin(_)));
    });
}

#[test]
fn two_fetches_do_not_count_on_the_same_room() {
    let folder = folder();
    run(async {
        let store = open(folder.path(), 3_000);
        for seed in 1..=3 {
            let (bytes, digest) = blob(seed, 1_000);
            put(&store, &bytes, digest).await.unwrap();
        }
        let (first, second) = (begin(&store, blob(4, 1).1), begin(&store, blob(5, 1).1));
        let gone = async {
            tokio::task::yield_now().await;
            let is_going = |seed| matches!(store.claim(blob(seed, 1_000).1), Claim::PastDisk);
            (1..=3).filter(|seed| is_going(*seed)).count() + 3 - store.holds().1
        };
        let made = tokio::join!(first.make_room(1_000), second.make_room(1_000), gone);
        assert!(made.0.is_ok() && made.1.is_ok(), "{made:?}");
        assert!(made.2 >= 1, "what goes is nobody's");
        assert_eq!(store.holds(), (1_000, 1), "room for two is room for two");
        // It takes the place of what it had.
        second.make_room(2_000).await.unwrap();
        assert_eq!(store.holds(), (0, 0));
        assert!(second.make_room(2_001).await.is_err());
        drop((first, second));
        let whole = begin(&store, blob(6, 1).1);
        whole.make_room(3_000).await.unwrap();
    });
}

#[test]
fn a_manifest_is_known_when_it_is_there_and_who_writes_it_at_once_does_no_harm() {
    let folder = folder();
    let body: bytes::Bytes = r#"{"schemaVersion":2}"#.into();
    let (digest, media_type) = (digest_of(&body), "application/json".into());
    let manifest = Manifest { digest, media_type, body };
    run(async {
        let store = open(folder.path(), 1 << 30);
        for _ in 0..20 {
            let read = async {
                tokio::task::yield_now().await;
                store.manifest(digest).await
            };
            let (keep, also) = (store.keep_manifest(&manifest), store.keep_manifest(&manifest));
            let ((), (), _) = tokio::join!(keep, also, read);
            assert!(store.has_manifest(&digest) && store.keeps_nothing().is_none());
            assert_eq!(store.manifest(digest).await.as_ref(), Some(&manifest));
        }
        drop(store);
        let left = folder.path().join("manifests").join(digest.hex()).with_extension("new7");
        fs::write(&left, "half").unwrap();
        let store = open(folder.path(), 1 << 30);
        assert!(store.has_manifest(&digest) && !left.exists());
    });
}

#[test]
fn manifests_and_tags_survive_a_restart_and_damage() {
    let folder = folder();
    let body: bytes::Bytes = r#"{"schemaVersion":2}"#.into();
    let manifest = Manifest {
        digest: digest_of(&body),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        body,
    };
    let tag = tag_of("docker.io", "library/nginx", "1.27");
    let spec = TagSpec { fresh: Duration::from_secs(60), stale: Duration::from_secs(600) };
    run(async {
        let store = open(folder.path(), 1 << 30);
        assert_eq!(store.manifest(manifest.digest).await, None);
        store.keep_manifest(&manifest).await;
        store.learn_tag(tag.clone(), manifest.digest).await;
        drop(store);
        let store = open(folder.path(), 1 << 30);
        assert_eq!(store.manifest(manifest.digest).await.as_ref(), Some(&manifest));
        assert_eq!(store.tag(&tag, &spec), Known::Fresh(manifest.digest));
        let path = folder.path().join("manifests").join(manifest.digest.hex());
        fs::write(&path, "application/json\n{}").unwrap();
        assert_eq!(store.manifest(manifest.digest).await, None);
        assert!(!store.has_manifest(&manifest.digest));
        store.forget_tag(tag.clone()).await;
        drop(store);
        let store = open(folder.path(), 1 << 30);
        assert_eq!(store.tag(&tag, &spec), Known::Nothing);
    });
}

#[test]
fn ten_thousand_blobs_are_all_indexed() {
    let folder = folder();
    drop(open(folder.path(), 1 << 30));
    for number in 0..10_000u32 {
        let hex = digest_of(&number.to_be_bytes()).hex();
        fs::write(folder.path().join("blobs").join(&hex[..2]).join(&hex), b"x").unwrap();
    }
    assert_eq!(open(folder.path(), 1 << 30).holds(), (10_000, 10_000));
}
