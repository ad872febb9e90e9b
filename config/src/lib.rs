//! The policy language of Tillgate. Pure functions, no IO.
//!
//! Text goes in ([`check_text`]), documents are read strictly ([`mod@document`], with [`yaml`] as
//! the only module that knows the parser), and one immutable [`effective::Effective`] comes out,
//! or a [`report::Report`] that names everything that is wrong. Defaults live in [`defaults`],
//! the built-in classes in `builtin.yaml`, the JSON Schema in [`schema`].

pub mod bundle;
pub mod compile;
pub mod day;
pub mod defaults;
pub mod document;
pub mod effective;
pub mod fleet;
pub mod kinds;
pub mod report;
pub mod scalar;
pub mod schema;
pub mod suggest;
pub mod yaml;
pub mod zones;

pub use compile::{Checked, Input};
pub use effective::Effective;
pub use report::Report;

/// Reads and compiles one policy in one file. `file` is its name in messages.
pub fn check_text(file: &str, text: &str) -> Checked {
    let mut report = Report::default();
    let input = document::read(file, text, &mut report);
    compile::check(&input, report)
}

/// Reads the one Bootstrap of a file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_bootstrap(file: &str, text: &str) -> Result<kinds::BootstrapDoc, Report> {
    let mut report = Report::default();
    let input = document::read(file, text, &mut report);
    let mut bootstraps = input.documents.into_iter().filter_map(|document| {
        if let document::Body::Bootstrap(body) = document.body { Some(body) } else { None }
    });
    match (bootstraps.next(), bootstraps.next()) {
        (Some(one), None) if report.errors.is_empty() => Ok(one),
        (Some(_), None) => Err(report),
        _ => {
            let message = format!("{file} must have one Bootstrap document");
            report.errors.push(report::Finding::new(None, message));
            Err(report)
        }
    }
}

/// Reads and compiles one policy in one file; lints are dropped.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(file: &str, text: &str) -> Result<Effective, Report> {
    let Checked { effective, report } = check_text(file, text);
    effective.ok_or(report)
}
