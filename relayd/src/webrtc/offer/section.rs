//! One media section of an offer, and the attributes that may stand in the session's block as well.

use super::attribute::{self, Fingerprint, RtpMap, Setup};
use super::{Extensions, JoinError, MAX_SSRCS, MediaLine, OpusParameters, unsupported};

const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
/// The most entries of any one kind that a section keeps; later ones are ignored.
const MAX_ENTRIES: usize = 64;

/// Attributes that need a value, wherever they stand.
const VALUED: [&str; 17] = [
    "mid",
    "ice-ufrag",
    "ice-pwd",
    "ice-options",
    "fingerprint",
    "setup",
    "rtpmap",
    "fmtp",
    "extmap",
    "ssrc",
    "ssrc-group",
    "group",
    "candidate",
    "rtcp-fb",
    "rtcp",
    "msid",
    "rid",
];

/// What may stand at session or at media level.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    pub(super) ufrag: Option<String>,
    pub(super) password: Option<String>,
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) setup: Option<Setup>,
    pub(super) bundle: Option<Vec<String>>,
    pub(super) ice_lite: bool,
    /// Which way the media goes; of the session, what its sections start with.
    pub(super) direction: Direction,
}

impl Block {
    pub(super) fn attribute(&mut self, text: &str) -> Result<(), &'static str> {
        let (name, value) = split(text)?;
        match name {
            "ice-ufrag" => self.ufrag = Some(value.to_owned()),
            "ice-pwd" => self.password = Some(value.to_owned()),
            "setup" => self.setup = Some(Setup::parse(value)?),
            "fingerprint" if self.fingerprints.len() < MAX_ENTRIES => {
                self.fingerprints.push(Fingerprint::parse(value)?);
            }
            "ice-lite" => self.ice_lite = true,
            "sendrecv" => self.direction = Direction::SendRecv,
            "sendonly" => self.direction = Direction::SendOnly,
            "recvonly" => self.direction = Direction::RecvOnly,
            "inactive" => self.direction = Direction::Inactive,
            "group" => {
                let mut fields = value.split_ascii_whitespace();
                if fields.next() == Some("BUNDLE") {
                    self.bundle = Some(fields.take(MAX_ENTRIES).map(str::to_owned).collect());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a media section carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::webrtc) enum MediaKind {
    Audio,
    Video,
    Other,
}

/// Which way the offerer's media goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

/// One media section.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) kind: MediaKind,
    pub(super) protocol: String,
    pub(super) mid: Option<String>,
    pub(super) rtcp_mux: bool,
    pub(super) reduced_rtcp: bool,
    pub(super) extensions: Extensions,
    pub(super) ssrcs: Vec<u32>,
    pub(super) block: Block,
    name: String,
    formats: Vec<String>,
    port: u16,
    bundle_only: bool,
    rtpmaps: Vec<RtpMap>,
    fmtps: Vec<(u32, String)>,
    /// Payload types with generic NACK (RFC 4585 §4.2); `None` for all of them.
    nacks: Vec<Option<u32>>,
}

impl Section {
    /// Starts a section from what follows `m=`; the session's direction holds until it has its own.
    pub(super) fn start(value: &str, direction: Direction) -> Result<Self, &'static str> {
        const FORM: &str = "m= has a medium, a port, a protocol and formats";
        let mut fields = value.split_ascii_whitespace();
        let name = fields.next().ok_or(FORM)?;
        let port = fields.next().ok_or(FORM)?;
        let port = port.split('/').next().unwrap_or(port).parse().map_err(|_| FORM)?;
        let protocol = fields.next().ok_or(FORM)?.to_owned();
        let formats: Vec<String> = fields.take(MAX_ENTRIES * 2).map(str::to_owned).collect();
        if formats.is_empty() {
            return Err(FORM);
        }
        let kind = match name {
            "audio" => MediaKind::Audio,
            "video" => MediaKind::Video,
            _ => MediaKind::Other,
        };
        Ok(Self {
            kind,
            protocol,
            mid: None,
            rtcp_mux: false,
            reduced_rtcp: false,
            extensions: Extensions::default(),
            ssrcs: Vec::new(),
            block: Block { direction, ..Block::default() },
            name: name.to_owned(),
            formats,
            port,
            bundle_only: false,
            rtpmaps: Vec::new(),
            fmtps: Vec::new(),
            nacks: Vec::new(),
        })
    }

    pub(super) fn attribute(&mut self, text: &str) -> Result<(), &'static str> {
        let (name, value) = split(text)?;
        match name {
            "mid" => self.mid = Some(mid(value)?),
            "rtcp-mux" | "rtcp-mux-only" => self.rtcp_mux = true,
            "rtcp-rsize" => self.reduced_rtcp = true,
            "bundle-only" => self.bundle_only = true,
            "rtpmap" if self.rtpmaps.len() < MAX_ENTRIES => self.rtpmaps.push(RtpMap::parse(value)?),
            "fmtp" if self.fmtps.len() < MAX_ENTRIES => {
                let (payload_type, parameters) = value.split_once(' ').unwrap_or((value, ""));
                let payload_type = payload_type.parse().map_err(|_| "a=fmtp starts with a payload type")?;
                self.fmtps.push((payload_type, parameters.to_owned()));
            }
            "rtcp-fb" if self.nacks.len() < MAX_ENTRIES => self.nacks.extend(attribute::nack(value)),
            "extmap" => self.extmap(value)?,
            "ssrc" => self.ssrc(attribute::ssrc(value)?),
            _ => self.block.attribute(text)?,
        }
        Ok(())
    }

