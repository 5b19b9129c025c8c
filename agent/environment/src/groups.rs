//! Limits that hold for a whole environment, through control groups of version 1 or 2, or none.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// What a group can tell about one use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupUsage {
    /// Peak memory, in bytes; 0 where the kernel can't tell.
    pub(crate) memory_peak_bytes: u64,
    /// Processor time; `None` where the kernel can't tell.
    pub(crate) cpu: Option<Duration>,
    /// Processes killed for want of memory.
    pub(crate) memory_kills: u64,
}

/// One group, used by one environment at a time, again and again. Dropping it removes it.
pub(crate) trait ControlGroup: Send {
    /// Puts the calling thread, and so all that it clones, into the group, where that is the way.
    fn enter(&self) -> io::Result<()>;
    /// The directory to clone into, where that is the way.
    fn clone_into(&self) -> Option<RawFd>;
    /// Sets the limits and notes the counters.
    fn begin(&mut self, memory_bytes: u64, processes: u32) -> io::Result<()>;
    /// What was used since `begin`.
    fn usage(&self) -> GroupUsage;
}

/// No group: no limits.
pub(crate) struct NoGroup;

impl ControlGroup for NoGroup {
    fn enter(&self) -> io::Result<()> {
        Ok(())
    }

    fn clone_into(&self) -> Option<RawFd> {
        None
    }

    fn begin(&mut self, _memory_bytes: u64, _processes: u32) -> io::Result<()> {
        Ok(())
    }

    fn usage(&self) -> GroupUsage {
        GroupUsage::default()
    }
}
