//! Colour, where it is wanted: everything is readable without it.

use std::io::IsTerminal;

use clap::ValueEnum;
use console::Style;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Puts colour on words, or leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    coloured: bool,
}

impl Paint {
    /// Without colour.
    pub const PLAIN: Self = Self { coloured: false };

    /// As chosen; `auto` looks at whether `stream` is a terminal and at `NO_COLOR` (<https://no-color.org>).
    pub fn for_stream(choice: ColorChoice, stream: &impl IsTerminal) -> Self {
        let coloured = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                stream.is_terminal() && !unwanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Self { coloured }
    }

    /// Something went well.
    pub fn good(self, words: &str) -> String {
        self.styled(Style::new().green(), words)
    }

    /// Something went wrong.
    pub fn bad(self, words: &str) -> String {
        self.styled(Style::new().red().bold(), words)
    }

    /// Something wants attention.
    pub fn attention(self, words: &str) -> String {
        self.styled(Style::new().yellow(), words)
    }

    /// Something that may be overlooked.
    pub fn quiet(self, words: &str) -> String {
        self.styled(Style::new().dim(), words)
    }

    /// A heading.
    pub fn strong(self, words: &str) -> String {
        self.styled(Style::new().bold(), words)
    }

    fn styled(self, style: Style, words: &str) -> String {
        style.force_styling(self.coloured).apply_to(words).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_only_where_it_was_asked_for() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Paint::for_stream(ColorChoice::Auto, &file).bad("no"), "no");
        assert_eq!(Paint::for_stream(ColorChoice::Never, &file).bad("no"), "no");
        assert!(Paint::for_stream(ColorChoice::Always, &file).bad("no").contains("\u{1b}["));
    }
}
