//! The functions that compilers call for copying and comparing memory; elsewhere the C library has them.

/// `memcpy(3)`.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let mut index = 0;
    while index < count {
        // SAFETY: the caller vouches for `count` bytes at both addresses.
        unsafe { to.wrapping_add(index).write(from.wrapping_add(index).read()) };
        index = index.wrapping_add(1);
    }
    to
}

/// `memmove(3)`.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr() <= from.addr() {
        // SAFETY: copied upwards, nothing is overwritten before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    let mut index = count;
    while index > 0 {
        index = index.wrapping_sub(1);
        // SAFETY: the caller vouches for `count` bytes at both addresses.
        unsafe { to.wrapping_add(index).write(from.wrapping_add(index).read()) };
    }
    to
}

/// `memset(3)`.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    let mut index = 0;
    while index < count {
        // SAFETY: the caller vouches for `count` bytes.
        unsafe { to.wrapping_add(index).write(value as u8) };
        index = index.wrapping_add(1);
    }
    to
}

/// `memcmp(3)`.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    let mut index = 0;
    while index < count {
        // SAFETY: the caller vouches for `count` bytes at both addresses.
        let (left, right) = unsafe { (left.wrapping_add(index).read(), right.wrapping_add(index).read()) };
        if left != right {
            return i32::from(left).wrapping_sub(right.into());
        }
        index = index.wrapping_add(1);
    }
    0
}

/// `bcmp(3)`.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: as the caller vouches.
    unsafe { memcmp(left, right, count) }
}
