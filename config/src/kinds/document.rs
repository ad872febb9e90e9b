//! The envelope that all documents share, written once.
//!
//! Each kind has a document type and a type for its one word, so that the schema of a kind takes
//! no other word and the parser's message names the one that is meant.

/// The type of a kind's documents, and that of its word.
macro_rules! document {
    (
        $(#[$doc:meta])* $title:literal, $document:ident, $word:ident::$variant:ident, $spec:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        #[schemars(title = $title)]
        pub struct $document {
            /// Version of the language.
            pub api_version: $crate::kinds::ApiVersion,
            #[doc = concat!("`", $title, "`.")]
            pub kind: $word,
            /// Name and labels.
            pub metadata: $crate::kinds::Metadata,
            /// What it says.
            pub spec: $spec,
        }

        #[doc = concat!("The word `", $title, "`.")]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $word {
            /// That word.
            $variant,
        }
    };
}
pub(super) use document;
