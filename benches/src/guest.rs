//! A listener that costs little: its own STUN checks and `dimpl` for DTLS, no media of its own.
//!
//! It sends what a browser sends to stay connected and counts the packets that it is sent. It does not open them:
//! what a bench with it measures is the relay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output};
use str0m::crypto::CryptoProvider;
use str0m::ice::{StunMessage, TransId};

/// A listener of a relay, connected or on its way.
pub struct Guest {
    socket: UdpSocket,
    dtls: Dtls,
    ufrag: String,
    path: String,
    ticket: String,
    /// The relay's address and its ICE credentials, once it has answered.
    relay: Option<(SocketAddr, String, String)>,
    checked: Option<Instant>,
    next_check: Instant,
    next_dtls: Instant,
    connected: Option<Instant>,
    heard: Sequences,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Sequence numbers that came and that did not; who was not heard of for a while is sent some again.
#[derive(Debug, Default)]
struct Sequences {
    newest: Option<u16>,
    /// Which of the 128 up to the newest came; the lowest bit is the newest.
    seen: u128,
    came: u64,
    lost: u64,
}

impl Sequences {
    fn take(&mut self, sequence: u16) {
        let step = self.newest.map_or(1, |newest| sequence.wrapping_sub(newest).cast_signed());
        if step > 0 {
            self.lost += u64::from(step.unsigned_abs()) - 1;
            self.seen = self.seen.checked_shl(step.unsigned_abs().into()).unwrap_or(0) | 1;
            (self.newest, self.came) = (Some(sequence), self.came + 1);
            return;
        }
        let bit = 1_u128.checked_shl(step.unsigned_abs().into()).unwrap_or(0);
        // Late; what was before the first was not missed.
        if bit & !self.seen != 0 && self.lost > 0 {
            self.seen |= bit;
            (self.came, self.lost) = (self.came + 1, self.lost - 1);
        }
    }
}

/// Between two checks of a connected guest (RFC 7675 §5.1 allows 4 to 6 s; browsers take 2.5 s).
const CONSENT: Duration = Duration::from_millis(2500);
/// Between two checks until the first is answered.
const CHECK: Duration = Duration::from_millis(100);

impl Guest {
    /// Joins a session over an HTTP connection that is kept.
    ///
    /// # Errors
    /// The answer, when it is not 201.
    ///
    /// # Panics
    /// When there is no relay or no socket.
    pub fn join(http: &mut Http, session: &str) -> Result<Self, String> {
        Self::come_back(http, session, "")
    }

    /// Joins with the ticket of another guest, beside it or when it is gone; see [`Self::ticket`]. An empty one is none.
    ///
    /// # Errors
    /// The answer, when it is not 201.
    ///
    /// # Panics
    /// When there is no relay or no socket.
    pub fn come_back(http: &mut Http, session: &str, ticket: &str) -> Result<Self, String> {
        let header = if ticket.is_empty() { String::new() } else { format!("relay-ticket: {ticket}\r\n") };
        let crypto = crypto();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket per guest: see ulimit -n");
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
        let now = Instant::now();
        let mut dtls = Dtls::new_12(crypto.config.clone(), crypto.certificate.clone(), now);
        dtls.set_active(true);
        let ufrag = format!("{:08x}", fastrand::u32(..));
        let mut guest = Self {
            socket,
            dtls,
            ufrag,
            path: String::new(),
            ticket: String::new(),
            relay: None,
            checked: None,
            next_check: now,
            next_dtls: now,
            connected: None,
            heard: Sequences::default(),
        };
        let (path, offer) = (format!("/whep/{session}"), guest.offer());
        let answer = http.request_with("POST", &path, "application/sdp", &header, &offer);
        if !answer.starts_with("HTTP/1.1 201") {
            return Err(answer);
        }
        guest.take(&answer);
        Ok(guest)
    }

    /// What it may come back with.
    #[must_use]
    pub fn ticket(&self) -> &str {
        &self.ticket
    }

    /// Ends its connection.
    pub fn leave(self, http: &mut Http) {
        let _answer = http.request("DELETE", &self.path, "application/sdp", "");
    }

    /// Does what is due and takes what has come.
    ///
    /// # Panics
    /// When DTLS fails.
    pub fn turn(&mut self, now: Instant) {
        self.check(now);
        let mut buffer = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            match buffer[0] {
                0..=3 => {
                    let first = self.checked.is_none();
                    self.checked = Some(now);
                    if first {
                        self.next_check = now + CONSENT;
                        self.dtls.handle_timeout(now).expect("the first flight");
                        self.flush(now);
                    }
                }
                20..=63 => {
                    self.dtls.handle_timeout(now).expect("no flight is late on loopback");
                    self.dtls.handle_packet(&buffer[..length]).expect("the relay speaks DTLS");
                    self.flush(now);
                }
                128..=191 if !(192..=223).contains(&buffer[1]) => {
                    self.heard.take(u16::from_be_bytes([buffer[2], buffer[3]]));
                }
                _ => {}
            }
        }
        if self.checked.is_some() && self.connected.is_none() && now >= self.next_dtls {
            self.dtls.handle_timeout(now).expect("no flight is late on loopback");
            self.flush(now);
        }
    }

