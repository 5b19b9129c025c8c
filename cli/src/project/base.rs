//! The base that work asks for when nobody names one: this host's own.

use std::path::Path;

use muster_model::platform::BaseRequest;

/// The roots that every base shows; libraries inside them are left to the base.
const LIBRARY_ROOTS: [&str; 6] = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What `base = "…"` asks for; this host's base when it says nothing or `host`.
pub(crate) fn request(name: Option<&str>) -> BaseRequest {
    match name {
        None | Some("host") => BaseRequest::Named(host_base_name()),
        Some("none") => BaseRequest::None,
        Some(name) => BaseRequest::Named(name.to_owned()),
    }
}

/// Whether a base has the path already. Never for the hermetic form, which has no base.
pub(crate) fn is_shown(request: &BaseRequest, path: &Path) -> bool {
    request.shows_base() && LIBRARY_ROOTS.iter().any(|root| path.starts_with(root))
}

/// For example `debian-12-x86_64`, from `os-release(5)`.
fn host_base_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).filter(|value| !value.is_empty())
    };
    let name = value("ID").unwrap_or_else(|| "linux".into());
    let architecture = std::env::consts::ARCH;
    match value("VERSION_ID") {
        Some(version) => format!("{name}-{version}-{architecture}"),
        None => format!("{name}-{architecture}"),
    }
}
