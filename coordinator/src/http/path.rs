//! Paths and queries of requests.

use muster_model::limits::HTTP_PATH_BYTES_MAX;
use percent_encoding::percent_decode_str;

use super::answer::Refused;

/// A path in decoded segments, and its query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    segments: Vec<String>,
    /// It ended in a slash.
    pub(super) is_collection: bool,
    query: Vec<(String, String)>,
}

impl Path {
    /// Reads a path as it is in a request's first line. Each segment is decoded once, and then must be a plain name.
    pub(super) fn parse(path: &str, query: Option<&str>) -> Result<Self, Refused> {
        let query = query.unwrap_or_default();
        if path.len() + query.len() > HTTP_PATH_BYTES_MAX {
            return Err(Refused::PathLength);
        }
        let rest = path.strip_prefix('/').ok_or(Refused::Path)?;
        let (rest, is_collection) = match rest.strip_suffix('/') {
            Some(rest) if !rest.is_empty() => (rest, true),
            _ => (rest, rest.is_empty()),
        };
        let segments = match rest {
            "" => Vec::new(),
            rest => rest.split('/').map(segment).collect::<Result<_, _>>()?,
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok::<_, Refused>((decode(name)?, decode(value)?))
        });
        Ok(Self { segments, is_collection, query: pairs.collect::<Result<_, _>>()? })
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(String::as_str)
    }

    /// The value of a name in the query; empty when it is not there.
    pub(super) fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }
}

fn segment(text: &str) -> Result<String, Refused> {
    let decoded = decode(text)?;
    let plain = !matches!(decoded.as_str(), "" | "." | "..") && !decoded.contains(['/', '\\']);
    if plain && !decoded.chars().any(char::is_control) { Ok(decoded) } else { Err(Refused::Path) }
}

fn decode(text: &str) -> Result<String, Refused> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| Refused::Path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segments(path: &str) -> Option<Vec<String>> {
        Path::parse(path, None).ok().map(|path| path.segments)
    }

    #[test]
    fn segments_are_decoded_once_and_must_be_plain_names() {
        assert_eq!(segments("/a/b%20c"), Some(vec!["a".into(), "b c".into()]));
        assert_eq!(segments("/%2561"), Some(vec!["%61".into()]));
        assert_eq!(segments("/"), Some(vec![]));
        for path in ["", "a", "//", "/a//b", "/..", "/a/../b", "/%2e%2e/a", "/.", "/a%2fb", "/a%5cb", "/a%00", "/%ff"] {
            assert_eq!(segments(path), None, "{path}");
        }
        assert!(Path::parse(&format!("/{}", "x".repeat(HTTP_PATH_BYTES_MAX)), None).is_err());
    }

    #[test]
    fn queries_are_looked_up_by_name() {
        let path = Path::parse("/v8/", Some("teamId=a%26b&slug=&x")).unwrap();
        assert_eq!((path.query("teamId"), path.query("slug"), path.query("x"), path.query("y")), ("a&b", "", "", ""));
        assert!(path.is_collection);
    }

    proptest! {
        #[test]
        fn no_path_panics_or_keeps_a_way_up(path in "(/|\\.|%2e|%2f|%|a|\\PC){0,20}", query in "\\PC{0,20}") {
            if let Ok(path) = Path::parse(&path, Some(&query)) {
                prop_assert!(path.segments().all(|segment| segment != ".." && !segment.contains('/')));
            }
        }
    }
}
