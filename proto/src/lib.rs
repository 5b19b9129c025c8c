//! Muster's wire messages, and their conversion into model types.
//!
//! Generated code is reached through [`reapi`] with [`asset`], [`bytestream`], [`longrunning`], [`rpc`] and [`semver`], and through [`v1`]. [`convert`] is the only place where wire becomes
//! model, in either direction: a value that came through it is within its limits.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

mod codes;
pub mod convert;

pub use codes::code_name;

pub use generated::build::bazel::remote::asset::v1 as asset;
pub use generated::build::bazel::remote::execution::v2 as reapi;
pub use generated::build::bazel::semver;
pub use generated::google::bytestream;
pub use generated::google::longrunning;
pub use generated::google::rpc;
pub use generated::muster::v1;
