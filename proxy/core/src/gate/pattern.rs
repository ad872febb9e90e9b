//! Patterns of repositories: `pos/**`, `pos/*/agent`, `vision-*`.

use std::fmt;
use std::sync::Arc;

/// A pattern of repositories. `*` stands for any part of one segment, `**` as a whole segment
/// for any number of them, none too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryGlob(pub Arc<str>);

impl RepositoryGlob {
    /// Whether `repository` fits.
    pub fn matches(&self, repository: &str) -> bool {
        let pattern: Vec<&str> = self.0.split('/').collect();
        let name: Vec<&str> = repository.split('/').collect();
        stars(
            &pattern,
            &name,
            |one| *one == "**",
            |one, part| {
                let (one, part): (Vec<char>, Vec<char>) =
                    (one.chars().collect(), part.chars().collect());
                stars(&one, &part, |c| *c == '*', |a, b| a == b)
            },
        )
    }
}

impl fmt::Display for RepositoryGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Matches items where some of the pattern stand for any number of them. Goes back to the last
/// such item only, so the time is the product of the lengths at worst.
fn stars<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while item < items.len() {
        match pattern.get(at) {
            Some(one) if is_star(one) => {
                back = Some((at, item));
                at += 1;
            }
            Some(one) if fits(one, &items[item]) => {
                at += 1;
                item += 1;
            }
            _ => {
                let Some((star, taken)) = back else { return false };
                back = Some((star, taken + 1));
                at = star + 1;
                item = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(is_star)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_parts_and_for_segments() {
        let fits = |pattern: &str, name: &str| RepositoryGlob(pattern.into()).matches(name);
        assert!(fits("pos/**", "pos/checkout") && fits("pos/**", "pos/a/b/c"));
        assert!(fits("pos/**", "pos"), "`**` stands for none, too");
        assert!(!fits("pos/**", "posx/checkout") && !fits("pos/**", "a/pos/b"));
        assert!(fits("pos/*", "pos/checkout") && !fits("pos/*", "pos/a/b"));
        assert!(fits("**/agent", "agent") && fits("**/agent", "a/b/agent"));
        assert!(fits("a/**/z", "a/z") && fits("a/**/z", "a/b/a/z") && !fits("a/**/z", "a/b"));
        assert!(fits("vision-*", "vision-face") && fits("*-face", "a-b-face"));
        assert!(fits("*a*b", "xaxxab") && !fits("*a*b", "xaxxa"));
        assert!(!fits("pos", "pos/checkout") && !fits("", "pos"));
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = RepositoryGlob(format!("{}b", "*a".repeat(60)).into());
        assert!(!pattern.matches(&"a".repeat(4096)));
    }
}
