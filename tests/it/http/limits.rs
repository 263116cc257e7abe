//! Bodies too long, clients too slow, too many of everything.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::LISTENER;
use super::client::{FRAGMENT, JSON, Relay, SDP, raw, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_mebibyte_is_refused_and_the_client_hears_it() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let body = vec![b'a'; 1024 * 1024];
    relay.send("POST", &format!("/whip/{id}"), &[SDP], &body).await.problem(413, "BODY_TOO_LARGE");
    relay.send("POST", "/v1/sessions", &[JSON], &body).await.problem(413, "BODY_TOO_LARGE");
    let leg = relay.join(&format!("/whep/{id}"), LISTENER).await;
    let headers = [FRAGMENT, ("if-match", leg.header("etag"))];
    relay
        .send("PATCH", leg.header("location"), &headers, &body[..16 * 1024 + 1])
        .await
        .problem(413, "BODY_TOO_LARGE");
    let chunked = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        70_000,
        "a".repeat(70_000)
    );
    let answer = raw(relay.daemon.http_addr(), chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_announced_as_huge_is_refused_before_it_is_sent() {
    let relay = Relay::start().await;
    let head = "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 99999999999\r\n\r\n";
    let answer = raw(relay.daemon.http_addr(), head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_finish_its_header_is_cut_off() {
    let relay = Relay::with(|config| config.http.header_timeout = Duration::from_millis(200)).await;
    for start in ["", "GET", "GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: "] {
        let answer = raw(relay.daemon.http_addr(), start.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    // The same connection, idle after an answer.
    let answer = raw(relay.daemon.http_addr(), b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(relay.send("GET", "/", &[], b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn dribbling_clients_do_not_keep_others_waiting() {
    let relay = Relay::with(|config| {
        config.http.header_timeout = Duration::from_millis(300);
        config.http.max_connections_per_address = 1000;
    })
    .await;
    let address = relay.daemon.http_addr();
    let mut dribblers = Vec::new();
    for _ in 0..50 {
        dribblers.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // One byte at a time never resets the clock.
            for byte in b"GET / HTTP/1.1\r\nx: ".iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    assert_eq!(relay.send("GET", "/", &[], b"").await.status, 200);
    for dribbler in dribblers {
        tokio::time::timeout(Duration::from_secs(20), dribbler).await.expect("cut off").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_408() {
    let relay = Relay::with(|config| config.http.body_timeout = Duration::from_millis(200)).await;
    let head = "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 100\r\n\r\n{";
    let answer = raw(relay.daemon.http_addr(), head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("REQUEST_TIMEOUT"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_answers_is_hung_up_on() {
    let relay = Relay::with(|config| {
        config.http.write_timeout = Duration::from_millis(300);
        config.http.max_connections_per_address = 1;
    })
    .await;
    let address = relay.daemon.http_addr();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut greedy = socket.connect(address).await.unwrap();
    // Requests one after another, and not one answer read: more than the system buffers.
    let asking = tokio::spawn(async move {
        let request = b"GET /web/style.css HTTP/1.1\r\nhost: localhost\r\n\r\n";
        while greedy.write_all(request).await.is_ok() {}
    });
    until("its place is taken", async || relay.send("GET", "/", &[], b"").await.status == 503).await;
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("hung up on").unwrap();
    until("its place is free again", async || relay.send("GET", "/", &[], b"").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_too_long_is_431() {
    let relay = Relay::start().await;
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(17 * 1024));
    let answer = raw(relay.daemon.http_addr(), head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_400_and_closed() {
    let relay = Relay::start().await;
    for junk in
        [&b"\0\0\0\0\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n"]
    {
        let answer = raw(relay.daemon.http_addr(), junk).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_answered_and_harm_nobody() {
    let relay = Relay::start().await;
    for (request, status) in [
        ("GET /healthz HTTP/1.0\r\n\r\n", "404"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "404"),
        ("CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\nconnection: close\r\n\r\n", "404"),
        ("GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "421"),
    ] {
        let answer = raw(relay.daemon.http_addr(), request.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request:?}: {answer}");
    }
    // HTTP/2 is a reverse proxy's to speak.
    assert_eq!(raw(relay.daemon.http_addr(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");
    let pipelined = "GET /none HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    let last = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answers = raw(relay.daemon.http_addr(), format!("{pipelined}{last}").as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 404 Not Found").count(), 100);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections_and_gets_them_back() {
    let relay = Relay::with(|config| config.http.max_connections_per_address = 2).await;
    let address = relay.daemon.http_addr();
    let held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    until("the third is refused", async || relay.send("GET", "/", &[], b"").await.status == 503).await;
    // It is told why before it has asked.
    let answer = raw(address, b"").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let document: serde_json::Value = serde_json::from_str(body).expect("a problem document");
    assert_eq!((&document["status"], &document["code"]), (&503.into(), &"CAPACITY".into()));
    for header in ["content-type: application/problem+json", "x-request-id: ", "retry-after: "] {
        assert!(head.contains(header), "{head}");
    }
    drop(held);
    until("places are given back", async || relay.send("GET", "/", &[], b"").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_listeners_are_limited() {
    let relay = Relay::with(|config| {
        config.sessions.max = 2;
        config.sessions.max_listeners = 1;
    })
    .await;
    let id = relay.session().await;
    let other = relay.session().await;
    let body = br#"{"sourceLanguage":"en"}"#;
    let full = relay.send("POST", "/v1/sessions", &[JSON], body).await;
    full.problem(503, "CAPACITY");
    assert!(!full.header("retry-after").is_empty());
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{other}"), &[], b"").await.status, 204);
    assert_eq!(relay.send("POST", "/v1/sessions", &[JSON], body).await.status, 201);

    let whep = format!("/whep/{id}");
    let first = relay.join(&whep, LISTENER).await;
    relay.join(&whep, LISTENER).await.problem(503, "CAPACITY");
    assert_eq!(relay.send("DELETE", first.header("location"), &[], b"").await.status, 200);
    until("the place is free again", async || relay.join(&whep, LISTENER).await.status == 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_comes_to_ends_and_is_forgotten() {
    let relay = Relay::with(|config| {
        config.sessions.idle_timeout = Duration::from_millis(300);
        config.sessions.ended_memory = Duration::from_millis(300);
    })
    .await;
    let path = format!("/v1/sessions/{}", relay.session().await);
    until("it ends", async || relay.send("GET", &path, &[], b"").await.status == 410).await;
    until("it is forgotten", async || relay.send("GET", &path, &[], b"").await.status == 404).await;
    assert!(relay.ops("/metrics").await.body.contains("relayd_tracks 0\n"));
}
