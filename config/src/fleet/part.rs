//! What of a fleet's files one store needs: what selects it, and its own facts.

use std::collections::BTreeMap;

use super::{Fleet, Source, body};
use crate::compile::select;

impl Fleet {
    /// The files of `sources`, of which this fleet was read, without the documents that the store
    /// with this name or id has no use for. What is cut leaves its line ends, so that an error in
    /// a store names the line of the repository. Files of which nothing is left are left out.
    ///
    /// # Errors
    /// A sentence, if there is no such store.
    pub fn part(&self, sources: &[Source], name_or_id: &str) -> Result<Vec<Source>, String> {
        let own = self.document(name_or_id)?;
        let store = body(own);
        let unused = self.input.documents.iter().filter(|document| {
            let selector = document.selector();
            selector.is_some_and(|one| store.is_some_and(|store| !select::applies(one, store)))
        });
        let others = self.stores.iter().filter(|other| other.name != own.name);
        let mut cuts: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
        for document in unused.chain(others) {
            if let Some((file, range)) = document.place_in_file() {
                cuts.entry(file).or_default().push(range);
            }
        }
        let mut left = Vec::new();
        for source in sources {
            let Some(ranges) = cuts.get_mut(source.file.as_str()) else {
                left.push(source.clone());
                continue;
            };
            let text = without(&source.text, ranges);
            if !text.trim().is_empty() {
                left.push(Source { file: source.file.clone(), text });
            }
        }
        Ok(left)
    }
}

/// `text` with line ends alone where `ranges` are.
fn without(text: &str, ranges: &mut [(usize, usize)]) -> String {
    ranges.sort_unstable();
    // Places are counted behind a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut left = String::with_capacity(text.len());
    let mut at = 0;
    for (from, to) in ranges.iter().copied() {
        left.push_str(text.get(at..from).unwrap_or_default());
        let cut = text.get(from..to).unwrap_or_default();
        left.extend(cut.chars().filter(|one| *one == '\n'));
        at = to;
    }
    left.push_str(text.get(at..).unwrap_or_default());
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, region: &str) -> String {
        format!(
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: {name}, \
             labels: {{region: {region}}}}}\nspec:\n  timeZone: Europe/Oslo\n  \
             links: [{{name: primary, \
             capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}]\n"
        )
    }

    fn class(name: &str, region: &str) -> String {
        format!(
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: TrafficClass\nmetadata: {{name: \
             {name}}}\nspec:\n  storeSelector: {{matchLabels: {{region: {region}}}}}\n  priority: \
             300\n"
        )
    }

    #[test]
    fn a_store_gets_what_selects_it_and_compiles_to_the_same() {
        let sources = [
            Source { file: "a.yaml".into(), text: class("here", "no") + &class("there", "dk") },
            Source { file: "s.yaml".into(), text: store("a", "no") + &store("b", "dk") },
            Source { file: "t.yaml".into(), text: class("elsewhere", "dk") },
        ];
        let (fleet, report) = Fleet::read(&sources, 1);
        assert!(report.errors.is_empty(), "{report}");
        let part = fleet.part(&sources, "a").expect("there is such a store");
        let files: Vec<_> = part.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(files, ["a.yaml", "s.yaml"]);
        assert!(part[0].text.contains("here") && !part[0].text.contains("there"));
        let lines = |text: &str| text.lines().count();
        assert_eq!(lines(&part[0].text), lines(&sources[0].text), "lines keep their numbers");
        let (alone, report) = Fleet::read(&part, 1);
        assert!(report.errors.is_empty(), "{report}");
        assert_eq!(alone.stores().collect::<Vec<_>>(), ["a"]);
        let digest = |fleet: &Fleet| fleet.compile("a").unwrap().effective.unwrap().digest;
        assert_eq!(digest(&fleet), digest(&alone));
        assert!(fleet.part(&sources, "c").is_err());
    }
}
