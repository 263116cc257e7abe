//! An https server on loopback with an authority of its own, for tests of whatever asks others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Outbound;
use crate::config;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }
}

/// What to answer: the whole response, head and all; `None`: nothing, and the connection stays open for a while.
pub(crate) type Answer = Box<dyn FnMut(&Seen) -> Option<Vec<u8>> + Send>;

/// A running server. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    authority: String,
    requests: Arc<Mutex<Vec<Seen>>>,
}

impl TestServer {
    pub(crate) fn start(answer: impl FnMut(&Seen) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let (config, authority) = identity();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (config, seen, answer) = (config.clone(), seen.clone(), answer.clone());
                std::thread::spawn(move || serve(socket, config, &seen, &answer));
            }
        });
        Self { address, authority, requests }
    }

    /// An address of this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// A client that trusts this server and may connect to it.
    pub(crate) fn client(&self) -> Outbound {
        Outbound::new(&self.settings(&["127.0.0.0/8", "::1/128"])).unwrap()
    }

    /// Settings that trust this server, with these exemptions.
    pub(crate) fn settings(&self, allow: &[&str]) -> config::Outbound {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("relayd-ca-{}-{}.pem", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
        let path: PathBuf = std::env::temp_dir().join(name);
        std::fs::write(&path, &self.authority).unwrap();
        config::Outbound {
            allow: allow.iter().map(|range| (*range).to_owned()).collect(),
            ca_file: path.to_str().unwrap().to_owned(),
        }
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }
}

/// A 200 with this body.
pub(crate) fn ok(body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// An answer without body and with these header lines.
pub(crate) fn status(status: &str, headers: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{headers}\r\n").into_bytes())
}

fn identity() -> (Arc<ServerConfig>, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (Arc::new(config), pem)
}

fn serve(socket: TcpStream, config: Arc<ServerConfig>, seen: &Mutex<Vec<Seen>>, answer: &Mutex<Answer>) {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let Some(request) = read(&mut stream) else { return };
    seen.lock().unwrap().push(request.clone());
    let response = (answer.lock().unwrap())(&request);
    match response {
        Some(bytes) => {
            // The client may have gone: that is its business.
            let _gone = stream.write_all(&bytes).and_then(|()| stream.flush());
            stream.conn.send_close_notify();
            let _gone = stream.flush();
        }
        None => {
            let _gone = stream.read(&mut [0; 1]);
        }
    }
}

fn read(stream: &mut impl Read) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let mut seen = Seen { head, body: bytes[end + 4..].to_vec() };
            let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
            while seen.body.len() < length {
                let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
                seen.body.extend_from_slice(&chunk[..count]);
            }
            return Some(seen);
        }
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
    }
}
