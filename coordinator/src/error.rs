//! Why a coordinator does not run.

use std::net::SocketAddr;
use std::path::PathBuf;

use muster_cache::StoreError;

use crate::configuration::ConfigurationError;
use crate::ledger::LedgerError;

/// Why a coordinator does not start, or has stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The configuration is wrong.
    #[error("the configuration can't be used")]
    Configuration(#[from] ConfigurationError),
    /// The address can't be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ledger can't be had.
    #[error("the ledger in {} can't be opened", folder.display())]
    Ledger {
        /// The data folder.
        folder: PathBuf,
        /// Why.
        source: LedgerError,
    },
    /// The store can't be had.
    #[error("the cache in {} can't be opened", folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The ledger failed while the coordinator ran: it promises nothing any more and has stopped.
    #[error("the ledger failed and the coordinator has stopped")]
    LedgerFailed,
    /// The system has no random numbers, from which names that can't be guessed are made.
    #[error("cannot read /dev/urandom")]
    Random(#[source] std::io::Error),
    /// The program's runtime can't be made.
    #[error("the runtime can't be started")]
    Runtime(#[source] std::io::Error),
}

/// Exit code of a stop on request.
pub const EXIT_STOPPED: u8 = 0;
/// Exit code of a failure while running.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of wrong flags, a wrong file, or a data folder that can't be used.
pub const EXIT_USAGE: u8 = 2;

impl CoordinatorError {
    /// The next thing to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Configuration(error) => error.hint(),
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some("another program listens there; choose another address with --listen 127.0.0.1:0".into())
            }
            Self::Listen { .. } => Some("choose an address of this machine with --listen".into()),
            Self::Ledger { source: LedgerError::Locked(_), .. } => {
                Some("stop the other coordinator, or choose another folder with --data".into())
            }
            Self::Ledger { source: LedgerError::Newer { .. }, .. }
            | Self::Store { source: StoreError::Layout { .. }, .. } => {
                Some("run the Muster that wrote it, or choose another folder with --data".into())
            }
            Self::Ledger { source: LedgerError::Damaged(_) | LedgerError::Corrupt { .. }, folder } => {
                let folder = folder.display();
                Some(format!(
                    "put a copy back (cp COPY/ledger.sqlite3 {folder}/), see what can still be read (sqlite3 {folder}/ledger.sqlite3 .recover), \
                     or choose another folder with --data"
                ))
            }
            Self::Ledger { .. } | Self::Store { .. } => {
                Some("choose a folder that you can write to with --data".into())
            }
            Self::LedgerFailed => Some("look at the disk; nothing that was promised is lost, start it again".into()),
            Self::Random(_) | Self::Runtime(_) => None,
        }
    }

    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::LedgerFailed | Self::Random(_) | Self::Runtime(_) => EXIT_FAILED,
            _ => EXIT_USAGE,
        }
    }

    /// Sentence, causes and hint, as a person reads them.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}\n");
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!("  cause: {error}\n"));
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}
