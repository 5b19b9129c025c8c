//! Launchers with their control groups, and the places that they have made ahead.
//!
//! A slot runs one place at a time. When a place has been used, its slot waits for the death of everything in it, makes sure of its network,
//! and makes the next place of the same shape, all on a thread of its own: whoever asks for such a place finds one ready. Nothing that a
//! program could have changed is used again; what is, says [`launch`](super::launch): mounts that can't be written, an empty network, a name.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::launch::LaunchScripts;
use super::launcher::{Launcher, Made, Reaped};
use super::plan::Plan;
use super::protocol::Report;
use super::{Identity, step};
use crate::EnvironmentError;
use crate::first_process::Overseer;
use crate::groups::{ControlGroup, GroupUsage, Groups};

/// Slots that are being made ready for their next use, beyond as many as are in use, before another slot waits for one of them instead of
/// being added.
const RETIRING_SLOTS_MAX: usize = 2;

/// How often, and how long apart, it is looked whether a group is empty.
const EMPTY_LOOKS: u32 = 1000;
const EMPTY_PAUSE: Duration = Duration::from_millis(10);

/// A control group that the slot's thread and the users of its places share.
type SharedGroup = Arc<Mutex<Box<dyn ControlGroup>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where slots wait for their next use.
#[derive(Default)]
pub(super) struct FreeSlots {
    slots: Mutex<Slots>,
    returned: Notify,
}

#[derive(Default)]
struct Slots {
    free: Vec<Slot>,
    retiring: usize,
    used: usize,
}

impl Slots {
    /// A slot with a place of the plan, else one with none, else the one that has waited longest.
    fn take(&mut self, plan: &Arc<Plan>) -> Option<Slot> {
        let has_it = |slot: &Slot| slot.ahead.as_ref().is_some_and(|ahead| ahead.is_for(plan));
        let best = self.free.iter().rposition(has_it);
        let best = best.or_else(|| self.free.iter().position(|slot| slot.ahead.is_none()));
        let place = best.or_else(|| (!self.free.is_empty()).then_some(0))?;
        Some(self.free.remove(place))
    }
}

impl FreeSlots {
    /// The best free slot for a plan, if need be after waiting for one that is about to be free; `None` when another is to be made. Either
    /// way one more is in use.
    async fn take(&self, plan: &Arc<Plan>) -> Option<Slot> {
        loop {
            let mut returned = pin!(self.returned.notified());
            // From here on none is missed.
            returned.as_mut().enable();
            {
                let mut slots = lock(&self.slots);
                let taken = slots.take(plan);
                if taken.is_some() || slots.retiring < slots.used + RETIRING_SLOTS_MAX {
                    slots.used += 1;
                    return taken;
                }
            }
            returned.await;
        }
    }

    fn retire(&self) {
        let mut slots = lock(&self.slots);
        slots.used = slots.used.saturating_sub(1);
        slots.retiring += 1;
    }

    /// Ends a retirement, with the slot or without it.
    fn give(&self, slot: Option<Slot>) {
        let mut slots = lock(&self.slots);
        slots.retiring = slots.retiring.saturating_sub(1);
        slots.free.extend(slot);
        drop(slots);
        self.returned.notify_waiters();
    }

    /// A slot that was taken is no more.
    fn forget(&self) {
        let mut slots = lock(&self.slots);
        slots.used = slots.used.saturating_sub(1);
    }
}

/// A place that was made before anybody asked.
struct Ahead {
    made: Made,
    /// Device and inode of each directory beneath it: a path may lead elsewhere later. The mounts hold on to them, so that the numbers stay theirs.
    directories: Vec<(u64, u64)>,
}

impl Ahead {
    fn is_for(&self, plan: &Arc<Plan>) -> bool {
        Arc::ptr_eq(&self.made.plan, plan) && numbers(plan).is_ok_and(|now| now == self.directories)
    }
}

fn numbers(plan: &Plan) -> io::Result<Vec<(u64, u64)>> {
    let number = |path: &std::path::PathBuf| std::fs::symlink_metadata(path).map(|status| (status.dev(), status.ino()));
    plan.directories.iter().map(number).collect()
}

