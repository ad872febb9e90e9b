//! What tags meant when they were last asked for.
//!
//! In: what a registry said of a tag, with the wall clock's seconds. Out: whether that is believed
//! without asking, only where the registry cannot be asked, or no more. Bounded: the one that was
//! asked for longest ago makes room.

use std::collections::BTreeMap;

use super::{Digest, TagSpec};

/// Tags that are remembered: more than a store has images, in some 2 MiB.
pub const TAGS_MAX: usize = 10_000;

/// A tag of a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The registry's name, as `docker.io`.
    pub registry: Box<str>,
    /// The repository's name there.
    pub repository: Box<str>,
    /// The tag.
    pub tag: Box<str>,
}

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It need not be asked for.
    Fresh(Digest),
    /// To be asked for; if that fails, this is used.
    Stale(Digest),
    /// Nothing that could be used.
    Nothing,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    known: BTreeMap<Tag, (Digest, u64)>,
    /// By time, then tag.
    order: BTreeMap<(u64, Tag), ()>,
}

impl Tags {
    /// What `tag` is believed to be at `now` (seconds of the wall clock). A clock that has stepped
    /// back makes nothing fresher than it is.
    pub fn look(&self, tag: &Tag, spec: &TagSpec, now: u64) -> Known {
        let Some((digest, at)) = self.known.get(tag) else { return Known::Nothing };
        let age = now.abs_diff(*at);
        if age < spec.fresh.as_secs() && now >= *at {
            Known::Fresh(*digest)
        } else if age < spec.fresh.as_secs().saturating_add(spec.stale.as_secs()) {
            Known::Stale(*digest)
        } else {
            Known::Nothing
        }
    }

    /// The registry says at `now` that `tag` is `digest`. Returns a tag that was forgotten for it.
    pub fn learn(&mut self, tag: Tag, digest: Digest, now: u64) -> Option<Tag> {
        self.forget(&tag);
        self.known.insert(tag.clone(), (digest, now));
        self.order.insert((now, tag), ());
        if self.known.len() <= TAGS_MAX {
            return None;
        }
        let ((_, oldest), ()) = self.order.pop_first()?;
        self.known.remove(&oldest);
        Some(oldest)
    }

    /// The registry says that there is no such tag.
    pub fn forget(&mut self, tag: &Tag) {
        if let Some((_, at)) = self.known.remove(tag) {
            self.order.remove(&(at, tag.clone()));
        }
    }

    /// Every tag with what it meant and when that was said.
    pub fn iter(&self) -> impl Iterator<Item = (&Tag, Digest, u64)> {
        self.known.iter().map(|(tag, (digest, at))| (tag, *digest, *at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SPEC: TagSpec =
        TagSpec { fresh: Duration::from_secs(60), stale: Duration::from_secs(3600) };

    fn tag(name: &str) -> Tag {
        Tag { registry: "docker.io".into(), repository: "a".into(), tag: name.into() }
    }

    #[test]
    fn a_tag_is_fresh_then_stale_then_nothing() {
        let mut tags = Tags::default();
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let latest = tag("latest");
        assert_eq!(tags.look(&latest, &SPEC, 1000), Known::Nothing);
        assert_eq!(tags.learn(latest.clone(), one, 1000), None);
        assert_eq!(tags.look(&latest, &SPEC, 1059), Known::Fresh(one));
        assert_eq!(tags.look(&latest, &SPEC, 1060), Known::Stale(one));
        assert_eq!(tags.look(&latest, &SPEC, 4659), Known::Stale(one));
        assert_eq!(tags.look(&latest, &SPEC, 4660), Known::Nothing);
        // The clock was wrong and is right again: nothing is fresh, all can still be used.
        assert_eq!(tags.look(&latest, &SPEC, 990), Known::Stale(one));
        tags.learn(latest.clone(), two, 4000);
        assert_eq!(tags.look(&latest, &SPEC, 4000), Known::Fresh(two));
        tags.forget(&latest);
        assert_eq!(tags.look(&latest, &SPEC, 4000), Known::Nothing);
        assert_eq!((tags.known.len(), tags.order.len()), (0, 0));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut tags = Tags::default();
        for number in 0..TAGS_MAX {
            let forgotten = tags.learn(tag(&number.to_string()), Digest([0; 32]), number as u64);
            assert_eq!(forgotten, None);
        }
        tags.learn(tag("0"), Digest([0; 32]), 99_999);
        assert_eq!(tags.learn(tag("new"), Digest([0; 32]), 99_999), Some(tag("1")));
        assert_eq!((tags.known.len(), tags.order.len()), (TAGS_MAX, TAGS_MAX));
    }
}
