//! Archives: tar in gzip, bounded while they are read, the same bytes whenever they are written.
//!
//! Whoever sends one is not trusted: the compressed stream ends at 1 MiB, what comes out of it at
//! 8 MiB, and only plain files with plain relative names are taken. Links, devices and extended
//! headers are refused, not skipped. Nothing touches the disk here.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};
use tillgate_config::bundle::{FILES_MAX, check_path};

use super::{Archive, Files};

/// Compressed: two hundred documents are some 10 KiB; this is a day's worth of a thin line's spare
/// seconds, and not a minute more.
pub(crate) const PACKED_BYTES_MAX: u64 = 1024 * 1024;

/// Unpacked, headers included.
pub(crate) const UNPACKED_BYTES_MAX: u64 = 8 * 1024 * 1024;

const MANIFEST: &str = "manifest.json";
const SIGNATURES: &str = "signatures.json";
const PROMOTIONS: &str = "promotions.json";
const OPERATIONS: &str = "operations.json";

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the archive has more than {PACKED_BYTES_MAX} bytes; a policy is a hundredth of that")]
    Packed,
    #[error("the archive unpacks to more than {UNPACKED_BYTES_MAX} bytes")]
    Unpacked,
    #[error("the archive has more than {FILES_MAX} files")]
    Files,
    #[error("this is no gzip archive but {0}; check the source's address")]
    Foreign(&'static str),
    #[error("{0} is no plain file; links and special files are refused")]
    Special(String),
    #[error("{0}")]
    Path(String),
    #[error("{0} is in the archive twice")]
    Twice(String),
    #[error("the archive has no {MANIFEST}; build it with `tillgate bundle build`")]
    NoManifest,
    #[error("the archive is damaged")]
    Damaged(#[source] io::Error),
}

/// Reads an archive.
pub(crate) fn read(packed: &[u8]) -> Result<Archive, ArchiveError> {
    if packed.len() as u64 > PACKED_BYTES_MAX {
        return Err(ArchiveError::Packed);
    }
    if !packed.starts_with(&[0x1f, 0x8b]) {
        return Err(ArchiveError::Foreign(nature(packed)));
    }
    let mut bounded = Bounded { inner: GzDecoder::new(packed), left: UNPACKED_BYTES_MAX };
    let mut archive = Archive::default();
    let found = unpack(&mut bounded, &mut archive);
    // The end of the stream has the checksum of it all.
    let found = found.and_then(|()| {
        io::copy(&mut bounded, &mut io::sink()).map(drop).map_err(ArchiveError::Damaged)
    });
    if bounded.left == 0 {
        return Err(ArchiveError::Unpacked);
    }
    found?;
    if archive.manifest.is_empty() {
        return Err(ArchiveError::NoManifest);
    }
    Ok(archive)
}

fn unpack(from: &mut impl Read, archive: &mut Archive) -> Result<(), ArchiveError> {
    let mut reader = tar::Archive::new(from);
    let entries = reader.entries().map_err(ArchiveError::Damaged)?.raw(true);
    let mut count = 0;
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::Damaged)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory {
            continue;
        }
        if kind != EntryType::Regular {
            return Err(ArchiveError::Special(path));
        }
        check_path(&path).map_err(ArchiveError::Path)?;
        count += 1;
        if count > FILES_MAX + 4 {
            return Err(ArchiveError::Files);
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(ArchiveError::Damaged)?;
        let place = match path.as_str() {
            MANIFEST => &mut archive.manifest,
            SIGNATURES => &mut archive.signatures,
            PROMOTIONS => &mut archive.promotions,
            OPERATIONS => &mut archive.operations,
            _ => {
                if archive.files.insert(path.clone(), bytes).is_some() {
                    return Err(ArchiveError::Twice(path));
                }
                continue;
            }
        };
        if !place.is_empty() {
            return Err(ArchiveError::Twice(path));
        }
        *place = bytes;
    }
    Ok(())
}

/// Writes an archive: without times, owners or chance.
pub(crate) fn write(archive: &Archive) -> io::Result<Vec<u8>> {
    let gzip = GzBuilder::new().mtime(0).operating_system(255);
    let mut tar = Builder::new(gzip.write(Vec::new(), Compression::best()));
    let own = [
        (MANIFEST, &archive.manifest),
        (SIGNATURES, &archive.signatures),
        (PROMOTIONS, &archive.promotions),
        (OPERATIONS, &archive.operations),
    ];
    let own = own.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    let files = archive.files.iter().map(|(path, bytes)| (path.as_str(), bytes));
    for (path, bytes) in own.chain(files) {
        let mut header = Header::new_ustar();
        header.set_path(path)?;
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        tar.append(&header, bytes.as_slice())?;
    }
    tar.into_inner()?.finish()
}

