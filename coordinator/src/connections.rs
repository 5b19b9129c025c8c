//! Connections: at most so many at one time, in all and from one address, and none that does nothing.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use muster_model::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::Connected;
use tower_layer::Layer;
use tower_service::Service;

/// A connection that makes room for another one when it ends, and that ends when the coordinator does.
pub(crate) struct Connection {
    stream: TcpStream,
    severed: Pin<Box<dyn Future<Output = ()> + Send>>,
    activity: Arc<Activity>,
    /// When to look at `activity` next.
    check: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// What a connection is used for. It is known to every request on it.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    asked: AtomicBool,
    requests: AtomicUsize,
    idle_since: Mutex<Option<Instant>>,
}

/// A request under way.
struct Underway(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Underway {
        self.asked.store(true, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Underway(self.clone())
    }

    /// When to look again; none when the connection has done nothing for too long.
    fn next_check(&self, now: Instant) -> Option<Instant> {
        if !self.asked.load(Ordering::Relaxed) {
            return None;
        }
        let next = if self.requests.load(Ordering::Relaxed) > 0 {
            now + limits::CONNECTION_IDLE_TIME
        } else {
            let idle_since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            idle_since.unwrap_or(now) + limits::CONNECTION_IDLE_TIME
        };
        (next > now).then_some(next)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

/// Connections by address.
#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of a peer's connections.
struct Place {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(address).or_default();
        if *count >= limits::CONNECTIONS_PER_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.address);
            }
        }
    }
}

/// Accepts connections; the one beyond the limit waits in the system's queue until another ends, and one beyond its address's limit is closed. All of
/// them end when the sender of `lifeline` is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    lifeline: watch::Receiver<()>,
) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let state = (listener, room, Peers::default(), lifeline);
    stream::unfold(state, |(listener, room, peers, lifeline)| async move {
        let permit = room.clone().acquire_owned().await.ok()?;
        let accepted = loop {
            match listener.accept().await {
                Ok((stream, peer)) => match peers.take(peer.ip()) {
                    Some(place) => break Ok(Connection::new(stream, place, permit, lifeline.clone())),
                    None => tracing::debug!(peer = %peer.ip(), "too many connections from one address"),
                },
                Err(error) => break Err(error),
            }
        };
        Some((accepted, (listener, room, peers, lifeline)))
    })
    .boxed()
}

impl Connection {
    fn new(stream: TcpStream, place: Place, permit: OwnedSemaphorePermit, mut lifeline: watch::Receiver<()>) -> Self {
        // Without it small messages wait for each other; with an old kernel they just do.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            severed: Box::pin(async move { while lifeline.changed().await.is_ok() {} }),
            activity: Arc::default(),
            check: Box::pin(sleep(limits::FIRST_REQUEST_TIMEOUT)),
            _permit: permit,
            _place: place,
        }
    }

    /// Ready when the connection has been without a request for too long.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.check.as_mut().poll(context));
            let Some(next) = self.activity.next_check(Instant::now()) else { return Poll::Ready(()) };
            self.check.set(sleep_until(next));
        }
    }
}

/// What requests know of their connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    activity: Arc<Activity>,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo { activity: self.activity.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.severed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.poll_idle(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Tells connections of the requests on them, each from its head to the end of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TellConnections;

impl<S> Layer<S> for TellConnections {
    type Service = Telling<S>;

    fn layer(&self, inner: S) -> Telling<S> {
        Telling(inner)
    }
}

/// See [`TellConnections`].
#[derive(Clone, Debug)]
pub(crate) struct Telling<S>(S);

impl<S> Service<Request<Body>> for Telling<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let underway = request.extensions().get::<ConnectionInfo>().map(|info| info.activity.begin());
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // The body lives until its last byte is sent, and what is captured lives with it.
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &underway;
                    frame
                }))
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn only_connections_without_requests_run_out_of_time() {
        let activity = Arc::<Activity>::default();
        assert_eq!(activity.next_check(Instant::now()), None, "nothing was asked");
        let underway = activity.begin();
        tokio::time::advance(10 * limits::CONNECTION_IDLE_TIME).await;
        assert!(activity.next_check(Instant::now()).is_some(), "a request is under way");
        drop(underway);
        let end = Instant::now() + limits::CONNECTION_IDLE_TIME;
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(activity.next_check(Instant::now()), Some(end));
        tokio::time::advance(limits::CONNECTION_IDLE_TIME).await;
        assert_eq!(activity.next_check(Instant::now()), None);
    }

    #[test]
    fn an_address_has_so_many_places_and_others_have_theirs() {
        let peers = Peers::default();
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let mut taken: Vec<Place> = (0..limits::CONNECTIONS_PER_PEER_MAX).filter_map(|_| peers.take(one)).collect();
        assert_eq!(taken.len(), limits::CONNECTIONS_PER_PEER_MAX);
        assert!(peers.take(one).is_none());
        assert!(peers.take(two).is_some());
        taken.pop();
        assert!(peers.take(one).is_some());
        drop(taken);
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
