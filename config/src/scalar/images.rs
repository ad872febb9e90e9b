//! Names around images that are no part of a release: prefixes of repositories, accounts.
//!
//! The grammar of a prefix is that of one segment of a repository's name, that of an account is
//! HTTP's.

use super::{Text, text_types};

/// First segment of a repository's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePrefix(pub String);

/// Name of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(pub String);

text_types!(ImagePrefix, Username);

impl Text for ImagePrefix {
    const EXPECTED: &'static str = "the first segment of image names, such as `hub`";
    const PATTERN: &'static str = "^[a-z0-9]+([.-][a-z0-9]+)*$";
    const SCHEMA: &'static str = "ImagePrefix";

    fn read(text: &str) -> Result<Self, String> {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let mut parts = text.split(['.', '-']);
        if text.len() <= 63 && parts.all(|part| !part.is_empty() && part.bytes().all(word)) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the prefix `{text}` cannot begin the name of an image: use up to 63 lower case letters \
             and digits, with single `.` or `-` between, as `hub`"
        ))
    }
}

impl Text for Username {
    const EXPECTED: &'static str = "the name of an account such as `store-0412`";
    const PATTERN: &'static str = "^[^\\u0000-\\u001f\\u007f:]{1,255}$";
    const SCHEMA: &'static str = "Username";

    fn read(text: &str) -> Result<Self, String> {
        // RFC 7617: no colon, no control characters.
        let fits = (1..=255).contains(&text.len())
            && !text.chars().any(|letter| letter == ':' || letter.is_ascii_control());
        // What stands behind a colon may be a password, and is not repeated.
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            "the name of an account has up to 255 letters and no `:`: write it without the \
             password, as `store-0412`"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_begin_names_of_images() {
        assert!(ImagePrefix::read("hub").is_ok() && ImagePrefix::read("a.b-c").is_ok());
        for wrong in ["", "Hub", "a/b", "-a", "a-", "a..b", "a_b"] {
            assert!(ImagePrefix::read(wrong).is_err(), "{wrong}");
        }
        assert!(Username::read("robot$store").is_ok());
        for wrong in ["", "a:b", "a\nb"] {
            assert!(Username::read(wrong).is_err(), "{wrong}");
        }
    }
}
