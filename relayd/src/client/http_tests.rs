use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use super::*;

/// What one request looked like.
#[derive(Debug, PartialEq)]
struct Seen {
    line: String,
    authorization: Option<String>,
    resume: Option<String>,
    body: String,
}

/// A server that gives these answers, one connection each, and returns what it was asked.
fn server(answers: Vec<String>) -> (SocketAddr, JoinHandle<Vec<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let (mut authorization, mut resume, mut length) = (None, None, 0);
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                let Some((name, value)) = header.trim().split_once(": ") else { break };
                match name.to_ascii_lowercase().as_str() {
                    "authorization" => authorization = Some(value.to_owned()),
                    "relay-resume" => resume = Some(value.to_owned()),
                    "content-length" => length = value.parse().unwrap(),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            seen.push(Seen {
                line: line.trim().to_owned(),
                authorization,
                resume,
                body: String::from_utf8(body).unwrap(),
            });
        }
        seen
    });
    (address, thread)
}

fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn created() -> String {
    answer(
        "201 Created",
        &["Content-Type: application/sdp; charset=utf-8", "Location: ../../v1/legs/a1"],
        "v=0",
    )
}

fn redirect(status: &str, location: &str) -> String {
    answer(status, &[&format!("Location: {location}")], "")
}

fn endpoint(address: SocketAddr) -> Endpoint {
    let credentials = Credentials { token: Some("secret".into()), resume: Some("mine".into()), ticket: None };
    Endpoint::new(
        &agent(&[]).unwrap(),
        format!("http://{address}/whip/demo/en").parse().unwrap(),
        credentials,
    )
}

fn offer_error(answers: Vec<String>) -> HttpError {
    let (address, thread) = server(answers);
    let error = endpoint(address).offer("offer").unwrap_err();
    thread.join().unwrap();
    error
}

#[test]
fn an_offer_is_posted_and_its_resource_deleted() {
    let (address, thread) = server(vec![created(), answer("200 OK", &[], "")]);
    let resource = endpoint(address).offer("offer").unwrap();
    assert_eq!(resource.answer, "v=0");
    resource.delete().unwrap();
    let authorization = Some("Bearer secret".to_owned());
    assert_eq!(
        thread.join().unwrap(),
        [
            Seen {
                line: "POST /whip/demo/en HTTP/1.1".into(),
                authorization: authorization.clone(),
                resume: Some("mine".into()),
                body: "offer".into()
            },
            Seen {
                line: "DELETE /v1/legs/a1 HTTP/1.1".into(),
                authorization,
                resume: None,
                body: String::new()
            },
        ]
    );
}

#[test]
fn a_307_keeps_method_and_body_and_the_location_belongs_to_the_last_server() {
    let (second, second_thread) = server(vec![created(), answer("204 No Content", &[], "")]);
    let (first, first_thread) =
        server(vec![redirect("307 Temporary Redirect", &format!("http://{second}/a/b/c"))]);
    endpoint(first).offer("offer").unwrap().delete().unwrap();
    first_thread.join().unwrap();
    let seen = second_thread.join().unwrap();
    assert_eq!(seen[0].line, "POST /a/b/c HTTP/1.1");
    assert_eq!(seen[0].body, "offer");
    assert_eq!(seen[1].line, "DELETE /v1/legs/a1 HTTP/1.1");
    assert_eq!([&seen[0].authorization, &seen[1].authorization], [&None, &None], "another origin");
    assert_eq!(seen[0].resume, None, "another origin");
}

#[test]
fn the_token_stays_with_the_server_it_was_given_for() {
    let (address, thread) = server(vec![redirect("307 Temporary Redirect", "/moved"), created()]);
    let (elsewhere, other_thread) = server(vec![answer("200 OK", &[], "")]);
    let mut resource = endpoint(address).offer("offer").unwrap();
    resource.endpoint.uri = format!("http://{elsewhere}/v1/legs/a1").parse().unwrap();
    resource.delete().unwrap();
    for seen in thread.join().unwrap() {
        assert_eq!(seen.authorization.as_deref(), Some("Bearer secret"), "{}", seen.line);
    }
    assert_eq!(other_thread.join().unwrap()[0].authorization, None, "a Location on another origin");
}

#[test]
fn five_redirects_are_followed_and_no_more() {
    let hop = || redirect("307 Temporary Redirect", "/next");
    let (address, thread) = server(vec![hop(), hop(), hop(), hop(), hop(), created()]);
    assert!(endpoint(address).offer("offer").is_ok());
    thread.join().unwrap();
    assert_eq!(offer_error(vec![hop(), hop(), hop(), hop(), hop(), hop()]), HttpError::TooManyRedirects);
}

