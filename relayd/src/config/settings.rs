//! The table of all settings: section, key, type, default, unit and meaning, in one place.
//!
//! From the table come the sections of [`Config`], the [`Layer`] of options that each source fills, the list of
//! known keys, and the commented file that `relayd print-config` prints.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::value::{AuthMode, ByteSize, ForwardedHeader, LogFormat, Raw, Secret, Setting};

/// A key that the file, the environment and flags may set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Its dotted path, e.g. `http.listen`.
    pub path: &'static str,
    /// Whether its value is nobody's to see.
    pub secret: bool,
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr; )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])* pub $key: $type, )*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $key: $default, )* }
                }
            }
        )*

        /// The whole configuration. `Config::default()` is what a fresh clone runs with, on loopback.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Config {
            $( $(#[doc = $section_doc])* pub $section: $Section, )*
        }

        /// The sections of a layer: what one source said.
        mod layer {
            use super::*;
            $(
                #[derive(Debug, Clone, Default)]
                pub(super) struct $Section { $( pub(super) $key: Option<$type>, )* }
            )*
        }

        /// What one source said: a value for some of the keys.
        #[derive(Debug, Clone, Default)]
        pub(super) struct Layer {
            $( $section: layer::$Section, )*
        }

        impl Layer {
            /// Sets one key. `Err(None)`: nobody knows the key; `Err(Some(expected))`: the value does not fit it.
            pub(super) fn set(&mut self, path: &str, raw: &Raw) -> Result<(), Option<&'static str>> {
                let (section, key) = path.split_once('.').unwrap_or((path, ""));
                match (section, key) {
                    $( $( (stringify!($section), stringify!($key)) => {
                        self.$section.$key = Some(<$type>::read(raw).ok_or(Some(<$type>::EXPECTED))?);
                    } )* )*
                    _ => return Err(None),
                }
                Ok(())
            }
        }

        impl Config {
            /// The defaults under the layers, each over the one before.
            pub(super) fn fold(layers: &[Layer]) -> Self {
                let mut config = Self::default();
                for layer in layers {
                    $( $( if let Some(value) = &layer.$section.$key {
                        config.$section.$key.clone_from(value);
                    } )* )*
                }
                config
            }

            pub(super) fn render(&self) -> String {
                let mut text = String::new();
                $(
                    for line in [$($section_doc),*] {
                        text.push_str(&format!("#{line}\n"));
                    }
                    text.push_str(concat!("[", stringify!($section), "]\n"));
                    $(
                        for line in [$($doc),*] {
                            text.push_str(&format!("#{line}\n"));
                        }
                        text.push_str(&format!("{} = {}\n", stringify!($key), self.$section.$key.literal()));
                    )*
                    text.push('\n');
                )*
                text.truncate(text.trim_end().len());
                text.push('\n');
                text
            }
        }

        /// Every known key.
        pub(super) const KEYS: &[Key] = &[
            $( $( Key {
                path: concat!(stringify!($section), ".", stringify!($key)),
                secret: <$type>::SECRET,
            }, )* )*
        ];
    };
}

