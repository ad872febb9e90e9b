//! The rules of `proxy/ARCHITECTURE.md`, executed.
//!
//! Each test reads the workspace as text and fails with one line for every violation: where it is
//! and what to do about it. A rule that turns out to be wrong is changed here, in the same commit
//! as the code that needs it.

#![expect(clippy::unwrap_used, reason = "what cannot be read fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

const VISIBLE: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "config",
    "docker",
    "proxy",
    "tests",
];
const CRATES: [(&str, &str); 6] = [
    ("tillgate-core", "proxy/core"),
    ("tillgate-config", "config"),
    ("tillgate-net", "proxy/net"),
    ("tillgate", "proxy/app"),
    ("tillgate-bench", "bench"),
    ("tillgate-tests", "tests"),
];
/// What deciding must never reach, not even through others.
const NOT_IN_CORE: [&str; 8] =
    ["tokio", "mio", "socket2", "hyper", "rustls", "quinn", "rand", "serde"];
const CLOCK: &str = "proxy/net/src/clock.rs";
const UNSAFE: [&str; 2] = ["proxy/net/src/sockopt.rs", "bench/src/sys.rs"];
const FORBIDDEN_NAMES: [&str; 6] = ["manager", "helper", "helpers", "utils", "common", "misc"];
const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 500;
const LINE_CHARS: usize = 100;
const HEADER_LINES: usize = 12;