    /// Whether the peer means this section to be used (RFC 8843: port 0 is fine with `bundle-only`).
    pub(super) fn is_offered(&self) -> bool {
        self.port != 0 || self.bundle_only
    }

    pub(super) fn line(&self) -> MediaLine {
        MediaLine {
            kind: self.kind,
            name: self.name.clone(),
            protocol: self.protocol.clone(),
            format: self.formats[0].clone(),
            mid: self.mid.clone(),
        }
    }

    /// Opus' payload type, the first one offered, and its parameters.
    pub(super) fn opus(&self) -> Result<(u8, OpusParameters), JoinError> {
        let listed = |map: &&RtpMap| self.formats.iter().any(|f| f.parse() == Ok(map.payload_type));
        let Some(map) = self.rtpmaps.iter().filter(|map| map.is_opus).find(listed) else {
            return Err(unsupported("no Opus: offer opus/48000/2"));
        };
        let payload_type = u8::try_from(map.payload_type).ok().filter(|number| *number <= 127);
        let Some(payload_type) = payload_type else {
            return Err(unsupported("the payload type of Opus is above 127"));
        };
        // RFC 5761 §4: these would be taken for RTCP.
        if (64..=95).contains(&payload_type) {
            return Err(unsupported("the payload type of Opus collides with RTCP (64 to 95)"));
        }
        let fmtp = self.fmtps.iter().find(|(number, _)| *number == map.payload_type);
        Ok((payload_type, opus_parameters(fmtp.map_or("", |(_, text)| text))))
    }

    /// Whether generic NACK is offered for a payload type.
    pub(super) fn nack(&self, payload_type: u8) -> bool {
        self.nacks.iter().any(|of| of.is_none_or(|of| of == u32::from(payload_type)))
    }

    /// The extensions that can be answered: a one-byte element holds 16 bytes of mid.
    pub(super) fn negotiable_extensions(&self) -> Extensions {
        let fits = self.mid.as_ref().is_some_and(|mid| mid.len() <= 16);
        Extensions { mid: self.extensions.mid.filter(|_| fits), ..self.extensions }
    }

    fn extmap(&mut self, value: &str) -> Result<(), &'static str> {
        let (id, uri) = attribute::extmap(value)?;
        // Two-byte extensions (ids above 14) are left out of the answer.
        let Some(id) = u8::try_from(id).ok().filter(|id| (1..=14).contains(id)) else {
            return Ok(());
        };
        let slot = match uri {
            AUDIO_LEVEL => &mut self.extensions.audio_level,
            CAPTURE_TIME => &mut self.extensions.capture_time,
            MID => &mut self.extensions.mid,
            _ => return Ok(()),
        };
        slot.get_or_insert(id);
        let Extensions { audio_level, capture_time, mid } = self.extensions;
        let shared = |a: Option<u8>, b: Option<u8>| a.is_some() && a == b;
        if shared(audio_level, capture_time) || shared(audio_level, mid) || shared(capture_time, mid) {
            return Err("two header extensions have the same id");
        }
        Ok(())
    }

    fn ssrc(&mut self, ssrc: u32) {
        if self.ssrcs.len() < MAX_SSRCS && !self.ssrcs.contains(&ssrc) {
            self.ssrcs.push(ssrc);
        }
    }
}

/// Splits `name:value`; an attribute that needs a value and has none is malformed.
fn split(text: &str) -> Result<(&str, &str), &'static str> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    let value = value.trim_end();
    if name.is_empty() {
        return Err("attribute without a name");
    }
    if value.is_empty() && VALUED.contains(&name) {
        return Err("attribute without its value");
    }
    Ok((name, value))
}

fn mid(value: &str) -> Result<String, &'static str> {
    // RFC 5888: a token. It goes into a header extension, which holds 16 bytes of it.
    let token = value.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&b));
    if !token || value.len() > 64 {
        return Err("a=mid is not a token");
    }
    Ok(value.to_owned())
}

fn opus_parameters(text: &str) -> OpusParameters {
    let mut parameters = OpusParameters::default();
    for pair in text.split(';') {
        match pair.trim().split_once('=') {
            Some(("stereo" | "sprop-stereo", "1")) => parameters.stereo = true,
            Some(("useinbandfec", "1")) => parameters.in_band_fec = true,
            Some(("usedtx", "1")) => parameters.dtx = true,
            _ => {}
        }
    }
    parameters
}
