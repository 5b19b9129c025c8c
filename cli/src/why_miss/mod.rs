//! Why one action did not find another's result: everything in which the two differ, by name.
//!
//! A key is a hash of everything that an action can see, so a miss says nothing about its reason. [`Subject`] is an action taken apart into
//! parts with names, whatever kind of action it was; [`differences`] compares the parts; [`tree`] goes down into input trees, and only
//! where they differ.

pub mod subject;
pub mod tree;

use muster_cache::{RemoteStore, StoreError};

pub use subject::{Kind, Subject, SubjectError};

/// One part in which two actions differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What kind of part.
    pub kind: Kind,
    /// Which of that kind: a variable's name, a path, the number of an argument. Empty where there is only one.
    pub name: String,
    /// What it is in the first action; none when it is not there.
    pub first: Option<String>,
    /// What it is in the second.
    pub second: Option<String>,
}

/// Everything in which two actions differ, in the order of kinds and names, at most `limit` of them; and whether there are more.
///
/// # Errors
///
/// When a directory can't be read that has to be compared: a directory of an input tree may have been evicted.
pub async fn differences(
    store: &RemoteStore,
    first: &Subject,
    second: &Subject,
    limit: usize,
) -> Result<(Vec<Difference>, bool), StoreError> {
    let mut found = parts(first, second);
    let mut roots: Vec<_> = first.trees.keys().chain(second.trees.keys()).collect();
    roots.sort();
    roots.dedup();
    for place in roots {
        if found.len() > limit {
            break;
        }
        let (first, second) = (first.trees.get(place), second.trees.get(place));
        let pair = tree::Pair { path: place.clone(), first: first.copied(), second: second.copied() };
        found.extend(tree::differences(store, pair, limit + 1 - found.len()).await?);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    Ok((found, more))
}

/// The differences outside of input trees.
fn parts(first: &Subject, second: &Subject) -> Vec<Difference> {
    let mut keys: Vec<_> = first.parts.keys().chain(second.parts.keys()).collect();
    keys.sort();
    keys.dedup();
    let compared = keys.into_iter().map(|key| (key, first.parts.get(key), second.parts.get(key)));
    compared
        .filter(|(_, first, second)| first != second)
        .map(|((kind, name), first, second)| Difference {
            kind: *kind,
            name: name.text(),
            first: first.cloned(),
            second: second.cloned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use subject::Name;

    fn subject(parts: &[(Kind, &str, &str)]) -> Subject {
        let part =
            |(kind, name, value): &(Kind, &str, &str)| ((*kind, Name::Word((*name).into())), (*value).to_owned());
        Subject { parts: parts.iter().map(part).collect(), ..Subject::default() }
    }

    #[test]
    fn only_what_differs_is_named_and_what_is_on_one_side_only_says_so() {
        let first = subject(&[(Kind::Variable, "A", "1"), (Kind::Variable, "B", "2"), (Kind::Property, "os", "linux")]);
        let second = subject(&[(Kind::Variable, "A", "1"), (Kind::Variable, "B", "3"), (Kind::Variable, "C", "")]);
        let expected = [
            (Kind::Variable, "B", Some("2"), Some("3")),
            (Kind::Variable, "C", None, Some("")),
            (Kind::Property, "os", Some("linux"), None),
        ];
        let expected = expected.map(|(kind, name, first, second)| Difference {
            kind,
            name: name.into(),
            first: first.map(str::to_owned),
            second: second.map(str::to_owned),
        });
        assert_eq!(parts(&first, &second), expected);
        assert!(parts(&first, &first).is_empty());
    }
}
