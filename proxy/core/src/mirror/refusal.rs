//! What a client of the mirror is told where there is nothing to give: the codes of the OCI
//! distribution specification, each with the one status that goes with it.
//!
//! Clients decide by the status; people and tests read the code. [`Code::ALL`] is the whole list.

use http::StatusCode;

/// One row of the mirror's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The repository's name is not one.
    NameInvalid,
    /// The registry that is named is not mirrored, or it does not know the repository.
    NameUnknown,
    /// The tag or digest is not one.
    ManifestInvalid,
    /// The digest is not one that can be checked.
    DigestInvalid,
    /// The registry has no such manifest.
    ManifestUnknown,
    /// The registry has no such blob.
    BlobUnknown,
    /// The registry does not let us, or the policy does not.
    Denied,
    /// The mirror only reads.
    Unsupported,
    /// Later: held by the policy, too many pulls, no first byte in time (the fetch goes on), or the
    /// registry says so.
    TooManyRequests,
    /// The registry cannot be reached, or what it says cannot be used.
    Unavailable,
    /// What the registry sent is not what its digest says.
    DigestMismatch,
    /// What the registry sent is larger than the mirror takes.
    SizeInvalid,
}

impl Code {
    /// Every code, in order.
    pub const ALL: [Self; 12] = [
        Self::NameInvalid,
        Self::NameUnknown,
        Self::ManifestInvalid,
        Self::DigestInvalid,
        Self::ManifestUnknown,
        Self::BlobUnknown,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::Unavailable,
        Self::DigestMismatch,
        Self::SizeInvalid,
    ];

    /// The word in the body; where the specification has none, one of ours.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::DigestMismatch => "DIGEST_MISMATCH",
            Self::SizeInvalid => "SIZE_INVALID",
        }
    }

    /// The status of the answer. Only 404 lets a runtime ask another mirror or the registry
    /// itself at once, so it is kept for what is truly not there.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NameInvalid | Self::ManifestInvalid | Self::DigestInvalid => {
                StatusCode::BAD_REQUEST
            }
            Self::NameUnknown | Self::ManifestUnknown | Self::BlobUnknown => StatusCode::NOT_FOUND,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable | Self::DigestMismatch | Self::SizeInvalid => StatusCode::BAD_GATEWAY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_word_of_its_own_and_an_error_status() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert!(code.status().as_u16() >= 400);
            let same = |other: &Code| other.label() == code.label();
            assert_eq!(Code::ALL.iter().position(same), Some(index));
        }
    }
}
