//! Identities. Each is a number of its own type, so that one is never taken for another.

use core::fmt;

macro_rules! identity {
    ($(#[$documentation:meta])* $name:ident($number:ty)) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }
    };
}

identity! {
    /// One execution of a test command on one source tree; counted from 1 by the coordinator's ledger.
    RunId(u64)
}
identity! {
    /// The position of a target in its run.
    TargetIndex(u32)
}
identity! {
    /// One submitted action of the Remote Execution API; counted by the coordinator since its start.
    ActionId(u64)
}
identity! {
    /// The actions of one client that share its place in the queue: those of one tool invocation; counted by the coordinator since its start.
    InvocationId(u64)
}
identity! {
    /// The position of a case in its target's discovered list.
    CaseIndex(u32)
}
identity! {
    /// An agent; drawn at random when its data directory is made and kept there.
    AgentId(u64)
}
identity! {
    /// The fencing number of one attempt under one lease.
    ///
    /// Strictly increasing over the whole life of a ledger and written there before the lease is sent, so an epoch also *names* its
    /// attempt: a report under an epoch that is no longer open is fenced.
    Epoch(u64)
}
