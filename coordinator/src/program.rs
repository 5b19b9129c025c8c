//! The program: flags, log, signals. `muster-coordinator` and `muster coordinator start` are both this.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::configuration::{ActionCacheWrites, Config, ConfigurationError, ConfigurationFile, LeaseTime, Size};
use crate::error::EXIT_STOPPED;
use crate::{Coordinator, CoordinatorError};

/// What is logged unless somebody says otherwise.
pub(crate) const LOG_DEFAULT: &str = "info";

/// Decide which agent runs what, and remember what came of it.
///
/// Exit codes: 0 stopped on request, 1 failed while running, 2 wrong flags, configuration or data folder.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Folder of ledger and cache, made when it is not there [default: muster-coordinator-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A TOML file with the keys listen, data, cache_size, cache_lease, action_cache_writes and log; flags win over it [default: none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Size of the cache: bytes, or a number with KiB, MiB, GiB or TiB [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<Size>,
    /// How long a blob stays after the cache said that it is there: seconds, or a number with s, m, h or d; 1m to 30d [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub cache_lease: Option<LeaseTime>,
    /// Who may store results of actions in the cache [default: clients]
    #[arg(long, value_name = "WHO", value_enum)]
    pub action_cache_writes: Option<ActionCacheWrites>,
    /// What is logged to standard error: a level, or filters such as info,muster_coordinator=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Runs until SIGTERM or SIGINT, and says on standard error why it does not.
pub fn run(arguments: &Arguments) -> ExitCode {
    match try_run(arguments) {
        Ok(()) => ExitCode::from(EXIT_STOPPED),
        Err(error) => {
            eprint!("{}", error.report());
            ExitCode::from(error.exit_code())
        }
    }
}

fn try_run(arguments: &Arguments) -> Result<(), CoordinatorError> {
    let (config, log) = configure(arguments)?;
    let filter = EnvFilter::try_new(&log).map_err(|_| ConfigurationError::Log(log))?;
    let colours = std::io::stderr().is_terminal();
    // A program that embeds this one may log already.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // A log that can't be written, on a disk that is full for example, must not end what it tells of.
    let _ = log.log_internal_errors(false).try_init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CoordinatorError::Runtime)?;
    runtime.block_on(serve(config))
}

fn configure(arguments: &Arguments) -> Result<(Config, String), ConfigurationError> {
    let file = arguments.config.as_deref().map(ConfigurationFile::read).transpose()?.unwrap_or_default();
    let defaults = Config::default();
    let size = arguments.cache_size.or(file.cache_size);
    let lease = arguments.cache_lease.or(file.cache_lease);
    let config = Config {
        listen: arguments.listen.or(file.listen).unwrap_or(defaults.listen),
        data: arguments.data.clone().or(file.data).unwrap_or(defaults.data),
        cache_capacity_bytes: size.map_or(defaults.cache_capacity_bytes, |size| size.0),
        cache_lease_time: lease.map_or(defaults.cache_lease_time, |lease| lease.0),
        action_cache_writes: arguments
            .action_cache_writes
            .or(file.action_cache_writes)
            .unwrap_or(defaults.action_cache_writes),
        scheduler: defaults.scheduler,
    };
    Ok((config, arguments.log.clone().or(file.log).unwrap_or_else(|| LOG_DEFAULT.into())))
}

async fn serve(config: Config) -> Result<(), CoordinatorError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CoordinatorError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CoordinatorError::Runtime)?;
    let coordinator = Coordinator::start(config).await?;
    let address = coordinator.address();
    tracing::info!("listening on http://{address}");
    if !address.ip().is_loopback() {
        tracing::warn!(
            "there is no authentication: everybody who can reach {address} can run programs on the agents and read the cache"
        );
    }
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        () = coordinator.failed() => {
            coordinator.shutdown().await;
            return Err(CoordinatorError::LedgerFailed);
        }
    }
    coordinator.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\ncache_size = \"1MiB\"\ncache_lease = \"2h\"\n").unwrap();
        let arguments =
            Arguments { config: Some(path), listen: Some("127.0.0.1:2".parse().unwrap()), ..Arguments::default() };
        let (config, log) = configure(&arguments).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.cache_capacity_bytes, 1 << 20);
        assert_eq!(config.cache_lease_time.as_secs(), 2 * 3600);
        assert_eq!(config.data, Config::default().data);
        assert_eq!(log, "info");
    }
}
