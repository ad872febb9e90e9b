//! The scalar types of the language: every rate, size and duration has its unit in the text.
//!
//! Each type reads one YAML text (or number), refuses everything outside its grammar with a
//! sentence that says how to write it, and knows its own pattern for the JSON Schema. What a
//! value means against the rest of the policy is not decided here.

use std::fmt;
use std::marker::PhantomData;

use schemars::{Schema, json_schema};
use serde::de::{Deserializer, Error, Visitor};

mod images;
mod names;
mod net;
mod numbers;
mod policy;
mod rollout;
mod source;
mod time;

pub use images::{ImagePrefix, Username};
pub use names::{DeviceName, LabelKey, LabelValue, Name, StorePath, WorkloadText};
pub use net::{Address, Cidr, Fqdn, HeaderField, HeaderText, HostText, ListenAddress, UrlPath};
pub use numbers::{Dscp, Flag, HealthyCount, Percentage, Rate, ShareText, Size, Whole};
pub(crate) use numbers::{dscp_text, size_text};
pub use policy::{
    ClassPattern, CollectorUrl, FilePath, OutputText, PlainHost, QueryName, QueryText, SanText,
    SessionName,
};
pub use rollout::{
    CivilDateTime, CronText, ImageDigest, Instant, RegistryHost, Repository, RepositoryPattern,
    RolloutName, RouteName, Sha256Text, WindowZone,
};
pub use source::{
    ClaimText, DirectoryPath, GitReference, PlainText, PublicKeyText, RelativePath, SignatureText,
    SourceUrl, StoreId, VersionText,
};
pub(crate) use time::duration_text;
pub use time::{CivilDate, DurationText, LocalTime, ZoneName};

/// A type that is written as one YAML text.
pub trait Text: Sized {
    /// What it is called in a message: `a rate such as `20Mbit/s``.
    const EXPECTED: &'static str;
    /// Its grammar as a regular expression (ECMA 262), for the JSON Schema.
    const PATTERN: &'static str;
    /// Its name in the JSON Schema.
    const SCHEMA: &'static str;

    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it and how to write it, as one sentence.
    fn read(text: &str) -> Result<Self, String>;
}

/// Reads any [`Text`] type through serde: strings only, so that a number without a unit is
/// refused with the type's own sentence.
pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: Text> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::read(text).map_err(E::custom)
        }
    }

    from.deserialize_str(TextVisitor(PhantomData))
}

pub(crate) fn schema<T: Text>() -> Schema {
    json_schema!({ "type": "string", "pattern": T::PATTERN })
}

/// Gives [`Text`] types their serde, `FromStr` and schema.
macro_rules! text_types {
    ($($name:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::scalar::deserialize(from)
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <Self as $crate::scalar::Text>::read(text)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                <Self as $crate::scalar::Text>::SCHEMA.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::scalar::schema::<Self>()
            }
        }
    )+};
}
pub(crate) use text_types;

#[cfg(test)]
mod tests;
