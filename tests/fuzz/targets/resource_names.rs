//! F1: what is read as a resource name is written as one that means the same, and what is read is never longer than names are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_coordinator::reapi::resource::{Encoding, Resource, parse_read, parse_write, print_read};

/// The longest resource name, in bytes.
const NAME_BYTES_MAX: usize = 1024;

fuzz_target!(|name: &str| {
    if let Ok(resource) = parse_read(name) {
        assert!(name.len() <= NAME_BYTES_MAX);
        let printed = print(&resource, "");
        // The long form names the function even where it need not.
        if printed.len() <= NAME_BYTES_MAX {
            assert_eq!(parse_read(&printed).as_ref(), Ok(&resource), "{name:?} became {printed:?}");
        }
        let short = print_read(&resource.digest);
        assert_eq!(parse_read(&short).map(|resource| resource.digest), Ok(resource.digest), "{short:?}");
    }
    if let Ok((upload, resource)) = parse_write(name) {
        assert!(name.len() <= NAME_BYTES_MAX && !upload.is_empty() && !upload.contains('/'));
        let printed = print(&resource, &format!("uploads/{upload}/"));
        if printed.len() <= NAME_BYTES_MAX {
            assert_eq!(parse_write(&printed).as_ref(), Ok(&(upload, resource)), "{name:?} became {printed:?}");
        }
    }
});

/// The name in its longest form.
fn print(resource: &Resource, upload: &str) -> String {
    let instance = match resource.instance.name() {
        "" => String::new(),
        name => format!("{name}/"),
    };
    let kind = match resource.encoding {
        Encoding::Identity => "blobs",
        Encoding::Zstd => "compressed-blobs/zstd",
    };
    let digest = &resource.digest;
    format!("{instance}{upload}{kind}/{}/{}/{}", digest.function.name(), digest.hex(), digest.size_bytes)
}
