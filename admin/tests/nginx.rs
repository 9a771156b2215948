//! Behind a real nginx, configured as the README says.

use std::{
    env, fs,
    future::IntoFuture,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
    },
    response::Response,
};
use dead_letters::{DeadLetterRepo, testing::letter};
use dead_letters_admin::{Admin, Operator};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

use crate::{
    mount::{self, crawl, resolve},
    support::{Answer, Client, let_in, memory, new_app},
};

/// Starts nginx, says so, and kills it when its standard input closes: that happens however the test process ends.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM PIPE
cd "$1" || exit
nginx -p "$1" -c nginx.conf -e error.log & pid=$!
until [ -s nginx.pid ]; do
    kill -0 "$pid" 2>/dev/null || { cat error.log; rm -r "$1"; exit 1; }
    sleep 0.05
done
echo ready
read -r _
kill -9 "$pid"
rm -r "$1"
"#;

/// The host name under which the operator's browser reaches nginx.
const PUBLIC: &str = "ops.example";
const KEPT: &str = "/admin/dead-letters";
const STRIPPED: &str = "/ops/letters";

/// On a socket in a folder of its own.
struct Nginx {
    supervisor: Child,
    socket: PathBuf,
}

impl Nginx {
    /// In front of a host: with the locations of the README, and one for all else that does not keep `Host`.
    async fn start(host: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap().to_string();
        tokio::spawn(axum::serve(listener, host).into_future());
        let locations = readme_block("nginx").replace("127.0.0.1:8080", &upstream);

        // From here on it is the supervisor's to remove.
        let dir = tempfile::Builder::new().prefix("nginx-").tempdir().unwrap().keep();
        let socket = dir.join("nginx.sock");
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let folders = folders.map(|name| format!("{name}_temp_path {name};")).join(" ");
        let server =
            format!("listen unix:{}; location / {{ proxy_pass http://{upstream}; }}", socket.display());
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; events {{}}\n\
             http {{ access_log off; {folders} server {{ {server}\n{locations} }} }}"
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();

        // Debian's is where only root looks.
        let path = format!("{}:/usr/sbin", env::var("PATH").unwrap_or_default());
        let mut supervisor = Command::new("sh");
        supervisor.args(["-c", SUPERVISOR, "sh"]).arg(&dir).env("PATH", path);
        let mut supervisor = supervisor.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut answer = BufReader::new(supervisor.stdout.take().unwrap());
        let mut said = String::new();
        answer.read_line(&mut said).unwrap();
        if said != "ready\n" {
            answer.read_to_string(&mut said).unwrap();
            panic!("nginx did not start (tests/install gets it): {said}");
        }
        Self { supervisor, socket }
    }

    /// Returns a client whose requests go through nginx, as a browser's do.
    fn client(&self) -> Client {
        let socket = self.socket.clone();
        Router::new().fallback(async move |request: Request| through(&socket, request).await).into()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().ok();
    }
}

/// The first one of the language.
fn readme_block(language: &str) -> &'static str {
    let (_, rest) = include_str!("../README.md").split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// By HTTP/1.0, in which an answer ends with its connection.
async fn through(socket: &PathBuf, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    parts.headers.entry(HOST).or_insert(HeaderValue::from_static(PUBLIC));
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    let mut sent = format!("{} {} HTTP/1.0\r\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        sent += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    let mut nginx = UnixStream::connect(socket).await.unwrap();
    nginx.write_all(&[format!("{sent}\r\n").as_bytes(), &body].concat()).await.unwrap();
    let mut answer = Vec::new();
    nginx.read_to_end(&mut answer).await.unwrap();

    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let mut response = Response::new(Body::from(answer[end + 4..].to_vec()));
    *response.status_mut() = status.split(' ').nth(1).unwrap().parse().unwrap();
    for line in headers.split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        response.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    response
}

/// As the browser sends a form of the page's own.
async fn post(client: &Client, path: &str, form: &'static str) -> Answer {
    let request = Request::post(path).header("origin", format!("https://{PUBLIC}"));
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    client.send(request.body(Body::from(form)).unwrap()).await
}

#[tokio::test]
async fn every_link_leads_somewhere_whether_nginx_keeps_the_prefix_or_strips_it() {
    let (admin, _) = mount::admin().await;
    let nginx = Nginx::start(Router::new().nest_service(KEPT, admin.into_service())).await;
    for prefix in [KEPT, STRIPPED] {
        for start in [prefix.to_owned(), format!("{prefix}/")] {
            assert!(crawl(&nginx.client(), &start, prefix).await > 5, "{start}");
        }
    }
}

#[tokio::test]
async fn an_action_is_done_and_its_redirect_leads_back_through_nginx() {
    let (store, app) = (memory().await, new_app());
    let ids = store.insert_many(vec![letter(app); 2]).await.unwrap();
    let admin = Admin::new(Arc::new(store), let_in(Operator::full("ada")));
    let nginx = Nginx::start(Router::new().nest_service(KEPT, admin.into_service())).await;
    let client = nginx.client();
    for (prefix, id) in [(KEPT, ids[0]), (STRIPPED, ids[1])] {
        let page = format!("{prefix}/apps/{app}/letters/{id}");
        let action = format!("{page}/resolve");
        let answer = post(&client, &action, "resolution=ignored").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer}");
        let address = resolve(&action, answer.location());
        assert_eq!(address.split('?').next(), Some(page.as_str()));
        let told = client.get(&address).await;
        assert!(told.status == StatusCode::OK && told.text().contains("The letter is ignored:"), "{told}");
    }
}

#[tokio::test]
async fn if_nginx_changes_host_an_action_is_done_for_trusted_origins_alone() {
    let (admin, app) = mount::admin().await;
    let (trusting, its_app) = mount::admin().await;
    let trusting = trusting.trusted_origin(format!("https://{PUBLIC}")).unwrap();
    let host = Router::new()
        .nest_service("/strict", admin.into_service())
        .nest_service("/trusting", trusting.into_service());
    let nginx = Nginx::start(host).await;
    for (prefix, app, status) in
        [("/strict", app, StatusCode::FORBIDDEN), ("/trusting", its_app, StatusCode::OK)]
    {
        let preview = format!("{prefix}/bulk/preview");
        let answer = post(&nginx.client(), &preview, format!("app={app}&action=ignored").leak()).await;
        assert_eq!(answer.status, status, "{answer}");
    }
}
