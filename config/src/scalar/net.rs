//! Hosts, addresses, networks, paths and header fields.
//!
//! Everything is brought into the one form that the core matches on: lower case, no trailing
//! dot, addresses in their shortest form. What looks like another type (a URL, a name where an
//! address belongs) is told so.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use tillgate_core::matching::{HostPattern, canonical_host};

use super::{Text, text_types};

/// A host pattern: `pay.example`, `*.example`, `*`, `10.9.0.1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostText(pub HostPattern);

/// The name of a server, lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fqdn(pub String);

/// An IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub IpAddr);

/// A network: `198.51.100.16/28`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr(pub IpNet);

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// A path of a URL, without query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UrlPath(pub String);

/// The name of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField(pub HeaderName);

/// The value of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderText(pub HeaderValue);

text_types!(HostText, Fqdn, Address, Cidr, ListenAddress, UrlPath, HeaderField, HeaderText);

/// Whether `name` can be a DNS name: labels of letters, digits, `-` and `_`, at most 63 bytes
/// each and 253 together, and a last label that is no number (that would be an address).
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn name_message(what: &str, text: &str) -> String {
    if text.contains("://") {
        return format!("the {what} `{text}` is a URL: write the name alone, as `pay.example`");
    }
    if text.contains('/') {
        return format!("the {what} `{text}` has a path: write the name alone, as `pay.example`");
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("the {what} `{text}` has a port: write it without, as `{name}`");
    }
    if !text.is_ascii() {
        return format!("the {what} `{text}` is not in ASCII: write its `xn--` form");
    }
    if text.contains('*') {
        return format!(
            "the {what} `{text}` has `*` in the wrong place: it may stand for whole first labels \
             only, as `*.example`"
        );
    }
    format!("the {what} `{text}` cannot be a name in DNS: write one such as `pay.example`")
}

impl Text for HostText {
    const EXPECTED: &'static str = "a hostname such as `pay.example`";
    const PATTERN: &'static str =
        "^(\\*|(\\*\\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?|\\[?[0-9A-Fa-f:.]+\\]?)$";
    const SCHEMA: &'static str = "Hostname";

    fn read(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(HostPattern::Any));
        }
        let host = canonical_host(text);
        if host.parse::<IpAddr>().is_ok() {
            return Ok(Self(HostPattern::Exact(host.into())));
        }
        if let Some(suffix) = host.strip_prefix("*.")
            && is_dns_name(suffix)
        {
            return Ok(Self(HostPattern::Suffix(suffix.into())));
        }
        if is_dns_name(&host) {
            return Ok(Self(HostPattern::Exact(host.into())));
        }
        Err(name_message("hostname", text))
    }
}

impl Text for Fqdn {
    const EXPECTED: &'static str = "a hostname such as `pay.example`";
    const PATTERN: &'static str = "^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?$";
    const SCHEMA: &'static str = "Fqdn";

    fn read(text: &str) -> Result<Self, String> {
        let host = canonical_host(text);
        if host.parse::<IpAddr>().is_ok() {
            return Err(format!(
                "`{text}` is an address: write it as `ip: {{address: \"{host}\", port: …}}`"
            ));
        }
        if is_dns_name(&host) {
            return Ok(Self(host.into_owned()));
        }
        Err(name_message("hostname", text))
    }
}

impl Text for Address {
    const EXPECTED: &'static str = "an IP address such as `10.9.0.1`";
    const PATTERN: &'static str = "^[0-9A-Fa-f:.]+$";
    const SCHEMA: &'static str = "IpAddress";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            if text.bytes().any(|byte| byte.is_ascii_alphabetic()) && !text.contains(':') {
                return format!(
                    "`{text}` is a name, not an IP address: write it as `fqdn: {{hostname: {text}, \
                     port: …}}`"
                );
            }
            format!("`{text}` is not an IP address: write one such as `10.9.0.1`")
        })
    }
}

impl Text for Cidr {
    const EXPECTED: &'static str = "a network such as `198.51.100.16/28`";
    const PATTERN: &'static str = "^[0-9A-Fa-f:.]+/[0-9]{1,3}$";
    const SCHEMA: &'static str = "Cidr";

    fn read(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            return Err(format!(
                "the network `{text}` has no prefix length: write `{text}/{bits}` for one address"
            ));
        }
        let network: IpNet = text.parse().map_err(|_| {
            format!("`{text}` is not a network: write one such as `198.51.100.16/28`")
        })?;
        if network.trunc() != network {
            return Err(format!(
                "the network `{text}` has bits set after its prefix: write `{}`, or a longer prefix",
                network.trunc()
            ));
        }
        Ok(Self(network))
    }
}

impl Text for ListenAddress {
    const EXPECTED: &'static str = "an address and port such as `127.0.0.1:8080`";
    const PATTERN: &'static str = "^(\\[[0-9A-Fa-f:.]+\\]|[0-9.]+):[0-9]{1,5}$";
    const SCHEMA: &'static str = "ListenAddress";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "the address `{text}` cannot be listened on: write an IP address and a port, as \
                 `127.0.0.1:8080` or `0.0.0.0:8080`"
            )
        })
    }
}

impl Text for UrlPath {
    const EXPECTED: &'static str = "a path such as `/v1/quote`";
    const PATTERN: &'static str = "^/[^\\s?#]*$";
    const SCHEMA: &'static str = "UrlPath";

    fn read(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("the path `{text}` does not begin with `/`: write `/{text}`"));
        }
        if let Some(at) = text.find(['?', '#']) {
            return Err(format!(
                "the path `{text}` has a query or fragment: match on `{}` alone",
                &text[..at]
            ));
        }
        if text.contains("/../") || text.ends_with("/..") || text.contains("/./") {
            return Err(format!("the path `{text}` has `.` or `..` in it: write the final path"));
        }
        if text.bytes().any(|byte| byte <= b' ' || byte > b'~') || text.len() > 1024 {
            return Err(format!(
                "the path `{text}` cannot be sent as it stands: percent-encode it, up to 1024 bytes"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for HeaderField {
    const EXPECTED: &'static str = "a header name such as `x-till`";
    const PATTERN: &'static str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$";
    const SCHEMA: &'static str = "HeaderName";

    fn read(text: &str) -> Result<Self, String> {
        HeaderName::from_bytes(text.as_bytes())
            .ok()
            .filter(|_| text.len() <= 256)
            .map(Self)
            .ok_or(format!("`{text}` is not the name of a header: write one such as `x-till`"))
    }
}

impl Text for HeaderText {
    const EXPECTED: &'static str = "the value of a header";
    const PATTERN: &'static str = "^[!-~]([ -~]{0,4094}[!-~])?$";
    const SCHEMA: &'static str = "HeaderValue";

    fn read(text: &str) -> Result<Self, String> {
        let visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let trimmed = !text.is_empty() && text.trim() == text && text.len() <= 4096;
        HeaderValue::from_str(text).ok().filter(|_| visible && trimmed).map(Self).ok_or_else(|| {
            format!(
                "`{text}` cannot be the value of a header: use visible ASCII without spaces around \
                 it, up to 4096 bytes"
            )
        })
    }
}
