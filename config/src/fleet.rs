//! A whole fleet: many files, many stores, one policy.
//!
//! Shared documents are read and checked once. Stores that select the same documents share what
//! follows from them, so that a store of its own costs a selection, its links and its calendar.
//! In: texts with their names. Out: one effective config for one store, or digests and findings
//! for all of them. No IO; the number of threads is the caller's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::compile::{self, Checked, Input, lint, select, store_id};
use crate::defaults;
use crate::document::{self, Body, Document};
use crate::kinds::{BundleDoc, Kind, StoreDoc};
use crate::report::{Finding, Report};
use crate::suggest;
use crate::zones::Zones;

mod part;
mod plan;
mod rings;
mod survey;

pub use plan::{DocumentChange, Effect, Happened, Plan, effects, plan, too_wide};
pub use rings::Delivery;
pub use survey::{Survey, Surveyed};

/// One file of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages.
    pub file: String,
    /// What is in it.
    pub text: String,
}

/// The documents of a fleet.
#[derive(Debug)]
pub struct Fleet {
    /// Everything but the stores.
    input: Input,
    /// By name.
    stores: Vec<Document>,
    built_in: Vec<Document>,
    zones: Zones,
}

impl Fleet {
    /// Reads the documents of `sources` with so many `threads`. The report holds what is wrong
    /// with them by themselves; what they mean together is found by compiling.
    pub fn read(sources: &[Source], threads: usize) -> (Self, Report) {
        let parts = parallel(sources, threads, |source| {
            let mut report = Report::default();
            let mut input = document::read(&source.file, &source.text, &mut report);
            lint::yaml(&input.documents, &mut report);
            for document in &mut input.documents {
                // Tens of thousands of stores; their places are rarely asked for.
                if document.kind == Kind::Store {
                    document.forget_places();
                }
            }
            (input, report)
        });
        let mut report = Report::default();
        let mut input = Input::default();
        let mut stores = Vec::new();
        for (part, found) in parts {
            report.append(found);
            input.refused.extend(part.refused);
            for document in part.documents {
                let list =
                    if document.kind == Kind::Store { &mut stores } else { &mut input.documents };
                list.push(document);
            }
        }
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        let fleet = Self {
            input,
            stores,
            built_in: document::read_built_in(defaults::BUILT_IN),
            zones: Zones::default(),
        };
        select::check_documents(&fleet.input.documents, &mut report);
        fleet.check_stores(&mut report);
        report.sort();
        (fleet, report)
    }

    /// Every store has a name and an id of its own, and there is at least one.
    fn check_stores(&self, report: &mut Report) {
        if self.stores.is_empty() && !self.input.may_have_refused(Kind::Store, None) {
            report.errors.push(Finding::new(
                None,
                "no file has a Store document: add one with the store's name, timeZone and links",
            ));
        }
        for pair in self.stores.windows(2) {
            let [first, second] = pair else { continue };
            if first.name == second.name {
                let message =
                    format!("the store `{}` is there twice: rename or remove one", first.name);
                let finding = second.name_spot().finding(message);
                let place = first.name_spot().place();
                report.errors.push(finding.related(place, "is the other one"));
            }
        }
        let mut ids: BTreeMap<&str, &Document> = BTreeMap::new();
        for store in &self.stores {
            let id = store_id(store);
            if let Some(first) = ids.insert(id, store)
                && first.name != store.name
            {
                let message = format!(
                    "the stores `{}` and `{}` have the same id `{id}`: give one another `storeId`",
                    first.name, store.name
                );
                let finding = store.name_spot().finding(message);
                let place = first.name_spot().place();
                report.errors.push(finding.related(place, "is the other one"));
            }
        }
    }

    /// Names of all stores, in order.
    pub fn stores(&self) -> impl ExactSizeIterator<Item = &str> {
        self.stores.iter().map(|store| &*store.name)
    }

    /// A few names of stores, for whoever named none of them.
    fn some_of(&self) -> String {
        let few: Vec<String> = self.stores().take(3).map(|name| format!("`{name}`")).collect();
        match self.stores.len() {
            0 => "the policy has no Store".to_owned(),
            1 => format!("the only one is {}", few.join(", ")),
            count if count == few.len() => format!("use one of {}", few.join(", ")),
            count => format!("use one of the {count} that there are, such as {}", few.join(", ")),
        }
    }

    /// Every document that is no Store.
    pub fn documents(&self) -> &[Document] {
        &self.input.documents
    }

    /// The Bundle, if there is one.
    pub fn bundle(&self) -> Option<&BundleDoc> {
        self.input.documents.iter().find_map(|document| {
            let Body::Bundle(body) = &document.body else { return None };
            Some(body)
        })
    }

    /// The name of the store with this name or id.
    ///
    /// # Errors
    /// A sentence that names the nearest one, if there is none.
    pub fn find(&self, name_or_id: &str) -> Result<&str, String> {
        self.document(name_or_id).map(|store| &*store.name)
    }

    /// The id of the store with this name or id: what its bundle and Bootstrap call it.
    ///
    /// # Errors
    /// A sentence that names the nearest one, if there is none.
    pub fn id(&self, name_or_id: &str) -> Result<&str, String> {
        self.document(name_or_id).map(store_id)
    }

    /// Compiles for one store. The report holds what is wrong for this store alone; what
    /// [`Self::read`] found is not in it.
    ///
    /// # Errors
    /// A sentence, if there is no such store.
    pub fn compile(&self, name_or_id: &str) -> Result<Checked, String> {
        let document = self.document(name_or_id)?;
        let Some(store) = body(document) else {
            return Err(format!("`{name_or_id}` is no store: name one of the fleet"));
        };
        let choices = select::Choices::new(&self.input.documents);
        let mut report = Report::default();
        for one in self.input.documents.iter().chain([document]) {
            one.add_source(&mut report);
        }
        let context = (&self.input, self.built_in.as_slice(), &self.zones);
        let chosen = choices.choose(Some(store));
        Ok(compile::for_store(chosen, (document, store), context, report))
    }

    /// How many stores `document` selects.
    pub fn selects(&self, document: &Document) -> usize {
        let Some(selector) = document.selector() else { return self.stores.len() };
        let stores = self.stores.iter().filter_map(body);
        stores.filter(|store| select::applies(selector, store)).count()
    }

    /// Digests and findings of all stores, with so many `threads`.
    pub fn survey(&self, threads: usize) -> Survey {
        survey::of(self, threads)
    }

    fn document(&self, name_or_id: &str) -> Result<&Document, String> {
        let by_name = self.stores.binary_search_by(|store| (*store.name).cmp(name_or_id));
        let found = by_name.ok().and_then(|at| self.stores.get(at));
        let found = found.or_else(|| self.stores.iter().find(|one| store_id(one) == name_or_id));
        found.ok_or_else(|| {
            // Sixty thousand names are no help.
            let near = suggest::nearest(name_or_id, self.stores());
            let advice =
                near.map_or_else(|| self.some_of(), |near| format!("did you mean `{near}`?"));
            format!(
                "no store is called `{name_or_id}`, nor has it as its label `storeId`: {advice}"
            )
        })
    }
}

fn body(document: &Document) -> Option<&StoreDoc> {
    let Body::Store(body) = &document.body else { return None };
    Some(body)
}

/// Does `work` on every item with at most so many threads; results in the order of the items.
pub fn parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let threads = threads.clamp(1, items.len().max(1));
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut results = run();
        for other in others {
            match other.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
