//! gRPC requests on their way. A message is decoded when it is whole, and the one message of most calls is used when the request has ended. Until then
//! it lies in memory where no service sees it: so it is counted here, and has to go on coming.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use muster_model::limits::{ARRIVING_BYTES_FREE, ARRIVING_BYTES_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::budget::Patience;
use crate::reapi::errors::exhausted;

/// Calls whose requests have several messages, and may be silent between them for as long as their services allow. What is not named here is
/// taken to have one.
const STREAMS: [&str; 2] = ["/google.bytestream.ByteStream/Write", REPORTS];
/// The stream of an agent's reports.
const REPORTS: &str = "/muster.v1.Fleet/Sync";
/// Bytes before each message (gRPC over HTTP/2, `Length-Prefixed-Message`): whether it is compressed, and its length.
const PREFIX_BYTES: u8 = 5;

/// The memory for what is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    requests: Arc<Semaphore>,
    /// Whatever clients ask for, agents are heard.
    reports: Arc<Semaphore>,
}

impl Default for Arrivals {
    fn default() -> Self {
        let room = || Arc::new(Semaphore::new(ARRIVING_BYTES_MAX));
        Self { requests: room(), reports: room() }
    }
}

/// There is no memory left for it.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator has {ARRIVING_BYTES_MAX} bytes of requests that are not whole; try again soon")]
struct NoRoom;

impl Arrivals {
    /// The same request; its body ends in DEADLINE_EXCEEDED when it comes too slowly, and in RESOURCE_EXHAUSTED when there is no room for it.
    pub(crate) fn watch(&self, request: Request) -> Request {
        let path = request.uri().path();
        let is_stream = STREAMS.contains(&path);
        let room = if path == REPORTS { &self.reports } else { &self.requests }.clone();
        request.map(|body| {
            let arrival = Arrival {
                body,
                is_stream,
                position: Position::default(),
                held: 0,
                room,
                share: None,
                patience: Patience::default(),
            };
            Body::new(StreamBody::new(stream::unfold(Some(arrival), |arrival| async move {
                let mut arrival = arrival?;
                let next = if arrival.is_due() {
                    arrival.patience.wait(arrival.body.frame()).await
                } else {
                    Ok(arrival.body.frame().await)
                };
                let frame = match next {
                    Ok(next) => next?,
                    Err(slow) => Err(failed(Status::deadline_exceeded(slow.to_string()))),
                };
                let came = frame.and_then(|frame| match frame.data_ref().map(|data| arrival.came(data)) {
                    Some(Err(full)) => Err(failed(exhausted(&full.to_string()))),
                    _ => Ok(frame),
                });
                let rest = came.is_ok().then_some(arrival);
                Some((came, rest))
            })))
        })
    }
}

fn failed(status: Status) -> axum::Error {
    axum::Error::new(status)
}

/// A request.
struct Arrival {
    body: Body,
    is_stream: bool,
    position: Position,
    /// Bytes in memory: of a stream those of the message that is on its way, otherwise all.
    held: usize,
    room: Arc<Semaphore>,
    share: Option<OwnedSemaphorePermit>,
    patience: Patience,
}

impl Arrival {
    /// Whether the client owes something.
    fn is_due(&self) -> bool {
        !self.is_stream || self.position != Position::default()
    }

    fn came(&mut self, data: &[u8]) -> Result<(), NoRoom> {
        self.patience.came(data.len());
        let rest = self.position.advance(data);
        self.held = match rest {
            // What was whole is the service's, which counts it itself.
            Some(rest) if self.is_stream => {
                self.patience = Patience::default();
                self.share = None;
                rest
            }
            _ => self.held + data.len(),
        };
        let counted = self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = self.held.saturating_sub(ARRIVING_BYTES_FREE).saturating_sub(counted);
        if wanted == 0 {
            return Ok(());
        }
        let count = u32::try_from(wanted).map_err(|_| NoRoom)?;
        let more = self.room.clone().try_acquire_many_owned(count).map_err(|_| NoRoom)?;
        match &mut self.share {
            Some(share) => share.merge(more),
            None => self.share = Some(more),
        }
        Ok(())
    }
}

/// Where in its messages a request is; between two of them by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Prefix { came: u8, length: u32 },
    Message { left: u32 },
}

impl Default for Position {
    fn default() -> Self {
        Self::Prefix { came: 0, length: 0 }
    }
}

