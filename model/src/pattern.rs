//! Patterns over the names of cases: `*` stands for any characters, also none, and `?` for one; everything else for itself.

/// Whether a whole name is what a pattern stands for. Takes the product of their lengths at most.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on after the last star if what it stands for must be one character longer.
    let mut retry = None;
    loop {
        let mut rest = pattern.clone();
        match rest.next() {
            Some('*') => {
                pattern = rest.clone();
                retry = Some((rest, name.clone()));
                continue;
            }
            Some(wanted) => {
                let mut following = name.clone();
                if following.next().is_some_and(|found| wanted == '?' || wanted == found) {
                    (pattern, name) = (rest, following);
                    continue;
                }
            }
            None if name.clone().next().is_none() => return true,
            None => {}
        }
        let Some((after_star, mut longer)) = retry.take() else { return false };
        if longer.next().is_none() {
            return false;
        }
        (pattern, name) = (after_star.clone(), longer.clone());
        retry = Some((after_star, longer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "tests::volume", true),
            ("tests::*", "tests::volume", true),
            ("tests::*", "test::volume", false),
            ("*database*", "test_api.py::test_database[1]", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbx", false),
            ("a*a", "a", false),
            ("v?l*", "volume", true),
            ("?", "\u{e4}", true),
            ("a.b", "axb", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} and {name}");
        }
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)), "it takes no time that grows with every star");
    }
}
