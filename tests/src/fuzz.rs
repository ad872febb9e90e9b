//! A fuzzer for everything that reads bytes from a network or an operator, on stable Rust.
//!
//! It mutates inputs and keeps those after which a [`Target`] behaved in a way that was not seen
//! before: a target answers each input with a number for how it was read (what was found, which
//! mistake was named), and that takes the place of counting branches. A finding is a panic or a
//! broken promise of the target's own. Runs repeat: everything is drawn from one seed.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fastrand::Rng;

mod manifest;
pub mod request;
pub mod targets;

/// Inputs that are remembered because they were read in a new way; one more takes another's place.
const POOL_MAX: usize = 4096;

/// Mutations of one input, at most.
const MUTATIONS_MAX: usize = 6;

/// Numbers at which lengths and counters turn.
const EDGES: [u8; 8] = [0, 1, 0x1f, 0x20, 0x7f, 0x80, 0xfe, 0xff];

/// Something that reads bytes.
pub trait Target {
    /// As on the command line, and the folder of its corpus.
    fn name(&self) -> &'static str;

    /// Folders of inputs to begin with.
    fn folders(&self) -> Vec<PathBuf>;

    /// What means something to it.
    fn words(&self) -> &'static [&'static [u8]];

    /// The longest input that is worth trying.
    fn bytes_max(&self) -> usize;

    /// Reads `input`; says how it was read.
    ///
    /// # Errors
    /// The promise that was broken.
    fn read(&mut self, input: &[u8], rng: &mut Rng) -> Result<u64, String>;
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Inputs that were read.
    pub runs: u64,
    /// Ways in which they were.
    pub ways: usize,
    /// The input that broke a promise, and which.
    pub finding: Option<(Vec<u8>, String)>,
}

/// Reads the corpus of `target`, then mutations of it while `goes_on` says so.
pub fn run(target: &mut dyn Target, seed: u64, mut goes_on: impl FnMut(u64) -> bool) -> Report {
    let mut rng = Rng::with_seed(seed);
    let mut pool: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, bytes)| bytes).collect();
    let mut ways = HashSet::new();
    let mut runs = 0;
    for input in &pool {
        runs += 1;
        match read(target, input, &mut rng) {
            Ok(way) => drop(ways.insert(way)),
            Err(why) => {
                return Report { runs, ways: ways.len(), finding: Some((input.clone(), why)) };
            }
        }
    }
    while goes_on(runs) {
        runs += 1;
        let input = mutate(&pool, target, &mut rng);
        match read(target, &input, &mut rng) {
            Ok(way) if ways.insert(way) => match pool.len() {
                POOL_MAX.. => pool[rng.usize(..POOL_MAX)] = input,
                _ => pool.push(input),
            },
            Ok(_) => {}
            Err(why) => return Report { runs, ways: ways.len(), finding: Some((input, why)) },
        }
    }
    Report { runs, ways: ways.len(), finding: None }
}

/// Every input that is kept for `target`, by name.
///
/// # Panics
/// If a folder of it cannot be read.
pub fn corpus(target: &dyn Target) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in target.folders() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let is_expectation = path.extension().is_some_and(|extension| extension == "txt");
            if path.is_file() && !is_expectation {
                let bytes = fs::read(&path).expect("a readable file");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Where inputs of `name` are kept that belong to no other test.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// A number for a way of being read.
pub fn way(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A number in classes that double: lengths differ in kind, not by one.
pub const fn size(of: usize) -> u32 {
    usize::BITS - of.leading_zeros()
}

fn read(target: &mut dyn Target, input: &[u8], rng: &mut Rng) -> Result<u64, String> {
    match catch_unwind(AssertUnwindSafe(|| target.read(input, rng))) {
        Ok(read) => read,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("it panicked: {}", text.unwrap_or("without a word")))
        }
    }
}

fn mutate(pool: &[Vec<u8>], target: &dyn Target, rng: &mut Rng) -> Vec<u8> {
    let any = |rng: &mut Rng| pool.get(rng.usize(..pool.len().max(1)));
    let mut bytes = any(rng).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..=MUTATIONS_MAX) {
        let at = rng.usize(..=bytes.len());
        let to = rng.usize(at..=bytes.len().min(at + 64));
        match rng.u8(..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = EDGES[rng.usize(..EDGES.len())],
            2 if at < bytes.len() => bytes[at] = rng.u8(..),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let piece = bytes[at..to].to_vec();
                let at = rng.usize(..=bytes.len());
                bytes.splice(at..at, piece);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = any(rng).cloned().unwrap_or_default();
                let from = rng.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => bytes.insert(at, rng.u8(..)),
            _ => {
                let words = target.words();
                let word = words[rng.usize(..words.len())];
                let until = if rng.bool() { at } else { bytes.len().min(at + word.len()) };
                bytes.splice(at..until, word.iter().copied());
            }
        }
    }
    bytes.truncate(target.bytes_max());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks at one word, two letters of which must be found one after the other.
    struct Lock;

    impl Target for Lock {
        fn name(&self) -> &'static str {
            "lock"
        }

        fn folders(&self) -> Vec<PathBuf> {
            Vec::new()
        }

        fn words(&self) -> &'static [&'static [u8]] {
            &[b"-"]
        }

        fn bytes_max(&self) -> usize {
            16
        }

        fn read(&mut self, input: &[u8], _: &mut Rng) -> Result<u64, String> {
            let right = input.iter().zip(b"open").take_while(|(a, b)| a == b).count();
            assert!(right < 4, "open");
            Ok(way(right))
        }
    }

    #[test]
    fn it_finds_what_is_hidden_behind_several_steps_and_finds_it_again() {
        let find = || run(&mut Lock, 7, |runs| runs < 2_000_000);
        let first = find();
        let (input, why) = first.finding.expect("it is found");
        assert!(input.starts_with(b"open") && why == "it panicked: open", "{why}");
        assert_eq!(find().finding.expect("once more"), (input, why));
    }
}