/// Whether `files` can be a bundle at all.
pub(crate) fn check_files(files: &Files) -> Result<(), ArchiveError> {
    if files.len() > FILES_MAX {
        return Err(ArchiveError::Files);
    }
    files.keys().try_for_each(|path| check_path(path)).map_err(ArchiveError::Path)?;
    if files.values().map(|bytes| bytes.len() as u64).sum::<u64>() > UNPACKED_BYTES_MAX {
        return Err(ArchiveError::Unpacked);
    }
    Ok(())
}

/// What something is that is no archive, for people.
fn nature(bytes: &[u8]) -> &'static str {
    let start: Vec<u8> =
        bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(5).collect();
    match start.to_ascii_lowercase().as_slice() {
        [] => "nothing",
        [b'<', b'!' | b'h', ..] => "a web page, perhaps of a portal or a login",
        [b'{' | b'[', ..] => "JSON",
        _ => "something else",
    }
}

/// A reader that ends with an error where its bound does.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn archive() -> Archive {
        let files = [("policy/b.yaml", "b"), ("policy/a.yaml", "a"), ("stores/0412.yaml", "s")];
        Archive {
            manifest: b"{}".to_vec(),
            signatures: b"[]".to_vec(),
            promotions: Vec::new(),
            operations: Vec::new(),
            files: files.map(|(path, text)| (path.into(), text.into())).into(),
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, bytes) in entries {
            let mut header = Header::new_ustar();
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        gzip(&builder.into_inner().unwrap())
    }

    #[test]
    fn an_archive_is_always_the_same_bytes() {
        let one = archive();
        let packed = write(&one).unwrap();
        assert_eq!(packed, write(&one).unwrap());
        assert_eq!(read(&packed).unwrap(), one);
    }

    #[test]
    fn what_is_no_plain_file_is_refused() {
        let file = EntryType::Regular;
        let good: (&str, EntryType, &[u8]) = ("manifest.json", file, b"{}");
        for (path, kind) in [
            ("a", EntryType::Symlink),
            ("a", EntryType::Link),
            ("a", EntryType::Char),
            ("a", EntryType::Fifo),
            ("a", EntryType::XHeader),
            ("a", EntryType::GNULongName),
        ] {
            let refused = read(&tar(&[good, (path, kind, b"")]));
            assert!(matches!(refused, Err(ArchiveError::Special(_))), "{kind:?}: {refused:?}");
        }
        for path in ["../a", "/etc/passwd", "a/../../b", "a//b"] {
            let refused = read(&tar(&[good, (path, file, b"")]));
            assert!(matches!(refused, Err(ArchiveError::Path(_))), "{path}: {refused:?}");
        }
        let twice = read(&tar(&[good, ("a", file, b"1"), ("a", file, b"2")]));
        assert!(matches!(twice, Err(ArchiveError::Twice(_))), "{twice:?}");
        let twice = read(&tar(&[good, good]));
        assert!(matches!(twice, Err(ArchiveError::Twice(_))), "{twice:?}");
        assert!(matches!(read(&tar(&[("a", file, b"")])), Err(ArchiveError::NoManifest)));
        assert!(read(&tar(&[good, ("policy", EntryType::Directory, b"")])).is_ok());
    }

    #[test]
    fn bombs_and_floods_end_at_their_bound() {
        let zeros = vec![0; 9 * 1024 * 1024];
        let bomb =
            tar(&[("manifest.json", EntryType::Regular, b"{}"), ("a", EntryType::Regular, &zeros)]);
        assert!(bomb.len() < 100_000, "it is small from outside");
        assert!(matches!(read(&bomb), Err(ArchiveError::Unpacked)));
        let nothing_but_zeros = gzip(&vec![0; 20 * 1024 * 1024]);
        assert!(matches!(read(&nothing_but_zeros), Err(ArchiveError::Unpacked)));
        let names: Vec<String> = (0..2100).map(|index| format!("f{index}")).collect();
        let many: Vec<_> =
            names.iter().map(|name| (name.as_str(), EntryType::Regular, &b""[..])).collect();
        assert!(matches!(read(&tar(&many)), Err(ArchiveError::Files)));
        let mut long = vec![0x1f, 0x8b];
        long.resize(1024 * 1024 + 1, 0);
        assert!(matches!(read(&long), Err(ArchiveError::Packed)));
    }

    #[test]
    fn what_came_instead_is_named() {
        for (bytes, said) in [
            (&b""[..], "nothing"),
            (b"\n <!DOCTYPE html>", "web page"),
            (b"<html>", "web page"),
            (b"{\"error\":", "JSON"),
            (b"PK", "something else"),
        ] {
            let refused = read(bytes).expect_err("it is no archive").to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn every_cut_and_every_flip_is_seen_or_harmless() {
        let packed = write(&archive()).unwrap();
        for length in 0..packed.len() {
            assert!(read(&packed[..length]).is_err(), "cut at {length}");
        }
        for index in 10..packed.len() {
            let mut flipped = packed.clone();
            flipped[index] ^= 4;
            // The last bits in front of the checksum fill up a byte and mean nothing.
            let same = read(&flipped).is_ok_and(|read| read == archive());
            assert!(same || read(&flipped).is_err(), "byte {index}");
        }
    }
}
