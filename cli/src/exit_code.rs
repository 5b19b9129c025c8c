//! What `muster` tells its caller: one number for each class of ending.

use muster_model::outcome::RunOutcome;

/// The exit codes of `muster`; `docs/exit-codes.md` explains them to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Every planned case passed or was skipped; flaky cases and interference included.
    Passed = 0,
    /// At least one test failed, crashed, or passed one of its limits.
    TestFailed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The fleet could not keep its promise, or could not be reached, or has no agent that can run it.
    FleetFault = 3,
    /// There was nothing to run: no project, no test, or no case that the filters match.
    NothingToRun = 4,
    /// The project could not be prepared: its build failed, or its configuration is wrong.
    ProjectFailed = 5,
    /// A report could not be written.
    ReportFailed = 6,
    /// Cancelled by the user, as a shell reports a program that SIGINT ended.
    Cancelled = 130,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 8] = [
        Self::Passed,
        Self::TestFailed,
        Self::Usage,
        Self::FleetFault,
        Self::NothingToRun,
        Self::ProjectFailed,
        Self::ReportFailed,
        Self::Cancelled,
    ];

    /// The number that the process leaves with.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What it means, in a few words, for the help text.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Passed => "every case passed",
            Self::TestFailed => "a test failed",
            Self::Usage => "the command line is wrong",
            Self::FleetFault => "the fleet's fault, or no fleet that can run it",
            Self::NothingToRun => "nothing to run",
            Self::ProjectFailed => "the build failed, or the project's configuration is wrong",
            Self::ReportFailed => "a report could not be written",
            Self::Cancelled => "cancelled",
        }
    }

    /// The code for a run's outcome as the wire names it; an outcome nobody knows is the fleet's fault, never a pass.
    pub fn of_outcome(outcome: &str) -> Self {
        [
            (RunOutcome::Passed, Self::Passed),
            (RunOutcome::Failed, Self::TestFailed),
            (RunOutcome::Fault, Self::FleetFault),
            (RunOutcome::Cancelled, Self::Cancelled),
            (RunOutcome::NothingToRun, Self::NothingToRun),
        ]
        .into_iter()
        .find(|(known, _)| known.name() == outcome)
        .map_or(Self::FleetFault, |(_, code)| code)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// The table of exit codes, as `--help` ends with it.
pub fn help_table() -> String {
    let mut table = String::from("Exit codes:\n");
    for code in ExitCode::ALL {
        table.push_str(&format!("  {:>3}  {}\n", code.number(), code.meaning()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_code_and_an_unknown_one_never_passes() {
        assert_eq!(ExitCode::of_outcome("passed"), ExitCode::Passed);
        assert_eq!(ExitCode::of_outcome("failed"), ExitCode::TestFailed);
        assert_eq!(ExitCode::of_outcome("fault"), ExitCode::FleetFault);
        assert_eq!(ExitCode::of_outcome("cancelled"), ExitCode::Cancelled);
        assert_eq!(ExitCode::of_outcome("nothing_to_run"), ExitCode::NothingToRun);
        assert_eq!(ExitCode::of_outcome("running"), ExitCode::FleetFault);
        assert_eq!(ExitCode::of_outcome(""), ExitCode::FleetFault);
    }

    #[test]
    fn the_documented_table_is_the_one_in_the_code() {
        let page = include_str!("../../docs/exit-codes.md");
        for code in ExitCode::ALL {
            let row = format!("| {} | {} |", code.number(), code.meaning());
            assert!(page.contains(&row), "docs/exit-codes.md lacks the row {row:?}");
        }
        assert_eq!(
            page.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit()).count(),
            8
        );
    }

    #[test]
    fn the_help_ends_with_the_table() {
        insta::assert_snapshot!(help_table(), @r"
        Exit codes:
            0  every case passed
            1  a test failed
            2  the command line is wrong
            3  the fleet's fault, or no fleet that can run it
            4  nothing to run
            5  the build failed, or the project's configuration is wrong
            6  a report could not be written
          130  cancelled
        ");
    }
}
