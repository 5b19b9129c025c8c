//! Names of images.

use crate::limits::IMAGE_NAME_BYTES_MAX;

/// Whether a text can be the name of an image: letters and digits of ASCII and `. _ / : @ -` between them, at most
/// [`IMAGE_NAME_BYTES_MAX`] bytes, a letter or digit first. What looks like a digest is none.
pub fn is_image_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.len() <= IMAGE_NAME_BYTES_MAX
        && text.bytes().next().is_some_and(is_plain)
        && text.bytes().all(|byte| is_plain(byte) || b"._/:@-".contains(&byte))
        && !text.starts_with("blake3:")
        && !text.starts_with("sha256:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_images_elsewhere_and_no_digests() {
        for good in ["postgres15", "postgres:15", "registry.example/team/db-1.2:v3", "a@b"] {
            assert!(is_image_name(good), "{good}");
        }
        let long = "n".repeat(IMAGE_NAME_BYTES_MAX + 1);
        for bad in ["", "-a", ".a", "/a", "a b", "a\n", "ä", "blake3:00/1", "sha256:00", &long] {
            assert!(!is_image_name(bad), "{bad:?}");
        }
    }
}
