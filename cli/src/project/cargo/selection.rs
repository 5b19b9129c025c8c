//! Which packages the user's flags select, as far as cargo's messages do not say it: doctests leave no binary.

use globset::Glob;

use super::messages::{Metadata, Package};
use crate::project::Suite;

/// The flags that select targets; with any of them `cargo test` runs no doctests (`cargo-test(1)`, "Target Selection").
const TARGET_FLAGS: [&str; 10] = [
    "--lib",
    "--bins",
    "--bin",
    "--tests",
    "--test",
    "--examples",
    "--example",
    "--benches",
    "--bench",
    "--all-targets",
];

/// The selected packages whose doctests `cargo test` would run.
pub(super) fn packages_with_unrun_doctests<'a>(suite: &Suite, metadata: &'a Metadata) -> Vec<&'a Package> {
    let arguments = &suite.plan.cargo_arguments;
    if arguments.iter().any(|argument| TARGET_FLAGS.contains(&name_of(argument))) {
        return Vec::new();
    }
    let named = values(arguments, &["-p", "--package"]);
    let excluded = values(arguments, &["--exclude"]);
    let everything = arguments.iter().any(|argument| argument == "--workspace" || argument == "--all");
    let here = suite.directory.join("Cargo.toml");
    let is_member_here = metadata.packages.iter().any(|package| package.manifest_path == here);
    let is_selected = |package: &Package| {
        if !named.is_empty() {
            return named.iter().any(|spec| is_meant(spec, &package.name));
        }
        if everything {
            return !excluded.iter().any(|spec| is_meant(spec, &package.name));
        }
        if is_member_here {
            package.manifest_path == here
        } else {
            metadata.workspace_default_members.contains(&package.id)
        }
    };
    metadata.packages.iter().filter(|package| package.has_doctests() && is_selected(package)).collect()
}

fn name_of(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(name, _)| name)
}

/// The values of a flag in its forms `--flag VALUE`, `--flag=VALUE` and `-fVALUE`.
pub(super) fn values(arguments: &[String], flags: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if flags.contains(&argument.as_str()) {
            found.extend(arguments.next().cloned());
        } else if let Some(value) = flags.iter().find_map(|flag| {
            let rest = argument.strip_prefix(flag)?;
            if flag.starts_with("--") { rest.strip_prefix('=') } else { Some(rest) }
        }) {
            found.push(value.to_owned());
        }
    }
    found
}

/// Whether a package id specification (a name, perhaps with a version or a glob) means the package.
fn is_meant(spec: &str, name: &str) -> bool {
    let spec = spec.rsplit(['#', '/']).next().unwrap_or(spec);
    let spec = spec.split(['@', ':']).next().unwrap_or(spec);
    spec == name || Glob::new(spec).is_ok_and(|glob| glob.compile_matcher().is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_flag_has_its_value() {
        let arguments = ["-p", "a", "--package=b", "-pc", "--release", "--package", "d"].map(str::to_owned);
        assert_eq!(values(&arguments, &["-p", "--package"]), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_package_is_meant_by_name_version_or_glob() {
        assert!(is_meant("one", "one"));
        assert!(is_meant("one@1.0.0", "one"));
        assert!(is_meant("path+file:///x/one#one@1.0.0", "one"));
        assert!(is_meant("o*", "one"));
        assert!(!is_meant("one", "once"));
    }
}
