//! Commands of the Remote Execution API, checked before anything is done with them.

use std::collections::HashSet;

use muster_model::limits::{
    COMMAND_BYTES_MAX, COMMAND_STRINGS_MAX, NAME_BYTES_MAX, OUTPUT_PATHS_MAX, PATH_BYTES_MAX, TREE_DEPTH_MAX,
};

use super::{ConvertError, at_most};
use crate::reapi;

impl reapi::Command {
    /// Refuses what can't be run, what two readers could understand differently, and every path that could lead out of the input root.
    ///
    /// Lists need not be sorted, although the specification asks clients for it: the order changes the digest, not what is meant, and
    /// clients exist that leave the paths in the order of their command line. Nothing may occur twice.
    ///
    /// # Errors
    ///
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), ConvertError> {
        self.check_strings()?;
        check_relative("working_directory", &self.working_directory)?;
        #[expect(deprecated, reason = "clients before 2.1 send nothing else")]
        let outputs = [
            ("output_paths", &self.output_paths),
            ("output_files", &self.output_files),
            ("output_directories", &self.output_directories),
        ];
        for (field, paths) in outputs {
            at_most(field, paths.len(), OUTPUT_PATHS_MAX)?;
            let mut seen = HashSet::new();
            for path in paths {
                check_relative(field, path)?;
                // Where the working directory is deep, the whole path is what counts.
                at_most(field, self.working_directory.len() + 1 + path.len(), PATH_BYTES_MAX)?;
                if !seen.insert(path) {
                    return Err(ConvertError::new(field, format!("{:?} occurs twice", shortened(path))));
                }
                if path.is_empty() && field == "output_files" {
                    return Err(ConvertError::new(field, "the working directory is not a file"));
                }
            }
        }
        Ok(())
    }

    fn check_strings(&self) -> Result<(), ConvertError> {
        if self.arguments.first().is_none_or(String::is_empty) {
            return Err(ConvertError::new("arguments", "names no program"));
        }
        at_most("arguments", self.arguments.len() + self.environment_variables.len(), COMMAND_STRINGS_MAX)?;
        let mut bytes = 0;
        for argument in &self.arguments {
            bytes += argument.len() + 1;
            if argument.contains('\0') {
                return Err(ConvertError::new("arguments", format!("{:?} has a NUL in it", shortened(argument))));
            }
        }
        let mut names = HashSet::new();
        for variable in &self.environment_variables {
            let (name, value) = (&variable.name, &variable.value);
            bytes += name.len() + value.len() + 2;
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let why = format!("{:?} is not a variable", shortened(name));
                return Err(ConvertError::new("environment_variables", why));
            }
            if !names.insert(name) {
                let why = format!("{:?} occurs twice", shortened(name));
                return Err(ConvertError::new("environment_variables", why));
            }
        }
        at_most("arguments", bytes, COMMAND_BYTES_MAX)
    }
}

/// Refuses what is not a normalised relative path. The empty one is where it starts.
fn check_relative(field: &'static str, path: &str) -> Result<(), ConvertError> {
    at_most(field, path.len(), PATH_BYTES_MAX)?;
    if path.is_empty() {
        return Ok(());
    }
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= NAME_BYTES_MAX;
    if path.contains('\0') || !path.split('/').all(is_name) {
        return Err(ConvertError::new(field, format!("{:?} is not a normalised relative path", shortened(path))));
    }
    at_most(field, path.split('/').count(), TREE_DEPTH_MAX)
}

