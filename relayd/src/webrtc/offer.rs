//! Reads an SDP offer: what the peer wants, or why it can not be had.
//!
//! Line by line, bounded, without allocation per line beyond what is kept. Nothing of the peer's text goes any
//! further: only the typed [`Offer`] does, so that no other parser ever sees what a stranger sent.
//! `Malformed` means that it is no valid offer (RFC 8866, RFC 8839, RFC 8843); `Unsupported`, that it asks for
//! what the relay does not do.

mod attribute;
mod section;

use std::fmt;

use super::{JoinError, Role};
use section::{Block, Section};

pub(super) use section::MediaKind;

/// The longest offer that is read, in bytes.
pub const MAX_OFFER_BYTES: usize = 64 * 1024;
/// The most media sections that are read.
const MAX_SECTIONS: usize = 64;
/// The longest line that is read, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// An offer that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// All media sections in their order; the answer has as many.
    pub(super) lines: Vec<MediaLine>,
    /// Index of the audio section in `lines`.
    pub(super) audio: usize,
    /// Its mid, if it has one.
    pub(super) mid: Option<String>,
    /// Whether the sections are bundled.
    pub(super) bundle: bool,
    /// RTP payload type of Opus, at most 127.
    pub(super) payload_type: u8,
    /// What the peer said of its Opus decoder.
    pub(super) opus: OpusParameters,
    /// Header extension ids, 1 to 14.
    pub(super) extensions: Extensions,
    /// SSRCs that the peer announced for the audio, at most [`MAX_SSRCS`].
    pub(super) ssrcs: Vec<u32>,
    /// Whether the peer takes part in generic NACK for Opus.
    pub(super) nack: bool,
    /// Whether the peer reads reduced-size RTCP (RFC 5506).
    pub(super) reduced_rtcp: bool,
    /// The peer's ICE credentials.
    pub(super) ice: IceCredentials,
    /// SHA-256 of the peer's certificate.
    pub(super) fingerprint: [u8; 32],
}

/// What an ICE restart needs of an offer, which is all that outlasts a join: some 200 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) mid: Option<Box<str>>,
    pub(super) bundle: bool,
    /// The transport protocol of the audio section.
    pub(super) protocol: Box<str>,
    pub(super) payload_type: u8,
    /// The peer's ICE credentials.
    pub(super) ice: IceCredentials,
}

impl Offer {
    /// What is kept once it is answered.
    pub(super) fn remote(&self) -> Remote {
        let protocol = self.lines[self.audio].protocol.as_str().into();
        let (bundle, payload_type) = (self.bundle, self.payload_type);
        Remote {
            mid: self.mid.as_deref().map(Into::into),
            bundle,
            protocol,
            payload_type,
            ice: self.ice.clone(),
        }
    }
}

/// The most SSRCs that are kept of an offer.
pub(super) const MAX_SSRCS: usize = 4;

/// One media section as the answer has to repeat it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaLine {
    pub(super) kind: MediaKind,
    /// The media type as written (`video`).
    pub(super) name: String,
    /// The transport protocol as written (`UDP/TLS/RTP/SAVPF`).
    pub(super) protocol: String,
    /// The first format as written.
    pub(super) format: String,
    pub(super) mid: Option<String>,
}

/// `a=fmtp` parameters of Opus that the answer repeats (RFC 7587 §7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OpusParameters {
    pub(super) stereo: bool,
    pub(super) in_band_fec: bool,
    pub(super) dtx: bool,
}

/// Header extension ids (RFC 8285) of the audio section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) audio_level: Option<u8>,
    pub(super) capture_time: Option<u8>,
    pub(super) mid: Option<u8>,
}

/// ICE user fragment and password (RFC 8839 §5.4).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct IceCredentials {
    pub(super) ufrag: String,
    pub(super) password: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

impl IceCredentials {
    /// Checks the lengths and the characters that RFC 8839 allows.
    pub(super) fn new(ufrag: &str, password: &str) -> Result<Self, &'static str> {
        let ice_chars =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        // Some peers in the field put '-', '_' and '=' in; they harm nobody.
        let lenient = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        if !(4..=256).contains(&ufrag.len()) || !(ice_chars(ufrag) || lenient(ufrag)) {
            return Err("ice-ufrag must have 4 to 256 ice characters");
        }
        if !(22..=256).contains(&password.len()) || !(ice_chars(password) || lenient(password)) {
            return Err("ice-pwd must have 22 to 256 ice characters");
        }
        Ok(Self { ufrag: ufrag.to_owned(), password: password.to_owned() })
    }
}

