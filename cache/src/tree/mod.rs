//! Directory trees as canonical `Directory` messages (Remote Execution API, version 2, `Directory`).
//!
//! The digest of a tree's root names everything in it: names, which files can be executed, bytes, and targets of links. What is not in it
//! (owners, times, other permissions) is not part of a tree. Node properties that a client put in are part of the digest and are kept.

mod build;
mod node;
mod overlay;
mod walk;

pub use build::{Tree, TreeBuilder};
pub use node::{Directory, Entry, Node, TreeError, stays_inside};
pub(crate) use node::{check_name, check_target};
pub(crate) use walk::collect_read;
pub use walk::{Content, collect, read_directory};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
