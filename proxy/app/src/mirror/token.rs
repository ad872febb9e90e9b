//! Tokens of registries: asked for when one says 401, kept until shortly before they end.
//!
//! In: a challenge. Out: an `Authorization`. A registry's account is known by a file that is read
//! again each time, so that a secret may be changed while everything runs. Nothing of it is ever
//! logged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use tillgate_core::mirror::Login;
use tillgate_net::clock;
use tillgate_net::http::headers;

use super::Place;

/// Tokens that are kept: a registry wants one for each repository.
const TOKENS_MAX: usize = 1024;

/// How long a token lasts that says nothing (token authentication specification).
const LIFETIME: Duration = Duration::from_secs(60);

/// A password is a line.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Tokens {
    known: Mutex<HashMap<Place, (HeaderValue, Instant)>>,
}

impl Tokens {
    /// The token for a repository, if one is known that lasts.
    pub(super) fn get(&self, place: &Place) -> Option<HeaderValue> {
        let known = self.known();
        let (value, until) = known.get(place)?;
        (clock::now() < *until).then(|| value.clone())
    }

    /// Keeps one.
    pub(super) fn keep(&self, place: &Place, value: HeaderValue, lasts: Duration) {
        let now = clock::now();
        let mut known = self.known();
        if known.len() >= TOKENS_MAX {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() >= TOKENS_MAX {
            known.clear();
        }
        // A tenth less: it must still be good when it arrives.
        known.insert(place.clone(), (value, now + lasts / 10 * 9));
    }

    /// The registry does not take it any more.
    pub(super) fn forget(&self, place: &Place) {
        self.known().remove(place);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Place, (HeaderValue, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token in what a token server says, and how long it lasts.
pub(super) fn read(body: &Bytes) -> Option<(HeaderValue, Duration)> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| answer.get(name).and_then(serde_json::Value::as_str);
    let token = text("token").or_else(|| text("access_token"))?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    let lasts = answer.get("expires_in").and_then(serde_json::Value::as_u64);
    Some((value, lasts.map_or(LIFETIME, Duration::from_secs)))
}

/// The `Authorization` of an account, with its password as it is now.
///
/// # Errors
/// What is wrong with its file, without what is in it.
pub(super) async fn basic(login: &Login) -> Result<HeaderValue, String> {
    let file = match login {
        Login::Account { password_file: file, .. } | Login::Secret { file: Some(file), .. } => {
            Arc::clone(file)
        }
        Login::Secret { name, file: None } => {
            return Err(format!("the store's Bootstrap has no secret `{name}`"));
        }
    };
    let shown = file.display().to_string();
    // A file system may hang.
    let read = tokio::task::spawn_blocking(move || {
        if std::fs::metadata(&file)?.len() > PASSWORD_BYTES_MAX {
            return Err(std::io::Error::other("it is too large for a password"));
        }
        std::fs::read_to_string(&file)
    });
    let text = match read.await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(format!("the password file {shown} cannot be read: {error}")),
        Err(_) => return Err(format!("the password file {shown} cannot be read")),
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let (username, password) = match login {
        Login::Account { username, .. } => (&**username, text),
        Login::Secret { .. } => text
            .split_once(':')
            .ok_or_else(|| format!("the password file {shown} is not of the form user:password"))?,
    };
    headers::basic(username, password)
        .ok_or_else(|| format!("the password file {shown} has more than one line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_servers_answer_is_read() {
        let read = |text: &str| read(&Bytes::copy_from_slice(text.as_bytes()));
        let (value, lasts) = read(r#"{"token":"abc","expires_in":300}"#).unwrap();
        assert_eq!((value.as_bytes(), lasts), (&b"Bearer abc"[..], Duration::from_secs(300)));
        assert!(value.is_sensitive());
        let (value, lasts) = read(r#"{"access_token":"x"}"#).unwrap();
        assert_eq!((value.as_bytes(), lasts), (&b"Bearer x"[..], LIFETIME));
        for wrong in ["", "{}", r#"{"token":7}"#, r#"{"token":"a\nb"}"#, "<html>"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_are_few_and_end() {
        let tokens = Tokens::default();
        let place =
            |number: usize| Place { registry: "r".into(), repository: number.to_string().into() };
        let value = HeaderValue::from_static("Bearer x");
        for number in 0..3 * TOKENS_MAX {
            tokens.keep(&place(number), value.clone(), Duration::from_secs(100));
        }
        assert!(tokens.known().len() <= TOKENS_MAX);
        let last = place(3 * TOKENS_MAX - 1);
        assert_eq!(tokens.get(&last), Some(value.clone()));
        tokens.forget(&last);
        assert_eq!(tokens.get(&last), None);
        tokens.keep(&last, value, Duration::ZERO);
        assert_eq!(tokens.get(&last), None);
    }
}