settings! {
    /// The public HTTP listener: API and pages.
    http: Http {
        /// Address and port of the API and the pages. Others than loopback need auth.mode "token". Port 0 = any free one.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        /// Base of the addresses in answers, e.g. `https://relay.example`. Default: the Host of the request, by http; so set
        /// it behind a reverse proxy. Its host and origin need not be listed below.
        public_url: String = String::new();
        /// Host names besides loopback ones that requests may be addressed to; others are refused with 421 (DNS rebinding).
        allowed_hosts: Vec<String> = Vec::new();
        /// Origins besides the relay's own and localhost that pages may call the API from (CORS).
        allowed_origins: Vec<String> = Vec::new();
        /// Time for a request's header to arrive; then the connection is closed.
        header_timeout: Duration = Duration::from_secs(5);
        /// Time for a request's body to arrive; then 408.
        body_timeout: Duration = Duration::from_secs(10);
        /// Time that a client may take nothing of an answer; then the connection is closed.
        write_timeout: Duration = Duration::from_secs(10);
        /// Bytes of request line and header (at least 8KiB); beyond, 431. Memory: this much per connection.
        max_header: ByteSize = ByteSize::kib(16);
        /// Bytes of an SDP offer; beyond, 413.
        max_sdp: ByteSize = ByteSize::kib(64);
        /// Bytes of a trickle fragment; beyond, 413.
        max_fragment: ByteSize = ByteSize::kib(16);
        /// Bytes of a JSON body; beyond, 413.
        max_json: ByteSize = ByteSize::kib(64);
        /// TCP connections in all, and at most 60 % of the process's file limit; beyond, 503.
        max_connections: usize = 4096;
        /// TCP connections from one address; beyond, 503. Behind a reverse proxy all come from one: raise it.
        max_connections_per_address: usize = 64;
        /// Ranges of reverse proxies ("10.0.0.0/8") whose `forwarded_header` is believed: the client is the right-most
        /// address there that is not one of them.
        trusted_proxies: Vec<String> = Vec::new();
        /// The header that these proxies write: "x-forwarded-for" or "forwarded" (RFC 7239). The other one is ignored: it is
        /// as the client sent it.
        forwarded_header: ForwardedHeader = ForwardedHeader::XForwardedFor;
    }

    /// The operator's listener: /metrics, /healthz, /readyz.
    ops: Ops {
        /// Address and port. Others than loopback need auth.mode "token", and whoever reaches it may read it. Port 0 = any
        /// free one.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090));
    }

    /// WebRTC: one UDP port for all peers.
    webrtc: WebRtc {
        /// UDP address and port. Others than loopback need auth.mode "token". Port 0 = any free one.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        /// Connections in all; beyond, 503. Memory: up to 64 KiB each.
        max_connections: usize = 20_000;
        /// Connections still being set up; beyond, 503. Memory: up to 64 KiB each.
        max_pending: usize = 1000;
        /// Time until the peer is reached (first authenticated STUN); then the join is dropped.
        ice_timeout: Duration = Duration::from_secs(10);
        /// Time for the DTLS handshake after that; then it is rebuilt once.
        dtls_timeout: Duration = Duration::from_secs(5);
        /// Time for a join as a whole; then it is dropped.
        join_timeout: Duration = Duration::from_secs(15);
        /// Silence of a peer after which its connection is closed.
        consent_timeout: Duration = Duration::from_secs(15);
        /// Sockets on the port, between which the system divides the peers, each read by a thread of its own; at most 64.
        /// 0 = one for each core, at most 4. Not to be set with port_per_shard.
        receivers: usize = 0;
        /// Whether each media thread has a UDP port of its own, with one socket: the first one that of webrtc.listen, the
        /// others those that follow it (media.shards says how many). For firewalls and network cards that divide by port.
        /// Not together with receivers.
        port_per_shard: bool = false;
        /// Threads that DTLS handshakes run on, at most 64. 0 = one for each two cores. Joins that they do not keep up
        /// with are refused with 503.
        handshake_threads: usize = 0;
        /// ICE servers that clients are told of when they join with a token or at an open relay: "stun:stun.example:3478",
        /// "turn:turn.example:3478?transport=udp user password". This relay needs none; clients behind strict firewalls may.
        ice_servers: Vec<String> = Vec::new();
    }

    /// The media plane.
    media: Media {
        /// Audio kept per track, at most 1h. Memory: about 8 KiB per second and track at 64 kb/s, at most about 80 KiB.
        history: Duration = Duration::from_secs(30);
        /// Tracks at one time, over all sessions; beyond, 503.
        max_tracks: usize = 4096;
        /// Threads that send to listeners, at most 256; 0 = one per core.
        shards: usize = 0;
        /// Whether each of them stays on a core of its own (Linux).
        pin: bool = false;
        /// Listeners of one track on one of these threads, before others take some. Memory: one more history for each that does.
        spill: usize = 256;
    }

    /// Sessions, all of them in memory.
    sessions: Sessions {
        /// Sessions at one time; beyond, 503. Memory: one history per language each.
        max: usize = 1000;
        /// Languages of one session, the source language included; beyond, 422.
        max_languages: usize = 32;
        /// Listeners of one session; beyond, 503.
        max_listeners: usize = 10_000;
        /// Sessions at one time of the subjects of one token issuer; beyond, 403.
        max_per_issuer: usize = 10_000;
        /// How long an active session waits for its speaker to come back; then it is ended.
        linger: Duration = Duration::from_secs(60);
        /// A session that nobody is connected to for this long is ended; so is a paused one without its speaker.
        idle_timeout: Duration = Duration::from_secs(3600);
        /// How long the id of an ended session answers SESSION_ENDED (410) before it is unknown (404).
        ended_memory: Duration = Duration::from_secs(600);
    }

    /// Replacing connections while they are used: a new one comes up beside the old one and takes over, and nobody hears it.
    refresh: Refresh {
        /// How old a connection gets; then it is closed. 0 = as old as it likes. Clients that follow the events, or a leg's
        /// server-sent events, are asked to replace it before.
        max_age: Duration = Duration::ZERO;
        /// How long before that, or before its token expires (but in the second half of the token's life), that is.
        refresh_before: Duration = Duration::from_secs(1200);
        /// How long before `max_age` a connection is warned.
        warn_before: Duration = Duration::from_secs(1800);
        /// How long an operator's order stands, and how long a new connection has to take over, at least 10 s; a connection that was
        /// not replaced then goes on.
        deadline: Duration = Duration::from_secs(60);
        /// The longest pause after a first failure; it doubles with each, and a random part of it is taken.
        retry_min: Duration = Duration::from_secs(1);
        /// The longest pause after any failure.
        retry_max: Duration = Duration::from_secs(30);
    }

    /// Who may do what: tokens, and the keys that verify them. docs/tokens.md has the recipes.
    auth: Auth {
        /// "open": no tokens, everybody may do everything, loopback only. "token": calls take a JWT.
        mode: AuthMode = AuthMode::Open;
        /// What the claim `aud` of a token must be or contain.
        audience: String = "relay:default".to_owned();
        /// Secret of HS256 tokens, at least 32 bytes. `relayd token secret` makes one. Never printed back.
        secret: Secret = Secret::default();
        /// File that holds that secret instead, alone on its line.
        secret_file: String = String::new();
        /// File with the public keys (JSON Web Key Set) of RS256, ES256 and EdDSA tokens.
        jwks_file: String = String::new();
        /// The same by https; asked again after 5 minutes and for unknown keys, the last good answer is kept for 24 hours.
        jwks_url: String = String::new();
        /// Issuers (claim `iss`) whose tokens are taken. Empty: any that the keys verify.
        issuers: Vec<String> = Vec::new();
        /// How far clocks may be apart, at most 1m.
        leeway: Duration = Duration::from_secs(5);
        /// How long a connection outlives its token, in which it may be renewed.
        grace: Duration = Duration::from_secs(60);
        /// How long before its token expires a connection is warned.
        warn_before: Duration = Duration::from_secs(300);
        /// Whether sessions let anybody listen where their creator does not say.
        anonymous_listeners: bool = false;
    }

    /// Requests that the relay itself makes: key sets, webhooks. Private, loopback and link-local addresses are refused.
    outbound: Outbound {
        /// Address ranges that are not, e.g. "10.1.2.0/24".
        allow: Vec<String> = Vec::new();
        /// PEM file of certificate authorities to trust besides the public ones.
        ca_file: String = String::new();
    }

    /// Webhooks: the events of all sessions, POSTed to one address (docs/tokens.md).
    webhooks: Webhooks {
        /// Where to; https, or http to an address that outbound.allow exempts. Empty: nowhere.
        url: String = String::new();
        /// What they are signed with: "whsec_" and base64, as `relayd token secret --webhook` makes it. Never printed back.
        secret: Secret = Secret::default();
        /// Names of the events to send, e.g. ["sessionCreated", "sessionEnded"]. Empty: all.
        events: Vec<String> = Vec::new();
        /// Events that may wait, at most 10000; beyond, the oldest are dropped and counted. Memory: about 500 bytes each.
        queue: usize = 1000;
    }

    /// The events WebSocket of a session, and the server-sent events of a listener's connection.
    events: Events {
        /// Time for the first frame, `hello`, to arrive; then the socket is closed (4003).
        hello_timeout: Duration = Duration::from_secs(5);
        /// How often the relay sends a heartbeat, and asks clients to.
        heartbeat: Duration = Duration::from_secs(10);
        /// Silence of a client after which its socket is closed (4009).
        dead_after: Duration = Duration::from_secs(25);
        /// Time for a close to be answered; then the connection is cut.
        close_timeout: Duration = Duration::from_secs(5);
        /// Bytes of a client's message; beyond, the socket is closed (1009). Memory: this much per socket.
        max_message: ByteSize = ByteSize::kib(64);
        /// Bytes of frames that wait for a client to read; beyond, its socket is closed (4008). Memory: this much per socket.
        write_buffer: ByteSize = ByteSize::kib(256);
        /// Messages of a client per second; beyond the burst, its socket is closed (4008).
        rate: usize = 20;
        /// Messages that a client may send at once.
        burst: usize = 100;
        /// How long a resume ticket outlives its socket.
        resume_window: Duration = Duration::from_secs(60);
        /// Resume tickets at one time; beyond, the one unused for longest is forgotten. Memory: about 500 bytes each.
        max_tickets: usize = 10_000;
        /// Where clients are sent when the relay stops, e.g. `wss://other.example`: the reason of close 4013. At most 100 bytes.
        drain_url: String = String::new();
        /// Streams of server-sent events in all; beyond, 503.
        max_streams: usize = 2000;
        /// Streams of server-sent events of one connection; beyond, 503.
        max_streams_per_leg: usize = 2;
        /// How often a silent stream of server-sent events is kept alive.
        keep_alive: Duration = Duration::from_secs(15);
    }

    /// How much one client may ask for, and the relay as a whole. IPv6 clients count by /64.
    limits: Limits {
        /// Ranges that the limits of this section by address and token are not for: by default this machine.
        exempt: Vec<String> = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
        /// Joins (WHIP and WHEP offers) of one address per second, after a burst; beyond, 429.
        joins_per_second: usize = 5;
        /// Joins of one address at once.
        joins_burst: usize = 20;
        /// Sessions that one address creates per second, after a burst; beyond, 429.
        creates_per_second: usize = 1;
        /// Sessions that one address creates at once.
        creates_burst: usize = 20;
        /// Tokens of one address that may fail per minute; beyond, everything that takes a token is answered 429.
        failed_auth_per_minute: usize = 20;
        /// For how long.
        failed_auth_ban: Duration = Duration::from_secs(60);
        /// Connections of one address that are still being set up; beyond, 429.
        pending_per_address: usize = 8;
        /// Connections of one token's subject and role in one session that are still being set up; beyond, 409.
        pending_per_token: usize = 2;
    }

    /// What happens while the relay has more to do than it can.
    overload: Overload {
        /// New joins and sessions are answered 503 once the relay was later than this for 5 s, until it was within half of it
        /// for as long. Running sessions are not touched.
        join_lag: Duration = Duration::from_millis(250);
        /// Later than this, for 5 s as well, it lets the newest listeners go, some every 5 s; speakers only when no listener
        /// is left and their media thread is late. At least `join_lag`, at most 60s.
        shed_lag: Duration = Duration::from_secs(1);
        /// How many of a hundred listeners go at a time, at most 50. 0 = none, ever.
        shed_percent: usize = 3;
    }

    /// The demo session: id `demo`, tracks `en` and `es`, recorded speech in a loop.
    demo: Demo {
        /// Whether it exists. `relayd` without any file, flag or variable turns it on.
        enabled: bool = false;
    }

    /// Logs, on standard error.
    log: Log {
        /// "text" or "json" (one object per line).
        format: LogFormat = LogFormat::Text;
        /// What is logged, by level and module: "info", "debug", "relayd=debug,str0m=warn".
        filter: String = "info,str0m=warn".to_owned();
    }

    /// The process.
    daemon: Daemon {
        /// Hard limit of an orderly stop, from the signal on.
        shutdown_timeout: Duration = Duration::from_secs(5);
    }
}
