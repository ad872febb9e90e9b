//! Policy files on disk: one file, or every policy file below a folder.
//!
//! Names are sorted, so that the same folder gives the same answer everywhere. What begins with a
//! dot is left out (`.git`, and the `..data` of a ConfigMap whose files are links to it).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tillgate_config::fleet::{Fleet, Source};
use tillgate_config::{Report, yaml};

use crate::disk::read_bounded;

/// Files of a fleet: sixty thousand stores in files of their own, and then some.
const FILES_MAX: usize = 100_000;

/// Bytes of a fleet: sixty thousand stores need some sixty million.
const BYTES_MAX: usize = 512 * 1024 * 1024;

/// How deep folders may be nested; a link that leads back up ends here.
const DEPTH_MAX: usize = 32;

/// What was read, and what is wrong with it by itself.
pub(super) struct Opened {
    pub(super) fleet: Fleet,
    pub(super) report: Report,
}

/// Reads the policy in `path`, a file or a folder.
///
/// # Errors
/// A sentence if it cannot be read.
pub(super) fn open(path: &Path, threads: usize) -> Result<Opened, String> {
    let (fleet, report) = Fleet::read(&sources(path)?, threads);
    Ok(Opened { fleet, report })
}

/// The texts of the policy in `path`, a file or a folder.
///
/// # Errors
/// A sentence if it cannot be read.
pub(super) fn sources(path: &Path) -> Result<Vec<Source>, String> {
    let files = if path.is_dir() { below(path)? } else { vec![path.to_owned()] };
    if files.is_empty() {
        return Err(format!(
            "the folder `{}` has no policy files: they end in .yaml or .yml",
            path.display()
        ));
    }
    let mut sources = Vec::with_capacity(files.len());
    let mut bytes = 0;
    for file in files {
        let text = read(&file)?;
        bytes += text.len();
        if bytes > BYTES_MAX {
            return Err(format!(
                "the folder `{}` has more than the {BYTES_MAX} bytes that a fleet may have: name \
                 the folder of the policy alone",
                path.display()
            ));
        }
        sources.push(Source { file: file.display().to_string(), text });
    }
    Ok(sources)
}

/// Every policy file below `folder`, in order.
fn below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        let wrong = |error| format!("cannot read the folder `{}` ({error})", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            if hidden {
                continue;
            } else if path.is_dir() && depth < DEPTH_MAX {
                open.push((path, depth + 1));
            } else if matches!(suffix, Some("yaml" | "yml")) && path.is_file() {
                found.push(path);
            }
            if found.len() > FILES_MAX {
                return Err(format!(
                    "the folder `{}` has more than {FILES_MAX} policy files: name the folder of \
                     the policy alone",
                    folder.display()
                ));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text of `file`, or a sentence that says why not.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let advice = "check the path and the permissions";
    let most = yaml::INPUT_BYTES_MAX;
    let bytes = read_bounded(file, most as u64).map_err(|error| {
        if error.kind() == ErrorKind::FileTooLarge {
            format!(
                "`{shown}` has more than the {most} bytes that a policy may have: split it, or \
                 remove what is generated"
            )
        } else {
            format!("cannot read `{shown}` ({error}): {advice}")
        }
    })?;
    String::from_utf8(bytes).map_err(|error| {
        format!(
            "`{shown}` is not UTF-8 text (byte {}): save it as UTF-8",
            error.utf8_error().valid_up_to()
        )
    })
}
