//! From a command to the script that becomes it.

use std::collections::BTreeMap;

use muster_model::spec::CommandSpec;

use super::script::{Argument, Script, SealedScript};
use super::{HOME, USER};
use crate::{EnvironmentError, Variables};

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// From linux/close_range.h.
const CLOSE_RANGE_CLOEXEC: i32 = 4;

/// The variables of a program: the defaults unless only what is declared is wanted, then what is declared.
pub(crate) fn variables(command: &CommandSpec, wanted: Variables) -> BTreeMap<String, String> {
    if wanted == Variables::Exact {
        return command.environment.iter().cloned().collect();
    }
    let defaults = [
        ("HOME", HOME),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", USER),
        ("PATH", PATH_DEFAULT),
        ("SHELL", "/bin/sh"),
        ("TMPDIR", "/tmp"),
        ("USER", USER),
    ];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    defaults.into_iter().chain(command.environment.iter().cloned()).collect()
}

/// Writes the script. Where no control group limits the `processes`, the kernel's count of the user's in the launcher's namespace does.
///
/// # Errors
///
/// A command without a program, or with a zero byte somewhere.
pub(crate) fn make_job(
    command: &CommandSpec,
    wanted: Variables,
    processes: Option<u32>,
) -> Result<SealedScript, EnvironmentError> {
    let Some(program) = command.arguments.first().filter(|program| !program.is_empty()) else {
        return Err(EnvironmentError::Invalid("the command has no program".into()));
    };
    let mut script = Script::default();
    if let Some(processes) = processes {
        // The launcher and the first process are the same user's.
        let limit = script.bytes(&[u64::from(processes) + 2; 2].map(u64::to_ne_bytes).concat());
        let arguments = [0.into(), libc::RLIMIT_NPROC.into(), limit, 0.into()];
        script.call("limit processes", libc::SYS_prlimit64, arguments);
    }
    script.call("start a session", libc::SYS_setsid, []);
    script.call("set the file mode mask", libc::SYS_umask, [0o022.into()]);
    let directory = script.foreign(command.working_directory.as_bytes())?;
    script.call(format!("enter {}", command.working_directory), libc::SYS_chdir, [directory]);
    let null = script.text("/dev/null");
    let arguments = [libc::AT_FDCWD.into(), null, libc::O_RDONLY.into()];
    script.call("open /dev/null", libc::SYS_openat, arguments);
    let null = script.keep();
    script.call("set the standard input", libc::SYS_dup3, [null, 0.into(), 0.into()]);
    // Until then the report goes through one of them.
    let arguments = [3.into(), Argument::Value(u32::MAX.into()), CLOSE_RANGE_CLOEXEC.into()];
    script.call("close what is open with the program's start", libc::SYS_close_range, arguments);

    let variables = variables(command, wanted);
    let arguments = script.table(command.arguments.iter().map(|argument| argument.clone().into_bytes()))?;
    let environment = script.table(variables.iter().map(|(name, value)| format!("{name}={value}").into_bytes()))?;
    let candidates = if program.contains('/') {
        vec![program.clone()]
    } else {
        let directories = variables.get("PATH").map_or(PATH_DEFAULT, String::as_str);
        let joined = |directory: &str| format!("{}/{program}", if directory.is_empty() { "." } else { directory });
        directories.split(':').map(joined).collect()
    };
    let last = candidates.len() - 1;
    for (index, candidate) in candidates.iter().enumerate() {
        let path = script.foreign(candidate.as_bytes())?;
        script.call(format!("start {program}"), libc::SYS_execve, [path, arguments, environment]);
        if index < last {
            script.tolerate(&[libc::ENOENT, libc::ENOTDIR, libc::EACCES]);
        }
    }
    script.seal().map_err(|error| super::step("write a script", error))
}
