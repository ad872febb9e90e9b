//! What a document says, by kind: one entry for each kind, and nothing that decides.

use std::sync::Arc;

use crate::kinds;
use crate::kinds::{Kind, Metadata, StoreSelector};
use crate::report::Finding;
use crate::yaml::{self, Chunk};

/// Makes [`Body`] and what is the same for every kind.
macro_rules! bodies {
    ($($(#[$doc:meta])* $kind:ident($document:ident)),+ $(,)?) => {
        /// What a document says, by kind.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Body {
            $($(#[$doc])* $kind(kinds::$document),)+
        }

        /// Reads the body of a document of `kind`.
        pub(super) fn read(
            kind: Kind,
            file: &Arc<str>,
            chunk: Chunk<'_>,
        ) -> Result<Body, Finding> {
            Ok(match kind {
                $(Kind::$kind => Body::$kind(yaml::typed(file, chunk)?),)+
            })
        }

        /// Reads the body from the places of a document; `None` says that only the parser can.
        pub(super) fn from_places(kind: Kind, tree: &yaml::Tree) -> Option<Body> {
            Some(match kind {
                $(Kind::$kind => Body::$kind(yaml::values::of(tree)?),)+
            })
        }

        /// What keeps a document from being one of `kind`.
        pub(super) fn mistakes(kind: Kind, tree: &yaml::Tree) -> Vec<yaml::mistakes::Mistake> {
            match kind {
                $(Kind::$kind => yaml::mistakes::of::<kinds::$document>(tree),)+
            }
        }

        /// The schema of documents of `kind`.
        pub(crate) fn schema(kind: Kind, generator: schemars::SchemaGenerator) -> schemars::Schema {
            match kind {
                $(Kind::$kind => generator.into_root_schema_for::<kinds::$document>(),)+
            }
        }

        impl Body {
            /// Name and labels of the document.
            pub fn metadata(&self) -> &Metadata {
                match self {
                    $(Self::$kind(document) => &document.metadata,)+
                }
            }
        }
    };
}

bodies! {
    /// Servers.
    Backend(BackendDoc),
    /// What a store knows by itself.
    Bootstrap(BootstrapDoc),
    /// The policy as a whole.
    Bundle(BundleDoc),
    /// A recurring time.
    ChangeWindow(ChangeWindowDoc),
    /// The forward proxy's rules.
    EgressPolicy(EgressPolicyDoc),
    /// Some days without change.
    Freeze(FreezeDoc),
    /// The use of the lines.
    LinkPolicy(LinkPolicyDoc),
    /// A socket.
    Listener(ListenerDoc),
    /// A signed exception.
    Override(OverrideDoc),
    /// Images that must not run.
    Prohibition(ProhibitionDoc),
    /// The store's registry.
    RegistryMirror(RegistryMirrorDoc),
    /// A step of a release.
    RingPromotion(RingPromotionDoc),
    /// Images and their release.
    Rollout(RolloutDoc),
    /// Routes.
    ServiceRoute(ServiceRouteDoc),
    /// The store.
    Store(StoreDoc),
    /// Logs and traces.
    TelemetryPolicy(TelemetryPolicyDoc),
    /// A class.
    TrafficClass(TrafficClassDoc),
}

impl Body {
    /// Which stores the document applies to; absent = every store.
    pub(super) fn selector(&self) -> Option<&StoreSelector> {
        match self {
            Self::Bootstrap(_) | Self::Bundle(_) | Self::RingPromotion(_) | Self::Store(_) => None,
            Self::Backend(document) => document.spec.store_selector.as_ref(),
            Self::ChangeWindow(document) => document.spec.store_selector.as_ref(),
            Self::EgressPolicy(document) => document.spec.store_selector.as_ref(),
            Self::Freeze(document) => document.spec.store_selector.as_ref(),
            Self::LinkPolicy(document) => document.spec.store_selector.as_ref(),
            Self::Listener(document) => document.spec.store_selector.as_ref(),
            Self::Override(document) => document.spec.store_selector.as_ref(),
            Self::Prohibition(document) => document.spec.store_selector.as_ref(),
            Self::RegistryMirror(document) => document.spec.store_selector.as_ref(),
            Self::Rollout(document) => document.spec.store_selector.as_ref(),
            Self::ServiceRoute(document) => document.spec.store_selector.as_ref(),
            Self::TelemetryPolicy(document) => document.spec.store_selector.as_ref(),
            Self::TrafficClass(document) => document.spec.store_selector.as_ref(),
        }
    }

    /// What a window, freeze or override applies to.
    pub(crate) fn applies_to(&self) -> Option<&kinds::calendar::AppliesToDoc> {
        if let Self::ChangeWindow(document) = self {
            return Some(&document.spec.applies_to);
        }
        if let Self::Freeze(document) = self {
            return Some(&document.spec.applies_to);
        }
        let Self::Override(document) = self else { return None };
        Some(&document.spec.applies_to)
    }

    /// Its precedence among the documents of its identity; 0 where it says none.
    pub(super) fn precedence(&self) -> u64 {
        let precedence = match self {
            Self::Bootstrap(_)
            | Self::Bundle(_)
            | Self::ChangeWindow(_)
            | Self::Freeze(_)
            | Self::Override(_)
            | Self::Prohibition(_)
            | Self::RingPromotion(_)
            | Self::Store(_) => None,
            Self::Backend(document) => document.spec.precedence,
            Self::EgressPolicy(document) => document.spec.precedence,
            Self::LinkPolicy(document) => document.spec.precedence,
            Self::Listener(document) => document.spec.precedence,
            Self::RegistryMirror(document) => document.spec.precedence,
            Self::Rollout(document) => document.spec.precedence,
            Self::ServiceRoute(document) => document.spec.precedence,
            Self::TelemetryPolicy(document) => document.spec.precedence,
            Self::TrafficClass(document) => document.spec.precedence,
        };
        precedence.map_or(0, crate::scalar::Whole::value)
    }
}
