//! Reload: another config behind the same pointer.
//!
//! In: an effective config, compiled and valid. What it says of lines and classes reaches live
//! flows at once, what it says of routes the next request; pools and connections survive. What
//! cannot change while running (listeners, workers) is named in the log and waits for a restart.
//! A config that is refused changes nothing.

use std::sync::Arc;

use tillgate_config::effective::Effective;

use crate::bound::{BuildError, refuse_open_proxy};
use crate::gateway::{Gateway, TooManyNames};

/// Why a valid config cannot replace the running one.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It is of another store.
    #[error("the config is of store {new}, this gateway runs {old}; start another gateway for it")]
    OtherStore {
        /// The running config's store.
        old: Arc<str>,
        /// The refused config's store.
        new: Arc<str>,
    },
    /// It would not have started with it either.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Too many class names over the life of the process.
    #[error(transparent)]
    Names(#[from] TooManyNames),
}

pub(crate) fn apply(gateway: &Gateway, effective: Effective) -> Result<(), ReloadError> {
    let running = gateway.running();
    let before = &running.effective;
    let checked = check(gateway, before, &effective);
    let digest = Arc::clone(&effective.digest);
    let result = checked.and_then(|()| {
        let restart =
            before.listeners != effective.listeners || before.process != effective.process;
        gateway.follow(Arc::new(effective))?;
        Ok(restart)
    });
    match result {
        Ok(restart) => {
            tracing::info!(before = &*before.digest, digest = &*digest, "config reloaded");
            if restart {
                tracing::warn!("listeners and workers keep their old config until a restart");
            }
            Ok(())
        }
        Err(error) => {
            failed(gateway, &error.to_string());
            Err(error)
        }
    }
}

/// Counts and logs a config that was refused; the running one stays.
pub(crate) fn failed(gateway: &Gateway, why: &str) {
    gateway.metrics.reloaded(Err(()));
    let digest = &gateway.running().effective.digest;
    tracing::error!(running = &**digest, "config refused, the running one stays: {why}");
}

fn check(gateway: &Gateway, before: &Effective, after: &Effective) -> Result<(), ReloadError> {
    if before.store != after.store {
        let (old, new) = (Arc::clone(&before.store), Arc::clone(&after.store));
        return Err(ReloadError::OtherStore { old, new });
    }
    for listening in &gateway.listeners {
        refuse_open_proxy(after, listening.protocol, listening.address)?;
    }
    Ok(())
}
