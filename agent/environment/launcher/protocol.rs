//! What the agent and the launcher say to each other. Both compile this file; it depends on nothing.
//!
//! Messages are structures of fixed size on sockets that keep messages apart. They never leave the machine, and both programs are built
//! together, so that they are sent as they lie in memory.

/// The socket on which a launcher gets its requests.
pub(crate) const CONTROL: i32 = 0;
/// The socket on which a first process talks to the agent.
pub(crate) const REPORT: i32 = 3;
/// The counters of what the first process and the dead below it have read and written (`proc_pid_io(5)`), kept open from before it is hidden.
pub(crate) const COUNTERS: i32 = 4;
/// The load of the machine as the first process sees it, whose last number is that of the newest process of its namespace (`proc_loadavg(5)`).
pub(crate) const LOAD: i32 = 5;
/// The one tmpfs of a sandbox, which holds what its program changes.
pub(crate) const SCRATCH: i32 = 99;
/// Descriptors that one message can carry.
pub(crate) const DESCRIPTORS_MAX: usize = 40;
/// Results that a script can keep.
pub(crate) const REGISTERS: usize = 64;
/// First processes that one launcher can have at one time.
pub(crate) const PLACES_MAX: usize = 4;

/// What the agent asks of a launcher. Each kind but [`RequestKind::Place`] is answered with an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RequestKind {
    /// Play a script. Carries the script.
    Play = 1,
    /// Start a first process. Carries its setup script and its end of the report socket; it answers there itself.
    Place = 2,
    /// Wait for the death of the first process of a place, which was killed or is about to end, and take its zombie away.
    Reap = 3,
    /// Tell whether the network has been used, and replace it if it has.
    Renew = 4,
    /// Connect to a port of the loopback, which is the number of the place. The answer carries the socket, which does not block and may not be
    /// connected yet.
    Connect = 5,
}

/// A request.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Request {
    /// A [`RequestKind`], as a number because it comes from another process.
    pub(crate) kind: u32,
    /// The place that it is about.
    pub(crate) place: u32,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Answer {
    /// The call that failed; see [`Failure`].
    pub(crate) call: u32,
    /// What the kernel said; 0 for success.
    pub(crate) errno: i32,
    /// Processor time of a reaped process and its reaped children, in nanoseconds.
    pub(crate) cpu_nanoseconds: u64,
    /// Whether the network had been used.
    pub(crate) renewed: u32,
    /// Keeps the size free of padding.
    pub(crate) reserved: u32,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ReportKind {
    /// A call of the setup failed.
    SetupFailed = 1,
    /// The place is made. Carries a descriptor of the first process, and the roots to collect from.
    Ready = 2,
    /// A call before the program's `exec`, or that itself, failed.
    StartFailed = 3,
    /// The program ended.
    Ended = 4,
}

/// A message from the first process to the agent.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Report {
    /// A [`ReportKind`], as a number because it comes from another process.
    pub(crate) kind: u32,
    /// The call that failed.
    pub(crate) call: u32,
    /// What the kernel said to it.
    pub(crate) errno: i32,
    /// The wait status of the program.
    pub(crate) status: i32,
    /// Processes that it left.
    pub(crate) leaked: u32,
    /// Processes and threads that were started, the program among them.
    pub(crate) created: u32,
    /// From the program's start to its end.
    pub(crate) execution_nanoseconds: u64,
    /// Processor time of the program and of those of its children that were waited for, in nanoseconds.
    pub(crate) cpu_nanoseconds: u64,
    /// The largest of them, in bytes of memory.
    pub(crate) resident_bytes: u64,
    /// Bytes that they wrote, to files, pipes and terminals.
    pub(crate) written_bytes: u64,
}

impl Report {
    /// A report with nothing but its kind.
    pub(crate) const fn new(kind: ReportKind) -> Self {
        Self {
            kind: kind as u32,
            call: 0,
            errno: 0,
            status: 0,
            leaked: 0,
            created: 0,
            execution_nanoseconds: 0,
            cpu_nanoseconds: 0,
            resident_bytes: 0,
            written_bytes: 0,
        }
    }
}

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its place in the script; `u32::MAX` for a step that is in none.
    pub(crate) call: u32,
    /// What the kernel said; 0 for too small a result.
    pub(crate) errno: i32,
}

/// The beginning of a script's image: then come the calls, the tables and the data, each of them aligned to eight bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Head {
    /// Number of [`Call`]s.
    pub(crate) calls: u64,
    /// Number of entries of the tables, eight bytes each: 0 for a null pointer, a positive number for the address of the place in the data
    /// before it, a negative one for itself without its sign bit.
    pub(crate) tables: u64,
    /// Bytes of data.
    pub(crate) data: u64,
    /// Paths in the data to open as roots when the script is done: the first entries of the tables, so many of them.
    pub(crate) roots: u64,
}

/// One prepared system call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Call {
    /// The number of the call.
    pub(crate) number: i64,
    /// Values, places or registers, as `kinds` says.
    pub(crate) arguments: [i64; 6],
    /// An [`ArgumentKind`] for each argument.
    pub(crate) kinds: [u8; 6],
    /// The register that keeps the result; 255 for none.
    pub(crate) keep: u8,
    /// Results below this are failures: 0, or 1 for a read that must bring something.
    pub(crate) least: u8,
    /// Errors that count as success.
    pub(crate) tolerated: [i32; 4],
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ArgumentKind {
    /// A number.
    Value = 0,
    /// The address of a place in the data.
    Data = 1,
    /// The address of an entry of the tables.
    Table = 2,
    /// The result of an earlier call.
    Register = 3,
}

/// No register.
pub(crate) const KEEP_NOTHING: u8 = 255;
