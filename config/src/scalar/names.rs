//! Names, labels, group paths.
//!
//! The grammars are those of Kubernetes object names and labels, because the same words are also
//! used there; names end up as metric labels and in logs.

use tillgate_core::endpoint::is_workload;

use super::{Text, text_types};

/// Name of a document, rule or link: lower case letters, digits, `-` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub String);

/// Key of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelKey(pub String);

/// Value of a label; may be empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelValue(pub String);

/// A group in the organisation: `/geo/no/oslo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StorePath(pub String);

/// Name of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName(pub String);

/// A workload by its namespace and name: `pos/checkout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadText(pub String);

text_types!(Name, LabelKey, LabelValue, StorePath, DeviceName, WorkloadText);

impl StorePath {
    /// Whether this path is `group` or lies below it, by whole segments.
    pub fn is_under(&self, group: &Self) -> bool {
        self.0.strip_prefix(&group.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn bounded_by(text: &str, edge: impl Fn(u8) -> bool, most: usize) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= most
        && bytes.first().is_some_and(|byte| edge(*byte))
        && bytes.last().is_some_and(|byte| edge(*byte))
}

impl Text for Name {
    const EXPECTED: &'static str = "a name such as `store-0412`";
    const PATTERN: &'static str = "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$";
    const SCHEMA: &'static str = "Name";

    fn read(text: &str) -> Result<Self, String> {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| edge(byte) || byte == b'-' || byte == b'.';
        if bounded_by(text, edge, 253) && text.bytes().all(inner) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the name `{text}` does not fit: use up to 253 lower case letters, digits, `-` and `.`, \
             beginning and ending with a letter or digit"
        ))
    }
}

fn label_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

impl Text for WorkloadText {
    const EXPECTED: &'static str = "a workload such as `pos/checkout`";
    const PATTERN: &'static str =
        "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}$";
    const SCHEMA: &'static str = "Workload";

    fn read(text: &str) -> Result<Self, String> {
        if is_workload(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("`{text}` is no workload: write its namespace and its name, as `pos/checkout`"))
    }
}

impl Text for LabelKey {
    const EXPECTED: &'static str = "a label key such as `region`";
    const PATTERN: &'static str = "^[A-Za-z0-9]([-A-Za-z0-9_./]{0,251}[A-Za-z0-9])?$";
    const SCHEMA: &'static str = "LabelKey";

    fn read(text: &str) -> Result<Self, String> {
        let edge = |byte: u8| byte.is_ascii_alphanumeric();
        if bounded_by(text, edge, 253) && text.bytes().all(|b| label_char(b) || b == b'/') {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the label key `{text}` does not fit: use up to 253 letters, digits, `-`, `_`, `.` and \
             `/`, beginning and ending with a letter or digit"
        ))
    }
}

impl Text for LabelValue {
    const EXPECTED: &'static str = "a label value such as `pilot`";
    const PATTERN: &'static str = "^$|^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
    const SCHEMA: &'static str = "LabelValue";

    fn read(text: &str) -> Result<Self, String> {
        let edge = |byte: u8| byte.is_ascii_alphanumeric();
        if text.is_empty() || (bounded_by(text, edge, 63) && text.bytes().all(label_char)) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the label value `{text}` does not fit: use up to 63 letters, digits, `-`, `_` and \
             `.`, beginning and ending with a letter or digit"
        ))
    }
}

impl Text for StorePath {
    const EXPECTED: &'static str = "a group path such as `/geo/no/oslo`";
    const PATTERN: &'static str = "^(/[a-z0-9-]+)+$";
    const SCHEMA: &'static str = "StorePath";

    fn read(text: &str) -> Result<Self, String> {
        let segment = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment)) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the group path `{text}` does not fit: write segments of lower case letters, digits \
             and `-`, each after a `/`, as `/geo/no/oslo`"
        ))
    }
}

impl Text for DeviceName {
    const EXPECTED: &'static str = "a network device such as `eth0`";
    const PATTERN: &'static str = "^[^\\s/:]{1,15}$";
    const SCHEMA: &'static str = "DeviceName";

    fn read(text: &str) -> Result<Self, String> {
        // Linux IFNAMSIZ is 16 with the ending zero; `.` and `..` are not names.
        let fits = (1..=15).contains(&text.len())
            && !text.contains(|c: char| c.is_whitespace() || c == '/' || c == ':')
            && text != "."
            && text != "..";
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the device `{text}` cannot exist: write the name of a network device (up to 15 \
             characters), as `eth0`"
        ))
    }
}
