//! Manifests and indexes of images, as a registry may send them.

use std::path::PathBuf;

use fastrand::Rng;
use tillgate::manifest::{Platform, contents, pieces, platforms};

use super::{Target, folder, size, way};

/// What an image names.
pub(super) struct Manifest;

impl Target for Manifest {
    fn name(&self) -> &'static str {
        "manifest"
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![folder("manifest")]
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            br#""config":"#,
            br#""layers":["#,
            br#""manifests":["#,
            br#""digest":"sha256:"#,
            br#""size":18446744073709551616"#,
            br#""size":-1"#,
            br#""platform":{"os":"linux","architecture":"amd64"}"#,
            b"ab",
            b"[[[[[[[[",
            b"{\"\":",
            b"null",
            b"\\ud800",
        ]
    }

    fn bytes_max(&self) -> usize {
        16 * 1024
    }

    fn read(&mut self, input: &[u8], _: &mut Rng) -> Result<u64, String> {
        let promise = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        let (named, pieces) = (contents(input), pieces(input));
        let chosen = platforms(input, Platform::OURS);
        let blobs: Vec<_> = pieces.iter().map(|(digest, _)| *digest).collect();
        promise(blobs == named.blobs, "pieces are the blobs, in their order")?;
        let all = chosen.iter().all(|one| named.manifests.contains(one));
        promise(all, "what is chosen is named")?;
        promise(chosen.is_empty() == named.manifests.is_empty(), "something is chosen of any")?;
        let text = String::from_utf8_lossy(input);
        let known = named.blobs.iter().chain(&named.manifests);
        let invents = known.clone().any(|one| !text.contains(&one.hex()) && !text.contains('\\'));
        promise(!invents, "a digest stands in what came")?;
        let sizes = pieces.iter().filter(|(_, bytes)| *bytes > 0).count();
        Ok(way((size(named.blobs.len()), size(named.manifests.len()), size(chosen.len()), sizes)))
    }
}
