//! Rules of the Capabilities service.

use muster_proto::reapi::{digest_function, symlink_absolute_path_strategy};

use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "capabilities/answers", "Capabilities.GetCapabilities":
        "an instance's capabilities can be asked for" => answers;
    Must "capabilities/versions", "ServerCapabilities.low_api_version":
        "low_api_version and high_api_version are set, in that order" => versions;
    Clients "capabilities/speaks-2.0", "ServerCapabilities.low_api_version":
        "2.0 lies within the versions: Bazel before 7 and Please refuse a server otherwise" => speaks_2_0;
    Must "capabilities/digest-functions", "CacheCapabilities.digest_functions":
        "all the digest functions that the store accepts are listed" => digest_functions;
    Must "capabilities/batch-size", "CacheCapabilities.max_batch_total_size_bytes":
        "the largest batch is given in bytes; 0 means no limit" => batch_size;
    Clients "capabilities/batch-size-fits", "CacheCapabilities.max_batch_total_size_bytes":
        "a batch of the largest size fits a message of 4 MiB, gRPC's default, and at least 1 MiB is taken at once" => batch_fits;
    Should "capabilities/symlink-strategy", "CacheCapabilities.symlink_absolute_path_strategy":
        "what is done with absolute targets of symbolic links is stated" => symlink_strategy;
    Must "capabilities/execution-digest-function", "ExecutionCapabilities.digest_function":
        "the function for actions is one that the store accepts" => execution_function;
    Should "capabilities/execution-digest-functions", "ExecutionCapabilities.digest_functions":
        "the list of functions holds the single one that older clients read" => execution_functions;
];

async fn answers(session: &Session) -> Answer {
    session.capabilities.clone().map(|_| ()).map_err(Finding::from)
}

async fn versions(session: &Session) -> Answer {
    let capabilities = session.capabilities.clone()?;
    let (Some(low), Some(high)) = (&capabilities.low_api_version, &capabilities.high_api_version) else {
        broken!("low_api_version or high_api_version is not set")
    };
    require!((low.major, low.minor) <= (high.major, high.minor), "low {low:?} is above high {high:?}");
    require!(low.major >= 2 || high.major >= 2, "no version 2: {low:?} to {high:?}");
    Ok(())
}

async fn speaks_2_0(session: &Session) -> Answer {
    let capabilities = session.capabilities.clone()?;
    let low = capabilities.low_api_version.unwrap_or_default();
    require!((low.major, low.minor, low.patch) <= (2, 0, 0), "low_api_version is {}.{}", low.major, low.minor);
    Ok(())
}

async fn digest_functions(session: &Session) -> Answer {
    let listed = &session.cache_capabilities()?.digest_functions;
    require!(!listed.is_empty(), "none is listed");
    let unknown = i32::from(digest_function::Value::Unknown);
    require!(!listed.contains(&unknown), "UNKNOWN is listed: {listed:?}");
    Ok(())
}

async fn batch_size(session: &Session) -> Answer {
    let size = session.cache_capabilities()?.max_batch_total_size_bytes;
    require!(size >= 0, "it is {size}");
    Ok(())
}

async fn batch_fits(session: &Session) -> Answer {
    let size = session.cache_capabilities()?.max_batch_total_size_bytes;
    require!(size == 0 || (1 << 20..4 << 20).contains(&size), "it is {size}");
    Ok(())
}

async fn symlink_strategy(session: &Session) -> Answer {
    let strategy = session.cache_capabilities()?.symlink_absolute_path_strategy;
    let unknown = i32::from(symlink_absolute_path_strategy::Value::Unknown);
    require!(strategy != unknown, "it is UNKNOWN");
    Ok(())
}

async fn execution_function(session: &Session) -> Answer {
    let execution = session.execution_capabilities()?;
    let listed = &session.cache_capabilities()?.digest_functions;
    let function = execution.digest_function;
    require!(listed.contains(&function), "it is {function}, and the store lists {listed:?}");
    Ok(())
}

async fn execution_functions(session: &Session) -> Answer {
    let execution = session.execution_capabilities()?;
    let (one, list) = (execution.digest_function, &execution.digest_functions);
    require!(list.contains(&one), "the one is {one}, the list {list:?}");
    Ok(())
}
