//! System calls prepared before the clone and made after it.
//!
//! Between `clone` and `exec` a child of a program with several threads may not allocate, lock or panic: another thread may have held the
//! allocator's lock at that moment. So everything that the child will do is written down beforehand as a list of raw system calls whose
//! arguments are numbers, addresses of prepared bytes, or results of earlier calls; the child only plays the list. A call that fails is
//! named by its place in the list, and the parent, which has the names, makes a sentence of it.

use std::ffi::{CString, c_long};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::EnvironmentError;

/// Registers of a script.
pub(crate) const REGISTERS: usize = 64;

/// Results that later calls use.
pub(crate) type Registers = [i64; REGISTERS];

/// One argument of a prepared call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// A number.
    Value(i64),
    /// The address of prepared bytes, as their place in the script's data.
    Data(usize),
    /// The address of a prepared array of addresses, as its place in the script's tables.
    Table(usize),
    /// The result of an earlier call.
    Register(u8),
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::Value(value.into())
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::Value(value.into())
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self::Value(value)
    }
}

/// One prepared system call.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: c_long,
    arguments: [Argument; 6],
    /// Errors that count as success.
    tolerated: [i32; 4],
    /// Results below this are failures: 0, or 1 for a read that must bring something.
    least: i64,
    keep: Option<u8>,
}

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its place in the script.
    pub(crate) call: u32,
    /// What the kernel said; 0 for too small a result.
    pub(crate) errno: i32,
}

/// A list of prepared calls with everything that they point to.
#[derive(Debug, Default)]
pub(crate) struct Script {
    calls: Vec<Call>,
    names: Vec<String>,
    data: Vec<u8>,
    tables: Vec<usize>,
    registers: u8,
}

impl Script {
    /// Appends a call under the name that an error gives it: an infinitive with its object.
    pub(crate) fn call<const N: usize>(&mut self, name: impl Into<String>, number: c_long, given: [Argument; N]) {
        let mut arguments = [Argument::Value(0); 6];
        for (place, argument) in arguments.iter_mut().zip(given) {
            *place = argument;
        }
        self.calls.push(Call { number, arguments, tolerated: [0; 4], least: 0, keep: None });
        self.names.push(name.into());
    }

    /// Keeps the result of the last call.
    pub(crate) fn keep(&mut self) -> Argument {
        let register = self.registers;
        assert!(usize::from(register) < REGISTERS - 1, "a script keeps fewer than {REGISTERS} results");
        self.registers += 1;
        if let Some(call) = self.calls.last_mut() {
            call.keep = Some(register);
        }
        Argument::Register(register)
    }

    /// Keeps the result of the last call until this is called again.
    pub(crate) fn keep_briefly(&mut self) -> Argument {
        let register = const { (REGISTERS - 1) as u8 };
        if let Some(call) = self.calls.last_mut() {
            call.keep = Some(register);
        }
        Argument::Register(register)
    }

    /// Lets the last call fail with one of these.
    pub(crate) fn tolerate(&mut self, errors: &[i32]) {
        if let Some(call) = self.calls.last_mut() {
            for (place, error) in call.tolerated.iter_mut().zip(errors) {
                *place = *error;
            }
        }
    }

    /// Makes the last call fail when its result is 0.
    pub(crate) fn require_result(&mut self) {
        if let Some(call) = self.calls.last_mut() {
            call.least = 1;
        }
    }

