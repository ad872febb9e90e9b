//! Which of the fields that matter to a proxy a head has, found by one look at its names.
//!
//! Most heads have few of them. Asking a header map for each would hash a name each time; one pass
//! that compares lengths first costs less than two such questions. In goes a header map, out comes
//! a set; it says nothing of values, and is true until somebody changes the map.

use http::HeaderMap;

/// A set of fields. See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(u32);

/// One field that a set may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    Te,
    Cookie,
    Expect,
    Upgrade,
    Connection,
    KeepAlive,
    XRequestId,
    ContentLength,
    Http2Settings,
    XForwardedFor,
    ProxyConnection,
    XForwardedProto,
    TransferEncoding,
    ProxyAuthenticate,
    ProxyAuthorization,
}

impl Fields {
    /// Those that `headers` has.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            if let Some(field) = field(name.as_str()) {
                found.0 |= field.bit();
            }
        }
        found
    }

    /// Whether `field` is among them.
    pub(super) const fn has(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }
}

impl Field {
    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The field of this name, which is in lower case as a [`HeaderMap`] keeps it.
fn field(name: &str) -> Option<Field> {
    let (field, its_name) = match name.len() {
        2 => (Field::Te, "te"),
        6 if name.starts_with('c') => (Field::Cookie, "cookie"),
        6 => (Field::Expect, "expect"),
        7 => (Field::Upgrade, "upgrade"),
        10 if name.starts_with('c') => (Field::Connection, "connection"),
        10 => (Field::KeepAlive, "keep-alive"),
        12 => (Field::XRequestId, "x-request-id"),
        14 if name.starts_with('c') => (Field::ContentLength, "content-length"),
        14 => (Field::Http2Settings, "http2-settings"),
        15 => (Field::XForwardedFor, "x-forwarded-for"),
        16 => (Field::ProxyConnection, "proxy-connection"),
        17 if name.starts_with('x') => (Field::XForwardedProto, "x-forwarded-proto"),
        17 => (Field::TransferEncoding, "transfer-encoding"),
        18 => (Field::ProxyAuthenticate, "proxy-authenticate"),
        19 => (Field::ProxyAuthorization, "proxy-authorization"),
        _ => return None,
    };
    (name == its_name).then_some(field)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ALL: [(Field, &str); 15] = [
        (Field::Te, "te"),
        (Field::Cookie, "cookie"),
        (Field::Expect, "expect"),
        (Field::Upgrade, "upgrade"),
        (Field::Connection, "connection"),
        (Field::KeepAlive, "keep-alive"),
        (Field::XRequestId, "x-request-id"),
        (Field::ContentLength, "content-length"),
        (Field::Http2Settings, "http2-settings"),
        (Field::XForwardedFor, "x-forwarded-for"),
        (Field::ProxyConnection, "proxy-connection"),
        (Field::XForwardedProto, "x-forwarded-proto"),
        (Field::TransferEncoding, "transfer-encoding"),
        (Field::ProxyAuthenticate, "proxy-authenticate"),
        (Field::ProxyAuthorization, "proxy-authorization"),
    ];

    #[test]
    fn every_field_is_found_and_no_other() {
        for (field, name) in ALL {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static("x"));
            let found = Fields::of(&headers);
            for (other, _) in ALL {
                assert_eq!(found.has(other), other == field, "{name}");
            }
            // One that looks like it.
            let mut headers = HeaderMap::new();
            let last = &name[..name.len() - 1];
            for near in [format!("{last}y"), format!("{name}x"), format!("z{}", &name[1..])] {
                let near = http::HeaderName::from_bytes(near.as_bytes()).unwrap();
                headers.insert(near, HeaderValue::from_static("x"));
            }
            assert_eq!(Fields::of(&headers), Fields::default(), "{name}");
        }
    }
}
