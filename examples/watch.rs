//! A watch that posts each error group that is new or regressed to a webhook.
//!
//! ```text
//! cargo run --example watch
//! ```

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use dead_letters::{
    AppId, DeadLetterRepo, GroupWatch, NewDeadLetter, NewErrorGroup, NewGroupState, Notify, testing,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use uuid::Uuid;

/// Posts to a webhook. A service uses the HTTP client that it has, with TLS and a timeout.
struct Webhook {
    address: String,
}

#[async_trait]
impl Notify for Webhook {
    async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        let what = match group.state {
            NewGroupState::Regressed => "is back",
            _ => "is new",
        };
        // An error may contain personal data: post only what the channel's readers may see.
        let text = format!("{} {} {what}: {}", group.source, group.op, group.error_signature);
        let body = json!({ "text": text, "app": group.app_id, "group": group.group_key }).to_string();
        let mut connection = TcpStream::connect(&self.address).await?;
        let request = format!(
            "POST /hook HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        connection.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        connection.read_to_string(&mut response).await?;
        match response.split(' ').nth(1) {
            Some("204") => Ok(()),
            status => Err(format!("the webhook returned {status:?}").into()),
        }
    }
}

/// The receiver of the webhook, which passes each message on.
async fn receive(
    listener: TcpListener,
    messages: mpsc::Sender<Value>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    loop {
        let (mut connection, _) = listener.accept().await?;
        let (mut request, mut buffer) = (Vec::new(), [0; 1_024]);
        let body = loop {
            let read = connection.read(&mut buffer).await?;
            request.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&request);
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
            // The body is complete once it is JSON.
            if let Some(body) = body.and_then(|body| serde_json::from_str(&body).ok()) {
                break body;
            }
            if read == 0 {
                return Err("the request has no body".into());
            }
        };
        connection.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await?;
        messages.send(body).await?;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let webhook = Webhook { address: listener.local_addr()?.to_string() };
    let (sender, mut messages) = mpsc::channel(10);
    let receiver = tokio::spawn(receive(listener, sender));

    let (repo, app) = (testing::store().await?, AppId::from(Uuid::new_v4()));
    let watch = GroupWatch::builder(Arc::new(repo.clone()), Arc::new(webhook)).build()?;
    let fails =
        |error: &str| NewDeadLetter { last_error: error.to_owned(), script_id: None, ..testing::letter(app) };

    repo.insert(fails("no stock for order 17")).await?;
    let first = repo.insert(fails("smtp: 451 greylisted")).await?;
    // One tick, as for cron. A service calls `run`, which makes a tick every minute until its shutdown.
    println!("{} groups are new", watch.announce_once().await.announced);
    for _ in 0..2 {
        println!("the webhook got {}", messages.recv().await.ok_or("the receiver ended")?);
    }

    // Another letter of a known group is no news.
    repo.insert(fails("no stock for order 18")).await?;
    println!("{} groups are new", watch.announce_once().await.announced);

    // A group that was closed and fails again is.
    repo.resolve(first, "ignored").await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    repo.insert(fails("smtp: 451 greylisted")).await?;
    println!("{} group regressed", watch.announce_once().await.announced);
    println!("the webhook got {}", messages.recv().await.ok_or("the receiver ended")?);
    receiver.abort();
    Ok(())
}