/// A text file of the workspace; `path` is relative to its root, with forward slashes.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Compiled into the product or the lab, not only into tests.
    fn is_production(&self) -> bool {
        let in_tests = self.path.contains("/tests/") || self.path.ends_with("/tests.rs");
        self.is_rust()
            && self.path.contains("/src/")
            && !in_tests
            && !self.path.starts_with("tests/")
    }

    /// The numbered lines in front of an inline test module.
    fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut lines: Vec<&str> = self.text.lines().collect();
        let is_tests = |pair: &[&str]| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        };
        if let Some(end) = lines.windows(2).position(is_tests) {
            lines.truncate(end);
        }
        lines.into_iter().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn crate_folder(&self) -> &'static str {
        let of = |folder: &&str| self.path.starts_with(&format!("{folder}/"));
        CRATES.iter().map(|(_, folder)| *folder).find(of).unwrap_or("")
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests lie in the workspace").to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every text file of the workspace, in order of its path.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy();
                files.push(File { path: relative.replace('\\', "/"), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn rust_files() -> Vec<File> {
    files().into_iter().filter(File::is_rust).collect()
}

/// Fails with every violation, `what to do` last.
#[track_caller]
fn none(violations: &[String], what_to_do: &str) {
    let count = violations.len();
    assert!(count == 0, "{count} violations\n{}\n{what_to_do}", violations.join("\n"));
}

/// Lines that match `pattern` outside comments, with their place.
fn matches(file: &File, pattern: &Regex, production_only: bool) -> Vec<String> {
    let found = |(number, line): (usize, &str)| {
        let code = !line.trim_start().starts_with("//");
        (code && pattern.is_match(line)).then(|| format!("{}:{number}: {}", file.path, line.trim()))
    };
    if production_only {
        file.production_lines().filter_map(found).collect()
    } else {
        file.numbered().filter_map(found).collect()
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

/// Names of the dependencies in the sections of a manifest that `wanted` accepts.
fn dependencies(folder: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let manifest = read(&format!("{folder}/Cargo.toml"));
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(header) = line.trim().strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
            if let Some((kind, name)) = section.rsplit_once("dependencies.") {
                let kind = format!("{kind}dependencies");
                if wanted(&kind) {
                    names.insert(name.to_owned());
                }
            }
        } else if section.ends_with("dependencies") && wanted(&section) {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if !name.is_empty() && !name.starts_with('#') {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

fn is_normal(section: &str) -> bool {
    !section.contains("dev-") && !section.contains("build-")
}

/// Who depends on whom, by name, from the lock file. Foreign packages have no test dependencies
/// there; our own do, so ours are taken from their manifests.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let lock = read("Cargo.lock");
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let start = package.find(&format!("\n{name} = \""))? + name.len() + 5;
            Some(package[start..].split('"').next()?.to_owned())
        };
        let name = field("name").expect("a package has a name");
        let needs = package.split_once("dependencies = [").map_or("", |(_, rest)| rest);
        let needs = needs.split(']').next().unwrap_or("").lines();
        let needs =
            needs.filter_map(|line| line.trim().trim_start_matches('"').split(['"', ' ']).next());
        let needs = needs.filter(|name| !name.is_empty()).map(str::to_owned);
        graph.entry(name).or_default().extend(needs);
    }
    for (name, folder) in CRATES {
        graph.insert(name.to_owned(), dependencies(folder, is_normal));
    }
    graph
}

/// Everything `start` reaches, with the way there.
fn reaches(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeMap<String, String> {
    let mut ways = BTreeMap::from([(start.to_owned(), start.to_owned())]);
    let mut open = vec![start.to_owned()];
    while let Some(name) = open.pop() {
        for next in graph.get(&name).into_iter().flatten() {
            if !ways.contains_key(next) {
                ways.insert(next.clone(), format!("{} -> {next}", ways[&name]));
                open.push(next.clone());
            }
        }
    }
    ways
}

#[test]
fn layers_point_one_way() {
    let graph = graph();
    let product: Vec<&str> = CRATES[..4].iter().map(|(name, _)| *name).collect();
    let mut forbidden: Vec<(&str, &str)> = Vec::new();
    forbidden.extend(NOT_IN_CORE.iter().map(|name| ("tillgate-core", *name)));
    forbidden.extend(CRATES.iter().skip(1).map(|(name, _)| ("tillgate-core", *name)));
    forbidden.extend(["tokio", "tillgate-net", "tillgate"].map(|name| ("tillgate-config", name)));
    forbidden.extend(["tillgate-config", "tillgate"].map(|name| ("tillgate-net", name)));
    forbidden.extend(product.iter().map(|name| (*name, "tillgate-bench")));
    forbidden.extend(product.iter().map(|name| (*name, "tillgate-tests")));
    let mut violations = Vec::new();
    for (from, to) in forbidden {
        if let Some(way) = reaches(&graph, from).get(to) {
            violations.push(format!("{from} must not reach {to}: {way}"));
        }
    }
    for (name, folder) in &CRATES[..4] {
        let all = dependencies(folder, |_| true);
        if all.contains("tillgate-bench") {
            violations.push(format!("{folder}/Cargo.toml: {name} must not even test with the lab"));
        }
    }
    none(&violations, "move the code to the layer that may do this, or pass the value in");
    assert!(reaches(&graph, "tillgate").contains_key("tokio"), "the lock file was not understood");
}

#[test]
fn one_registry_and_no_other_source() {
    let lock = read("Cargo.lock");
    let official = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let strange: Vec<String> = (1..)
        .zip(lock.lines())
        .filter(|(_, line)| line.starts_with("source") && *line != official)
        .map(|(number, line)| format!("Cargo.lock:{number}: {line}"))
        .collect();
    none(&strange, "depend on published packages");
    let host =
        pattern(r"crates\.io|npmjs\.org|pypi\.org|proxy\.golang\.org|registry\s*=\s*.https?:");
    let hosts: Vec<String> = files()
        .iter()
        .filter(|file| file.path != "Cargo.lock" && file.path != "tests/tests/tidy.rs")
        .flat_map(|file| matches(file, &host, false))
        .collect();
    none(&hosts, "where packages come from is the builder's business: leave it to cargo");
}

#[test]
fn the_clock_is_read_in_one_place() {
    let clock = pattern(r"\b(Instant|SystemTime|Timestamp|Zoned|Utc)::now\b");
    let violations: Vec<String> = rust_files()
        .iter()
        .filter(|file| file.is_production() && file.path != CLOCK && file.crate_folder() != "bench")
        .flat_map(|file| matches(file, &clock, true))
        .collect();
    none(&violations, "take `now` as the last argument; the shell asks tillgate_net::clock");
}

#[test]
fn tests_wait_for_conditions() {
    // The one wait and the one pause of the harness, this rule, and the lab, which measures time.
    let may = |path: &str| {
        ["tests/src/lib.rs", "tests/tests/tidy.rs"].contains(&path) || path.starts_with("bench/")
    };
    let is_test = |path: &str| {
        path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
    };
    let pause = pattern(r"\b(sleep|sleep_until|park_timeout)\(");
    let violations: Vec<String> = rust_files()
        .iter()
        .filter(|file| is_test(&file.path) && !may(&file.path))
        .flat_map(|file| matches(file, &pause, false))
        .collect();
    none(&violations, "wait with `eventually`; who must be slow says so with `dawdle`");
}

#[test]
fn only_the_policy_and_the_admin_side_deserialise() {
    let derive = pattern(r"derive\(.*\bDeserialize\b|impl.*\bDeserialize\b.* for");
    let may = |file: &File| {
        let admin = ["admin", "endpoint/"].map(|part| format!("proxy/app/src/{part}"));
        let admin = admin.iter().any(|part| file.path.starts_with(part));
        matches!(file.crate_folder(), "config" | "bench" | "tests") || admin
    };
    let violations: Vec<String> = rust_files()
        .iter()
        .filter(|file| !may(file))
        .flat_map(|file| matches(file, &derive, true))
        .collect();
    none(
        &violations,
        "parse in config, answer in app/src/admin or endpoint, and keep values plain elsewhere",
    );
}

#[test]
fn unsafe_code_lives_in_two_files() {
    let word = pattern(r"\bunsafe\s*(\{|fn\b|impl\b|trait\b|extern\b)");
    let violations: Vec<String> = rust_files()
        .iter()
        .filter(|file| !UNSAFE.contains(&file.path.as_str()))
        .flat_map(|file| matches(file, &word, false))
        .collect();
    none(&violations, &format!("put it into {UNSAFE:?}, behind a safe function, with its reason"));
}

#[test]
fn nothing_is_left_for_later() {
    // Spelt in two parts so that this file passes its own test.
    let later = pattern(
        &["todo", "!|unimplemented", "!|\\bTO", "DO\\b|\\bFIX", "ME\\b|\\bXX", "X\\b"].concat(),
    );
    let mut violations = Vec::new();
    for file in rust_files().iter().filter(|file| file.path != "tests/tests/tidy.rs") {
        for (number, line) in file.numbered().filter(|(_, line)| later.is_match(line)) {
            violations.push(format!("{}:{number}: {}", file.path, line.trim()));
        }
    }
    none(&violations, "finish it, or write an issue");
}

#[test]
fn files_and_lines_stay_short() {
    // A message stays in one piece, so that a search for it finds it.
    let text = pattern("\"([^\"\\\\]|\\\\.){40,}");
    let mut violations = Vec::new();
    for file in rust_files() {
        let lines = file.production_lines().count();
        if file.is_production() && lines > FILE_LINES {
            violations.push(format!("{}: {lines} lines, at most {FILE_LINES}", file.path));
        }
        for (number, line) in file.numbered() {
            let chars = line.chars().count();
            if chars > LINE_CHARS && !text.is_match(line) {
                violations.push(format!("{}:{number}: {chars} characters", file.path));
            }
        }
    }
    none(&violations, "split by subject, not by size; break lines at a clause");
}

/// Name, first line and lines of code of every function, by the indentation rustfmt gives it.
fn functions(file: &File) -> Vec<(String, usize, usize)> {
    let start =
        pattern(r"^(\s*)(pub(\([a-z :]+\))? )?(const )?(async )?(unsafe )?(extern .* )?fn (\w+)");
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(parts) = start.captures(line) else { continue };
        let end = format!("{}}}", &parts[1]);
        let Some(length) = lines[index..].iter().position(|line| *line == end) else { continue };
        let code = |line: &&&str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with("//")
        };
        let body = lines[index..=index + length].iter().filter(code).count();
        found.push((parts[8].to_owned(), index + 1, body));
    }
    found
}

#[test]
fn functions_stay_short() {
    let mut violations = Vec::new();
    let mut seen = 0;
    for file in rust_files() {
        for (name, line, body) in functions(&file) {
            seen += 1;
            if body > FUNCTION_LINES {
                violations.push(format!("{}:{line}: {name} has {body} lines", file.path));
            }
        }
    }
    none(&violations, &format!("at most {FUNCTION_LINES}: find the step inside and name it"));
    assert!(seen > 300, "only {seen} functions found: the search is broken");
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut violations = Vec::new();
    for file in rust_files().iter().filter(|file| file.path.contains("/src/")) {
        let header: Vec<&str> = file.text.lines().take_while(|l| l.starts_with("//!")).collect();
        let sentence = header.iter().any(|line| line.ends_with('.') || line.contains(". "));
        if !sentence {
            violations.push(format!("{}:1: no sentence of //! at the top", file.path));
        }
        if file.is_production() && header.len() > HEADER_LINES {
            violations.push(format!("{}:1: {} lines of //!", file.path, header.len()));
        }
    }
    let ask = "say in up to 12 lines what it decides or does, what goes in and out, what it leaves";
    none(&violations, ask);
}

#[test]
fn names_say_something() {
    let mut violations = Vec::new();
    for file in rust_files() {
        let path = Path::new(&file.path);
        let stem = path.file_stem().unwrap().to_string_lossy();
        let parts = path.parent().into_iter().flat_map(Path::components);
        let parts: Vec<String> =
            parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if stem == "mod" {
            violations.push(format!("{}: rename to {}.rs", file.path, parts.join("/")));
        }
        for name in parts.iter().map(String::as_str).chain([&*stem]) {
            if name.split('_').any(|word| FORBIDDEN_NAMES.contains(&word)) {
                violations.push(format!("{}: {name:?} says nothing", file.path));
            }
        }
        let module = pattern(r"^\s*(pub(\([a-z]+\))? )?mod (\w+)");
        for (number, line) in file.numbered() {
            let Some(parts) = module.captures(line) else { continue };
            if FORBIDDEN_NAMES.contains(&&parts[3]) {
                violations.push(format!("{}:{number}: {:?} says nothing", file.path, &parts[3]));
            }
        }
    }
    none(&violations, "name it after what it knows");
}

#[test]
fn the_top_level_is_small() {
    let mut violations = Vec::new();
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') || name == "target";
        if !hidden && !VISIBLE.contains(&name.as_str()) {
            violations.push(format!("{name}: not one of {VISIBLE:?}"));
        }
    }
    none(&violations, "tool files take their dotted names, everything else belongs to a folder");
}

#[test]
fn documents_name_files_that_exist() {
    let quoted = pattern(r"`([A-Za-z0-9_.\-/]+)`|\]\(([A-Za-z0-9_.\-/]+)(#[^)]*)?\)");
    let roots = ["proxy", "config", "bench", "docker", "tests", ".ci", ".cargo"];
    let mut violations = Vec::new();
    for document in ["README.md", "proxy/ARCHITECTURE.md"] {
        let text = read(document);
        let folder = root().join(document).parent().unwrap().to_path_buf();
        for (number, line) in (1..).zip(text.lines()) {
            for parts in quoted.captures_iter(line) {
                let link = parts.get(2).map(|link| link.as_str());
                let path = link.unwrap_or_else(|| parts.get(1).unwrap().as_str());
                let first = path.split('/').next().unwrap_or("");
                let is_path = path.contains('/') && roots.contains(&first);
                if !is_path && link.is_none() {
                    continue;
                }
                if !root().join(path).exists() && !folder.join(path).exists() {
                    violations.push(format!("{document}:{number}: {path} does not exist"));
                }
            }
        }
    }
    none(&violations, "a moved file takes its mention along");
}

#[test]
fn no_path_belongs_to_one_machine() {
    let private =
        pattern(&["(^|[^A-Za-z0-9_.\\-/}])/(ro", "ot|wo", "rk|ho", "me/[a-z]+)(/|\\b)"].concat());
    let mut violations = Vec::new();
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.numbered().filter(|(_, line)| private.is_match(line)) {
            violations.push(format!("{}:{number}: {}", file.path, line.trim()));
        }
    }
    none(&violations, "derive it from the workspace, or make it an argument");
}
