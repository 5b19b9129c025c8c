//! Builds the launcher: a program of its own, without any library, that the crate carries inside itself.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo:rerun-if-changed=launcher");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let output = PathBuf::from(variable("OUT_DIR")).join("launcher");
    let mut command = Command::new(variable("RUSTC"));
    command
        .args(["--edition", "2024", "--crate-name", "muster_launcher", "--crate-type", "bin", "--target"])
        .arg(variable("TARGET"))
        .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "relocation-model=static", "-C", "strip=symbols"])
        .args(["-C", "overflow-checks=off", "-C", "debug-assertions=off", "-C", "target-feature=+crt-static"])
        .args(["-C", "link-arg=-nostdlib", "-C", "link-arg=-nostartfiles", "-C", "link-arg=-static"])
        // Without an executable stack, and with the address of the linker's own notes left out.
        .args(["-C", "link-arg=-Wl,-z,noexecstack,--build-id=none"])
        .arg("-o")
        .arg(&output);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = std::ffi::OsString::from("linker=");
        argument.push(linker);
        command.arg("-C").arg(argument);
    }
    command.arg("launcher/main.rs");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            eprintln!("the launcher does not build: {command:?} ended with {status}");
            exit(1);
        }
        Err(error) => {
            eprintln!("the launcher does not build: cannot start {command:?}: {error}");
            exit(1);
        }
    }
}
