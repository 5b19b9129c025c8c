//! Who is asked by a command that only asks.
//!
//! With `--fleet`, that coordinator. Without: the one at the default address, if one answers; else the embedded one of a `muster test` that is
//! under way; else the embedded fleet's data, through a coordinator without agents that is started to answer and stopped again.

use std::path::PathBuf;

use clap::Args;

use super::Format;
use crate::client::{Client, FLEET_DEFAULT};
use crate::embedded::{Embedded, EmbeddedOptions, default_data, running_url};
use crate::error::{ExpectedError, FleetError};

/// The flags of every command that asks.
#[derive(Clone, Debug, Args)]
pub(super) struct AskArguments {
    /// The coordinator's address [default: http://127.0.0.1:7420, then what is recorded on this machine]
    #[arg(long, value_name = "URL", env = "MUSTER_FLEET")]
    fleet: Option<String>,
    /// Where the embedded fleet keeps its cache and history [default: muster in $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(super) format: Format,
}

/// Somebody who answers.
pub(super) struct Access {
    pub(super) client: Client,
    embedded: Option<Embedded>,
}

impl Access {
    /// Finds somebody; a coordinator may be started on recorded data if `from_data` allows it.
    pub(super) async fn open(arguments: &AskArguments, from_data: bool) -> Result<Self, ExpectedError> {
        if let Some(url) = &arguments.fleet {
            return Ok(Self { client: Client::connect(url).await?, embedded: None });
        }
        // A directory that is named is meant, whatever runs on this machine.
        if arguments.data.is_none()
            && let Ok(client) = Client::connect(FLEET_DEFAULT).await
        {
            return Ok(Self { client, embedded: None });
        }
        let data = match &arguments.data {
            Some(data) => data.clone(),
            None => default_data()?,
        };
        if let Some(url) = running_url(&data)
            && let Ok(client) = Client::connect(&url).await
        {
            return Ok(Self { client, embedded: None });
        }
        if !from_data || !data.join("coordinator").is_dir() {
            return Err(FleetError::NoFleet { url: FLEET_DEFAULT.into(), data }.into());
        }
        let embedded =
            Embedded::start(EmbeddedOptions { data, agents: 0, slots: 1, allow_without: Vec::new() }).await?;
        Ok(Self { client: embedded.client().clone(), embedded: Some(embedded) })
    }

    /// Stops what was started to answer.
    pub(super) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// Asks one question and closes again, whatever the answer.
pub(super) async fn ask<T, F>(
    arguments: &AskArguments,
    from_data: bool,
    question: impl FnOnce(Client) -> F,
) -> Result<T, ExpectedError>
where
    F: Future<Output = Result<T, ExpectedError>>,
{
    let access = Access::open(arguments, from_data).await?;
    let answered = question(access.client.clone()).await;
    access.close().await;
    answered
}