/// The beginning of a text, for messages.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reapi::command::EnvironmentVariable;

    fn command() -> reapi::Command {
        reapi::Command { arguments: vec!["cc".into()], ..reapi::Command::default() }
    }

    fn with_outputs(paths: &[&str]) -> Result<(), ConvertError> {
        reapi::Command { output_paths: paths.iter().map(ToString::to_string).collect(), ..command() }.check()
    }

    fn with_variables(variables: &[(&str, &str)]) -> Result<(), ConvertError> {
        let of = |(name, value): &(&str, &str)| EnvironmentVariable { name: (*name).into(), value: (*value).into() };
        reapi::Command { environment_variables: variables.iter().map(of).collect(), ..command() }.check()
    }

    #[test]
    fn ordinary_commands_pass() {
        with_outputs(&[]).unwrap();
        with_outputs(&["out/b.o", "out/a.o", "", "C:\\odd", "…", "..a", "a.."]).unwrap();
        with_variables(&[("PATH", "/bin"), ("HOME", ""), ("A", "=")]).unwrap();
        reapi::Command { working_directory: "a/b".into(), ..command() }.check().unwrap();
    }

    #[test]
    fn paths_that_lead_elsewhere_or_mean_two_things_are_refused() {
        let long = format!("{}/{}", "a/".repeat(10), "x".repeat(NAME_BYTES_MAX + 1));
        for path in ["/", "/a", "..", "a/..", "../a", ".", "a/.", "a//b", "a/", "a/../../b", "a\0b", &long] {
            assert_eq!(with_outputs(&[path]).unwrap_err().field, "output_paths", "{path:?}");
            let moved = reapi::Command { working_directory: path.into(), ..command() };
            assert_eq!(moved.check().unwrap_err().field, "working_directory", "{path:?}");
        }
        assert_eq!(with_outputs(&["a", "b", "a"]).unwrap_err().to_string(), "output_paths: \"a\" occurs twice");
        let deep = vec!["a"; TREE_DEPTH_MAX + 1].join("/");
        with_outputs(&[&deep]).unwrap_err();
        with_outputs(&[&deep[2..]]).unwrap();
        let half = vec!["x".repeat(200); PATH_BYTES_MAX / 402].join("/");
        let both = reapi::Command { working_directory: half.clone(), output_paths: vec![half.clone()], ..command() };
        both.check().unwrap();
        let longer = format!("{half}/{half}");
        reapi::Command { output_paths: vec![longer], ..both }.check().unwrap_err();
    }

    #[test]
    #[expect(deprecated, reason = "clients before 2.1 send nothing else")]
    fn the_older_fields_are_checked_as_well() {
        let files = |paths: &[&str]| reapi::Command {
            output_files: paths.iter().map(ToString::to_string).collect(),
            ..command()
        };
        files(&["a"]).check().unwrap();
        for bad in [&["../a"][..], &[""], &["a", "a"]] {
            files(bad).check().unwrap_err();
        }
        reapi::Command { output_directories: vec!["/".into()], ..command() }.check().unwrap_err();
        reapi::Command { output_directories: vec![String::new()], ..command() }.check().unwrap();
    }

    #[test]
    fn what_no_program_can_be_started_with_is_refused() {
        let with = |arguments: &[&str]| reapi::Command {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            ..reapi::Command::default()
        };
        for bad in [&[][..], &[""], &["a\0"], &["a", "\0"]] {
            with(bad).check().unwrap_err();
        }
        with(&["a", ""]).check().unwrap();
        for bad in [&[("", "x")][..], &[("a=b", "x")], &[("a\0", "x")], &[("a", "\0")], &[("a", "1"), ("a", "1")]] {
            with_variables(bad).unwrap_err();
        }
    }

    #[test]
    fn limits_hold() {
        let many: Vec<String> = (0..=OUTPUT_PATHS_MAX).map(|number| number.to_string()).collect();
        reapi::Command { output_paths: many, ..command() }.check().unwrap_err();
        let most = vec!["a".to_owned(); COMMAND_STRINGS_MAX];
        reapi::Command { arguments: most.clone(), ..command() }.check().unwrap();
        let more = [most, vec!["a".to_owned()]].concat();
        reapi::Command { arguments: more, ..command() }.check().unwrap_err();
        let large = "x".repeat(COMMAND_BYTES_MAX);
        reapi::Command { arguments: vec!["a".into(), large], ..command() }.check().unwrap_err();
    }
}
