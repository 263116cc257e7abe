//! The configuration: defaults < file < environment < flags.
//!
//! Each source is read into a layer of `Option`s; the layers are folded once, then checked. A key that nobody
//! knows is refused with the nearest one that exists; a value of the wrong type names file, line and key. The
//! table of all keys, with default and unit, is in `settings.rs`.

mod auth;
mod error;
mod events;
mod file;
mod limit;
mod overload;
mod refresh;
mod settings;
mod value;
mod webhooks;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::uri::Authority;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::shard::ShardsConfig;
use crate::webrtc::{MAX_FRAGMENT_BYTES, MAX_OFFER_BYTES};
pub(crate) use auth::MIN_SECRET_BYTES;
pub use error::{ConfigError, Origin};
use limit::{A_YEAR, AN_HOUR, at_least, at_most, meaningless, no_longer, some_time};
pub use settings::{
    Auth, Config, Daemon, Demo, Events, Http, Limits, Log, Media, Ops, Outbound, Overload, Refresh, Sessions,
    WebRtc, Webhooks,
};
use settings::{KEYS, Layer};
use value::Raw;
pub use value::{AuthMode, ByteSize, ForwardedHeader, LogFormat, Secret};
pub(crate) use webhooks::webhook_key;

/// Where the configuration is taken from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment; of it, the variables that start with `RELAYD_` are read.
    pub environment: Vec<(String, String)>,
    /// Settings of the command line: flag as typed (for messages), key, value.
    pub flags: Vec<(String, String, String)>,
}

impl Sources {
    /// Whether nobody configured anything, as in a fresh clone.
    pub fn is_bare(&self) -> bool {
        let set = |name: &str| name.starts_with(PREFIX) && !NOT_KEYS.contains(&name);
        self.file.is_none() && self.flags.is_empty() && !self.environment.iter().any(|(name, _)| set(name))
    }
}

