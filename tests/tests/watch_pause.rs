//! A gateway whose API server ends every watch at once, with 200 and nothing in it; and one whose NATS lets it in and hangs up.
//!
//! No real server can be made to do so: these are some lines of HTTP, and of the NATS protocol.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidings_tests::gateway::Gateway;
use tidings_tests::nats::Nats;
use tidings_tests::wait::{PATIENCE, eventually};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// When each watch was asked for.
type Watches = Arc<Mutex<Vec<Instant>>>;

async fn answer(stream: TcpStream, watches: Watches) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        let body = if request.contains("watch=true") {
            watches.lock().await.push(Instant::now());
            String::new()
        } else {
            let metadata = json!({ "resourceVersion": "1" });
            json!({ "apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": [] }).to_string()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
    }
}

#[tokio::test]
async fn watches_that_end_at_once_are_repeated_with_growing_pauses_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let watches = Watches::default();
    let server = tokio::spawn({
        let watches = watches.clone();
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, watches.clone()));
            }
        }
    });
    let directory = tempfile::tempdir().expect("a directory");
    let kubeconfig = directory.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
         contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\n\
         clusters: [{{name: it, cluster: {{server: '{url}'}}}}]\nusers: [{{name: it, user: {{}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).expect("written");
    let nats = Nats::start().await;
    let arguments = ["--namespace", "push"].map(str::to_owned);
    let gateway = Gateway::start_in_cluster("gateway", &nats.url(), &kubeconfig, &arguments);
    gateway.ready().await;
    let most = eventually(PATIENCE, "eight watches", || async {
        let watches = watches.lock().await;
        (watches.len() >= 8).then(|| watches.clone())
    })
    .await;
    // 0, 100, 200, 400, 800, 1,600, 3,200 ms lie between the first eight; several at once would all be there by now.
    let took = most[7].duration_since(most[0]);
    assert!(most.len() == 8 && took >= Duration::from_secs(6), "{} watches, eight of them within {took:?}", most.len());
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tidings_route_watches_paused_total") >= 6.0);
    assert!(gateway.is_ready().await, "what was listed is served");
    server.abort();
}

/// Lets a client in, answers its first PING, and hangs up. Notes when each of the gateway's connections came.
async fn hang_up(stream: TcpStream, connects: Arc<Mutex<HashMap<String, Vec<Instant>>>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let info = json!({
        "server_id": "x", "server_name": "x", "version": "2.15.2", "go": "", "host": "127.0.0.1", "port": 4222,
        "headers": true, "max_payload": 1_048_576, "proto": 1, "client_id": 1, "jetstream": true,
    });
    stream.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        if let Some(connect) = line.strip_prefix("CONNECT ") {
            let name = serde_json::from_str::<serde_json::Value>(connect)?["name"].to_string();
            connects.lock().await.entry(name).or_default().push(Instant::now());
        }
        if line.starts_with("PING") {
            return stream.write_all(b"PONG\r\n").await;
        }
        line.clear();
    }
    Ok(())
}

#[tokio::test]
async fn connections_to_nats_that_end_at_once_are_made_with_growing_pauses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    let connects = Arc::<Mutex<HashMap<String, Vec<Instant>>>>::default();
    let server = tokio::spawn({
        let connects = connects.clone();
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hang_up(stream, connects.clone()));
            }
        }
    });
    let folder = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start("gateway", &url, folder.path(), &[]);
    let eight = eventually(PATIENCE, "eight connections for the same purpose", || async {
        connects.lock().await.values().find(|times| times.len() >= 8).cloned()
    })
    .await;
    // 50, 100, 200, 400, 800, 1,600 ms lie between most of them.
    let took = eight[7].duration_since(eight[0]);
    assert!(took >= Duration::from_secs(3), "eight connections within {took:?}");
    assert!(gateway.is_live().await);
    server.abort();
}
