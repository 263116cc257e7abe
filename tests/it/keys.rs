//! A whole daemon with keys, and one that tells others what happens in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use relayd::config::{AuthMode, Config, Secret};
use relayd::daemon::Daemon;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Long past what a machine under load needs.
const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &str = "kX3vQm8sYw1zR5tB7nJ0pL4cH6gD2fAe";

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn loopback() -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut config = Config::default();
    (config.http.listen, config.ops.listen, config.webrtc.listen) = (any, any, any);
    config
}

#[test]
fn with_keys_the_relay_binds_where_others_can_reach_it() {
    let mut config = loopback();
    config.http.listen = "0.0.0.0:0".parse().unwrap();
    runtime().block_on(async {
        let refused = Daemon::start(config.clone()).await.expect_err("nobody is asked for a token");
        assert!(refused.to_string().contains("no tokens are configured"), "{refused}");
        config.auth.mode = AuthMode::Token;
        config.auth.secret = Secret::new(SECRET);
        let daemon = Daemon::start(config).await.unwrap();
        assert!(daemon.http_addr().ip().is_unspecified());
        assert!(daemon.shutdown().await);
    });
}

#[test]
fn keys_that_cannot_be_used_stop_the_start_and_are_named() {
    let start = |change: fn(&mut Config)| {
        let mut config = loopback();
        config.auth.mode = AuthMode::Token;
        change(&mut config);
        runtime().block_on(Daemon::start(config)).expect_err("must not start").to_string()
    };
    let text = start(|config| config.auth.jwks_file = "/nonexistent/keys.json".into());
    assert!(text.starts_with("`auth.jwks_file` (/nonexistent/keys.json): "), "{text}");
    let text = start(|config| config.auth.secret_file = "/dev/null".into());
    assert!(text.ends_with("the secret has 0 bytes, but must have at least 32"), "{text}");
    let text = start(|config| {
        config.auth.secret = Secret::new(SECRET);
        config.outbound.ca_file = "/nonexistent/ca.pem".into();
    });
    assert!(text.starts_with("`outbound.ca_file` (/nonexistent/ca.pem): "), "{text}");
}

/// Takes every webhook and passes on head and body.
fn receiver() -> (SocketAddr, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            let request = loop {
                let mut chunk = [0; 4096];
                let count = socket.read(&mut chunk).unwrap();
                bytes.extend_from_slice(&chunk[..count]);
                let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length: usize = header(&head, "content-length").parse().unwrap();
                if bytes.len() == end + 4 + length {
                    break (head, bytes[end + 4..].to_vec());
                }
            };
            socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
            if seen.send(request).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.clone().find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap().1
}

fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(to).unwrap();
    let fixed = "Content-Type: application/json\r\nConnection: close";
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\n{fixed}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_default())
}

#[test]
fn what_happens_in_a_session_is_told_by_signed_webhooks() {
    let (address, requests) = receiver();
    let mut config = loopback();
    config.webhooks.url = format!("http://{address}/hook");
    config.webhooks.secret = Secret::new(SECRET);
    config.outbound.allow = vec!["127.0.0.1/32".into()];
    let runtime = runtime();
    let daemon = runtime.block_on(Daemon::start(config)).unwrap();
    let (status, created) =
        request(daemon.http_addr(), "POST", "/v1/sessions", r#"{"sourceLanguage":"en","languages":["es"]}"#);
    assert_eq!(status, 201, "{created}");
    let id = created["sessionId"].as_str().unwrap();
    let (status, _) = request(daemon.http_addr(), "DELETE", &format!("/v1/sessions/{id}"), "");
    assert!((200..300).contains(&status), "{status}");

    for (seq, name) in [(1, "sessionCreated"), (2, "sessionEnded")] {
        let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
        let event: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&event["sessionId"], &event["t"], &event["seq"]),
            (&id.into(), &name.into(), &seq.into()),
            "{event}"
        );
        // As a receiver would check it, with another library's HMAC.
        let signed =
            [header(&head, "webhook-id"), ".", header(&head, "webhook-timestamp"), "."].concat().into_bytes();
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = crypto::sign(&[signed, body].concat(), &key, Algorithm::HS256).unwrap();
        let given = header(&head, "webhook-signature").replace('+', "-").replace('/', "_");
        assert_eq!(given.trim_end_matches('='), format!("v1,{signature}"));
    }
    assert!(runtime.block_on(daemon.shutdown()));
}
