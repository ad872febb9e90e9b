//! Reload: another config behind the same pointer.
//!
//! In: an effective config, compiled and valid. What it says of lines and classes reaches live
//! flows at once, what it says of routes the next request; pools and connections survive.
//! Listeners come, go and move with it: all that is new is bound before anything changes. What
//! cannot change while running (the number of workers) is named in the log and waits for a
//! restart. A config that is refused changes nothing.

use std::sync::Arc;

use tillgate_config::effective::Effective;
use tillgate_net::clock;
use tillgate_net::drain::Phase;
use tillgate_net::tls::FileError;

use crate::bound::BuildError;
use crate::gateway::{Gateway, NotFollowed, TooManyNames};
use crate::inherited::Inherited;
use crate::listeners::{Busy, Listening};
use crate::send::explain;

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
    /// A certificate, a key or an authority that it names cannot be had.
    #[error(transparent)]
    Tls(FileError),
    /// Too many class names over the life of the process.
    #[error(transparent)]
    Names(#[from] TooManyNames),
    /// Too many reloads at once.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// It is on its way out.
    #[error("the gateway is stopping; what it serves does not change any more")]
    Stopping,
}

impl From<NotFollowed> for ReloadError {
    fn from(why: NotFollowed) -> Self {
        match why {
            NotFollowed::Names(why) => Self::Names(why),
            NotFollowed::Tls(why) => Self::Tls(why),
            NotFollowed::Secret(why) => Self::Build(why.into()),
            NotFollowed::Mirror(why) => Self::Build(why.into()),
        }
    }
}

/// What a config replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// One of the same store.
    Policy,
    /// The built-in one, which does not know what policy calls the store.
    Minimal,
}

pub(crate) fn apply(gateway: &Gateway, effective: Effective) -> Result<(), ReloadError> {
    let before = Arc::clone(&gateway.running().effective.digest);
    let digest = Arc::clone(&effective.digest);
    match put(gateway, effective, Before::Policy) {
        Ok(()) => {
            tracing::info!(before = &*before, digest = &*digest, "config reloaded");
            succeeded(gateway);
            Ok(())
        }
        Err(error) => {
            failed(gateway, &explain(&error));
            Err(error)
        }
    }
}

/// The same without a word of success or failure: who asks has more to say.
pub(crate) fn put(
    gateway: &Gateway,
    effective: Effective,
    replaces: Before,
) -> Result<(), ReloadError> {
    // Whoever says that something has changed may mean a certificate.
    gateway.tls.check_files();
    let before = Arc::clone(&gateway.running().effective);
    let workers = effective.process.workers;
    if replaces == Before::Policy {
        check(&before, &effective)?;
    }
    if gateway.drain.phase() != Phase::Open {
        return Err(ReloadError::Stopping);
    }
    swap(gateway, effective)?;
    if before.process.workers != workers {
        tracing::warn!("the number of workers changes with the next start");
    }
    Ok(())
}

/// Binds all that is new, then changes everything at once.
fn swap(gateway: &Gateway, effective: Effective) -> Result<(), ReloadError> {
    let none = &mut Inherited::default();
    let (metrics, tls, memory) = (&gateway.metrics, &gateway.tls, gateway.memory());
    let plan = gateway.listeners.plan(&effective, metrics, tls, memory, none)?;
    let follow = || gateway.follow(Arc::new(effective)).map_err(ReloadError::from);
    let change = gateway.listeners.commit(plan, follow)?;
    change.come.iter().for_each(Listening::say);
    for (listening, drain) in change.gone {
        let (name, address) = (&*listening.name, listening.address);
        tracing::info!(name, %address, connections = drain.live(), "no longer listening");
        drain.advance(Phase::Draining);
        gateway.wind_down(drain);
    }
    Ok(())
}

/// The newest policy of the file is in effect.
pub(crate) fn succeeded(gateway: &Gateway) {
    gateway.policy_meters.last_success.set(1);
    gateway.policy_meters.last_at.set(clock::wall_seconds() as f64);
}

/// Counts and logs a config that was refused; the running one stays.
pub(crate) fn failed(gateway: &Gateway, why: &str) {
    gateway.metrics.reloaded(Err(()));
    gateway.policy_meters.last_success.set(0);
    let digest = &gateway.running().effective.digest;
    gateway.endpoint.refused(digest, why);
    tracing::error!(running = &**digest, "config refused, the running one stays: {why}");
}

fn check(before: &Effective, after: &Effective) -> Result<(), ReloadError> {
    if before.store != after.store {
        let (old, new) = (Arc::clone(&before.store), Arc::clone(&after.store));
        return Err(ReloadError::OtherStore { old, new });
    }
    Ok(())
}
