//! Texts of the data plane: files, names in certificates, query parameters, URLs of collectors.
//!
//! Files are only named here; whether they exist is found out by who opens them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::HeaderName;
use tillgate_core::backend::{Endpoint, Host};
use tillgate_core::matching::{HostPattern, canonical_host};
use tillgate_core::tls::{San, SanMatch, san_text};

use super::{Fqdn, HostText, Text, text_types};
use crate::defaults;
use crate::effective::{LogOutput, OtlpEndpoint};

/// An absolute path of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath(pub Arc<Path>);

/// `stdout`, or an absolute path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputText(pub LogOutput);

/// The name of a cookie or header that carries a session; case is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName(pub String);

/// The name of a query parameter, as it is meant (not percent-encoded).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryName(pub String);

/// The value of a query parameter, as it is meant; may be empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryText(pub String);

/// A name in a client's certificate: `DNS:till-7.store.example`, `DNS:*.tills.example`,
/// `URI:spiffe://store/till`, `email:ops@store.example`, `IP:10.0.0.7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanText(pub SanMatch);

/// The URL of a collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl(pub OtlpEndpoint);

/// A host that requests are sent on with: a name or an address, no pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainHost(pub String);

/// The name of a traffic class, or `*` for all that no other entry names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassPattern(pub Option<String>);

text_types!(
    FilePath,
    OutputText,
    SessionName,
    QueryName,
    QueryText,
    SanText,
    CollectorUrl,
    PlainHost,
    ClassPattern,
);

impl Text for FilePath {
    const EXPECTED: &'static str = "the path of a file such as `/etc/tillgate/tls.crt`";
    const PATTERN: &'static str = "^/.*[^/]$";
    const SCHEMA: &'static str = "FilePath";

    fn read(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!(
                "the path `{text}` is not absolute: write it from the root, as \
                 `/etc/tillgate/tls.crt`"
            ));
        }
        if text.len() > 4095 || text.ends_with('/') || text.chars().any(char::is_control) {
            return Err(format!(
                "the path `{text}` cannot be that of a file: write one such as \
                 `/etc/tillgate/tls.crt`"
            ));
        }
        Ok(Self(Path::new(text).into()))
    }
}

impl Text for OutputText {
    const EXPECTED: &'static str = "`stdout` or the path of a file";
    const PATTERN: &'static str = "^(stdout|/.*[^/])$";
    const SCHEMA: &'static str = "LogOutput";

    fn read(text: &str) -> Result<Self, String> {
        if text == "stdout" {
            return Ok(Self(LogOutput::Stdout));
        }
        if !text.starts_with('/') {
            return Err(format!(
                "the log cannot be written to `{text}`: write `stdout`, or the absolute path of a \
                 file"
            ));
        }
        FilePath::read(text).map(|path| Self(LogOutput::File(path.0)))
    }
}

impl Text for SessionName {
    const EXPECTED: &'static str = "the name of a cookie or header such as `basket`";
    const PATTERN: &'static str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$";
    const SCHEMA: &'static str = "SessionName";

    fn read(text: &str) -> Result<Self, String> {
        // Both a cookie's name (RFC 6265) and a header's (RFC 9110) are a token.
        let token = HeaderName::from_bytes(text.as_bytes()).is_ok() && text.len() <= 128;
        token.then(|| Self(text.to_owned())).ok_or_else(|| {
            format!(
                "`{text}` cannot name a cookie or header: use up to 128 letters, digits, `-` and \
                 `_`, as `basket`"
            )
        })
    }
}

fn is_parameter(text: &str, most: usize) -> bool {
    text.len() <= most && !text.chars().any(char::is_control)
}

impl Text for QueryName {
    const EXPECTED: &'static str = "the name of a query parameter such as `lane`";
    const PATTERN: &'static str = "^[^&=]{1,256}$";
    const SCHEMA: &'static str = "QueryName";

    fn read(text: &str) -> Result<Self, String> {
        let fits = !text.is_empty() && is_parameter(text, 256) && !text.contains(['&', '=']);
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            format!(
                "`{text}` is not the name of one query parameter: write it without `&` and `=`, \
                 as `lane`"
            )
        })
    }
}

impl Text for QueryText {
    const EXPECTED: &'static str = "the value of a query parameter";
    const PATTERN: &'static str = "^.{0,1024}$";
    const SCHEMA: &'static str = "QueryValue";

    fn read(text: &str) -> Result<Self, String> {
        is_parameter(text, 1024).then(|| Self(text.to_owned())).ok_or_else(|| {
            "the value of the query parameter does not fit: use up to 1024 bytes without control \
             characters"
                .to_owned()
        })
    }
}

impl Text for SanText {
    const EXPECTED: &'static str = "a name in a certificate such as `DNS:till-7.store.example`";
    const PATTERN: &'static str = "^(DNS|URI|email|IP):[^\\s]{1,1024}$";
    const SCHEMA: &'static str = "SubjectAltName";

