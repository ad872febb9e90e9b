//! What a manifest or an index names, read with tolerance: what cannot be read names nothing.

use std::env::consts;

use serde_json::Value;
use tillgate_core::mirror::Digest;

/// What a manifest names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Of an index.
    pub manifests: Vec<Digest>,
    /// Config and layers.
    pub blobs: Vec<Digest>,
}

/// Reads what a manifest or index names; what cannot be read names nothing.
pub fn contents(body: &[u8]) -> Contents {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let digest = |one: &Value| one.get("digest")?.as_str()?.parse().ok();
    let list = |name: &str| {
        let items = value.get(name).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(digest)
    };
    let config = value.get("config").and_then(digest);
    Contents {
        manifests: list("manifests").collect(),
        blobs: config.into_iter().chain(list("layers")).collect(),
    }
}

/// Parts of a manifest, with their sizes as it says them.
pub fn pieces(body: &[u8]) -> Vec<(Digest, u64)> {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let piece = |one: &Value| {
        let digest = one.get("digest")?.as_str()?.parse().ok()?;
        Some((digest, one.get("size").and_then(Value::as_u64).unwrap_or(0)))
    };
    let layers = value.get("layers").and_then(Value::as_array);
    let config = value.get("config").and_then(piece);
    config.into_iter().chain(layers.into_iter().flatten().filter_map(piece)).collect()
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As Go says it.
    pub os: &'static str,
    /// As Go says it.
    pub architecture: &'static str,
}

impl Platform {
    /// This machine's: what a store's machines have most likely too.
    pub const OURS: Self = Self { os: "linux", architecture: go(consts::ARCH) };
}

const fn go(architecture: &'static str) -> &'static str {
    match architecture.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        b"x86" => "386",
        _ => architecture,
    }
}

/// Manifests of an index that are for `platform`; all of them, if none is.
pub fn platforms(body: &[u8], platform: Platform) -> Vec<Digest> {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let list = value.get("manifests").and_then(Value::as_array);
    let digest = |one: &Value| one.get("digest")?.as_str()?.parse().ok();
    let all = || list.into_iter().flatten();
    let fits = |one: &&Value| {
        let said = |name: &str| one.get("platform")?.get(name)?.as_str();
        said("os") == Some(platform.os) && said("architecture") == Some(platform.architecture)
    };
    let ours: Vec<Digest> = all().filter(fits).filter_map(digest).collect();
    if ours.is_empty() { all().filter_map(digest).collect() } else { ours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_its_blobs_and_an_index_its_manifests() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let manifest = format!(
            r#"{{"config":{{"digest":"{}"}},"layers":[{{"digest":"{}"}},{{"digest":"wrong"}}]}}"#,
            digest("a"),
            digest("b")
        );
        let found = contents(manifest.as_bytes());
        let blobs = [digest("a"), digest("b")].map(|text| text.parse().unwrap());
        assert_eq!(found, Contents { manifests: vec![], blobs: blobs.to_vec() });
        let index = format!(r#"{{"manifests":[{{"digest":"{}"}}]}}"#, digest("c"));
        assert_eq!(contents(index.as_bytes()).manifests, [digest("c").parse().unwrap()]);
        let sized = manifest.replacen(
            &format!("{}\"", digest("b")),
            &format!("{}\",\"size\":7", digest("b")),
            1,
        );
        assert_eq!(pieces(sized.as_bytes()), [(found.blobs[0], 0), (found.blobs[1], 7)]);
        for odd in ["", "[]", "7", r#"{"layers":7}"#, r#"{"config":[]}"#] {
            assert_eq!(contents(odd.as_bytes()), Contents::default(), "{odd}");
        }
    }

    #[test]
    fn an_index_is_fetched_for_a_platform_or_as_a_whole() {
        let entry = |letter: &str, architecture: &str| {
            let digest = format!("sha256:{}", letter.repeat(64));
            let platform = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
            format!(r#"{{"digest":"{digest}","platform":{platform}}}"#)
        };
        let of = |letter: &str| format!("sha256:{}", letter.repeat(64)).parse().unwrap();
        let index = format!(r#"{{"manifests":[{},{}]}}"#, entry("a", "amd64"), entry("b", "arm64"));
        let platform = |architecture| Platform { os: "linux", architecture };
        assert_eq!(platforms(index.as_bytes(), platform("arm64")), [of("b")]);
        assert_eq!(platforms(index.as_bytes(), platform("s390x")), [of("a"), of("b")]);
        assert_eq!(platforms(b"{}", Platform::OURS), []);
    }
}