impl Position {
    /// Goes on by `data`. If messages ended in it, answers how many bytes came after the last of them.
    fn advance(&mut self, mut data: &[u8]) -> Option<usize> {
        let mut after = None;
        while let Some((byte, rest)) = data.split_first() {
            *self = match *self {
                Self::Prefix { came, length } => {
                    data = rest;
                    // The first byte is no part of the length.
                    let length = if came == 0 { 0 } else { length << 8 | u32::from(*byte) };
                    match came + 1 {
                        PREFIX_BYTES => Self::Message { left: length },
                        came => Self::Prefix { came, length },
                    }
                }
                Self::Message { left } => {
                    let taken = data.len().min(left as usize);
                    data = data.get(taken..).unwrap_or_default();
                    // No more than `left`, so it fits.
                    Self::Message { left: left - taken as u32 }
                }
            };
            if *self == (Self::Message { left: 0 }) {
                *self = Self::default();
                after = Some(data.len());
            }
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::StreamExt;
    use muster_model::limits::{UPLOAD_PROGRESS_BYTES_MIN, UPLOAD_PROGRESS_TIME};
    use muster_proto::bytestream::byte_stream_server;
    use muster_proto::v1::fleet_server;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::Code;

    use super::*;

    const UNARY: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";

    /// A message of zeroes.
    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(bytes.len() + length as usize, 0);
        bytes
    }

    /// A client's end and a service's end of a request.
    struct Call {
        client: mpsc::Sender<Result<Bytes, axum::Error>>,
        service: axum::body::BodyDataStream,
    }

    impl Call {
        fn begin(arrivals: &Arrivals, path: &str) -> Self {
            let (client, receiver) = mpsc::channel(64);
            let request = Request::post(path).body(Body::from_stream(ReceiverStream::new(receiver))).unwrap();
            Self { client, service: arrivals.watch(request).into_body().into_data_stream() }
        }

        /// Sends bytes and takes them.
        async fn pass(&mut self, bytes: Vec<u8>) -> Result<(), Code> {
            self.client.send(Ok(bytes.clone().into())).await.unwrap();
            assert_eq!(self.take().await?, bytes);
            Ok(())
        }

        async fn take(&mut self) -> Result<Bytes, Code> {
            let next = self.service.next().await.expect("it has not ended");
            next.map_err(|error| Status::from_error(error.into()).code())
        }
    }

    #[test]
    fn the_calls_with_several_messages_are_these() {
        let names = [(byte_stream_server::SERVICE_NAME, "Write"), (fleet_server::SERVICE_NAME, "Sync")];
        assert_eq!(STREAMS.map(str::to_owned), names.map(|(service, method)| format!("/{service}/{method}")));
    }

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        let bytes = [message(0), message(3), message(300), message(1)].concat();
        for cut in 1..bytes.len() {
            let mut position = Position::default();
            let ends = bytes.chunks(cut).filter_map(|part| position.advance(part)).collect::<Vec<_>>();
            assert_eq!((position, ends.last()), (Position::default(), Some(&0)), "{cut}");
        }
        let mut position = Position::default();
        assert_eq!(position.advance(&bytes[..bytes.len() - 3]), Some(3));
        assert_eq!(position, Position::Prefix { came: 3, length: 0 });
        assert_eq!(position.advance(&[0, 2, 7]), None);
        assert_eq!(position, Position::Message { left: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_must_come_to_its_end_and_a_stream_to_the_end_of_a_message() {
        let arrivals = Arrivals::default();
        for sent in [0, 3, 8, 13] {
            let mut call = Call::begin(&arrivals, UNARY);
            if sent > 0 {
                call.pass(message(8)[..sent].to_vec()).await.unwrap();
            }
            assert_eq!(call.take().await, Err(Code::DeadlineExceeded), "{sent} of 13 bytes");
            assert!(call.service.next().await.is_none());
        }
        for path in STREAMS {
            let mut call = Call::begin(&arrivals, path);
            for _ in 0..3 {
                let waited = tokio::time::timeout(10 * UPLOAD_PROGRESS_TIME, call.take()).await;
                assert!(waited.is_err(), "between messages it is the service that has patience or not");
                call.pass(message(8)).await.unwrap();
            }
            call.pass(message(8)[..12].to_vec()).await.unwrap();
            assert_eq!(call.take().await, Err(Code::DeadlineExceeded), "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_slow_but_steady_is_taken() {
        let bytes = message(4 * UPLOAD_PROGRESS_BYTES_MIN as u32);
        for path in [UNARY, STREAMS[0]] {
            let Call { client, mut service } = Call::begin(&Arrivals::default(), path);
            let parts: Vec<Bytes> =
                bytes.chunks(UPLOAD_PROGRESS_BYTES_MIN as usize).map(Bytes::copy_from_slice).collect();
            tokio::spawn(async move {
                for part in parts {
                    tokio::time::sleep(UPLOAD_PROGRESS_TIME - Duration::from_secs(1)).await;
                    client.send(Ok(part)).await.unwrap();
                }
            });
            let mut taken = 0;
            while let Some(part) = service.next().await {
                taken += part.unwrap().len();
            }
            assert_eq!(taken, bytes.len());
        }
    }

    #[tokio::test]
    async fn what_is_not_whole_is_counted_and_what_is_too_much_is_refused() {
        const PART: usize = 1 << 20;
        let arrivals = Arrivals::default();
        let large = |length: usize| message(length as u32);
        let mut calls = Vec::new();
        for _ in 0..ARRIVING_BYTES_MAX / PART {
            let mut call = Call::begin(&arrivals, UNARY);
            call.pass(large(2 * PART)[..PART + ARRIVING_BYTES_FREE].to_vec()).await.unwrap();
            calls.push(call);
        }
        assert_eq!(arrivals.requests.available_permits(), 0);
        let mut refused = Call::begin(&arrivals, STREAMS[0]);
        assert_eq!(refused.pass(large(PART)[..PART].to_vec()).await, Err(Code::ResourceExhausted));
        // What is small, and what agents say, passes all the same.
        Call::begin(&arrivals, UNARY).pass(large(1000)).await.unwrap();
        Call::begin(&arrivals, REPORTS).pass(large(PART)[..PART].to_vec()).await.unwrap();
        drop(calls);
        assert_eq!(arrivals.requests.available_permits(), ARRIVING_BYTES_MAX);
        let mut upload = Call::begin(&arrivals, STREAMS[0]);
        upload.pass(large(PART)[..PART].to_vec()).await.unwrap();
        assert!(arrivals.requests.available_permits() < ARRIVING_BYTES_MAX);
        upload.pass(vec![0; 5]).await.unwrap();
        assert_eq!(arrivals.requests.available_permits(), ARRIVING_BYTES_MAX, "a whole message is its service's");
        let mut whole = Call::begin(&arrivals, UNARY);
        whole.pass(large(PART)).await.unwrap();
        assert!(arrivals.requests.available_permits() < ARRIVING_BYTES_MAX, "the request may go on");
    }
}