    /// Prepares bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Argument {
        let place = self.data.len().next_multiple_of(8);
        self.data.resize(place, 0);
        self.data.extend_from_slice(bytes);
        Argument::Data(place)
    }

    /// Prepares a string that has no zero byte in it by our own making.
    pub(crate) fn text(&mut self, text: &str) -> Argument {
        debug_assert!(!text.contains('\0'), "a prepared text has no zero byte");
        let argument = self.bytes(text.as_bytes());
        self.data.push(0);
        argument
    }

    /// Prepares a string from outside.
    ///
    /// # Errors
    ///
    /// When it has a zero byte in it.
    pub(crate) fn foreign(&mut self, text: &[u8]) -> Result<Argument, EnvironmentError> {
        let text = CString::new(text).map_err(|error| {
            EnvironmentError::Invalid(format!("{:?} has a zero byte in it", String::from_utf8_lossy(&error.into_vec())))
        })?;
        Ok(self.bytes(text.as_bytes_with_nul()))
    }

    /// Prepares a path.
    ///
    /// # Errors
    ///
    /// When it has a zero byte in it.
    pub(crate) fn path(&mut self, path: &Path) -> Result<Argument, EnvironmentError> {
        self.foreign(path.as_os_str().as_bytes())
    }

    /// Prepares an array of strings that ends with a null pointer, as `execve` wants it.
    ///
    /// # Errors
    ///
    /// When one has a zero byte in it.
    pub(crate) fn table(&mut self, texts: impl IntoIterator<Item = Vec<u8>>) -> Result<Argument, EnvironmentError> {
        let mut places = Vec::new();
        for text in texts {
            if let Argument::Data(place) = self.foreign(&text)? {
                places.push(place);
            }
        }
        let start = self.tables.len();
        // Places become addresses in `seal`; one more than the place, so that 0 stays the null pointer at the end.
        self.tables.extend(places.into_iter().map(|place| place + 1));
        self.tables.push(0);
        Ok(Argument::Table(start))
    }

    /// Turns places into addresses. Nothing may be added afterwards.
    pub(crate) fn seal(mut self) -> SealedScript {
        self.data.shrink_to_fit();
        let base = self.data.as_ptr().addr();
        for entry in &mut self.tables {
            if *entry != 0 {
                *entry = base + *entry - 1;
            }
        }
        SealedScript { script: self }
    }
}

/// A script whose addresses are settled.
#[derive(Debug)]
pub(crate) struct SealedScript {
    script: Script,
}

impl SealedScript {
    /// The name of a call.
    pub(crate) fn name(&self, call: u32) -> &str {
        usize::try_from(call)
            .ok()
            .and_then(|call| self.script.names.get(call))
            .map_or("do an unknown step", String::as_str)
    }

    /// Makes the calls one after the other; async-signal-safe.
    ///
    /// # Errors
    ///
    /// The first call that failed.
    ///
    /// # Safety
    ///
    /// The calls do what they say to the calling process; it must be one that was made for them.
    pub(crate) unsafe fn perform(&self, registers: &mut Registers) -> Result<(), Failure> {
        let mut index = 0_u32;
        for call in &self.script.calls {
            let [a, b, c, d, e, f] = call.arguments;
            let result = {
                let value = |argument| self.value(argument, registers);
                // SAFETY: the caller vouches for what the calls do; every address points into `data` or `tables`, which live as long as `self`.
                unsafe { libc::syscall(call.number, value(a), value(b), value(c), value(d), value(e), value(f)) }
            };
            if result < call.least {
                // SAFETY: the address of this thread's errno is always valid.
                let errno = if result < 0 { unsafe { *libc::__errno_location() } } else { 0 };
                if errno == 0 || !call.tolerated.contains(&errno) {
                    return Err(Failure { call: index, errno });
                }
            }
            if let Some(place) = call.keep.and_then(|register| registers.get_mut(usize::from(register))) {
                *place = result;
            }
            index = index.wrapping_add(1);
        }
        Ok(())
    }

    fn value(&self, argument: Argument, registers: &Registers) -> i64 {
        match argument {
            Argument::Value(value) => value,
            Argument::Data(place) => self.script.data.as_ptr().wrapping_add(place).addr().cast_signed() as i64,
            Argument::Table(place) => self.script.tables.as_ptr().wrapping_add(place).addr().cast_signed() as i64,
            Argument::Register(register) => registers.get(usize::from(register)).copied().unwrap_or(-1),
        }
    }
}
