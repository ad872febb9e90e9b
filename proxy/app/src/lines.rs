//! The WAN lines of the process, and names that keep their numbers.
//!
//! A line, once made, lives as long as the process: a reload gives it new numbers, its flows and
//! pools survive. Lines and classes keep one id per name for life, so that a reload that orders
//! them anew never mixes connections of two classes.

use std::sync::Arc;

use tillgate_config::effective::Effective;
use tillgate_core::class::ClassId;
use tillgate_core::link::LinkId;
use tillgate_net::link::Link;

/// The lines of one config, by name.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    known: Arc<[Line]>,
}

/// One line: its name, its number for life, and itself.
type Line = (Arc<str>, LinkId, Arc<Link>);

impl Lines {
    /// The lines of `effective`: those that are known, and new ones. Returns the new ones beside,
    /// so that somebody drives them.
    pub(crate) fn next(&self, effective: &Effective) -> (Self, Vec<Arc<Link>>) {
        let mut known = self.known.to_vec();
        let mut fresh = Vec::new();
        for spec in &effective.links {
            if self.get(&spec.name).is_some() {
                continue;
            }
            let Ok(id) = u8::try_from(known.len()) else { continue };
            let link = Link::new(spec, &effective.classes);
            known.push((Arc::clone(&spec.name), LinkId(id), Arc::clone(&link)));
            fresh.push(link);
        }
        (Self { known: known.into() }, fresh)
    }

    /// Known ones take the numbers of `effective` at once.
    pub(crate) fn reconfigure(&self, effective: &Effective) {
        for spec in &effective.links {
            if let Some((_, link)) = self.get(&spec.name) {
                link.reconfigure(spec, &effective.classes);
            }
        }
    }

    /// The line called `name`, with its number for life.
    pub(crate) fn get(&self, name: &str) -> Option<(LinkId, Arc<Link>)> {
        let (_, id, link) = self.known.iter().find(|(known, _, _)| **known == *name)?;
        Some((*id, Arc::clone(link)))
    }

    /// The name behind a number.
    pub(crate) fn name(&self, id: LinkId) -> Arc<str> {
        let found = self.known.iter().find(|(_, known, _)| *known == id);
        found.map_or_else(|| "unknown".into(), |(name, _, _)| Arc::clone(name))
    }

    /// Every line that ever was, with its number.
    pub(crate) fn by_id(&self) -> impl Iterator<Item = (LinkId, &Arc<Link>)> {
        self.known.iter().map(|(_, id, link)| (*id, link))
    }

    /// Every line that ever was.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.known.iter().map(|(_, _, link)| link)
    }
}

/// Names with numbers for life.
#[derive(Default)]
pub(crate) struct Names {
    known: Vec<Arc<str>>,
}

impl Names {
    /// Whether `count` more names still fit: pools tell classes apart by a byte.
    pub(crate) fn fits(&self, names: &[&Arc<str>]) -> bool {
        let new = names.iter().filter(|name| !self.known.contains(name)).count();
        self.known.len() + new <= usize::from(u8::MAX)
    }

    /// The number of `name`.
    pub(crate) fn stable(&mut self, name: &Arc<str>) -> ClassId {
        let place = self.known.iter().position(|known| known == name).unwrap_or_else(|| {
            self.known.push(Arc::clone(name));
            self.known.len() - 1
        });
        ClassId(u8::try_from(place).unwrap_or(u8::MAX))
    }

    /// The name behind a number.
    pub(crate) fn name(&self, class: ClassId) -> Option<Arc<str>> {
        self.known.get(class.index()).cloned()
    }
}
