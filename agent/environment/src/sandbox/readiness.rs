//! Whether sandboxes can be made here, found by making one, and what to do when they can't.

use std::fs;
use std::io;

use muster_model::spec::{CommandSpec, Profile};
use tokio::sync::mpsc;

use super::{SandboxEnvironment, launch};
use crate::groups::Groups;
use crate::{Environment, EnvironmentError, EnvironmentSpec, ExitStatus, KillSwitch, Readiness};

const PROBE_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
const PROBE_PROCESSES: u32 = 16;
const PROBE_OUTPUT_BYTES: u64 = 4096;
const ELSEWHERE: &str = "--environment host";

/// The switches that distributions use to forbid user namespaces, with the value that forbids.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// Makes a sandbox and runs a program in it, on a thread with a runtime of its own, since the caller may be inside one.
pub(super) fn check(driver: &SandboxEnvironment) -> Result<Readiness, EnvironmentError> {
    let probed = std::thread::scope(|scope| scope.spawn(|| probe(driver)).join());
    match probed {
        Ok(Ok(ExitStatus::Code(0))) => Ok(Readiness { notes: notes(driver) }),
        Ok(Ok(status)) => Err(unsupported(format!("/bin/true ended with {status:?}"), ELSEWHERE.into())),
        Ok(Err(error)) => Err(explain(error, &|name| fs::read_to_string(switch_path(name)).ok())),
        Err(_panic) => Err(unsupported("the probe failed".into(), ELSEWHERE.into())),
    }
}

fn probe(driver: &SandboxEnvironment) -> Result<ExitStatus, EnvironmentError> {
    let spec = EnvironmentSpec {
        with_base: true,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: vec!["/bin/true".into()],
            environment: Vec::new(),
            working_directory: "/tmp".into(),
        },
        memory_bytes: PROBE_MEMORY_BYTES,
        processes: PROBE_PROCESSES,
        output_bytes: PROBE_OUTPUT_BYTES,
        profile: Profile::Strict,
        collect: Vec::new(),
        collector: None,
        variables: Default::default(),
        network: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| super::step("start a runtime", error))?;
    runtime.block_on(async {
        let prepared = driver.prepare(spec).await?;
        let (sender, _receiver) = mpsc::channel(1);
        Ok(driver.run(prepared, sender, KillSwitch::default()).await?.status)
    })
}

fn notes(driver: &SandboxEnvironment) -> Vec<String> {
    match &*driver.groups {
        Groups::None(reason) => vec![format!("memory and the number of processes are not limited: {reason}")],
        Groups::One(_) | Groups::Two(_) => Vec::new(),
    }
}

/// The switches that forbid user namespaces here, with the values that allow them.
pub(crate) fn forbidding_switches() -> Vec<(String, String)> {
    let is_forbidding = |(name, forbidding, _): &(&str, &str, &str)| {
        fs::read_to_string(switch_path(name)).is_ok_and(|value| value.trim() == *forbidding)
    };
    // Two of them bind only ordinary users.
    let binds = |name: &str| name.starts_with("user.") || !nix::unistd::geteuid().is_root();
    let found = SWITCHES.into_iter().filter(|switch| binds(switch.0)).filter(is_forbidding);
    found.map(|(name, _, allowing)| (name.to_owned(), allowing.to_owned())).collect()
}

fn switch_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

fn unsupported(feature: String, remedy: String) -> EnvironmentError {
    EnvironmentError::Unsupported { feature, remedy }
}

/// Names the missing feature behind a failed step.
fn explain(error: EnvironmentError, switch: &dyn Fn(&str) -> Option<String>) -> EnvironmentError {
    let EnvironmentError::Step { step, source } = &error else { return error };
    let refused = [libc::EPERM, libc::EACCES, libc::ENOSPC, libc::EUSERS].map(Some).contains(&source.raw_os_error());
    if refused {
        for (name, forbidding, allowing) in SWITCHES {
            if switch(name).is_some_and(|value| value.trim() == forbidding) {
                return unsupported(
                    format!("user namespaces are switched off by {name} = {forbidding}"),
                    format!("sudo sysctl -w {name}={allowing}, or {ELSEWHERE}"),
                );
            }
        }
    }
    let remedy = match step.as_str() {
        launch::UNSHARE | "clone a first process" => {
            "Linux 5.11 or newer outside a container that forbids namespaces (docker run --security-opt seccomp=unconfined)"
        }
        "make an overlay" => "sudo modprobe overlay, on Linux 5.11 or newer",
        "make /proc" => "run the agent where /proc is whole (docker run --security-opt systempaths=unconfined)",
        _ => return unsupported(describe(step, source), ELSEWHERE.into()),
    };
    unsupported(describe(step, source), format!("{remedy}, or {ELSEWHERE}"))
}

fn describe(step: &str, source: &io::Error) -> String {
    format!("cannot {step}: {source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(step: &str, errno: i32, switched: &str) -> String {
        let error = super::super::step(step, io::Error::from_raw_os_error(errno));
        let switch = |name: &str| {
            let (_, forbidding, allowing) = SWITCHES.iter().find(|switch| switch.0 == name)?;
            Some(if name == switched { format!("{forbidding}\n") } else { format!("{allowing}\n") })
        };
        match explain(error, &switch) {
            EnvironmentError::Unsupported { feature, remedy } => format!("{feature}; {remedy}"),
            other => other.to_string(),
        }
    }

    #[test]
    fn every_switch_is_named_with_its_remedy() {
        let step = launch::UNSHARE;
        assert_eq!(
            explained(step, libc::EPERM, "kernel.unprivileged_userns_clone"),
            "user namespaces are switched off by kernel.unprivileged_userns_clone = 0; \
             sudo sysctl -w kernel.unprivileged_userns_clone=1, or --environment host"
        );
        assert!(explained(step, libc::ENOSPC, "user.max_user_namespaces").contains("user.max_user_namespaces=15000"));
        let restricted = "kernel.apparmor_restrict_unprivileged_userns";
        assert!(explained("make the mounts private", libc::EACCES, restricted).contains("apparmor"));
    }

    #[test]
    fn a_missing_overlay_is_named() {
        assert_eq!(
            explained("make an overlay", libc::ENODEV, ""),
            "cannot make an overlay: No such device (os error 19); sudo modprobe overlay, on Linux 5.11 or newer, or --environment host"
        );
    }
}
