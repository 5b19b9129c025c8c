//! System calls prepared by the agent and made by a launcher or a first process.
//!
//! A first process is a copy of a program without an allocator or a library, in the middle of changing what it is: everything that it will do
//! is written down beforehand as a list of raw system calls whose arguments are numbers, addresses of prepared bytes, or results of earlier
//! calls. The list is an image in a sealed file in memory, which the other side maps and plays. A call that fails is named by its place in the
//! list, and the agent, which has the names, makes a sentence of it.

use std::borrow::Cow;
use std::ffi::{CString, c_long};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::protocol::{ArgumentKind, Call, Head, KEEP_NOTHING, REGISTERS};
use crate::EnvironmentError;

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

impl Argument {
    /// As the image has it.
    fn wire(self) -> (i64, u8) {
        let place = |place: usize| place as i64;
        match self {
            Self::Value(value) => (value, ArgumentKind::Value as u8),
            Self::Data(data) => (place(data), ArgumentKind::Data as u8),
            Self::Table(table) => (place(table), ArgumentKind::Table as u8),
            Self::Register(register) => (register.into(), ArgumentKind::Register as u8),
        }
    }
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

/// A list of prepared calls with everything that they point to.
#[derive(Debug, Default)]
pub(crate) struct Script {
    calls: Vec<Call>,
    names: Vec<Cow<'static, str>>,
    data: Vec<u8>,
    /// See [`Head::tables`].
    tables: Vec<i64>,
    roots: u64,
    registers: u8,
}

impl Script {
    /// Appends a call under the name that an error gives it: an infinitive with its object.
    pub(crate) fn call<const N: usize>(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        number: c_long,
        given: [Argument; N],
    ) {
        let (mut arguments, mut kinds) = ([0; 6], [ArgumentKind::Value as u8; 6]);
        for ((argument, kind), given) in arguments.iter_mut().zip(&mut kinds).zip(given) {
            (*argument, *kind) = given.wire();
        }
        self.calls.push(Call { number, arguments, kinds, keep: KEEP_NOTHING, least: 0, tolerated: [0; 4] });
        self.names.push(name.into());
    }

    /// Keeps the result of the last call.
    pub(crate) fn keep(&mut self) -> Argument {
        let register = self.registers;
        assert!(usize::from(register) < REGISTERS - 1, "a script keeps fewer than {REGISTERS} results");
        self.registers += 1;
        self.keep_in(register)
    }

    /// Keeps the result of the last call until this is called again.
    pub(crate) fn keep_briefly(&mut self) -> Argument {
        self.keep_in(const { (REGISTERS - 1) as u8 })
    }

    fn keep_in(&mut self, register: u8) -> Argument {
        if let Some(call) = self.calls.last_mut() {
            call.keep = register;
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

    /// Prepares an array of addresses that ends with a null pointer.
    fn addresses(&mut self, places: impl IntoIterator<Item = Argument>) -> Argument {
        let start = self.tables.len();
        let data = places.into_iter().filter_map(|place| match place {
            Argument::Data(place) => Some(place as i64 + 1),
            _ => None,
        });
        self.tables.extend(data);
        self.tables.push(0);
        Argument::Table(start)
    }

    /// Prepares an array of strings that ends with a null pointer, as `execve` wants it.
    ///
    /// # Errors
    ///
    /// When one has a zero byte in it.
    pub(crate) fn table(&mut self, texts: impl IntoIterator<Item = Vec<u8>>) -> Result<Argument, EnvironmentError> {
        let places = texts.into_iter().map(|text| self.foreign(&text)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.addresses(places))
    }

    /// Prepares `struct sock_fprog` (`seccomp(2)`): the number of instructions, then their address.
    pub(crate) fn filter_program(&mut self, count: u16, instructions: &[u8]) -> Argument {
        let start = self.tables.len();
        self.tables.push(i64::from(count) | i64::MIN);
        let place = self.bytes(instructions);
        self.addresses([place]);
        Argument::Table(start)
    }

    /// Names the directories to open for the agent when the calls are done; before any other table.
    ///
    /// # Errors
    ///
    /// When one has a zero byte in it.
    pub(crate) fn roots(&mut self, paths: &[impl AsRef<Path>]) -> Result<(), EnvironmentError> {
        assert!(self.tables.is_empty(), "roots are the first entries of the tables");
        let paths = paths.iter().map(|path| path.as_ref().as_os_str().as_bytes().to_vec()).collect::<Vec<_>>();
        self.roots = paths.len() as u64;
        self.table(paths).map(drop)
    }

    /// Writes the image. Nothing may be added afterwards.
    ///
    /// # Errors
    ///
    /// What the kernel said to a file in memory.
    pub(crate) fn seal(self) -> io::Result<SealedScript> {
        let head = Head {
            calls: self.calls.len() as u64,
            tables: self.tables.len() as u64,
            data: self.data.len() as u64,
            roots: self.roots,
        };
        let mut image = Vec::with_capacity(
            size_of::<Head>() + size_of_val(&*self.calls) + size_of_val(&*self.tables) + self.data.len(),
        );
        image.extend_from_slice(bytes_of(std::slice::from_ref(&head)));
        image.extend_from_slice(bytes_of(&self.calls));
        image.extend_from_slice(bytes_of(&self.tables));
        image.extend_from_slice(&self.data);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create(c"muster-script", flags)?);
        file.write_all(&image)?;
        seal(&file)?;
        Ok(SealedScript { image: file.into(), names: self.names })
    }
}

/// Forbids every change to a file in memory.
///
/// # Errors
///
/// What the kernel said.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// The bytes of structures without padding.
fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` types are made of numbers without padding, so that each byte is initialised; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Structures that are made of numbers without padding.
trait Plain {}
impl Plain for Head {}
impl Plain for Call {}
impl Plain for i64 {}
const _: () = assert!(size_of::<Head>() == 32 && size_of::<Call>() == 80, "no padding");

/// A script that is ready to be played.
#[derive(Debug)]
pub(crate) struct SealedScript {
    image: OwnedFd,
    names: Vec<Cow<'static, str>>,
}

impl SealedScript {
    /// The name of a call.
    pub(crate) fn name(&self, call: u32) -> &str {
        usize::try_from(call).ok().and_then(|call| self.names.get(call)).map_or("do an unknown step", AsRef::as_ref)
    }
}

impl AsFd for SealedScript {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }
}
