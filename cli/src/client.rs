//! The connection to a coordinator, and its answers as this program's errors.

use std::time::Duration;

use muster_model::limits;
use muster_model::platform::EnvironmentKind;
use muster_proto::v1::images_client::ImagesClient;
use muster_proto::v1::runs_client::RunsClient;
use muster_proto::v1::status_client::StatusClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::FleetError;

/// The coordinator that is asked when none is named: one on this machine.
pub const FLEET_DEFAULT: &str = "http://127.0.0.1:7420";

/// How long one try to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for so long is asked whether it is still there, also while nothing happens in the run.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// And given up when it does not answer within this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A coordinator that answered.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    channel: Channel,
}

impl Client {
    /// Connects to the coordinator at `url`.
    ///
    /// # Errors
    ///
    /// [`FleetError::Address`] and [`FleetError::Unreachable`].
    pub async fn connect(url: &str) -> Result<Self, FleetError> {
        let endpoint = endpoint(url)?;
        match endpoint.connect().await {
            Ok(channel) => Ok(Self { url: url.to_owned(), channel }),
            Err(source) => Err(FleetError::Unreachable { url: url.to_owned(), source: innermost(source) }),
        }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The channel, which connects again by itself.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Its runs.
    pub fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.channel())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    /// Its images.
    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    /// Its status.
    pub fn status(&self) -> StatusClient<Channel> {
        StatusClient::new(self.channel()).max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
    }
}

fn endpoint(url: &str) -> Result<Endpoint, FleetError> {
    let wrong = || FleetError::Address { url: url.to_owned() };
    if !url.starts_with("http://") {
        return Err(wrong());
    }
    Ok(tuned(Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?))
}

/// Connects to a server of the Remote Execution API, which need not be a coordinator: `grpc://HOST:PORT`, or `http://HOST:PORT`.
///
/// # Errors
///
/// [`FleetError::ServerAddress`] and [`FleetError::ServerUnreachable`].
pub async fn connect_server(url: &str) -> Result<Channel, FleetError> {
    let wrong = || FleetError::ServerAddress { url: url.to_owned() };
    let authority = url.strip_prefix("grpc://").or_else(|| url.strip_prefix("http://")).ok_or_else(wrong)?;
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())?;
    let unreachable = |source| FleetError::ServerUnreachable { url: url.to_owned(), source: innermost(source) };
    tuned(endpoint).connect().await.map_err(unreachable)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true)
}

/// The cause that says something: what is around it only says "transport error".
fn innermost(error: tonic::transport::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        words = cause.to_string();
        next = cause.source();
    }
    words.into()
}

/// A refused request as an error. `action` is an infinitive.
pub fn refusal(url: &str, action: &'static str) -> impl FnOnce(Status) -> FleetError {
    let url = url.to_owned();
    move |status| match status.code() {
        Code::Unavailable => FleetError::Unreachable { url, source: Box::new(status) },
        _ => FleetError::Refused { action, source: Box::new(status) },
    }
}

/// A refused submission as an error.
pub fn submission_refusal(url: &str, environment: EnvironmentKind) -> impl FnOnce(Status) -> FleetError {
    let url = url.to_owned();
    move |status| match status.code() {
        Code::FailedPrecondition | Code::ResourceExhausted => {
            FleetError::Precondition { message: status.message().to_owned(), environment }
        }
        _ => refusal(&url, "take the run")(status),
    }
}

/// A refused question about an image, or a refused change, as an error.
pub fn image_refusal(url: &str, action: &'static str, name: &str) -> impl FnOnce(Status) -> FleetError {
    let (url, name) = (url.to_owned(), name.to_owned());
    move |status| match status.code() {
        Code::NotFound => FleetError::NoSuchImage { name },
        _ => refusal(&url, action)(status),
    }
}

/// A refused question about one run, 0 for the newest, as an error.
pub fn lookup_refusal(url: &str, run: u64) -> impl FnOnce(Status) -> FleetError {
    let url = url.to_owned();
    move |status| match status.code() {
        Code::NotFound if run == 0 => FleetError::NoRuns,
        Code::NotFound => FleetError::NoSuchRun { run },
        _ => refusal(&url, "show the run")(status),
    }
}

/// A refused question about an operation as an error.
pub fn operation_refusal(url: &str, operation: &str) -> impl FnOnce(Status) -> FleetError {
    let (url, operation) = (url.to_owned(), operation.to_owned());
    move |status| match status.code() {
        Code::NotFound => FleetError::NoSuchOperation { operation },
        _ => refusal(&url, "show the operation")(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_an_address_is_an_address() {
        for wrong in ["", "build:7420", "https://build", "http://", "http://a b"] {
            let error = Client::connect(wrong).await.expect_err(wrong);
            assert!(matches!(error, FleetError::Address { .. }), "{wrong}: {error:?}");
        }
    }

    #[tokio::test]
    async fn a_server_may_be_written_in_two_ways() {
        for wrong in ["127.0.0.1:8980", "grpcs://build:7420", "grpc://", "grpc://a b"] {
            let error = connect_server(wrong).await.expect_err(wrong);
            assert!(matches!(error, FleetError::ServerAddress { .. }), "{wrong}: {error:?}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        for right in [format!("grpc://{address}"), format!("http://{address}")] {
            let error = connect_server(&right).await.expect_err(&right);
            assert!(matches!(error, FleetError::ServerUnreachable { .. }), "{right}: {error:?}");
        }
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_said_in_plain_words() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Client::connect(&url).await.expect_err("nobody listens");
        let causes = crate::error::ExpectedError::from(error).causes();
        assert_eq!(causes, ["Connection refused (os error 111)"]);
    }

    #[test]
    fn a_refusal_keeps_its_meaning() {
        let kind = EnvironmentKind::Sandbox;
        assert!(matches!(
            submission_refusal("u", kind)(Status::failed_precondition("no agent has base x")),
            FleetError::Precondition { .. }
        ));
        assert!(matches!(submission_refusal("u", kind)(Status::internal("x")), FleetError::Refused { .. }));
        assert!(matches!(refusal("u", "x")(Status::unavailable("x")), FleetError::Unreachable { .. }));
        assert!(matches!(lookup_refusal("u", 7)(Status::not_found("x")), FleetError::NoSuchRun { run: 7 }));
        assert!(matches!(operation_refusal("u", "x")(Status::not_found("x")), FleetError::NoSuchOperation { .. }));
        assert!(matches!(operation_refusal("u", "x")(Status::internal("x")), FleetError::Refused { .. }));
    }
}
