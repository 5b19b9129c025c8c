//! Attacks on other processes, and processes that will not die.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use crate::attack::{Attack, address, given};

pub(crate) fn perform(action: &str, attack: &mut Attack) -> bool {
    match action {
        "H10" => others(attack),
        "H11" => first_process(attack),
        "H12" => programs(attack),
        "H13" => descriptors(attack),
        "H28" => bomb(),
        "H29" | "H49" => daemon(action),
        "H34" => swapper(),
        "H37" => immortal(),
        "H38" => {
            // SAFETY: only numbers are passed.
            unsafe { libc::kill(1, libc::SIGKILL) };
            std::process::exit(7);
        }
        "H41" => environment(attack),
        _ => return false,
    }
    true
}

fn numbers() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn others(attack: &mut Attack) {
    attack.never("processes of others are seen", numbers().len() > 3);
    let canary: i32 = given("CANARY_PROCESS").parse().expect("a number");
    for signal in [0, libc::SIGKILL] {
        attack.call("signal the host", libc::SYS_kill, [canary.into(), signal.into(), 0, 0, 0, 0], &[libc::ESRCH]);
    }
    // SAFETY: only numbers are passed.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

fn first_process(attack: &mut Attack) {
    let refused = [libc::EPERM, libc::EACCES];
    let attach = i64::from(libc::PTRACE_ATTACH);
    attack.call("ptrace", libc::SYS_ptrace, [attach, 1, 0, 0, 0, 0], &refused);
    let content = [0_u8; 8];
    let vector = [address(&content), 8];
    let arguments = [1, address(&vector), 1, address(&vector), 1, 0];
    attack.call("process_vm_writev", libc::SYS_process_vm_writev, arguments, &refused);
    attack.call("process_vm_readv", libc::SYS_process_vm_readv, arguments, &refused);
    attack.fails_with("its memory", fs::OpenOptions::new().write(true).open("/proc/1/mem"), &refused);
    attack.fails_with("its variables", fs::read("/proc/1/environ"), &refused);
    // SAFETY: only numbers are passed; the kernel ignores what a first process has no handler for.
    unsafe { libc::kill(1, libc::SIGSTOP) };
}

fn programs(attack: &mut Attack) {
    for name in ["/proc/self/exe", "/proc/1/exe"] {
        let errors = [libc::ETXTBSY, libc::EACCES, libc::EROFS];
        let opened = fs::OpenOptions::new().write(true).open(name);
        // The program itself lies in a layer: what is written goes to a copy that is thrown away, but not while it runs.
        attack.fails_with(name, opened, &errors);
    }
    attack.fails("the first process's program", fs::read("/proc/1/exe"));
}

fn descriptors(attack: &mut Attack) {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc").flatten();
    let open: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // The fourth reads the directory.
    attack.never(&format!("descriptors {open:?}"), open.len() > 4);
    for number in 0..64 {
        let place = format!("/proc/self/fd/{number}");
        attack.fails(&place, std::env::set_current_dir(format!("{place}/.")));
    }
    attack.fails("the first process's descriptors", fs::read_dir("/proc/1/fd"));
    attack.fails("the first process's directory", fs::read_dir("/proc/1/cwd/"));
    attack.fails("the first process's root", fs::read_dir("/proc/1/root/"));
}

/// Prints how many children there are when no more can be made.
fn bomb() {
    let mut count = 0;
    while count < 10_000 {
        // SAFETY: the child only sleeps.
        match unsafe { libc::fork() } {
            0 => loop {
                std::thread::sleep(Duration::from_secs(600));
            },
            ..0 => break,
            _ => count += 1,
        }
    }
    println!("{count} children");
}

/// Leaves a process in a session of its own that writes until it is killed.
fn daemon(action: &str) {
    // SAFETY: each process goes on alone.
    unsafe {
        if action == "H49" {
            // Dies with a core, if it can, and leaves a timer behind.
            if libc::fork() == 0 {
                libc::abort();
            }
            let mut status = 0;
            libc::wait(&raw mut status);
            println!("core {}", libc::WCOREDUMP(status));
        }
        if libc::fork() == 0 {
            libc::setsid();
            if libc::fork() != 0 {
                libc::_exit(0);
            }
            let mut number = 0_u64;
            loop {
                let _ = fs::write("/project/output", format!("{number}\n"));
                number += 1;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// Leaves a process that makes the output a file and a link in turn.
fn swapper() {
    // SAFETY: the child goes on alone.
    if unsafe { libc::fork() } == 0 {
        loop {
            let _ = fs::write("/project/new", "ours\n");
            let _ = fs::rename("/project/new", "/project/output");
            let _ = std::os::unix::fs::symlink(given("CANARY_FILE"), "/project/new");
            let _ = fs::rename("/project/new", "/project/output");
        }
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// Ignores every signal, has children that do, and stops itself.
fn immortal() {
    // SAFETY: signal dispositions and children of this process alone.
    unsafe {
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_IGN);
        }
        for _ in 0..4 {
            if libc::fork() == 0 {
                libc::setsid();
                loop {
                    std::hint::spin_loop();
                }
            }
        }
        println!("ready");
        libc::kill(libc::getpid(), libc::SIGSTOP);
        loop {
            std::hint::spin_loop();
        }
    }
}

fn environment(attack: &mut Attack) {
    // Given backwards, so that it is not found where it was given.
    let secret: String = given("CANARY_SECRET").chars().rev().collect();
    attack.never("a variable of the agent's", std::env::vars().any(|(_, value)| value.contains(&secret)));
    for number in numbers() {
        let content = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
        attack.never("variables of another process", String::from_utf8_lossy(&content).contains(&secret));
    }
    let again = Command::new("/proc/self/exe").arg0("again").arg("none").output();
    attack.never("a program can't start itself", again.is_err());
}
