//! The handle of a launcher, the small program from which the first processes of sandboxes are cloned.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::launch::LaunchScripts;
use super::message::{receive, send, socket_pair};
use super::plan::Plan;
use super::protocol::{Answer, Report, ReportKind, Request, RequestKind};
use super::script::{SealedScript, seal};
use super::{Identity, JOB_ID, step};
use crate::EnvironmentError;
use crate::collect::{Root, Uppers};
use crate::first_process::FirstProcess;
use crate::groups::ControlGroup;

/// The program, as the build script made it.
pub(crate) const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));

/// A place that is made, whose first process waits for the program.
pub(super) struct Made {
    /// Its number with its launcher.
    pub(super) number: u32,
    pub(super) plan: Arc<Plan>,
    pub(super) process: FirstProcess,
    pub(super) report: OwnedFd,
    pub(super) roots: Vec<Root>,
    /// What the program changes.
    pub(super) uppers: Option<Uppers>,
}

/// What became of a first process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reaped {
    /// Processor time of it and its reaped children.
    pub(super) cpu: Duration,
}

/// A launcher that is ready.
pub(super) struct Launcher {
    child: Child,
    /// `None` only while it is dropped.
    control: Option<OwnedFd>,
    places: u32,
    /// Its network is others' too.
    is_joined: bool,
}

/// The program in a sealed file in memory: it can't be changed, and nothing that runs from it leads to a file of the host.
pub(super) fn program() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"muster-launcher", flags)?);
    file.write_all(PROGRAM)?;
    seal(&file)?;
    Ok(file)
}

impl Launcher {
    /// Starts one in a control group and makes it ready.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub(super) fn start(
        scripts: &LaunchScripts,
        identity: Identity,
        group: &dyn ControlGroup,
    ) -> Result<Self, EnvironmentError> {
        let failed = |error| step("start a launcher", error);
        let (control, theirs) = socket_pair().map_err(failed)?;
        let path = format!("/proc/self/fd/{}", scripts.program.as_raw_fd());
        let mut command = Command::new(path);
        command.env_clear().current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(failed)?;
        let mut launcher = Self { child, control: Some(control), places: 0, is_joined: scripts.is_joined };
        let id = launcher.child.id();
        group.enter(id).map_err(|error| step("limit memory and processes", error))?;
        launcher.play(&scripts.leave)?;
        if !scripts.is_joined {
            write_maps(id, identity).map_err(|error| step("map the program's user", error))?;
        }
        launcher.play(&scripts.furnish)?;
        Ok(launcher)
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    fn control(&self) -> io::Result<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn ask(&self, kind: RequestKind, place: u32, descriptors: &[BorrowedFd<'_>]) -> io::Result<Answer> {
        send(self.control()?, &Request { kind: kind as u32, place }, descriptors)?;
        let answer = receive::<Answer>(self.control()?)?;
        answer.map(|(answer, _)| answer).ok_or_else(|| io::Error::other("the launcher died"))
    }

    fn play(&mut self, script: &SealedScript) -> Result<(), EnvironmentError> {
        let answer = self.ask(RequestKind::Play, 0, &[script.as_fd()]);
        let answer = answer.map_err(|error| step("talk to the launcher", error))?;
        match answer.errno {
            0 => Ok(()),
            errno => Err(step(script.name(answer.call), io::Error::from_raw_os_error(errno))),
        }
    }

    /// Makes a place and waits for it.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub(super) fn make(&mut self, plan: &Arc<Plan>) -> Result<Made, EnvironmentError> {
        self.places = self.places.wrapping_add(1);
        let number = self.places;
        let talk = |error| step("talk to the launcher", error);
        let (report, theirs) = socket_pair().map_err(talk)?;
        let request = Request { kind: RequestKind::Place as u32, place: number };
        send(self.control().map_err(talk)?, &request, &[plan.setup.as_fd(), theirs.as_fd()]).map_err(talk)?;
        drop(theirs);
        let received = receive::<Report>(report.as_fd()).map_err(talk)?;
        let Some((message, descriptors)) = received else {
            return Err(step("make a sandbox", io::Error::other("its first process died")));
        };
        let (count, mut descriptors) = (descriptors.len(), descriptors.into_iter());
        match descriptors.next() {
            Some(descriptor) if message.kind == ReportKind::Ready as u32 => {
                // The last one is the tmpfs; of the roots some at the end may not have been opened.
                let (paths, count) = (plan.roots.iter().cloned(), count.saturating_sub(2));
                let roots = paths.zip(descriptors.by_ref().take(count));
                let roots = roots.map(|(path, directory)| Root { path, directory }).collect();
                let overlays = || plan.overlays.clone();
                let uppers = descriptors.next().map(|scratch| Uppers { scratch, overlays: overlays() });
                Ok(Made { number, plan: plan.clone(), process: FirstProcess { descriptor }, report, roots, uppers })
            }
            _ if message.call == u32::MAX => {
                Err(step("clone a first process", io::Error::from_raw_os_error(message.errno)))
            }
            _ => Err(step(plan.setup.name(message.call), io::Error::from_raw_os_error(message.errno))),
        }
    }

    /// Waits for the death of a first process that was killed or has told of its end.
    ///
    /// # Errors
    ///
    /// When the launcher is dead.
    pub(super) fn reap(&mut self, place: u32) -> io::Result<Reaped> {
        let answer = self.ask(RequestKind::Reap, place, &[])?;
        Ok(Reaped { cpu: Duration::from_nanos(answer.cpu_nanoseconds) })
    }

    /// The user and the network namespace that it lives in, in this order.
    ///
    /// # Errors
    ///
    /// When it is dead.
    pub(super) fn namespaces(&self) -> io::Result<[OwnedFd; 2]> {
        let open = |name| File::open(format!("/proc/{}/ns/{name}", self.child.id())).map(OwnedFd::from);
        Ok([open("user")?, open("net")?])
    }

    /// A socket that is connected to a port of its loopback, or about to be; it does not block.
    ///
    /// # Errors
    ///
    /// When nobody listens, or the launcher is dead.
    pub(super) fn connect(&self, port: u16) -> io::Result<OwnedFd> {
        send(self.control()?, &Request { kind: RequestKind::Connect as u32, place: port.into() }, &[])?;
        let answer = receive::<Answer>(self.control()?)?;
        let (answer, descriptors) = answer.ok_or_else(|| io::Error::other("the launcher died"))?;
        match (answer.errno, descriptors.into_iter().next()) {
            (0, Some(socket)) => Ok(socket),
            (errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Replaces the network if it was used, and tells whether it was. A network that others share stays as it is.
    ///
    /// # Errors
    ///
    /// When it can't be replaced; the launcher is of no use then.
    pub(super) fn renew(&mut self) -> io::Result<bool> {
        if self.is_joined {
            return Ok(false);
        }
        let answer = self.ask(RequestKind::Renew, 0, &[])?;
        match answer.errno {
            0 => Ok(answer.renewed != 0),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It kills its children and ends when its socket is closed; if it can't, they die with it.
        drop(self.control.take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "cannot reap a launcher");
        }
    }
}

fn write_maps(process: u32, identity: Identity) -> io::Result<()> {
    let Identity { uid, gid, is_root } = identity;
    if !is_root {
        fs::write(format!("/proc/{process}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{process}/uid_map"), format!("{JOB_ID} {uid} 1"))?;
    fs::write(format!("/proc/{process}/gid_map"), format!("{JOB_ID} {gid} 1"))
}
