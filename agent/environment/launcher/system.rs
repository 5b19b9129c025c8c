//! System calls without a C library.

use core::arch::asm;

/// Numbers of the calls that the launcher makes by itself.
#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub(crate) const READ: i64 = 0;
    pub(crate) const CLOSE: i64 = 3;
    pub(crate) const MMAP: i64 = 9;
    pub(crate) const MUNMAP: i64 = 11;
    pub(crate) const IOCTL: i64 = 16;
    pub(crate) const NANOSLEEP: i64 = 35;
    pub(crate) const SOCKET: i64 = 41;
    pub(crate) const CONNECT: i64 = 42;
    pub(crate) const SENDMSG: i64 = 46;
    pub(crate) const RECVMSG: i64 = 47;
    pub(crate) const FORK_CLONE: i64 = 56;
    pub(crate) const WAIT4: i64 = 61;
    pub(crate) const KILL: i64 = 62;
    pub(crate) const GETRUSAGE: i64 = 98;
    pub(crate) const GETDENTS64: i64 = 217;
    pub(crate) const CLOCK_GETTIME: i64 = 228;
    pub(crate) const EXIT_GROUP: i64 = 231;
    pub(crate) const OPENAT: i64 = 257;
    pub(crate) const PPOLL: i64 = 271;
    pub(crate) const UNSHARE: i64 = 272;
    pub(crate) const DUP3: i64 = 292;
}

/// The same, from the table that newer architectures share (`asm-generic/unistd.h`).
#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub(crate) const DUP3: i64 = 24;
    pub(crate) const IOCTL: i64 = 29;
    pub(crate) const OPENAT: i64 = 56;
    pub(crate) const CLOSE: i64 = 57;
    pub(crate) const GETDENTS64: i64 = 61;
    pub(crate) const READ: i64 = 63;
    pub(crate) const PPOLL: i64 = 73;
    pub(crate) const EXIT_GROUP: i64 = 94;
    pub(crate) const UNSHARE: i64 = 97;
    pub(crate) const NANOSLEEP: i64 = 101;
    pub(crate) const CLOCK_GETTIME: i64 = 113;
    pub(crate) const KILL: i64 = 129;
    pub(crate) const GETRUSAGE: i64 = 165;
    pub(crate) const SOCKET: i64 = 198;
    pub(crate) const CONNECT: i64 = 203;
    pub(crate) const SENDMSG: i64 = 211;
    pub(crate) const RECVMSG: i64 = 212;
    pub(crate) const MUNMAP: i64 = 215;
    pub(crate) const FORK_CLONE: i64 = 220;
    pub(crate) const MMAP: i64 = 222;
    pub(crate) const WAIT4: i64 = 260;
}

/// Of `open(2)`; not the same everywhere.
#[cfg(target_arch = "x86_64")]
pub(crate) const O_DIRECTORY: i64 = 0o200_000;
/// Of `open(2)`; not the same everywhere.
#[cfg(target_arch = "aarch64")]
pub(crate) const O_DIRECTORY: i64 = 0o40_000;

// The same numbers on every architecture.
pub(crate) const PIDFD_OPEN: i64 = 434;
pub(crate) const CLOSE_RANGE: i64 = 436;

/// Makes a system call. A failure is a negative error number.
///
/// # Safety
///
/// The call does to this process what it says; addresses among the arguments must be valid for it.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn call(number: i64, arguments: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    // SAFETY: the kernel's calling convention (`syscall(2)`); the caller vouches for what the call does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call. A failure is a negative error number.
///
/// # Safety
///
/// The call does to this process what it says; addresses among the arguments must be valid for it.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn call(number: i64, arguments: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    // SAFETY: the kernel's calling convention (`syscall(2)`); the caller vouches for what the call does.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym super::main,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl {main}",
    "brk #1",
    main = sym super::main,
);

/// Ends this process.
pub(crate) fn exit(code: i64) -> ! {
    loop {
        // SAFETY: it takes a number and does not return.
        unsafe { call(number::EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
    }
}

/// Closes a descriptor.
pub(crate) fn close(descriptor: i32) {
    // SAFETY: nothing in this program holds a descriptor that it still needs across this.
    unsafe { call(number::CLOSE, [descriptor.into(), 0, 0, 0, 0, 0]) };
}

/// Sleeps.
pub(crate) fn sleep(nanoseconds: i64) {
    let time = [0_i64, nanoseconds];
    // SAFETY: the address is of a local of the right shape (struct timespec).
    unsafe { call(number::NANOSLEEP, [time.as_ptr().addr().cast_signed() as i64, 0, 0, 0, 0, 0]) };
}

/// The time since some moment, in nanoseconds.
pub(crate) fn now() -> u64 {
    const CLOCK_MONOTONIC: i64 = 1;
    let mut time = [0_i64; 2];
    // SAFETY: the address is of a local of the right shape (struct timespec).
    unsafe {
        call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr().addr().cast_signed() as i64, 0, 0, 0, 0])
    };
    let [seconds, nanoseconds] = time;
    seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanoseconds.cast_unsigned())
}

/// `struct rusage` of 64-bit machines, as numbers.
pub(crate) struct Usage(pub(crate) [i64; 18]);

impl Usage {
    pub(crate) const fn none() -> Self {
        Self([0; 18])
    }

    /// User and system time, in nanoseconds.
    pub(crate) fn cpu_nanoseconds(&self) -> u64 {
        let [user_seconds, user_micros, system_seconds, system_micros, ..] = self.0;
        let seconds = user_seconds.wrapping_add(system_seconds).cast_unsigned();
        let micros = user_micros.wrapping_add(system_micros).cast_unsigned();
        seconds.wrapping_mul(1_000_000_000).wrapping_add(micros.wrapping_mul(1000))
    }

    /// The largest resident size, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.0[4].cast_unsigned().wrapping_mul(1024)
    }

    pub(crate) fn address(&mut self) -> i64 {
        self.0.as_mut_ptr().addr().cast_signed() as i64
    }
}
