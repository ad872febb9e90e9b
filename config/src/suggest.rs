//! "Did you mean": the nearest known word to one that is not known.
//!
//! Used for fields, kinds, words, classes, backends, links, units and zones alike, so that every
//! message about an unknown name ends the same way.

/// The word of `known` that `word` most likely was meant to be, or `None` if nothing is near.
/// Case is ignored; the distance allowed grows with the length (one slip in three letters).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The sentence for a message: `did you mean …?`, or the list of what there is.
pub fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(candidate) = nearest(word, known.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let all: Vec<String> = known.into_iter().map(|one| format!("`{one}`")).collect();
    match all.len() {
        0 => "there is none to choose from".to_owned(),
        1 => format!("the only one is {}", all[0]),
        _ => format!("use one of {}", all.join(", ")),
    }
}

/// Optimal string alignment: insert, delete, replace and swap of neighbours count one each.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let fields = ["address", "port", "hostname"];
        assert_eq!(nearest("prot", fields), Some("port"));
        assert_eq!(nearest("adress", fields), Some("address"));
        assert_eq!(nearest("HostName", fields), Some("hostname"));
        assert_eq!(nearest("colour", fields), None);
        assert_eq!(nearest(&"x".repeat(100_000), fields), None);
    }

    #[test]
    fn without_a_neighbour_the_choices_are_listed() {
        assert_eq!(hint("colour", ["up", "down"]), "use one of `up`, `down`");
        assert_eq!(hint("colour", []), "there is none to choose from");
    }
}
