//! The server that `dead-letters serve` runs, over real sockets: what clients hold by sending and reading slowly.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::request::Parts};
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterTransfer, StoredLetter,
    testing::{letter, stored_letter},
};
use dead_letters_admin::{Admin, Denied, InsecureAllowAll, Operator, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::support::{memory, new_app};

struct Site {
    address: SocketAddr,
    app: AppId,
    id: DeadLetterId,
    store: dead_letters::SeaOrmDeadLetterRepo,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Site {
    async fn start(change: impl FnOnce(Server) -> Server) -> Self {
        let (store, app) = (memory().await, new_app());
        let id = store.insert(letter(app)).await.unwrap();
        let admin = Admin::new(Arc::new(store.clone()), InsecureAllowAll(Operator::full("ada")));
        let server = change(Server::new(Router::from(admin)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(listener, async { drop(stopped.await) }));
        Self { address, app, id, store, stop: Some(stop), task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The whole answer to a request on a connection of its own.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn is_there(&self) {
        let answer = self.ask("GET /api/apps HTTP/1.1\r\nHost: localhost").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Until the server closes it.
async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
}

#[tokio::test]
async fn more_half_open_connections_than_allowed_do_not_block_the_server() {
    let site =
        Site::start(|server| server.max_connections(20).head_timeout(Duration::from_millis(300))).await;
    let mut half_open = Vec::new();
    for n in 0..60 {
        let mut stream = site.connect().await;
        match n % 3 {
            0 => {}
            1 => stream.write_all(b"GET /api/apps HTTP/1.1\r\nHost: local").await.unwrap(),
            _ => stream.write_all(b"POST /api/bulk/run HTTP/1.1\r\nX-").await.unwrap(),
        }
        half_open.push(stream);
    }
    site.is_there().await;
    for stream in half_open {
        is_closed(stream).await;
    }
    site.is_there().await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_and_a_connection_that_idles_are_closed() {
    let site = Site::start(|server| server.head_timeout(Duration::from_millis(300))).await;
    let mut slow = site.connect().await;
    let mut bytes =
        "GET /api/apps HTTP/1.1\r\nHost: localhost\r\nX-Long: ".bytes().chain(std::iter::repeat(b'x'));
    // It ends by the server closing it.
    loop {
        if slow.write_all(&[bytes.next().unwrap()]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut idle = site.connect().await;
    idle.write_all(b"GET /api/apps HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // To its end, which is the server's doing: the client would have asked again.
    idle.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    site.is_there().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_a_large_response_is_disconnected() {
    let site =
        Site::start(|server| server.max_connections(1).stall_timeout(Duration::from_millis(300))).await;
    let stored =
        StoredLetter { payload: "x".repeat(40 << 20), ..stored_letter(site.app, chrono::Utc::now()) };
    site.store.import(std::slice::from_ref(&stored)).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut reader = socket.connect(site.address).await.unwrap();
    let path = format!("/api/apps/{}/letters/{}/payload", site.app, stored.id);
    reader.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    // The only place is taken until the reader is given up.
    site.is_there().await;
    let mut read = Vec::new();
    reader.read_to_end(&mut read).await.ok();
    assert!(read.len() < 40 << 20, "{} bytes", read.len());
}

#[tokio::test]
async fn invalid_http_is_refused_and_the_next_request_works() {
    let site = Site::start(|server| server).await;
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\xff\xfe\x00GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = site.connect().await;
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        site.is_there().await;
    }
    let long = format!("GET /api/apps?x={} HTTP/1.1\r\nHost: localhost", "x".repeat(100_000));
    let answer = site.ask(&long).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let many: String = (0..1_000).map(|n| format!("\r\nX-{n}: y")).collect();
    let answer = site.ask(&format!("GET /api/apps HTTP/1.1\r\nHost: localhost{many}")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    site.is_there().await;
}

#[tokio::test]
async fn every_response_has_the_security_headers_also_those_of_outer_layers() {
    let (store, app) = (memory().await, new_app());
    store.insert(letter(app)).await.unwrap();
    let admin = Admin::new(Arc::new(store), |_: &Parts| Err::<Operator, _>(Denied::unauthenticated()));
    let refuse = async |_: axum::extract::Request, _: axum::middleware::Next| {
        (axum::http::StatusCode::MISDIRECTED_REQUEST, "no")
    };
    let guarded = Router::new()
        .nest(
            "/guarded",
            Router::from(Admin::new(Arc::new(memory().await), InsecureAllowAll(Operator::full("ada"))))
                .layer(axum::middleware::from_fn(refuse)),
        )
        .merge(Router::from(admin));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(Server::new(guarded).run(listener, std::future::pending()));
    for (path, status) in [("/api/apps", "401"), ("/guarded/apps", "421")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        for header in [
            "cache-control: no-store",
            "content-security-policy: default-src 'none'",
            "x-frame-options: DENY",
            "x-content-type-options: nosniff",
        ] {
            assert!(answer.contains(header), "{path}: {header}: {answer}");
        }
    }
    task.abort();
}

#[tokio::test]
async fn on_shutdown_the_server_finishes_requests_and_waits_for_no_idle_connection() {
    let mut site =
        Site::start(|server| server.head_timeout(Duration::from_secs(600)).grace(Duration::from_secs(600)))
            .await;
    let (mut half, silent) = (site.connect().await, site.connect().await);
    half.write_all(b"GET /api/apps HTTP/1.1\r\nHost: lo").await.unwrap();
    let mut under_way = site.connect().await;
    let body = r#"{"resolution":"ignored"}"#;
    let path = format!("/api/apps/{}/letters/{}/resolve", site.app, site.id);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    under_way.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    under_way.read_exact(&mut go_on).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100"));
    site.stop.take().unwrap().send(()).unwrap();
    is_closed(half).await;
    is_closed(silent).await;
    under_way.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    under_way.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    site.task.await.unwrap();
    assert!(TcpStream::connect(site.address).await.is_err());
}
