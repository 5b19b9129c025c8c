//! Which targets of a package bring their own `main` (`harness = false`); cargo's messages do not say it, its manifest does.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::project::ProjectError;
use crate::project::error::file_error;

/// The targets of one package that do not use the standard harness.
#[derive(Debug, Default)]
pub(super) struct Harness {
    without: HashSet<(&'static str, String)>,
    library_without: bool,
}

impl Harness {
    /// Reads it from the manifest.
    pub(super) fn read(manifest: &Path) -> Result<Self, ProjectError> {
        let text = fs::read_to_string(manifest).map_err(file_error("read", manifest))?;
        // Cargo has built from this very file, so what can't be understood here does not concern us.
        Ok(text.parse::<toml::Table>().map(|table| Self::from_manifest(&table)).unwrap_or_default())
    }

    fn from_manifest(manifest: &toml::Table) -> Self {
        let is_without = |target: &toml::Value| target.get("harness").and_then(toml::Value::as_bool) == Some(false);
        let mut without = HashSet::new();
        for kind in ["bin", "test", "example", "bench"] {
            let targets = manifest.get(kind).and_then(toml::Value::as_array).into_iter().flatten();
            let names = targets.filter(|target| is_without(target)).filter_map(|target| target.get("name")?.as_str());
            without.extend(names.map(|name| (kind, name.to_owned())));
        }
        Self { without, library_without: manifest.get("lib").is_some_and(is_without) }
    }

    /// Whether the target uses the standard harness. `kind` is `lib`, `bin`, `test`, `example` or `bench`.
    pub(super) fn is_used(&self, kind: &str, name: &str) -> bool {
        if kind == "lib" {
            return !self.library_without;
        }
        !self.without.iter().any(|(without, target)| *without == kind && target == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_targets_that_say_so_bring_their_own_main() {
        let manifest =
            "[lib]\nharness = false\n[[test]]\nname = \"own\"\nharness = false\n[[test]]\nname = \"usual\"\n";
        let harness = Harness::from_manifest(&manifest.parse().expect("a table"));
        assert!(!harness.is_used("lib", "anything"));
        assert!(!harness.is_used("test", "own"));
        assert!(harness.is_used("bench", "own"));
        assert!(harness.is_used("test", "usual"));
        assert!(harness.is_used("test", "unnamed"));
    }
}
