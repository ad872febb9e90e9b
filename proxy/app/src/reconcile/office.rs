//! What others may know of the policies of the state directory, and ask of the loop.
//!
//! The loop says where it stands, and takes orders from a short queue; whoever asks reads here
//! and waits for nobody. Configs of the past are compiled from the disk by whoever wants to see
//! them, on a thread that may block.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tillgate_config::bundle::{Manifest, digest, wall_text};
use tillgate_config::effective::Effective;
use tillgate_core::reconcile::{Digest, Pin, Run, Wall};
use tokio::sync::{mpsc, oneshot};

use super::Spec;
use super::boot::{Finish, kept};
use super::candidate::Policy;
use super::questions::Questions;
use crate::send::explain;

/// Orders that wait: people give few.
const ORDERS_MAX: usize = 8;

/// The loop may be compiling another policy, which takes a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest time for which a store stays on a revision.
pub(super) const HOLD_MAX: u64 = 7 * 24 * 3600;

/// Why and until when a store stays on a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) until: Wall,
    pub(crate) reason: Arc<str>,
    pub(crate) ticket: Arc<str>,
}

/// What the loop is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Stay on what runs, which is called so if it is called.
    Pin { name: Option<Arc<str>>, hold: Hold },
    /// Follow the sources again.
    Unpin,
    /// Go back to the revision of this name, and stay there.
    RollBack { name: Arc<str>, hold: Hold, operation: Option<Arc<str>> },
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OrderError {
    /// Things are not as who gives it has seen them.
    Stale(String),
    /// Nothing has this name.
    Unknown(String),
    /// It is not kept any more.
    Gone(String),
    /// The state of things is against it.
    Conflict(String),
    /// It is in effect, and not on disk.
    Unwritten(String),
    /// The loop does not answer.
    Busy,
}

impl OrderError {
    /// Why, for people.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Stale(why)
            | Self::Unknown(why)
            | Self::Gone(why)
            | Self::Conflict(why)
            | Self::Unwritten(why) => why,
            Self::Busy => "the policy is busy with something else",
        }
    }
}

/// What somebody has seen before they gave an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    Any,
    These(Vec<String>),
}

impl Tags {
    pub(super) fn have(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(all) => all.iter().any(|one| one == tag),
        }
    }
}

/// An order on its way.
pub(super) struct Ordered {
    pub(super) order: Order,
    pub(super) tags: Option<Tags>,
    pub(super) actor: Arc<str>,
    /// Set by whoever comes first: the one who carries it out, or the one who gives up on it.
    pub(super) begun: Arc<AtomicBool>,
    pub(super) answer: oneshot::Sender<Result<Value, OrderError>>,
}

/// Where the loop stands.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) running: Option<Arc<Policy>>,
    pub(super) lkg: Option<Digest>,
    pub(super) candidate: Option<Arc<Policy>>,
    /// Oldest first.
    pub(crate) runs: Vec<Run>,
    /// The pin as it is shown.
    pub(crate) pin: Value,
}

/// What a name stands for.
pub(crate) enum Found {
    /// A bundle that is kept, or waits, or runs from memory.
    Here {
        digest: Digest,
        run: Option<Run>,
        candidate: Option<Arc<Policy>>,
    },
    /// One that was in effect and is not kept.
    Pruned,
    Unknown,
}

/// See the module.
pub(crate) struct Office {
    spec: Arc<Spec>,
    finish: Finish,
    orders: mpsc::Sender<Ordered>,
    standing: Mutex<Arc<Standing>>,
    questions: Questions,
}

impl std::fmt::Debug for Office {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").field("store", &self.spec.store).finish_non_exhaustive()
    }
}

impl Office {
    pub(super) fn new(spec: Arc<Spec>, finish: Finish) -> (Arc<Self>, mpsc::Receiver<Ordered>) {
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let office = Self {
            spec,
            finish,
            orders,
            standing: Mutex::default(),
            questions: Questions::default(),
        };
        (Arc::new(office), ordered)
    }

