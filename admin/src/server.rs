//! A server for a program that serves only the admin. It bounds what a client can occupy by sending or reading
//! slowly, which [`axum::serve`] does not.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, middleware::map_response};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

use crate::guard;

/// Maximum size of the head of a request, including its address.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Pause after a failed accept, which mostly means that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router over HTTP/1.1, with limits on connections and slow clients.
///
/// By default it serves 256 connections. The default timeouts are 10 seconds for the head of a request and between
/// two requests, and 30 seconds until a client takes the next part of a response. Every response has the admin's
/// security headers, also the responses of layers around the admin.
#[derive(Debug, Clone)]
#[cfg_attr(docsrs, doc(cfg(feature = "serve")))]
pub struct Server {
    router: Router,
    max_connections: usize,
    head_timeout: Duration,
    stall_timeout: Duration,
    grace: Duration,
}

impl Server {
    /// Returns a server of this router, which may be an [`Admin`](crate::Admin) with the program's own layers.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use dead_letters_admin::Server;
    ///
    /// # let router = Router::new();
    /// let server = Server::new(router)
    ///     .max_connections(64)
    ///     .head_timeout(Duration::from_secs(5))
    ///     .stall_timeout(Duration::from_secs(10))
    ///     .grace(Duration::from_secs(5));
    /// # _ = server;
    /// ```
    pub fn new(router: Router) -> Self {
        Self {
            router: router.layer(map_response(guard::headers)),
            max_connections: 256,
            head_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(20),
        }
    }

    /// Sets how many connections are served at a time, at least one. Further connections wait in the operating
    /// system's queue.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::Router;
    /// use dead_letters_admin::Server;
    ///
    /// # let router = Router::new();
    /// let server = Server::new(router).max_connections(64);
    /// # _ = server;
    /// ```
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Sets the time after which a connection is closed if the head of a request has not arrived.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use dead_letters_admin::Server;
    ///
    /// # let router = Router::new();
    /// let server = Server::new(router).head_timeout(Duration::from_secs(5));
    /// # _ = server;
    /// ```
    pub fn head_timeout(mut self, time: Duration) -> Self {
        self.head_timeout = time;
        self
    }

    /// Sets the time after which a connection is closed if its client takes nothing of a response.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use dead_letters_admin::Server;
    ///
    /// # let router = Router::new();
    /// let server = Server::new(router).stall_timeout(Duration::from_secs(10));
    /// # _ = server;
    /// ```
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.stall_timeout = time;
        self
    }

    /// Sets the time within which running requests may end after the shutdown, 20 seconds by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use dead_letters_admin::Server;
    ///
    /// # let router = Router::new();
    /// let server = Server::new(router).grace(Duration::from_secs(5));
    /// # _ = server;
    /// ```
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// Serves until `shutdown` completes.
    ///
    /// The server then accepts no more connections and closes those on which no request has begun. It returns once
    /// the others are closed, at the latest after [`grace`](Self::grace).
    ///
    /// # Examples
    ///
    /// ```
    /// # use axum::Router;
    /// use dead_letters_admin::Server;
    /// use tokio::{net::TcpListener, sync::oneshot};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let router = Router::new();
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// println!("http://{}", listener.local_addr()?);
    /// let (stop, stopped) = oneshot::channel::<()>();
    /// let serving = tokio::spawn(Server::new(router).run(listener, async { _ = stopped.await }));
    /// // When the program ends:
    /// drop(stop);
    /// serving.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let (stop, _) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = async {
                // Waits for a free slot before accepting, so that further connections stay in the operating system's
                // queue.
                let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((listener.accept().await?.0, slot))
            };
            select! {
                biased;
                () = &mut shutdown => break,
                accepted = accepted => match accepted {
                    Ok((stream, slot)) => {
                        connections.spawn(self.clone().connection(stream, slot, stop.subscribe()));
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(listener);
        stop.send_replace(true);
        // Dropping the set ends the connections that are left.
        timeout(self.grace, async { while connections.join_next().await.is_some() {} }).await.ok();
    }

    async fn connection(
        self,
        stream: TcpStream,
        _slot: OwnedSemaphorePermit,
        mut stop: watch::Receiver<bool>,
    ) {
        // Without this option the end of a response may wait until the client acknowledges its beginning.
        stream.set_nodelay(true).ok();
        let has_begun = Arc::new(AtomicBool::new(false));
        let begins = has_begun.clone();
        let router = TowerToHyperService::new(self.router);
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            begins.store(true, Ordering::Relaxed);
            router.call(request.map(Body::new))
        });
        let stream = TokioIo::new(Unstalled { stream, timeout: self.stall_timeout, stalled: None });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.head_timeout)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(stream, service)
        );
        // Errors of a connection come from the client, which hung up or did not send HTTP.
        select! {
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|&is_stopped| is_stopped) => {}
        }
        if has_begun.load(Ordering::Relaxed) {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

/// A stream whose writes fail once the other end takes nothing for `timeout`.
struct Unstalled {
    stream: TcpStream,
    timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Unstalled {
    fn timed<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let timeout = self.timeout;
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.timed(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.timed(polled, context)
    }
}
