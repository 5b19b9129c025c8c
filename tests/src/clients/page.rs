//! What `docs/clients/` tells people to type, read by the tests that prove it.

/// The address that pages are written with.
const ADDRESS: &str = "HOST:7420";

/// The lines of the first indented block below a heading of `docs/clients/PAGE.md`, with the address of a coordinator in them.
///
/// # Panics
///
/// When the page, the heading or the block is not there.
pub fn block(page: &str, heading: &str, address: &str) -> String {
    let path = crate::folder().join("../docs/clients").join(page).with_extension("md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let block = find(&text, heading).unwrap_or_else(|| panic!("{}: no block below `{heading}`", path.display()));
    block.replace(ADDRESS, address)
}

fn find(text: &str, heading: &str) -> Option<String> {
    let below =
        text.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'));
    let section = below.skip(1).take_while(|line| !line.starts_with('#'));
    let block: Vec<&str> =
        section.skip_while(|line| !line.starts_with("    ")).map_while(|line| line.strip_prefix("    ")).collect();
    (!block.is_empty()).then(|| block.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Tool\n\n    first = 1\n\n## Second part\n\nWords.\n\n    a = 1\n    b = 2\n\nMore.\n\n    c = 3\n\n## Empty\n";

    #[test]
    fn a_block_is_the_first_one_below_its_own_heading() {
        assert_eq!(find(PAGE, "Tool").as_deref(), Some("first = 1\n"));
        assert_eq!(find(PAGE, "Second part").as_deref(), Some("a = 1\nb = 2\n"));
        assert_eq!(find(PAGE, "Empty"), None);
        assert_eq!(find(PAGE, "Third"), None);
    }
}
