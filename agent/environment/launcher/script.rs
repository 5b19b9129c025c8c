//! Plays lists of prepared system calls.

use super::protocol::{ArgumentKind, Call, Failure, Head, KEEP_NOTHING, REGISTERS};
use super::system::{call, close, number};

const PROT_READ_WRITE: i64 = 3;
const MAP_PRIVATE: i64 = 2;
/// What is mapped of a script that does not say how long it is: as much as an argument list may be, and then some.
const IMAGE_BYTES_MAX: usize = 8 << 20;

/// A script in memory.
pub(crate) struct Script {
    calls: *const Call,
    count: usize,
    tables: *const i64,
    data: *const u8,
    roots: usize,
}

impl Script {
    /// Maps a script and closes its descriptor.
    ///
    /// # Safety
    ///
    /// The descriptor holds an image that the agent has made.
    pub(crate) unsafe fn map(descriptor: i32) -> Result<Self, Failure> {
        // SAFETY: a private mapping of a sealed file, of which nothing past the end is touched; the image is laid out as `Head` says.
        unsafe {
            let arguments = [0, IMAGE_BYTES_MAX as i64, PROT_READ_WRITE, MAP_PRIVATE, descriptor.into(), 0];
            let address = call(number::MMAP, arguments);
            close(descriptor);
            if (-4095..0).contains(&address) {
                return Err(Failure { call: u32::MAX, errno: address.wrapping_neg() as i32 });
            }
            let base = core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
            let head = base.cast::<Head>().read();
            let calls = base.wrapping_add(size_of::<Head>()).cast::<Call>();
            let count = head.calls as usize;
            let tables = calls.wrapping_add(count).cast::<i64>();
            let data = tables.wrapping_add(head.tables as usize).cast::<u8>();
            for index in 0..head.tables as usize {
                let entry = tables.wrapping_add(index);
                match entry.read() {
                    0 => {}
                    number @ i64::MIN..0 => entry.write(number ^ i64::MIN),
                    place => entry.write((data.expose_provenance() as i64).wrapping_add(place).wrapping_sub(1)),
                }
            }
            Ok(Self { calls: calls.cast_const(), count, tables, data, roots: head.roots as usize })
        }
    }

    /// Forgets it.
    pub(crate) fn unmap(self) {
        let base = self.calls.addr().wrapping_sub(size_of::<Head>());
        // SAFETY: it was mapped by `map`, and nothing else points into it.
        unsafe { call(number::MUNMAP, [base as i64, IMAGE_BYTES_MAX as i64, 0, 0, 0, 0]) };
    }

    /// The address of the path of a root.
    pub(crate) fn root(&self, index: usize) -> Option<i64> {
        // SAFETY: the first entries of the tables are the roots.
        (index < self.roots).then(|| unsafe { self.tables.wrapping_add(index).read() })
    }

    /// Makes the calls one after the other and stops at the first that fails.
    ///
    /// # Safety
    ///
    /// The calls do what they say to this process.
    pub(crate) unsafe fn perform(&self) -> Result<(), Failure> {
        let mut registers = [0_i64; REGISTERS];
        for index in 0..self.count {
            // SAFETY: the image has so many calls.
            let prepared = unsafe { self.calls.wrapping_add(index).read() };
            let mut arguments = prepared.arguments;
            for (argument, kind) in arguments.iter_mut().zip(prepared.kinds) {
                *argument = self.value(*argument, kind, &registers);
            }
            // SAFETY: the caller vouches for what the calls do; addresses point into the image.
            let result = unsafe { call(prepared.number, arguments) };
            if result < i64::from(prepared.least) {
                let errno = result.wrapping_neg() as i32;
                if errno <= 0 || !prepared.tolerated.contains(&errno) {
                    return Err(Failure { call: index as u32, errno: errno.max(0) });
                }
            }
            if prepared.keep != KEEP_NOTHING
                && let Some(register) = registers.get_mut(usize::from(prepared.keep))
            {
                *register = result;
            }
        }
        Ok(())
    }

    fn value(&self, argument: i64, kind: u8, registers: &[i64; REGISTERS]) -> i64 {
        const DATA: u8 = ArgumentKind::Data as u8;
        const TABLE: u8 = ArgumentKind::Table as u8;
        const REGISTER: u8 = ArgumentKind::Register as u8;
        match kind {
            DATA => self.data.wrapping_add(argument as usize).expose_provenance() as i64,
            TABLE => self.tables.wrapping_add(argument as usize).expose_provenance() as i64,
            REGISTER => registers.get(argument as usize).copied().unwrap_or(-1),
            _ => argument,
        }
    }
}
