//! WebSockets over TLS: whom the client trusts, and what it makes of refusals.

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::outbound::tls::client_config;

/// A server for one TLS connection that says one word; its address and its certificate.
async fn server() -> (Uri, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("wss://localhost:{}/v1/x", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // A client that does not trust it hangs up.
        let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else { return };
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    (uri.parse().unwrap(), made.cert.pem())
}

#[tokio::test]
async fn a_server_is_trusted_if_its_authority_is() {
    let (uri, authority) = server().await;
    let tls = Arc::new(client_config(authority.as_bytes()).unwrap());
    // A server that knows no subprotocol is not what was asked for.
    let error = Wire::connect(&tls, &uri, "relay.media.v1").await.err();
    assert!(error.is_some_and(|error| error.to_string().contains("ubprotocol")));
    let (uri, _) = server().await;
    let error = Wire::connect(&tls, &uri, "relay.media.v1").await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_refusal_of_the_handshake_is_told_as_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri: Uri = format!("ws://{}/v1/x", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let body = r#"{"code":"SESSION_ENDED","detail":"it is over"}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 410 Gone\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let tls = Arc::new(client_config(&[]).unwrap());
    let error = Wire::connect(&tls, &uri, "relay.media.v1").await.err().unwrap();
    assert!(matches!(error, ClientError::Http(HttpError::Refused { status: 410, .. })), "{error:?}");
}
