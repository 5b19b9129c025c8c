//! The stream to the coordinator, opened again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use muster_model::limits;
use muster_proto::v1;
use muster_proto::v1::fleet_client::FleetClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::clock::Chance;
use crate::error_text::chain;

/// The first wait before another try; the very first try after a lost stream waits for nothing.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Messages on their way in either direction; more wait.
const MESSAGES_WAITING: usize = 8;

/// What the connection has to say.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A stream is open; reports go in here.
    Opened(mpsc::Sender<v1::AgentReport>),
    /// The coordinator spoke.
    Received(v1::DesiredState),
    /// The stream ended.
    Closed,
}

/// Keeps a stream open until nobody listens any more.
pub(crate) struct Connection {
    endpoint: Endpoint,
    chance: Arc<Chance>,
    signals: mpsc::Sender<Signal>,
}

impl Connection {
    /// Starts it; the signals come out of the receiver.
    pub(crate) fn open(
        endpoint: Endpoint,
        chance: Arc<Chance>,
    ) -> (mpsc::Receiver<Signal>, tokio::task::JoinHandle<()>) {
        let (signals, receiver) = mpsc::channel(MESSAGES_WAITING);
        let connection = Self { endpoint, chance, signals };
        (receiver, tokio::spawn(connection.run()))
    }

    async fn run(self) {
        let mut failures = 0;
        while !self.signals.is_closed() {
            match self.endpoint.connect().await {
                Ok(channel) => {
                    let heard = self.exchange(channel).await;
                    failures = if heard { 0 } else { failures + 1 };
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        let (url, why) = (self.endpoint.uri(), chain(&error));
                        tracing::warn!(%url, why, "the coordinator cannot be reached; trying again");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.backoff(failures)) => {}
                () = self.signals.closed() => {}
            }
        }
    }

    /// Half to all of the exponential wait, so that a fleet does not come back in step.
    fn backoff(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let longest = BACKOFF_MIN.saturating_mul(1 << doublings.min(16)).min(BACKOFF_MAX);
        let thousandths = u32::try_from(500 + self.chance.number() % 501).unwrap_or(1000);
        longest * thousandths / 1000
    }

    /// One stream from beginning to end. Whether the coordinator said anything.
    async fn exchange(&self, channel: Channel) -> bool {
        let mut client = FleetClient::new(channel)
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
        let (reports, outgoing) = mpsc::channel(MESSAGES_WAITING);
        // Before the call: a coordinator may wait for the first report before it answers.
        if self.signals.send(Signal::Opened(reports)).await.is_err() {
            return false;
        }
        let mut heard = false;
        let ended = async {
            let mut incoming = client.sync(ReceiverStream::new(outgoing)).await?.into_inner();
            while let Some(state) = incoming.message().await? {
                if !heard {
                    tracing::info!(url = %self.endpoint.uri(), "connected to the coordinator");
                }
                heard = true;
                if self.signals.send(Signal::Received(state)).await.is_err() {
                    break;
                }
            }
            Ok::<(), tonic::Status>(())
        };
        if let Err(status) = ended.await {
            tracing::warn!(
                code = muster_proto::code_name(status.code()),
                why = status.message(),
                "the stream to the coordinator broke"
            );
        }
        let _ = self.signals.send(Signal::Closed).await;
        heard
    }
}
