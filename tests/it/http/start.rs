//! Starting and stopping: ports taken, addresses refused, configuration wrong, the order of the end.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use relayd::cli::{self, Exit};
use relayd::daemon::{Daemon, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::LISTENER;
use super::client::{Relay, on_free_ports};

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_with_its_key() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for key in ["http.listen", "ops.listen", "webrtc.listen"] {
        let mut config = on_free_ports();
        let taken = if key == "webrtc.listen" { udp.local_addr() } else { tcp.local_addr() }.unwrap();
        match key {
            "http.listen" => config.http.listen = taken,
            "ops.listen" => config.ops.listen = taken,
            _ => config.webrtc.listen = taken,
        }
        let error = Daemon::start(config).await.expect_err("the port is taken");
        assert!(error.is_bind(), "{error}");
        let text = error.to_string();
        assert!(text.contains(key) && text.contains(&taken.to_string()), "{text}");
        assert!(text.contains("in use") && text.contains("set another port"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_can_reach_is_refused() {
    let mut config = on_free_ports();
    config.http.listen = "0.0.0.0:0".parse().unwrap();
    let error = Daemon::start(config).await.expect_err("there are no tokens");
    assert!(matches!(error, StartError::Config(_)), "{error}");
    assert!(error.to_string().contains("no tokens are configured"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_who_was_asking_and_frees_the_ports() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    assert_eq!(relay.join(&format!("/whep/{id}"), LISTENER).await.status, 201);
    let (http, ops, webrtc) = (relay.daemon.http_addr(), relay.daemon.ops_addr(), relay.daemon.webrtc_addr());

    let mut asking = TcpStream::connect(http).await.unwrap();
    let head = format!(
        "POST /whep/{id} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/sdp\r\ncontent-length: 3\r\n\r\nv="
    );
    asking.write_all(head.as_bytes()).await.unwrap();
    // An answer on a second connection shows that the first one has been accepted.
    assert_eq!(relay.send("GET", "/", &[], b"").await.status, 200);
    let stopping = tokio::spawn(relay.daemon.shutdown());
    super::client::until("it accepts no more", async || TcpStream::connect(http).await.is_err()).await;
    let ready = super::client::send(ops, "GET", "/readyz", &[], b"").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));
    asking.write_all(b"0").await.unwrap();
    let mut answer = String::new();
    asking.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") || answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    assert!(stopping.await.unwrap(), "within daemon.shutdown_timeout");
    TcpListener::bind(http).expect("the port is free");
    TcpListener::bind(ops).expect("the port is free");
    UdpSocket::bind(webrtc).expect("the port is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_comes_does_not_hold_the_process() {
    let relay = Relay::with(|config| config.daemon.shutdown_timeout = Duration::from_secs(2)).await;
    let mut asking = TcpStream::connect(relay.daemon.http_addr()).await.unwrap();
    let head = "POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 9\r\n\r\n";
    asking.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(relay.send("GET", "/", &[], b"").await.status, 200);
    let stopped = tokio::time::timeout(Duration::from_secs(20), relay.daemon.shutdown()).await;
    assert_eq!(stopped, Ok(true), "the request is cut off, everything else has stopped in order");
}

fn exit(arguments: &[&str]) -> Exit {
    cli::main(std::iter::once("relayd").chain(arguments.iter().copied()).map(Into::into))
}

#[test]
fn wrong_usage_and_configuration_exit_with_2() {
    let file = std::env::temp_dir().join(format!("relayd-it-{}.toml", std::process::id()));
    let path = file.to_str().unwrap();
    for content in
        ["[http]\nlistn = 1\n", "[http]\nlisten = 5\n", "[http\n", "[http]\nlisten = \"0.0.0.0:80\"\n"]
    {
        std::fs::write(&file, content).unwrap();
        assert_eq!(exit(&["check-config", path]), Exit::Usage, "{content}");
        assert_eq!(exit(&["serve", "--config", path]), Exit::Usage, "{content}");
        assert_eq!(exit(&["print-config", "--config", path]), Exit::Usage, "{content}");
    }
    std::fs::write(&file, "[auth]\nmode = \"token\"\nsecret_file = \"absent.secret\"\n").unwrap();
    assert_eq!(exit(&["check-config", path]), Exit::Usage, "a secret that is not there");
    std::fs::write(&file, "[sessions]\nmax = 7\n").unwrap();
    assert_eq!(exit(&["check-config", path]), Exit::Ok);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(exit(&["check-config", path]), Exit::Usage, "a missing file");
    assert_eq!(exit(&["serve", "--config", path]), Exit::Usage, "a missing file");
    assert_eq!(exit(&["serve", "--set", "nonsense"]), Exit::Usage);
    assert_eq!(exit(&["serve", "--nonsense"]), Exit::Usage);
    assert_eq!(exit(&["serve", "--log", "relayd=loud"]), Exit::Usage);
    assert_eq!(exit(&["serve", "--http-listen", "0.0.0.0:8080"]), Exit::Usage);
}

#[test]
fn a_port_that_is_taken_exits_with_3() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let arguments = ["serve", "--http-listen", &address, "--ops-listen", free, "--webrtc-listen", free];
    assert_eq!(exit(&arguments), Exit::CannotBind);
}
