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
mod minimal;
pub mod report;
pub mod scalar;
pub mod schema;
pub mod sidecar;
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

/// The config endpoint that the Bootstrap in `text` asks for, if it does. `file` is its name in
/// messages.
///
/// # Errors
/// Everything that is wrong with it.
pub fn bootstrap_endpoint(
    file: &str,
    text: &str,
) -> Result<Option<tillgate_core::endpoint::EndpointSpec>, Report> {
    let mut report = Report::default();
    let input = document::read(file, text, &mut report);
    let mut documents = input.documents.iter();
    let endpoint = documents.find_map(|one| compile::machine_endpoint(one, &mut report));
    report.sort();
    if report.errors.is_empty() { Ok(endpoint) } else { Err(report) }
}

/// Reads and compiles one policy in one file; lints are dropped.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(file: &str, text: &str) -> Result<Effective, Report> {
    let Checked { effective, report } = check_text(file, text);
    effective.ok_or(report)
}

/// Reads the one document that a store is provisioned with.
///
/// # Errors
/// Everything that is wrong with it, also if there is another document beside it.
pub fn load_bootstrap(file: &str, text: &str) -> Result<kinds::BootstrapDoc, Report> {
    let mut report = Report::default();
    let input = document::read(file, text, &mut report);
    let mut found = None;
    for document in input.documents {
        if let document::Body::Bootstrap(body) = &document.body
            && found.is_none()
        {
            found = Some(body.clone());
            continue;
        }
        report.errors.push(document.name_spot().finding(format!(
            "{} does not belong here: the file of --bootstrap holds one Bootstrap and nothing else",
            document.title()
        )));
    }
    if !report.errors.is_empty() {
        report.sort();
        return Err(report);
    }
    found.ok_or_else(|| {
        Report::of_error(format!(
            "`{file}` holds no Bootstrap: write one, with storeId and sources"
        ))
    })
}