/// Reads an offer for a peer of the given role.
///
/// # Errors
/// [`JoinError::Malformed`] or [`JoinError::Unsupported`], with a sentence for the peer's author.
pub(super) fn inspect(text: &str, role: Role) -> Result<Offer, JoinError> {
    let (session, sections) = read(text).map_err(JoinError::Malformed)?;
    check_mids(&sections).map_err(JoinError::Malformed)?;
    let audio = choose_audio(&sections, role)?;
    let bundle = check_bundle(&session, &sections, audio)?;
    let transport = Transport::resolve(&session, &sections, audio)?;
    let section = &sections[audio];
    check_section(section, role)?;
    let (payload_type, opus) = section.opus()?;
    Ok(Offer {
        lines: sections.iter().map(Section::line).collect(),
        audio,
        mid: section.mid.clone(),
        bundle,
        payload_type,
        opus,
        extensions: section.negotiable_extensions(),
        ssrcs: section.ssrcs.clone(),
        nack: section.nack(payload_type),
        reduced_rtcp: section.reduced_rtcp,
        ice: transport.ice,
        fingerprint: transport.fingerprint,
    })
}

/// Splits the text into the session's block and the media sections.
fn read(text: &str) -> Result<(Block, Vec<Section>), String> {
    if text.len() > MAX_OFFER_BYTES {
        return Err(format!("longer than {MAX_OFFER_BYTES} bytes"));
    }
    let mut session = Block::default();
    let mut sections: Vec<Section> = Vec::new();
    let mut origin = false;
    for (index, raw) in text.split('\n').enumerate() {
        let line = raw.strip_suffix('\r').unwrap_or(raw);
        let at = |what: &str| format!("line {}: {what}", index + 1);
        if index == 0 {
            if line != "v=0" {
                return Err(at("an offer starts with v=0"));
            }
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let (kind, value) = split_line(line).map_err(at)?;
        match kind {
            b'm' if sections.len() == MAX_SECTIONS => return Err(at("too many media sections")),
            b'm' => sections.push(Section::start(value, session.direction).map_err(at)?),
            b'a' => match sections.last_mut() {
                Some(section) => section.attribute(value).map_err(at)?,
                None => session.attribute(value).map_err(at)?,
            },
            b'o' if value.split_ascii_whitespace().count() != 6 => return Err(at("o= has six fields")),
            b'o' => origin = true,
            _ => {}
        }
    }
    if !origin {
        return Err("no origin (o=)".to_owned());
    }
    if sections.is_empty() {
        return Err("no media section (m=)".to_owned());
    }
    Ok((session, sections))
}

fn split_line(line: &str) -> Result<(u8, &str), &'static str> {
    if line.len() > MAX_LINE_BYTES {
        return Err("too long");
    }
    if line.bytes().any(|b| b < b' ' && b != b'\t') {
        return Err("control character");
    }
    let bytes = line.as_bytes();
    match (bytes.first(), bytes.get(1)) {
        (Some(kind), Some(b'=')) if b"voasiuepcbtrzkm".contains(kind) => Ok((*kind, &line[2..])),
        _ => Err("not an SDP line"),
    }
}

fn check_mids(sections: &[Section]) -> Result<(), String> {
    let mut mids: Vec<&str> = sections.iter().filter_map(|s| s.mid.as_deref()).collect();
    mids.sort_unstable();
    match mids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("two sections have the mid {}", pair[0])),
        None => Ok(()),
    }
}

