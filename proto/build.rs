//! Compiles the `.proto` files with a compiler written in Rust, so that no installed `protoc` is needed.

use std::error::Error;

const FILES: [&str; 6] = [
    "reapi/remote_execution.proto",
    "reapi/bytestream.proto",
    "reapi/status.proto",
    "muster/v1/fleet.proto",
    "muster/v1/run.proto",
    "muster/v1/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["reapi", "muster"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure().bytes(".").include_file("packages.rs").compile_fds(descriptors)?;
    Ok(())
}
