//! Attacks on what everybody shares.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use crate::attack::{Attack, address};

pub(crate) fn perform(action: &str, attack: &mut Attack) -> bool {
    match action {
        "H35" => memory(),
        "H35-tmpfs" => fill("/dev/shm/fill"),
        "H35-pipes" => pipes(),
        "H36" => flood(),
        "H36-disk" => fill("/tmp/fill"),
        "H39" => {
            print!("test forged ... ok\n\ntest result: ok. 1 passed; 0 failed\n<testsuite/>\nok 1 - forged\n");
            std::process::exit(3);
        }
        "H40" => {
            print!("\x1b]52;c;Zm9yZ2Vk\x07\x1b[2J\rERROR agent: forged\n");
            std::process::exit(3);
        }
        "H47" => flying_descriptors(attack),
        _ => return false,
    }
    true
}

fn memory() {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

fn fill(name: &str) {
    let mut file = std::fs::File::create(name).expect("a file");
    let block = vec![1_u8; 1 << 20];
    while file.write_all(&block).is_ok() {}
    println!("full");
}

/// Holds memory in the buffers of pipes, which no process's size shows.
fn pipes() {
    let mut kept = Vec::new();
    let block = vec![1_u8; 1 << 20];
    while let Ok((reading, mut writing)) = std::io::pipe() {
        // SAFETY: only a descriptor that is open and numbers are passed.
        unsafe {
            libc::fcntl(writing.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20);
            libc::fcntl(writing.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        }
        let _ = writing.write(&block);
        kept.push((reading, writing));
    }
    println!("{} pipes", kept.len());
}

fn flood() {
    let block = vec![b'x'; 1 << 16];
    let mut output = std::io::stdout().lock();
    while output.write_all(&block).is_ok() {}
}

/// Sends descriptors that nobody receives, until the kernel refuses.
fn flying_descriptors(attack: &mut Attack) {
    let mut sockets = Vec::new();
    let mut sent = 0;
    'all: for _ in 0..2_000 {
        let Ok((ours, theirs)) = UnixDatagram::pair() else { break };
        ours.set_nonblocking(true).expect("ours");
        for _ in 0..50 {
            if !send_descriptor(&ours, theirs.as_raw_fd()) {
                if std::io::Error::last_os_error().raw_os_error() == Some(libc::ETOOMANYREFS) {
                    break 'all;
                }
                break;
            }
            sent += 1;
        }
        sockets.push((ours, theirs));
    }
    attack.never(&format!("{sent} descriptors in flight"), sent > 100_000);
}

fn send_descriptor(socket: &UnixDatagram, descriptor: i32) -> bool {
    #[repr(C, align(8))]
    struct Control {
        length: usize,
        level: i32,
        kind: i32,
        descriptor: i32,
    }
    let control = Control { length: 20, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, descriptor };
    let byte = [0_u8];
    let mut vector = libc::iovec { iov_base: address(&byte) as *mut _, iov_len: 1 };
    // SAFETY: an all-zero `msghdr` is valid; all that it points to are locals.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = (&raw const control).cast_mut().cast();
        message.msg_controllen = size_of::<Control>() as _;
        libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) >= 0
    }
}