/// Finds the one audio section to answer.
fn choose_audio(sections: &[Section], role: Role) -> Result<usize, JoinError> {
    let mut audio = sections.iter().enumerate().filter(|(_, s)| s.is_offered() && s.kind == MediaKind::Audio);
    let first = audio.next();
    if audio.next().is_some() {
        return Err(unsupported("two audio tracks: offer exactly one"));
    }
    let video = sections.iter().any(|s| s.is_offered() && s.kind == MediaKind::Video);
    match first {
        None if video => Err(unsupported("video only: offer one Opus audio track")),
        None => Err(unsupported("no audio: offer one Opus audio track")),
        // A publisher's video would be lost without a word; a listener's empty video section harms nobody.
        Some(_) if video && role == Role::Publisher => {
            Err(unsupported("video is not relayed: offer the audio track alone"))
        }
        Some((index, _)) => Ok(index),
    }
}

fn check_bundle(session: &Block, sections: &[Section], audio: usize) -> Result<bool, JoinError> {
    let offered = sections.iter().filter(|s| s.is_offered()).count();
    let Some(bundle) = &session.bundle else {
        if offered > 1 {
            return Err(unsupported("more than one section without BUNDLE"));
        }
        return Ok(false);
    };
    for mid in bundle {
        if !sections.iter().any(|s| s.mid.as_ref() == Some(mid)) {
            return Err(JoinError::Malformed(format!("BUNDLE names the mid {mid}, which no section has")));
        }
    }
    match &sections[audio].mid {
        Some(mid) if bundle.contains(mid) => Ok(true),
        _ if offered > 1 => Err(unsupported("the audio section is not in the BUNDLE group")),
        _ => Ok(false),
    }
}

fn check_section(section: &Section, role: Role) -> Result<(), JoinError> {
    if !section.protocol.ends_with("RTP/SAVPF") && !section.protocol.ends_with("RTP/SAVP") {
        return Err(unsupported("the audio must be offered as UDP/TLS/RTP/SAVPF"));
    }
    if !section.rtcp_mux {
        return Err(unsupported("rtcp-mux is required"));
    }
    match (role, section.block.direction) {
        (_, section::Direction::Inactive) => Err(unsupported("the audio is inactive")),
        (Role::Publisher, section::Direction::RecvOnly) => {
            Err(unsupported("the audio is recvonly: a publisher offers sendonly"))
        }
        (Role::Listener, section::Direction::SendOnly) => {
            Err(unsupported("the audio is sendonly: a listener offers recvonly"))
        }
        _ => Ok(()),
    }
}

/// ICE and DTLS of the section, or of the session, or of the first section that has them (RFC 8843 §7.1.3).
struct Transport {
    ice: IceCredentials,
    fingerprint: [u8; 32],
}

impl Transport {
    fn resolve(session: &Block, sections: &[Section], audio: usize) -> Result<Self, JoinError> {
        let blocks: Vec<&Block> = std::iter::once(&sections[audio].block)
            .chain(std::iter::once(session))
            .chain(sections.iter().map(|s| &s.block))
            .collect();
        let missing = |name: &str| JoinError::Malformed(format!("no a={name}"));
        let ufrag = blocks.iter().find_map(|b| b.ufrag.as_deref()).ok_or_else(|| missing("ice-ufrag"))?;
        let password = blocks.iter().find_map(|b| b.password.as_deref()).ok_or_else(|| missing("ice-pwd"))?;
        let ice =
            IceCredentials::new(ufrag, password).map_err(|what| JoinError::Malformed(what.to_owned()))?;
        let fingerprints = blocks
            .iter()
            .find(|b| !b.fingerprints.is_empty())
            .map(|b| &b.fingerprints)
            .ok_or_else(|| missing("fingerprint"))?;
        let fingerprint = fingerprints
            .iter()
            .find_map(|f| f.sha256)
            .ok_or_else(|| unsupported("the certificate's fingerprint must be given as sha-256"))?;
        let setup = blocks.iter().find_map(|b| b.setup).ok_or_else(|| missing("setup"))?;
        if session.ice_lite {
            return Err(unsupported("ice-lite: the relay is an ICE-lite peer itself"));
        }
        match setup {
            attribute::Setup::ActPass | attribute::Setup::Active => Ok(Self { ice, fingerprint }),
            attribute::Setup::Passive => Err(unsupported("setup:passive: the relay is passive itself")),
            attribute::Setup::HoldConn => Err(unsupported("setup:holdconn")),
        }
    }
}

fn unsupported(what: &str) -> JoinError {
    JoinError::Unsupported(what.to_owned())
}

#[cfg(test)]
mod tests;
