//! Texts of sources and trust: URLs, paths, references, keys, versions, reasons.
//!
//! Nothing here opens anything; a URL never holds a password, because policy files are read by
//! many.

use super::{Text, text_types};

/// Where something is fetched from: `https://policy.example/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceUrl(pub String);

/// A folder by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPath(pub String);

/// A path, absolute or below something, that never goes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelativePath(pub String);

/// A branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitReference(pub String);

/// A public key: SubjectPublicKeyInfo in base64, without the lines of PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeyText(pub String);

/// A signature in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureText(pub String);

/// A version: `0.4.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionText(pub [u32; 3]);

/// A sentence for people: a reason, a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainText(pub String);

/// The identity of a store: `0412`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreId(pub String);

/// What a claim of a token says: `https://kubernetes.default.svc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimText(pub String);

text_types!(
    SourceUrl,
    DirectoryPath,
    RelativePath,
    GitReference,
    PublicKeyText,
    SignatureText,
    VersionText,
    PlainText,
    StoreId,
    ClaimText,
);

const SCHEMES: [&str; 5] = ["https", "http", "ssh", "file", "oci"];

impl Text for SourceUrl {
    const EXPECTED: &'static str = "a URL such as `https://policy.example/v1`";
    const PATTERN: &'static str = "^(https|http|ssh|file|oci)://[^\\s]+$";
    const SCHEMA: &'static str = "SourceUrl";

    fn read(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!(
                "`{text}` is no URL: write one such as `https://policy.example/v1`"
            ));
        };
        if !SCHEMES.contains(&scheme) {
            return Err(format!(
                "`{text}` is fetched in a way that is not known: use https, http, ssh, file or oci"
            ));
        }
        let authority = rest.split('/').next().unwrap_or_default();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        if user.is_some_and(|user| user.contains(':') || scheme != "ssh") {
            return Err(format!(
                "the URL for {} holds a secret, and many people read this file: name the secret \
                 in the Bootstrap instead",
                authority.rsplit('@').next().unwrap_or_default()
            ));
        }
        let empty = rest.is_empty() || (scheme != "file" && authority.is_empty());
        if empty
            || text.len() > 2048
            || text.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(format!(
                "`{text}` cannot be fetched: write one such as `https://policy.example/v1`"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether `path` has no way up and nothing that a file system trips over.
fn is_tame(path: &str) -> bool {
    path.len() <= 1024
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| part != "..")
}

impl Text for DirectoryPath {
    const EXPECTED: &'static str = "a folder such as `/var/lib/tillgate`";
    const PATTERN: &'static str = "^/.*$";
    const SCHEMA: &'static str = "DirectoryPath";

    fn read(text: &str) -> Result<Self, String> {
        if text.starts_with('/') && is_tame(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "the folder `{text}` is not written from the root: write its absolute path, as \
             `/var/lib/tillgate`"
        ))
    }
}

impl Text for RelativePath {
    const EXPECTED: &'static str = "a path such as `policy`";
    const PATTERN: &'static str = "^.+$";
    const SCHEMA: &'static str = "SourcePath";

    fn read(text: &str) -> Result<Self, String> {
        if !text.is_empty() && is_tame(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("the path `{text}` leads nowhere: write one without `..`, as `policy`"))
    }
}

impl Text for GitReference {
    const EXPECTED: &'static str = "a branch, tag or commit such as `main`";
    const PATTERN: &'static str = "^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$";
    const SCHEMA: &'static str = "GitReference";

    fn read(text: &str) -> Result<Self, String> {
        // git check-ref-format, as far as it matters to a command line.
        let word = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
        let fits = (1..=255).contains(&text.len())
            && text.bytes().all(word)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && !text.contains("..")
            && !text.ends_with(['/', '.'])
            && !text.ends_with(".lock");
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            format!("`{text}` cannot be a branch, tag or commit: write one such as `main`")
        })
    }
}

