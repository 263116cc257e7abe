//! A WebSocket as a client: TCP, TLS where the address says so, and the handshake with its subprotocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{SEC_WEBSOCKET_PROTOCOL, USER_AGENT};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use ureq::http::Uri;

use super::refused;
use crate::client::address;
use crate::client::http::{HttpError, io_reason};
use crate::client::{AddressError, ClientError};

/// From the name to the end of the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A relay's message is a few kilobytes.
const MAX_MESSAGE_BYTES: usize = 256 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A WebSocket that is open.
pub(super) struct Wire {
    socket: WebSocketStream<Box<dyn Stream>>,
}

/// What came.
#[derive(Debug)]
pub(super) enum Said {
    Text(String),
    Frame(Bytes),
    /// The far end has closed, with this code and reason; 0: it was cut.
    Closed(u16, String),
}

impl Wire {
    /// Connects to an address of `ws` or `wss`.
    pub(super) async fn connect(
        tls: &Arc<rustls::ClientConfig>,
        uri: &Uri,
        protocol: &'static str,
    ) -> Result<Self, ClientError> {
        let connecting = timeout(CONNECT_TIMEOUT, connect(tls, uri, protocol));
        let late = || unreachable(uri, "no answer in time");
        let socket = connecting.await.map_err(|_| late())??;
        Ok(Self { socket })
    }

    /// Sends a text; false if the connection is gone.
    pub(super) async fn text(&mut self, text: String) -> bool {
        self.socket.send(Message::text(text)).await.is_ok()
    }

    /// Sends a frame; false if the connection is gone.
    pub(super) async fn frame(&mut self, frame: Bytes) -> bool {
        self.socket.send(Message::Binary(frame)).await.is_ok()
    }

    /// What comes next. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Said::Text(text.to_string()),
                Some(Ok(Message::Binary(frame))) => return Said::Frame(frame),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Said::Closed(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Said::Closed(0, String::new()),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Says goodbye and waits for the answer.
    pub(super) async fn close(mut self) {
        let _gone = self.socket.close(None).await.is_err();
        while !matches!(self.next().await, Said::Closed(..)) {}
    }
}

async fn connect(
    tls: &Arc<rustls::ClientConfig>,
    uri: &Uri,
    protocol: &'static str,
) -> Result<WebSocketStream<Box<dyn Stream>>, ClientError> {
    let server = uri.clone();
    let resolving = tokio::task::spawn_blocking(move || address::socket_addr(&server));
    let host = uri.host().unwrap_or_default();
    let address = resolving.await.ok().flatten();
    let address = address.ok_or_else(|| AddressError::Unreachable(host.to_owned()))?;
    let stream = TcpStream::connect(address).await.map_err(|error| unreachable(uri, &io_reason(&error)))?;
    // Frames of audio must not wait for each other.
    stream.set_nodelay(true).map_err(|error| unreachable(uri, &error.to_string()))?;
    let stream: Box<dyn Stream> = if address::is_secure(uri) {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| unreachable(uri, &error.to_string()))?;
        let secured = TlsConnector::from(tls.clone()).connect(name, stream).await;
        Box::new(secured.map_err(|error| unreachable(uri, &io_reason(&error)))?)
    } else {
        Box::new(stream)
    };
    let mut request = uri.to_string().into_client_request().map_err(|error| handshake(uri, &error))?;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("relayd/", env!("CARGO_PKG_VERSION"))));
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let shaken = tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await;
    Ok(shaken.map_err(|error| handshake(uri, &error))?.0)
}

fn unreachable(uri: &Uri, why: &str) -> ClientError {
    let server = uri.authority().map(|authority| address::host_and_port(authority.as_str()).to_owned());
    HttpError::Unreachable { server: server.unwrap_or_default(), why: why.to_owned() }.into()
}

fn handshake(uri: &Uri, error: &Error) -> ClientError {
    match error {
        Error::Http(response) if response.status().is_client_error() => {
            let problem: Option<serde_json::Value> =
                response.body().as_ref().and_then(|body| serde_json::from_slice(body).ok());
            let field = |name: &str| Some(problem.as_ref()?.get(name)?.as_str()?.to_owned());
            let status = response.status();
            let detail = field("detail").unwrap_or_else(|| status.to_string());
            refused(status.as_u16(), &field("code").unwrap_or_default(), detail)
        }
        error => unreachable(uri, &error.to_string()),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
