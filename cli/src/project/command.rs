//! The command suite: any program that shards itself by Bazel's variables and writes JUnit XML.

use muster_model::spec::{CommandSpec, FrameworkKind, TargetSpec};

use super::layer::LayerBuilder;
use super::preparation::Preparation;
use super::{ProjectError, Suite, files};

/// Describes the suite as one target.
pub(super) fn describe(suite: &Suite, preparation: &mut Preparation) -> Result<(), ProjectError> {
    let mut layer = LayerBuilder::new("package");
    files::add_package(&mut layer, &suite.directory, &[])?;
    let layers = [Some(preparation.finish_layer(layer)?), preparation.data_layer(suite)?];
    let mut arguments = suite.plan.command.clone();
    // A program named by a path is one of the project's files; any other name is looked up where the command runs.
    if let Some(program) = arguments.first_mut().filter(|program| program.contains('/')) {
        *program = files::lexical_join(&suite.directory, program).display().to_string();
    }
    arguments.extend(suite.plan.settings.arguments.iter().cloned());
    let services = preparation.services(suite)?;
    preparation.add_target(TargetSpec {
        name: format!("{} (command)", suite.name),
        suite: suite.name.clone(),
        framework: FrameworkKind::Command,
        command: CommandSpec {
            arguments,
            environment: suite.plan.settings.environment_variables.clone().into_iter().collect(),
            working_directory: suite.directory.display().to_string(),
        },
        layers: layers.into_iter().flatten().collect(),
        requirements: suite.requirements(),
        limits: suite.limits(),
        shards: suite.plan.shards.max(1),
        policy: suite.policy(),
        services,
    });
    Ok(())
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