/// Whether `text` is base64 with padding, of at least `least` and at most `most` characters.
fn is_base64(text: &str, least: usize, most: usize) -> bool {
    let body = text.trim_end_matches('=');
    (least..=most).contains(&text.len())
        && text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

impl Text for PublicKeyText {
    const EXPECTED: &'static str = "a public key in PEM or base64";
    const PATTERN: &'static str = "^(-----BEGIN PUBLIC KEY-----\\s)?[A-Za-z0-9+/\\s]{40,}={0,2}(\\s-----END PUBLIC KEY-----\\s*)?$";
    const SCHEMA: &'static str = "PublicKey";

    fn read(text: &str) -> Result<Self, String> {
        let inner = text
            .trim()
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"))
            .unwrap_or(text);
        let key: String = inner.split_whitespace().collect();
        if text.contains("PRIVATE KEY") {
            return Err("this is a private key, which is now known to everybody who reads the \
                        file: make a new pair, and write the public key here"
                .to_owned());
        }
        // The shortest is that of Ed25519 with 44 bytes.
        if is_base64(&key, 60, 1024) {
            return Ok(Self(key));
        }
        Err("the public key is not readable: write the SubjectPublicKeyInfo in PEM or base64, as \
             `openssl pkey -pubout` prints it"
            .to_owned())
    }
}

impl Text for SignatureText {
    const EXPECTED: &'static str = "a signature in base64";
    const PATTERN: &'static str = "^[A-Za-z0-9+/]{20,}={0,2}$";
    const SCHEMA: &'static str = "Signature";

    fn read(text: &str) -> Result<Self, String> {
        if is_base64(text, 20, 1024) {
            return Ok(Self(text.to_owned()));
        }
        Err("the signature is not readable: write it in base64, in one line".to_owned())
    }
}

impl Text for VersionText {
    const EXPECTED: &'static str = "a version such as \"0.4.0\"";
    const PATTERN: &'static str = "^[0-9]{1,6}\\.[0-9]{1,6}\\.[0-9]{1,6}$";
    const SCHEMA: &'static str = "Version";

    fn read(text: &str) -> Result<Self, String> {
        let parts: Vec<Option<u32>> = text
            .split('.')
            .map(|part| {
                let digits = part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit());
                part.parse().ok().filter(|_| digits)
            })
            .collect();
        match parts.as_slice() {
            [Some(major), Some(minor), Some(patch)] => Ok(Self([*major, *minor, *patch])),
            _ => Err(format!(
                "the version `{text}` is not readable: write three numbers in quotes, as \"0.4.0\""
            )),
        }
    }
}

impl std::fmt::Display for VersionText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Text for PlainText {
    const EXPECTED: &'static str = "a sentence for people";
    const PATTERN: &'static str = "^[^\\u0000-\\u001f]{3,}$";
    const SCHEMA: &'static str = "Sentence";

    fn read(text: &str) -> Result<Self, String> {
        let length = text.trim().chars().count();
        if (3..=500).contains(&length) && !text.chars().any(char::is_control) {
            return Ok(Self(text.trim().to_owned()));
        }
        Err(format!(
            "`{text}` tells nobody anything: write 3 to 500 characters in one line, so that others \
             understand it"
        ))
    }
}

impl Text for ClaimText {
    const EXPECTED: &'static str = "a claim such as `https://kubernetes.default.svc`";
    const PATTERN: &'static str = "^[^\\s]{1,512}$";
    const SCHEMA: &'static str = "Claim";

    fn read(text: &str) -> Result<Self, String> {
        let is_odd = |c: char| c.is_whitespace() || c.is_control();
        if (1..=512).contains(&text.chars().count()) && !text.chars().any(is_odd) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` stands in no token: write it as the tokens say it, as \
             `https://kubernetes.default.svc`"
        ))
    }
}

impl Text for StoreId {
    const EXPECTED: &'static str = "the id of a store such as \"0412\"";
    const PATTERN: &'static str = "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
    const SCHEMA: &'static str = "StoreId";

    fn read(text: &str) -> Result<Self, String> {
        super::LabelValue::read(text)
            .ok()
            .filter(|value| !value.0.is_empty())
            .map(|value| Self(value.0))
            .ok_or_else(|| {
                format!(
                    "the store id `{text}` does not fit: use up to 63 letters, digits, `-`, `_` \
                     and `.`, beginning and ending with a letter or digit"
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_hold_no_secrets() {
        for right in [
            "https://policy.example/v1",
            "ssh://git@git.example/policy.git",
            "file:///srv/policy.git",
        ] {
            assert!(SourceUrl::read(right).is_ok(), "{right}");
        }
        let secret = SourceUrl::read("https://ci:hunter2@git.example/policy").unwrap_err();
        assert!(secret.contains("git.example") && !secret.contains("hunter2"), "{secret}");
        for wrong in [
            "policy.example",
            "ftp://a/b",
            "https://",
            "https:///x",
            "https://a b/",
            "ssh://a:b@c/",
        ] {
            assert!(SourceUrl::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_and_references_stay_where_they_are() {
        assert!(DirectoryPath::read("/var/lib/tillgate").is_ok());
        for wrong in ["var/lib", "/var/../etc", ""] {
            assert!(DirectoryPath::read(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a/../b", "a\nb"] {
            assert!(RelativePath::read(wrong).is_err(), "{wrong}");
        }
        for right in
            ["main", "v1.2.3", "refs/heads/main", "132f4e719209eb10b9485302f8593fc0e680f4fc"]
        {
            assert!(GitReference::read(right).is_ok(), "{right}");
        }
        for wrong in ["", "--upload-pack=x", "a..b", "a b", "main/", "x.lock"] {
            assert!(GitReference::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_public_and_versions_have_three_numbers() {
        let base64 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        assert_eq!(PublicKeyText::read(&pem).unwrap().0, base64);
        assert_eq!(PublicKeyText::read(base64).unwrap().0, base64);
        let private = pem.replace("PUBLIC", "PRIVATE");
        assert!(PublicKeyText::read(&private).unwrap_err().contains("private"));
        assert!(PublicKeyText::read("abc").is_err());
        assert!(VersionText::read("0.10.0").unwrap() > VersionText::read("0.9.9").unwrap());
        for wrong in ["1", "1.2", "v1.2.3", "1.2.3.4", "1.2.-3", "1.2.3-rc1"] {
            assert!(VersionText::read(wrong).is_err(), "{wrong}");
        }
    }
}
