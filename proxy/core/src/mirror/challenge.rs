//! What a registry asks for when it says 401: `WWW-Authenticate` as registries use it.
//!
//! In: the field. Out: the one scheme of it that is known, with what a token is asked for with. A
//! challenge that cannot be read is none; then the registry's 401 stands.

/// How a registry wants to know who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A token of somebody else.
    Bearer {
        /// The URL that hands tokens out.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What for; `None` = the usual `repository:NAME:pull`.
        scope: Option<String>,
    },
    /// Name and password.
    Basic,
}

impl Challenge {
    /// Reads one field.
    pub fn read(field: &str) -> Option<Self> {
        let (scheme, rest) = field.trim().split_once(' ').unwrap_or((field.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (name, value) in parameters(rest)? {
            let slot = match name.to_ascii_lowercase().as_str() {
                "realm" => &mut realm,
                "service" => &mut service,
                "scope" => &mut scope,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }

    /// The path and query with which a token for `repository` is asked for at a realm of `path`
    /// (which may have a query already).
    pub fn token_target(&self, path: &str, repository: &str) -> Option<String> {
        let Self::Bearer { service, scope, .. } = self else { return None };
        let usual = || format!("repository:{repository}:pull");
        let scope = scope.clone().unwrap_or_else(usual);
        let mut target = path.to_owned();
        let mut separator = if path.contains('?') { '&' } else { '?' };
        for (name, value) in [("service", service.as_deref()), ("scope", Some(&*scope))] {
            let Some(value) = value else { continue };
            target.push(separator);
            target.push_str(name);
            target.push('=');
            escape(value, &mut target);
            separator = '&';
        }
        Some(target)
    }
}

/// `name="value", name=value`; quoted values may have commas and escapes.
fn parameters(text: &str) -> Option<Vec<(&str, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name.trim(), value));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(found)
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

/// Percent-encodes all but what RFC 3986 leaves alone, and `:` `/` `,`, which it allows in a query
/// and registries show in their logs.
pub fn escape(value: &str, into: &mut String) {
    use std::fmt::Write as _;
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            into.push(char::from(byte));
        } else {
            // Writing into a text cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_as_the_registry_says() {
        let field = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",\
                     scope=\"repository:pos/app:pull,push\"";
        let challenge = Challenge::read(field).unwrap();
        let Challenge::Bearer { realm, .. } = &challenge else { panic!("{challenge:?}") };
        assert_eq!(realm, "https://auth.example/token");
        assert_eq!(
            challenge.token_target("/token", "pos/app").unwrap(),
            "/token?service=registry.example&scope=repository:pos/app:pull,push"
        );
        let bare = Challenge::read("bearer realm=https://a/t, service=\"two words \\\"&\\\"\"");
        assert_eq!(
            bare.unwrap().token_target("/t?x=1", "a/b").unwrap(),
            "/t?x=1&service=two%20words%20%22%26%22&scope=repository:a/b:pull"
        );
        assert_eq!(Challenge::read("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::read("basic"), Some(Challenge::Basic));
    }

    #[test]
    fn what_cannot_be_read_is_no_challenge() {
        for wrong in [
            "",
            "Bearer",
            "Negotiate abc",
            "Bearer realm",
            "Bearer realm=\"x",
            "Bearer realm=\"x\"y",
        ] {
            assert_eq!(Challenge::read(wrong), None, "{wrong}");
        }
    }
}