enum Request {
    Make(Arc<Plan>, oneshot::Sender<Result<Made, EnvironmentError>>),
    Reap(u32, oneshot::Sender<io::Result<Reaped>>),
    Connect(u16, oneshot::Sender<io::Result<OwnedFd>>),
    Namespaces(oneshot::Sender<io::Result<[OwnedFd; 2]>>),
    /// Makes the slot ready for its next use and puts it among the free ones.
    Retire {
        place: u32,
        again: Option<Arc<Plan>>,
        slot: Slot,
        free: Arc<FreeSlots>,
    },
}

/// A handle on the thread of a launcher, which ends with it.
pub(super) struct Slot {
    requests: Sender<Request>,
    group: SharedGroup,
    /// The launcher's process.
    launcher: u32,
    ahead: Option<Box<Ahead>>,
}

impl Slot {
    /// Starts a launcher in a group of its own.
    pub(super) fn create(
        scripts: &LaunchScripts,
        identity: Identity,
        groups: &Groups,
    ) -> Result<Self, EnvironmentError> {
        let group = groups.create().map_err(|error| step("make a control group", error))?;
        let launcher = Launcher::start(scripts, identity, &*group)?;
        let group = Arc::new(Mutex::new(group));
        let own = launcher.id();
        let (requests, received) = channel();
        let thread = std::thread::Builder::new().name("muster-slot".into());
        let held = group.clone();
        thread.spawn(move || serve(launcher, &received, held)).map_err(|error| step("start a thread", error))?;
        Ok(Self { requests, group, launcher: own, ahead: None })
    }

    /// See [`Launcher::namespaces`].
    ///
    /// # Errors
    ///
    /// When the launcher is dead.
    pub(super) async fn namespaces(&self) -> Result<[OwnedFd; 2], EnvironmentError> {
        self.ask(Request::Namespaces).await?.map_err(|error| step("find the launcher's network", error))
    }