#[test]
fn other_redirects_are_refused() {
    for (status, code) in [("301 Moved Permanently", 301), ("302 Found", 302), ("303 See Other", 303)] {
        let error = offer_error(vec![redirect(status, "/next")]);
        assert_eq!(error, HttpError::ForbiddenRedirect { status: code });
    }
    assert_eq!(offer_error(vec![answer("307 Temporary Redirect", &[], "")]), HttpError::NoLocation);
    let https: Uri = "https://relay.example/whip/demo".parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, "http://relay.example/whip/demo".parse().unwrap());
    assert_eq!(
        next_hop(&https, StatusCode::TEMPORARY_REDIRECT, &headers),
        Err(HttpError::Downgrade { to: "http://relay.example/whip/demo".into() })
    );
}

#[test]
fn a_problem_document_is_shown_to_the_user() {
    let body = r#"{"type":"urn:relay:problem:session-not-found","title":"No such session","status":404,"detail":"no session `x`","code":"SESSION_NOT_FOUND"}"#;
    let error = offer_error(vec![answer("404 Not Found", &["Content-Type: application/problem+json"], body)]);
    assert_eq!(
        error.to_string(),
        "the server refused (404): No such session: no session `x` [SESSION_NOT_FOUND]"
    );
    let busy = answer("503 Service Unavailable", &["Retry-After: 2"], "<html>");
    assert_eq!(
        offer_error(vec![busy]).to_string(),
        "the server failed (503): Service Unavailable, try again in 2 s"
    );
    let body =
        r#"{"title":"Too many requests","detail":"5 joins per second are taken","code":"RATE_LIMITED"}"#;
    let headers = ["Content-Type: application/problem+json", "Retry-After: 3"];
    assert_eq!(
        offer_error(vec![answer("429 Too Many Requests", &headers, body)]).to_string(),
        "the server refused (429): Too many requests: 5 joins per second are taken [RATE_LIMITED], try again in 3 s"
    );
    let plain = answer("401 Unauthorized", &["Content-Type: text/plain"], "no\u{1b}[31m token\nmore");
    assert_eq!(offer_error(vec![plain]).to_string(), "the server refused (401): Unauthorized: no[31m token");
    let broken = answer("400 Bad Request", &["Content-Type: application/problem+json"], "{\"title\":7");
    assert_eq!(offer_error(vec![broken]).to_string(), "the server refused (400): Bad Request");
}

#[test]
fn what_is_no_endpoint_is_told_apart() {
    let page = answer("200 OK", &["Content-Type: text/html"], "<html>");
    assert_eq!(
        offer_error(vec![page]),
        HttpError::NotAnEndpoint { status: 200, content_type: "text/html".into() }
    );
    let lost = answer("201 Created", &["Content-Type: application/sdp"], "v=0");
    assert_eq!(offer_error(vec![lost]), HttpError::NoLocation);
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = endpoint(address).offer("offer").unwrap_err();
    assert_eq!(error.to_string(), format!("cannot reach {address}: nothing listens there"));
}

#[test]
fn a_resource_that_is_gone_already_is_deleted_well() {
    let (address, thread) =
        server(vec![created(), answer("404 Not Found", &[], ""), created(), answer("500 Oops", &[], "")]);
    endpoint(address).offer("offer").unwrap().delete().unwrap();
    let error = endpoint(address).offer("offer").unwrap().delete().unwrap_err();
    assert!(matches!(error, HttpError::Failed { status: 500, .. }));
    thread.join().unwrap();
}

#[test]
fn https_speaks_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut record = [0; 6];
        stream.read_exact(&mut record).unwrap();
        record
    });
    let endpoint = Endpoint::new(
        &agent(&[]).unwrap(),
        format!("https://{address}/whip/demo").parse().unwrap(),
        Credentials::default(),
    );
    let error = endpoint.offer("offer").unwrap_err();
    assert!(matches!(error, HttpError::Unreachable { .. }), "{error}");
    let [kind, .., message] = thread.join().unwrap();
    assert_eq!((kind, message), (22, 1), "a handshake record with a ClientHello");
}

#[test]
fn no_message_shows_a_password() {
    let (address, thread) = server(vec![answer("302 Found", &["Location: /x"], "")]);
    let at =
        |address: &str| Endpoint::new(&agent(&[]).unwrap(), address.parse().unwrap(), Credentials::default());
    let errors = [
        at("http://ann:secret@127.0.0.1:1/whip/demo").offer("offer").unwrap_err(),
        at(&format!("http://ann:secret@{address}/whip/demo")).offer("offer").unwrap_err(),
        next_hop(
            &"https://relay.example/whip/demo".parse().unwrap(),
            StatusCode::TEMPORARY_REDIRECT,
            &[(header::LOCATION, "http://ann:secret@relay.example/x".parse().unwrap())].into_iter().collect(),
        )
        .unwrap_err(),
    ];
    thread.join().unwrap();
    for error in errors {
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
    let shown = format!("{:?}", endpoint(address));
    assert!(!shown.contains("secret") && !shown.contains("mine"), "{shown}");
}
