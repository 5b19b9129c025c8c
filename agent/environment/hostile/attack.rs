//! What an attack has tried and what came of it.

use std::ffi::CString;
use std::io;

/// A count of what got through.
#[derive(Debug, Default)]
pub(crate) struct Attack {
    through: Vec<String>,
    tried: usize,
}

impl Attack {
    /// A raw system call that must fail with one of these.
    pub(crate) fn call(&mut self, what: &str, number: libc::c_long, arguments: [i64; 6], errors: &[i32]) {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: the arguments are numbers, bad addresses, or addresses of what the caller keeps.
        let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        let error = if result < 0 { io::Error::last_os_error().raw_os_error() } else { None };
        self.tried += 1;
        if !error.is_some_and(|error| errors.contains(&error)) {
            self.through.push(format!("{what}: result {result}, error {error:?}, not one of {errors:?}"));
        }
    }

    /// Something that must not have happened.
    pub(crate) fn never(&mut self, what: &str, happened: bool) {
        self.tried += 1;
        if happened {
            self.through.push(what.to_owned());
        }
    }

    /// Something that must have failed, however.
    pub(crate) fn fails<T>(&mut self, what: &str, result: io::Result<T>) {
        self.never(what, result.is_ok());
    }

    /// Something that must have failed with one of these.
    pub(crate) fn fails_with<T>(&mut self, what: &str, result: io::Result<T>, errors: &[i32]) {
        let error = result.err();
        let is_right = error.as_ref().and_then(io::Error::raw_os_error).is_some_and(|error| errors.contains(&error));
        self.never(&format!("{what}: {error:?}"), !is_right);
    }

    /// Tells what got through; the exit code.
    pub(crate) fn finish(self) -> i32 {
        for line in &self.through {
            println!("{line}");
        }
        println!("{} of {} got through", self.through.len(), self.tried);
        i32::from(!self.through.is_empty())
    }
}

/// The address of something.
pub(crate) fn address<T: ?Sized>(value: &T) -> i64 {
    std::ptr::from_ref(value).cast::<u8>().expose_provenance() as i64
}

/// A path for a raw call.
pub(crate) fn path(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

/// A variable that the table gives.
pub(crate) fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not given"))
}
