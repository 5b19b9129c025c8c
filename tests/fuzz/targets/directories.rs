//! F3: what is read as a directory is in canonical form, and canonical form is a fixed point.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use muster_cache::tree::{Directory, Node, TreeError};
use muster_fuzz::WireDirectory;
use muster_model::DigestFunction;
use muster_model::limits::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX};
use prost::Message;

/// A message as bytes.
#[derive(Arbitrary, Debug)]
enum Input {
    /// That are one, whatever it says.
    Message(WireDirectory),
    /// That are one with something behind it.
    Tail(WireDirectory, Vec<u8>),
    /// That may be anything.
    Bytes(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let bytes = match input {
        Input::Message(directory) => directory.to_wire().encode_to_vec(),
        Input::Tail(directory, tail) => [directory.to_wire().encode_to_vec(), tail].concat(),
        Input::Bytes(bytes) => bytes,
    };
    for function in [DigestFunction::Blake3, DigestFunction::Sha256] {
        match Directory::decode(function, &bytes) {
            Ok(directory) => assert_canonical(function, &bytes, &directory),
            // Its canonical form is another one, and that must be read.
            Err(TreeError::NotCanonical) => assert!(bytes.len() <= MESSAGE_BYTES_MAX),
            Err(_) => {}
        }
    }
});

fn assert_canonical(function: DigestFunction, bytes: &[u8], directory: &Directory) {
    assert_eq!(&directory.encode()[..], bytes, "writing is the inverse of reading");
    let again = Directory::new(directory.entries().to_vec()).expect("what was read is valid");
    assert_eq!(&again.encode()[..], bytes, "canonical form is a fixed point");
    assert_eq!(Directory::decode(function, &again.encode()).as_ref(), Ok(&again));
    for pair in directory.entries().windows(2) {
        assert!(pair[0].name < pair[1].name, "{pair:?} is out of order");
    }
    for entry in directory.entries() {
        let name = entry.name.as_str();
        assert!(!matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX, "{name:?} is a name");
        assert!(!name.contains(['/', '\0']), "{name:?} is a name");
        match &entry.node {
            Node::File { digest, .. } | Node::Directory(digest) => assert_eq!(digest.function, function),
            Node::Symlink(target) => assert!(!target.is_empty() && !target.contains('\0')),
        }
    }
}
