//! Compiles the `.proto` files with a compiler written in Rust, so that no installed `protoc` is needed.

use std::error::Error;

const FILES: [&str; 19] = [
    "reapi/action.proto",
    "reapi/action_cache.proto",
    "reapi/asset.proto",
    "reapi/bytestream.proto",
    "reapi/capabilities.proto",
    "reapi/cas.proto",
    "reapi/digest.proto",
    "reapi/error_details.proto",
    "reapi/execution.proto",
    "reapi/operations.proto",
    "reapi/request_metadata.proto",
    "reapi/status.proto",
    "reapi/tree.proto",
    "muster/v1/cache.proto",
    "muster/v1/entry.proto",
    "muster/v1/fleet.proto",
    "muster/v1/image.proto",
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