    /// When its handshake was over.
    #[must_use]
    pub fn connected(&self) -> Option<Instant> {
        self.connected
    }

    /// Sequence numbers that came, each once, and those that did not.
    #[must_use]
    pub fn heard(&self) -> (u64, u64) {
        (self.heard.came, self.heard.lost)
    }

    fn offer(&self) -> String {
        format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n\
             a=ice-ufrag:{}\r\na=ice-pwd:0123456789abcdef01234567\r\na=fingerprint:sha-256 {}\r\na=setup:active\r\n\
             a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
             a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=rtpmap:111 opus/48000/2\r\n\
             a=rtcp-fb:111 nack\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n",
            self.ufrag,
            crypto().fingerprint,
        )
    }

    fn take(&mut self, answer: &str) {
        let line = |name: &str| {
            answer.lines().find_map(|line| line.strip_prefix(name)).expect("an answer is whole").trim()
        };
        let candidate: Vec<&str> = line("a=candidate:").split(' ').collect();
        let address = format!("{}:{}", candidate[4], candidate[5]).parse().expect("an address");
        let header = |name: &str| {
            let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        self.ticket = header("relay-ticket").expect("a 201 has a ticket").to_owned();
        let location = header("location").expect("a 201 says where");
        let path = location.find("//").map_or(0, |at| at + 2);
        self.path = location[path + location[path..].find('/').unwrap_or(0)..].to_owned();
        self.socket.connect(address).expect("a loopback address");
        self.relay = Some((address, line("a=ice-ufrag:").to_owned(), line("a=ice-pwd:").to_owned()));
    }

    fn check(&mut self, now: Instant) {
        if now < self.next_check {
            return;
        }
        let Some((_, ufrag, password)) = &self.relay else { return };
        self.next_check = now + if self.checked.is_some() { CONSENT } else { CHECK };
        let username = format!("{ufrag}:{}", self.ufrag);
        let message = StunMessage::binding_request(&username, TransId::new(), true, 7, 1, true);
        let mut buffer = [0; 256];
        let provider = crypto().provider.sha1_hmac_provider;
        let hmac = |key: &[u8], payloads: &[&[u8]]| provider.sha1_hmac(key, payloads);
        let length = message.to_bytes(Some(password.as_bytes()), &mut buffer, hmac).expect("it fits");
        // A relay that is gone shows in what is not heard.
        let _gone = self.socket.send(&buffer[..length]).is_err();
    }

    fn flush(&mut self, now: Instant) {
        let mut buffer = [0; 2048];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => {
                    let _gone = self.socket.send(packet).is_err();
                }
                Output::Connected => self.connected = Some(now),
                Output::Timeout(at) => {
                    self.next_dtls = at;
                    return;
                }
                _ => {}
            }
        }
    }
}

/// An HTTP connection that is kept.
#[derive(Debug)]
pub struct Http {
    stream: TcpStream,
    host: SocketAddr,
}

impl Http {
    /// Connects.
    ///
    /// # Panics
    /// When nobody is there.
    #[must_use]
    pub fn connect(host: SocketAddr) -> Self {
        let stream = TcpStream::connect(host).expect("the relay listens");
        stream.set_nodelay(true).expect("an option of TCP");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("an option of TCP");
        Self { stream, host }
    }

    /// One request; the whole answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn request(&mut self, method: &str, path: &str, kind: &str, body: &str) -> String {
        self.request_with(method, path, kind, "", body)
    }

    /// The same with more header lines, each with its line's end.
    fn request_with(&mut self, method: &str, path: &str, kind: &str, headers: &str, body: &str) -> String {
        let (host, length) = (self.host, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).expect("the relay reads");
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = self.stream.read(&mut chunk).expect("the relay answers");
            assert!(read > 0, "the relay has closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
    }
}

/// What all guests share: making it costs more than a handshake.
struct Crypto {
    provider: CryptoProvider,
    config: Arc<Config>,
    certificate: DtlsCertificate,
    fingerprint: String,
}

fn crypto() -> &'static Crypto {
    static CRYPTO: OnceLock<Crypto> = OnceLock::new();
    CRYPTO.get_or_init(|| {
        let provider = str0m::crypto::from_feature_flags();
        let config = Config::builder().with_crypto_provider(str0m_aws_lc_rs::dimpl_crypto_provider()).build();
        let certificate = provider.dtls_provider.generate_certificate().expect("a certificate");
        let digest = provider.sha256_provider.sha256(&certificate.certificate);
        let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let config = Arc::new(config.expect("a DTLS configuration"));
        Crypto { provider, config, certificate, fingerprint }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_not_lost_and_what_comes_again_counts_once() {
        let mut heard = Sequences::default();
        for sequence in [65_533, 65_534, 0, 1, 65_535, 0, 1, 65_534, 5, 6, 4] {
            heard.take(sequence);
        }
        assert_eq!((heard.came, heard.lost), (8, 2));
    }
}
