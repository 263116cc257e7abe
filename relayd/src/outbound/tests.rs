use super::test_server::{TestServer, ok, status};
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_document_comes_over_tls_from_an_authority_of_ours() {
    let server = TestServer::start(|_| ok("{\"keys\":[]}"));
    let body = runtime().block_on(server.client().get(&server.url("/jwks.json"))).unwrap();
    assert_eq!(body, b"{\"keys\":[]}");
    assert!(server.requests()[0].head.starts_with("GET /jwks.json HTTP/1.1\r\n"));
}

#[test]
fn who_is_vouched_for_by_nobody_we_trust_gets_no_request() {
    let (server, other) = (TestServer::start(|_| ok("1")), TestServer::start(|_| ok("2")));
    let result = runtime().block_on(other.client().get(&server.url("/")));
    assert!(matches!(&result, Err(OutboundError::Failed(why)) if why.contains("certificate")), "{result:?}");
    // Vouched for, but under another name.
    let url = format!("https://127.0.0.1:{}/", server.address.port());
    assert!(runtime().block_on(server.client().get(&url)).is_err());
    assert!(server.requests().is_empty());
}

#[test]
fn a_name_that_leads_to_this_machine_is_not_followed_there() {
    let server = TestServer::start(|_| ok("secret"));
    let client = Outbound::new(&server.settings(&["10.0.0.0/8"])).unwrap();
    let port = server.address.port();
    let urls = [
        "localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
    ]
    .map(|host| format!("https://{host}:{port}/"));
    for url in urls {
        let result = runtime().block_on(client.get(&url));
        let refused = matches!(&result, Err(OutboundError::Forbidden))
            // Systems that do not read such a host as an address find no such host.
            || matches!(&result, Err(OutboundError::Failed(why)) if !why.contains("certificate"));
        assert!(refused, "{url}: {result:?}");
    }
    assert!(server.requests().is_empty());
    assert!(!client.may_connect("127.0.0.1".parse().unwrap()));
    assert!(client.may_connect("::ffff:10.1.2.3".parse().unwrap()));
}

#[test]
fn redirects_are_not_followed() {
    let server = TestServer::start(|seen| match seen.head.starts_with("GET /there") {
        true => ok("there"),
        false => status("302 Found", "location: /there\r\n"),
    });
    let result = runtime().block_on(server.client().get(&server.url("/here")));
    assert_eq!(result, Err(OutboundError::Status(302)));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn an_answer_is_bounded() {
    let server =
        TestServer::start(|seen| ok(&"x".repeat(if seen.head.contains("/fits") { 65_536 } else { 65_537 })));
    let client = server.client();
    assert_eq!(runtime().block_on(client.get(&server.url("/fits"))).map(|body| body.len()), Ok(65_536));
    assert_eq!(runtime().block_on(client.get(&server.url("/more"))), Err(OutboundError::TooLarge));
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let server = TestServer::start(|_| None);
    assert_eq!(runtime().block_on(server.client().get(&server.url("/"))), Err(OutboundError::Timeout));
}

#[test]
fn nothing_listening_is_an_error_that_says_so() {
    let server = TestServer::start(|_| None);
    // Port 9 of loopback: nobody discards any more.
    let result = runtime().block_on(server.client().get("https://localhost:9/"));
    assert!(matches!(&result, Err(OutboundError::Failed(_))), "{result:?}");
}

#[test]
fn a_post_carries_its_headers_and_returns_the_status() {
    let server = TestServer::start(|_| status("204 No Content", ""));
    let headers = vec![("webhook-id", "msg_1".to_owned())];
    let result = runtime().block_on(server.client().post(&server.url("/hook"), headers, b"{}".to_vec()));
    assert_eq!(result, Ok(204));
    let seen = &server.requests()[0];
    assert_eq!(seen.header("webhook-id"), Some("msg_1"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.body, b"{}");
}

#[test]
fn settings_that_cannot_be_used_say_which() {
    let bad = config::Outbound { ca_file: "/nonexistent/ca.pem".into(), ..config::Outbound::default() };
    let text = Outbound::new(&bad).unwrap_err().to_string();
    assert!(text.starts_with("`outbound.ca_file` (/nonexistent/ca.pem): "), "{text}");
    let not_pem = config::Outbound { ca_file: "/dev/null".into(), ..config::Outbound::default() };
    Outbound::new(&not_pem).unwrap();
    let bad = config::Outbound { allow: vec!["ten".into()], ..config::Outbound::default() };
    assert!(Outbound::new(&bad).unwrap_err().to_string().contains("\"ten\""));
}