impl Config {
    /// Reads every source, folds them and checks the result.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let file = sources.file.as_deref().map(read_file).transpose()?;
        Self::over(file, sources)
    }

    /// The same with this text for a file; `sources.file` only says what messages call it.
    pub fn load_text(text: &str, sources: &Sources) -> Result<Self, ConfigError> {
        let name = sources.file.as_deref().unwrap_or_else(|| Path::new("relay.toml"));
        Self::over(Some(read_text(name, text)?), sources)
    }

    fn over(file: Option<Layer>, sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers: Vec<Layer> = file.into_iter().collect();
        layers.push(read_environment(&sources.environment)?);
        layers.push(read_flags(&sources.flags)?);
        let config = Self::fold(&layers);
        config.check()?;
        Ok(config)
    }

    /// Checks what no single value can tell: that addresses are loopback ones, that limits are not zero.
    pub fn check(&self) -> Result<(), ConfigError> {
        let listeners = [
            ("http.listen", self.http.listen),
            ("webrtc.listen", self.webrtc.listen),
            ("ops.listen", self.ops.listen),
        ];
        for (key, address) in listeners {
            if self.auth.mode == AuthMode::Open && !address.ip().to_canonical().is_loopback() {
                return Err(ConfigError::NotLoopback { key, address });
            }
        }
        self.check_apart()?;
        self.check_texts()?;
        self.check_auth()?;
        self.check_webhooks()?;
        self.check_events()?;
        self.check_refresh()?;
        self.check_overload()?;
        self.check_limits()
    }

    /// The effective configuration as a TOML file with the meaning of each key; it reads back to the same value.
    pub fn to_toml(&self) -> String {
        self.render()
    }

    /// Whether those that listen by TCP do not meet. `webrtc.listen` is UDP.
    fn check_apart(&self) -> Result<(), ConfigError> {
        let (http, ops) = (self.http.listen, self.ops.listen);
        if http.port() == 0 || http.port() != ops.port() || !overlap(http.ip(), ops.ip()) {
            return Ok(());
        }
        let reason = format!("`http.listen` is {http}: one of them needs another port");
        meaningless("ops.listen", ops.to_string(), reason)
    }

    fn check_texts(&self) -> Result<(), ConfigError> {
        let (url, origins) = (&self.http.public_url, &self.http.allowed_origins);
        if !url.is_empty() && !is_origin(url.trim_end_matches('/')) {
            // The pages and the connections' addresses begin at the root: a path in front would lead nowhere.
            return meaningless(
                "http.public_url",
                url,
                "must be like https://relay.example or http://relay.example:8080, without a path",
            );
        }
        if let Some(origin) = origins.iter().find(|origin| !is_origin(origin)) {
            return meaningless(
                "http.allowed_origins",
                origin,
                "must be like https://stage.example, without a path",
            );
        }
        if let Some(host) =
            self.http.allowed_hosts.iter().find(|host| host.is_empty() || host.contains(['/', ':']))
        {
            return meaningless(
                "http.allowed_hosts",
                host,
                "must be a bare host name, without scheme and port",
            );
        }
        if let Some(text) = self.http.trusted_proxies.iter().find(|text| range(text).is_none()) {
            return meaningless("http.trusted_proxies", text, NOT_A_RANGE);
        }
        if let Some(text) = self.webrtc.ice_servers.iter().find(|text| !is_ice_server(text)) {
            let form = "must be like \"stun:stun.example:3478\" or \"turn:turn.example:3478 user password\"";
            return meaningless("webrtc.ice_servers", text, form);
        }
        if let Some(text) = self.limits.exempt.iter().find(|text| range(text).is_none()) {
            return meaningless("limits.exempt", text, NOT_A_RANGE);
        }
        if let Err(error) = self.log.to_filter() {
            return meaningless("log.filter", &self.log.filter, format!("must be a log filter: {error}"));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let http = &self.http;
        let least = [
            ("http.max_header", http.max_header.bytes(), 8 * 1024),
            ("http.max_sdp", http.max_sdp.bytes(), 1024),
            ("http.max_fragment", http.max_fragment.bytes(), 256),
            ("http.max_json", http.max_json.bytes(), 256),
            ("http.max_connections", http.max_connections, 1),
            ("http.max_connections_per_address", http.max_connections_per_address, 1),
            ("webrtc.max_pending", self.webrtc.max_pending, 1),
            ("webrtc.max_connections", self.webrtc.max_connections, 1),
            ("media.max_tracks", self.media.max_tracks, 1),
            ("sessions.max", self.sessions.max, 1),
            ("sessions.max_languages", self.sessions.max_languages, 1),
            ("sessions.max_listeners", self.sessions.max_listeners, 1),
            ("sessions.max_per_issuer", self.sessions.max_per_issuer, 1),
            ("limits.joins_per_second", self.limits.joins_per_second, 1),
            ("limits.joins_burst", self.limits.joins_burst, 1),
            ("limits.creates_per_second", self.limits.creates_per_second, 1),
            ("limits.creates_burst", self.limits.creates_burst, 1),
            ("limits.failed_auth_per_minute", self.limits.failed_auth_per_minute, 1),
            ("limits.pending_per_address", self.limits.pending_per_address, 1),
            ("limits.pending_per_token", self.limits.pending_per_token, 1),
        ];
        least.into_iter().try_for_each(|(key, value, least)| at_least(key, value, least))?;
        let most = [
            ("http.max_header", http.max_header, 1024 * 1024),
            // More than these is refused wherever it comes from.
            ("http.max_sdp", http.max_sdp, MAX_OFFER_BYTES),
            ("http.max_fragment", http.max_fragment, MAX_FRAGMENT_BYTES),
            ("http.max_json", http.max_json, 1024 * 1024),
        ];
        most.into_iter().try_for_each(|(key, value, most)| at_most(key, value.bytes(), most))?;
        at_most("media.shards", self.media.shards, ShardsConfig::MOST)?;
        self.check_ports()?;
        at_most("webrtc.receivers", self.webrtc.receivers, 64)?;
        if self.webrtc.port_per_shard && self.webrtc.receivers != 0 {
            return Err(ConfigError::Conflict(ONE_EACH));
        }
        at_most("webrtc.handshake_threads", self.webrtc.handshake_threads, 64)?;
        self.check_durations()
    }

    /// Whether there is a port for each shard, if each is to have one. Any row will do where the first is 0.
    fn check_ports(&self) -> Result<(), ConfigError> {
        let (first, shards) = (self.webrtc.listen.port(), self.media.shards);
        let there = usize::from(u16::MAX - first) + 1;
        if !self.webrtc.port_per_shard || first == 0 || shards <= there {
            return Ok(());
        }
        let reason = format!(
            "webrtc.port_per_shard needs {shards} ports from there up to 65535, as media.shards says"
        );
        meaningless("webrtc.listen", self.webrtc.listen.to_string(), reason)
    }

    fn check_durations(&self) -> Result<(), ConfigError> {
        let http = &self.http;
        let durations = [
            ("http.header_timeout", http.header_timeout),
            ("http.body_timeout", http.body_timeout),
            ("http.write_timeout", http.write_timeout),
            ("daemon.shutdown_timeout", self.daemon.shutdown_timeout),
            ("webrtc.ice_timeout", self.webrtc.ice_timeout),
            ("webrtc.dtls_timeout", self.webrtc.dtls_timeout),
            ("webrtc.join_timeout", self.webrtc.join_timeout),
            ("webrtc.consent_timeout", self.webrtc.consent_timeout),
            ("sessions.linger", self.sessions.linger),
            ("sessions.idle_timeout", self.sessions.idle_timeout),
            ("media.history", self.media.history),
            ("limits.failed_auth_ban", self.limits.failed_auth_ban),
        ];
        let may_be_zero = [
            ("sessions.ended_memory", self.sessions.ended_memory),
            ("auth.grace", self.auth.grace),
            ("auth.warn_before", self.auth.warn_before),
        ];
        durations.into_iter().try_for_each(|(key, value)| some_time(key, value))?;
        // What the engine's largest history holds of the shortest frames.
        no_longer("media.history", self.media.history, AN_HOUR)?;
        let mut all = durations.into_iter().chain(may_be_zero);
        all.try_for_each(|(key, value)| no_longer(key, value, A_YEAR))
    }
}