    /// See [`Launcher::connect`].
    ///
    /// # Errors
    ///
    /// When nobody listens, or the launcher is dead.
    pub(super) async fn connect(&self, port: u16) -> io::Result<OwnedFd> {
        self.ask(|reply| Request::Connect(port, reply)).await.map_err(io::Error::other)?
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, EnvironmentError> {
        let (reply, answer) = oneshot::channel();
        let gone = || step("talk to the launcher", io::Error::other("its thread has ended"));
        self.requests.send(request(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

fn serve(mut launcher: Launcher, requests: &Receiver<Request>, group: SharedGroup) {
    while let Ok(request) = requests.recv() {
        match request {
            Request::Make(plan, reply) => {
                // A place that nobody waits for is dropped, and with it its process.
                let _ = reply.send(launcher.make(&plan));
            }
            Request::Reap(place, reply) => {
                let _ = reply.send(launcher.reap(place));
            }
            Request::Connect(port, reply) => {
                let _ = reply.send(launcher.connect(port));
            }
            Request::Namespaces(reply) => {
                let _ = reply.send(launcher.namespaces());
            }
            Request::Retire { place, again, mut slot, free } => {
                let ready = make_ready(&mut launcher, place, again);
                match ready {
                    Ok(ahead) => {
                        slot.ahead = ahead.map(Box::new);
                        free.give(Some(slot));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a launcher is replaced");
                        free.give(None);
                        break;
                    }
                }
            }
        }
    }
    // The group can be removed only when nobody is in it.
    drop(launcher);
    drop(group);
}

/// Waits until the last place is gone, makes sure of the network, and makes the next place.
fn make_ready(launcher: &mut Launcher, place: u32, again: Option<Arc<Plan>>) -> io::Result<Option<Ahead>> {
    launcher.reap(place)?;
    launcher.renew()?;
    let Some(plan) = again else { return Ok(None) };
    let Ok(directories) = numbers(&plan) else { return Ok(None) };
    // Whoever asks for it next is told why it can't be made.
    Ok(launcher.make(&plan).ok().map(|made| Ahead { made, directories }))
}

/// A slot that goes back to the others when dropped.
pub(super) struct SlotLease {
    slot: Option<Slot>,
    free: Arc<FreeSlots>,
    /// The place that is in it, and what it was made from.
    place: Option<(u32, Arc<Plan>)>,
    /// Whether a place like it will be made ahead.
    is_used: bool,
}

impl SlotLease {
    /// Takes a slot and a place in it: one that was made ahead, or a new one.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub(super) async fn take(
        free: &Arc<FreeSlots>,
        plan: &Arc<Plan>,
        create: impl FnOnce() -> Result<Slot, EnvironmentError> + Send + 'static,
    ) -> Result<(Self, Made), EnvironmentError> {
        let taken = free.take(plan).await;
        // Counted as in use from here to its drop, even if nobody waits for this to end.
        let mut lease = Self { slot: taken, free: free.clone(), place: None, is_used: false };
        if lease.slot.is_none() {
            let made = tokio::task::spawn_blocking(create).await;
            lease.slot = Some(made.map_err(|error| step("make a slot", io::Error::other(error)))??);
        }
        let made = lease.place(plan).await?;
        lease.place = Some((made.number, plan.clone()));
        Ok((lease, made))
    }

    async fn place(&mut self, plan: &Arc<Plan>) -> Result<Made, EnvironmentError> {
        let slot = self.slot.as_mut().ok_or_else(gone)?;
        if let Some(ahead) = slot.ahead.take() {
            if ahead.is_for(plan) {
                return Ok(ahead.made);
            }
            let number = ahead.made.number;
            drop(ahead);
            slot.ask(|reply| Request::Reap(number, reply)).await?.map_err(|error| step("reap a sandbox", error))?;
        }
        slot.ask(|reply| Request::Make(plan.clone(), reply)).await?
    }

    /// Sets the limits and notes the counters, just before the program starts.
    ///
    /// # Errors
    ///
    /// A control file that can't be written.
    pub(super) fn begin(&mut self, memory_bytes: u64, processes: u32) -> Result<(), EnvironmentError> {
        self.is_used = true;
        let slot = self.slot.as_ref().ok_or_else(gone)?;
        lock(&slot.group).begin(memory_bytes, processes).map_err(|error| step("limit memory and processes", error))
    }

    /// What was used since.
    ///
    /// # Errors
    ///
    /// When the slot was given back.
    pub(super) fn usage(&self) -> Result<GroupUsage, EnvironmentError> {
        Ok(lock(&self.slot.as_ref().ok_or_else(gone)?.group).usage())
    }

    /// The processes in the group besides the launcher.
    fn others(&self) -> Result<Vec<u32>, EnvironmentError> {
        let slot = self.slot.as_ref().ok_or_else(gone)?;
        let mut processes = lock(&slot.group).processes();
        processes.retain(|process| *process != slot.launcher);
        Ok(processes)
    }

    /// Waits until nobody is left but the launcher. When the first process is reaped everybody is dead, so this sees that it is so.
    ///
    /// # Errors
    ///
    /// When somebody is left for too long.
    pub(super) async fn wait_until_empty(&self) -> Result<(), EnvironmentError> {
        for _ in 0..EMPTY_LOOKS {
            if self.others()?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(EMPTY_PAUSE).await;
        }
        Err(step("wait until the sandbox is empty", io::ErrorKind::TimedOut.into()))
    }

    /// Waits for the death of the first process.
    ///
    /// # Errors
    ///
    /// When the launcher is dead.
    pub(super) async fn reap(&self) -> Result<Reaped, EnvironmentError> {
        let (Some(slot), Some((number, _))) = (&self.slot, &self.place) else { return Err(gone()) };
        slot.ask(|reply| Request::Reap(*number, reply)).await?.map_err(|error| step("reap the sandbox", error))
    }
}

fn gone() -> EnvironmentError {
    EnvironmentError::Invalid("the slot was given back".into())
}

impl Overseer for SlotLease {
    fn usage(&self) -> GroupUsage {
        Self::usage(self).unwrap_or_default()
    }

    fn is_enough(&self, report: &Report) -> bool {
        super::is_alone(report)
    }

    fn freeze(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| lock(&slot.group).freeze())
    }

    fn is_frozen(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| lock(&slot.group).is_frozen())
    }

    fn thaw(&self) {
        if let Some(slot) = &self.slot {
            lock(&slot.group).thaw();
        }
    }

    fn processes(&self) -> Vec<u32> {
        self.others().unwrap_or_default()
    }
}

impl Drop for SlotLease {
    /// Gives it back as soon as everything in the place is dead. The first process has told of its end by then, or was killed.
    fn drop(&mut self) {
        let (Some(slot), Some((place, plan))) = (self.slot.take(), self.place.take()) else {
            self.free.forget();
            return;
        };
        self.free.retire();
        let requests = slot.requests.clone();
        let free = self.free.clone();
        let again = self.is_used.then_some(plan);
        if requests.send(Request::Retire { place, again, slot, free }).is_err() {
            self.free.give(None);
        }
    }
}