    /// Where the loop stands.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn stands(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(standing);
    }

    /// Gives an order and waits for the word on it.
    pub(crate) async fn order(
        &self,
        order: Order,
        tags: Option<Tags>,
        actor: &Arc<str>,
    ) -> Result<Value, OrderError> {
        let (answer, mut answered) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let claim = Arc::clone(&begun);
        let ordered = Ordered { order, tags, actor: Arc::clone(actor), begun, answer };
        self.orders.try_send(ordered).map_err(|_| OrderError::Busy)?;
        let told = match tokio::time::timeout(PATIENCE, &mut answered).await {
            Ok(told) => told,
            // Nobody begins it from here on.
            Err(_) if !claim.swap(true, Ordering::AcqRel) => return Err(OrderError::Busy),
            // It is being carried out: it would be wrong to say that it is not.
            Err(_) => answered.await,
        };
        told.unwrap_or(Err(OrderError::Busy))
    }

    /// What a look that begins after this question finds; many questions share one.
    pub(crate) async fn look(&self) -> Result<Value, OrderError> {
        let looked = tokio::time::timeout(PATIENCE, self.questions.ask()).await;
        looked.map_err(|_| OrderError::Busy)
    }

    /// Who asks whether everything is as it should be.
    pub(super) const fn questions(&self) -> &Questions {
        &self.questions
    }

    /// What `name` stands for: a digest of a bundle or of its config, or a word.
    pub(crate) fn find(&self, name: &str) -> Found {
        let standing = self.standing();
        let last_of = |digest: &str| {
            let mut runs = standing.runs.iter().rev();
            runs.find(|run| *run.digest == *digest || *run.effective == *digest).cloned()
        };
        let running = standing.running.as_ref().map(|policy| &policy.revision.digest);
        let waits = |name: &str| {
            standing.candidate.clone().filter(|policy| {
                name == "candidate"
                    || *policy.revision.digest == *name
                    || *policy.effective.digest == *name
            })
        };
        let digest: Option<Digest> = match name {
            "current" => running.cloned(),
            "previous" => {
                let mut runs = standing.runs.iter().rev();
                let other = runs.find(|run| running.is_none_or(|running| run.digest != *running));
                other.map(|run| Arc::clone(&run.digest))
            }
            "lkg" => standing.lkg.clone(),
            name => match (last_of(name), waits(name)) {
                (Some(run), _) => Some(run.digest),
                (None, Some(policy)) => Some(Arc::clone(&policy.revision.digest)),
                (None, None) => None,
            },
        };
        let Some(digest) = digest else { return Found::Unknown };
        let (run, candidate) = (last_of(&digest), waits(&digest));
        if candidate.is_none() && !self.keeps(&digest) && self.unkept(&digest).is_none() {
            return Found::Pruned;
        }
        Found::Here { digest, run, candidate }
    }

    /// The words that stand for a bundle.
    pub(crate) fn names(&self, digest: &str) -> Vec<&'static str> {
        let is = |name: &&str| match self.find(name) {
            Found::Here { digest: found, .. } => *found == *digest,
            Found::Pruned | Found::Unknown => false,
        };
        ["current", "previous", "lkg", "candidate"].into_iter().filter(is).collect()
    }

    /// Whether a bundle is on disk.
    pub(crate) fn keeps(&self, digest: &str) -> bool {
        self.spec.state.keeps(digest)
    }

    /// What runs, if it is this one and the disk has not taken it.
    fn unkept(&self, digest: &str) -> Option<Arc<Policy>> {
        let running = self.standing().running.clone();
        running.filter(|policy| *policy.revision.digest == *digest && !self.keeps(digest))
    }

    /// The config of a bundle, and its manifest. Blocks: it may read the disk and compile.
    pub(crate) fn open(
        &self,
        digest: &Digest,
        candidate: Option<&Policy>,
        known: Option<Arc<Effective>>,
    ) -> Result<(Arc<Effective>, Value), String> {
        let shown = |manifest: &Manifest| serde_json::to_value(manifest).unwrap_or_default();
        let unkept = self.unkept(digest);
        if let Some(policy) = candidate.or(unkept.as_deref()) {
            let effective = Arc::new((self.finish)(policy.effective.clone()));
            return Ok((effective, shown(&policy.manifest)));
        }
        let (archive, revision) = self.spec.state.read(digest).map_err(|error| explain(&error))?;
        if let Some(effective) = known {
            let manifest = Manifest::read(&archive.manifest).map_err(|error| explain(&error))?;
            return Ok((effective, shown(&manifest)));
        }
        let policy = kept(&self.spec, &revision)?;
        Ok((Arc::new((self.finish)(policy.effective)), shown(&policy.manifest)))
    }
}

/// The pin as it is shown, with a tag of it and of what runs.
pub(super) fn pin_json(pin: Option<&Pin>, running: Option<&Digest>) -> Value {
    let mut shown = match pin {
        Some(pin) => json!({
            "pinned": true,
            "digest": &*pin.digest,
            "since": wall_text(pin.since),
            "expiresAt": wall_text(pin.until),
            "reason": &*pin.reason,
            "ticket": &*pin.ticket,
            "actor": &*pin.actor,
        }),
        None => json!({ "pinned": false }),
    };
    shown["running"] = json!(running.map(|digest| &**digest));
    shown["tag"] = json!(digest(shown.to_string().as_bytes()));
    shown
}