    fn read(text: &str) -> Result<Self, String> {
        let hint = || {
            format!(
                "`{text}` is not a name in a certificate: write `DNS:till-7.store.example`, \
                 `DNS:*.tills.example`, `URI:spiffe://store/till`, `email:…` or `IP:10.0.0.7`"
            )
        };
        let (kind, value) = text.split_once(':').ok_or_else(hint)?;
        let plain = !value.is_empty()
            && value.len() <= 1024
            && !value.contains(char::is_whitespace)
            && !value.chars().any(char::is_control);
        let exact = |san: San<'_>| Self(SanMatch::Exact(san_text(san).into()));
        match kind {
            "DNS" => match value.strip_prefix("*.") {
                Some(suffix) => {
                    Fqdn::read(suffix).map(|name| Self(SanMatch::DnsSuffix(name.0.into())))
                }
                None => Fqdn::read(value).map(|name| exact(San::Dns(&name.0))).map_err(|_| hint()),
            },
            "URI" if plain && value.contains(':') => Ok(exact(San::Uri(value))),
            "email" if plain && value.contains('@') => Ok(exact(San::Email(value))),
            "IP" => {
                let address = value.parse::<IpAddr>().map_err(|_| hint())?;
                Ok(exact(San::Ip(address)))
            }
            _ => Err(hint()),
        }
    }
}

impl Text for CollectorUrl {
    const EXPECTED: &'static str = "a URL such as `http://otel.example:4318/v1/traces`";
    const PATTERN: &'static str = "^https?://[^\\s/?#@]+(/[^\\s?#]*)?$";
    const SCHEMA: &'static str = "CollectorUrl";

    fn read(text: &str) -> Result<Self, String> {
        let message = || {
            format!(
                "`{text}` is not the URL of a collector: write one such as \
                 `http://otel.example:4318/v1/traces`"
            )
        };
        let uri: http::Uri = text.parse().map_err(|_| message())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(message()),
        };
        let authority = uri.authority().ok_or_else(message)?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(format!(
                "the URL `{text}` has a user, query or fragment: write it without, as \
                 `http://otel.example:4318/v1/traces`"
            ));
        }
        let host = canonical_host(authority.host());
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Ip(address),
            Err(_) => Host::Name(Fqdn::read(&host).map_err(|_| message())?.0.into()),
        };
        // 4318 is OTLP's own port; with TLS collectors stand behind the port of HTTPS.
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 4318 });
        let path = if uri.path() == "/" { defaults::OTLP_PATH } else { uri.path() };
        let server = Endpoint { host, port };
        Ok(Self(OtlpEndpoint { tls, server, path: path.into() }))
    }
}

impl Text for PlainHost {
    const EXPECTED: &'static str = "a hostname such as `pay.example`";
    const PATTERN: &'static str =
        "^([A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?|\\[?[0-9A-Fa-f:.]+\\]?)$";
    const SCHEMA: &'static str = "PlainHost";

    fn read(text: &str) -> Result<Self, String> {
        match HostText::read(text)?.0 {
            HostPattern::Exact(host) => Ok(Self(host.to_string())),
            HostPattern::Suffix(_) | HostPattern::Any => Err(format!(
                "`{text}` stands for many hosts: write the one name to use, as `pay.example`"
            )),
        }
    }
}

impl Text for ClassPattern {
    const EXPECTED: &'static str = "the name of a traffic class, or `*`";
    const PATTERN: &'static str = "^(\\*|[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)$";
    const SCHEMA: &'static str = "ClassPattern";

    fn read(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(None));
        }
        super::Name::read(text).map(|name| Self(Some(name.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_certificates_have_the_form_of_the_core() {
        let read = |text: &str| SanText::read(text).map(|san| san.0);
        let exact = |text: &str| Ok(SanMatch::Exact(text.into()));
        assert_eq!(read("DNS:Till-7.Store.example."), exact("DNS:till-7.store.example"));
        assert_eq!(read("DNS:*.tills.example"), Ok(SanMatch::DnsSuffix("tills.example".into())));
        assert_eq!(read("URI:spiffe://store/till"), exact("URI:spiffe://store/till"));
        assert_eq!(read("IP:2001:DB8::7"), exact("IP:2001:db8::7"));
        assert_eq!(read("email:ops@store.example"), exact("email:ops@store.example"));
        for wrong in ["till-7", "DNS:", "DNS:*", "DNS:a.*.b", "IP:till", "URI:till", "CN:till-7"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn collectors_have_default_ports_and_paths() {
        let read = |text: &str| CollectorUrl::read(text).map(|url| url.0.to_string());
        assert_eq!(read("http://Otel.example"), Ok("http://otel.example:4318/v1/traces".into()));
        assert_eq!(read("https://[::1]/x"), Ok("https://[::1]:443/x".into()));
        for wrong in ["otel.example", "grpc://a", "http://", "http://u@a/", "http://a/?x", "/v1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_are_absolute() {
        assert!(FilePath::read("/etc/tls.crt").is_ok());
        for wrong in ["tls.crt", "./tls.crt", "/etc/", "/", "/a\nb", ""] {
            assert!(FilePath::read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(OutputText::read("stdout"), Ok(OutputText(LogOutput::Stdout)));
        assert!(OutputText::read("stderr").is_err());
    }
}