/// Whether this is the address of a STUN server, or of a TURN server with its user and password.
fn is_ice_server(text: &str) -> bool {
    let words: Vec<&str> = text.split(' ').collect();
    let plain =
        text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic() && !b"\"\\<>".contains(&byte));
    let stun = words[0].starts_with("stun:") || words[0].starts_with("stuns:");
    let turn = words[0].starts_with("turn:") || words[0].starts_with("turns:");
    plain
        && words.iter().all(|word| !word.is_empty())
        && (stun && words.len() == 1 || turn && words.len() == 3)
}

/// Whether whoever listens at one address listens at the other too.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    // The unspecified one of IPv6 stands for those of IPv4 too.
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || covers(one, other) || covers(other, one)
}

/// A range of addresses, or one.
pub(crate) fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Log {
    /// What is logged.
    ///
    /// # Errors
    /// When `filter` is none.
    pub(crate) fn to_filter(&self) -> Result<EnvFilter, ParseError> {
        // Without patterns in values: they are compiled whole, and a short one can take minutes.
        EnvFilter::builder().with_regex(false).parse(&self.filter)
    }
}

const ONE_EACH: &str = "`webrtc.receivers` is set, but with `webrtc.port_per_shard` each port has one socket: leave it out, or 0; \
                        `media.shards` says how many ports there are";

/// Whether this is a scheme, a host and perhaps a port, as browsers send it in `Origin`.
fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    authority.is_some_and(|authority| !authority.contains('@') && authority.parse::<Authority>().is_ok())
}

fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".into()))?;
    read_text(path, &text)
}

fn read_text(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for entry in file::parse(path, text)? {
        set(&mut layer, &entry.key, &entry.value, &entry.origin)?;
    }
    Ok(layer)
}

fn read_environment(environment: &[(String, String)]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    if let Some((name, value)) = environment.iter().find(|(name, _)| name == LOG_VARIABLE) {
        set(&mut layer, "log.filter", &Raw::Word(value.clone()), &Origin::Environment(name.clone()))?;
    }
    for (name, value) in environment {
        let Some(suffix) = name.strip_prefix(PREFIX).filter(|_| !NOT_KEYS.contains(&name.as_str())) else {
            continue;
        };
        let origin = Origin::Environment(name.clone());
        let Some(key) = KEYS.iter().map(|key| key.path).find(|path| variable(path) == *name) else {
            let nearest = nearest(&suffix.to_lowercase().replacen('_', ".", 1)).map(|path| variable(&path));
            return Err(ConfigError::UnknownKey { origin, key: name.clone(), nearest });
        };
        set(&mut layer, key, &Raw::Word(value.clone()), &origin)?;
    }
    Ok(layer)
}

/// A duration as settings write it: `500ms`, `5s`, `10m`, `1h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    value::Setting::read(&Raw::Word(text.to_owned()))
}

fn read_flags(flags: &[(String, String, String)]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (flag, key, value) in flags {
        set(&mut layer, key, &Raw::Word(value.clone()), &Origin::Flag(flag.clone()))?;
    }
    Ok(layer)
}

fn set(layer: &mut Layer, key: &str, value: &Raw, origin: &Origin) -> Result<(), ConfigError> {
    match layer.set(key, value) {
        Ok(()) => Ok(()),
        Err(Some(expected)) => Err(ConfigError::WrongValue {
            origin: origin.clone(),
            key: key.to_owned(),
            found: if is_secret(key) { "something else".to_owned() } else { value.to_string() },
            expected,
        }),
        Err(None) => Err(ConfigError::UnknownKey {
            origin: origin.clone(),
            key: key.to_owned(),
            nearest: nearest(key),
        }),
    }
}

/// Whether what is set there is nobody's to see.
fn is_secret(key: &str) -> bool {
    KEYS.iter().any(|known| known.path == key && known.secret)
}

/// The name of the environment variable of a key: `http.listen` → `RELAYD_HTTP_LISTEN`.
fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// The known key (or section) that a mistyped one is most like; `None` if it is like none of them.
fn nearest(key: &str) -> Option<String> {
    let sections = KEYS.iter().filter_map(|known| known.path.split_once('.').map(|(section, _)| section));
    let candidates: Vec<&str> =
        if key.contains('.') { KEYS.iter().map(|known| known.path).collect() } else { sections.collect() };
    let scored = candidates.into_iter().map(|known| (strsim::jaro_winkler(key, known), known));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.7).then(|| best.1.to_owned())
}

const NOT_A_RANGE: &str = "must be an address or a range such as \"10.0.0.0/8\" or \"2001:db8::/32\"";
/// What every variable that is ours starts with.
const PREFIX: &str = "RELAYD_";
/// Short name of `log.filter`.
const LOG_VARIABLE: &str = "RELAYD_LOG";
/// Variables of ours that are not keys of the file.
const NOT_KEYS: &[&str] = &["RELAYD_CONFIG", "RELAYD_TOKEN", LOG_VARIABLE];

#[cfg(test)]
mod tests;
