//! Values of the attributes that an offer is read for; each parser takes what follows the colon.

/// `a=setup` (RFC 4145).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    ActPass,
    Active,
    Passive,
    HoldConn,
}

impl Setup {
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        match value {
            "actpass" => Ok(Self::ActPass),
            "active" => Ok(Self::Active),
            "passive" => Ok(Self::Passive),
            "holdconn" => Ok(Self::HoldConn),
            _ => Err("unknown a=setup"),
        }
    }
}

/// `a=fingerprint` (RFC 8122); of other hash functions than SHA-256 only the form is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) sha256: Option<[u8; 32]>,
}

impl Fingerprint {
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        const FORM: &str = "a=fingerprint has a hash function and hex pairs";
        let (function, digits) = value.split_once(' ').ok_or(FORM)?;
        let bytes: Option<Vec<u8>> = digits
            .trim()
            .split(':')
            .map(|pair| {
                let hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
                hex.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
            })
            .collect();
        let bytes = bytes.ok_or(FORM)?;
        if !function.eq_ignore_ascii_case("sha-256") {
            return Ok(Self { sha256: None });
        }
        let sha256 = bytes.try_into().map_err(|_| "a sha-256 fingerprint has 32 bytes")?;
        Ok(Self { sha256: Some(sha256) })
    }
}

/// `a=rtpmap`: payload type, lower-case name, clock rate, channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RtpMap {
    pub(super) payload_type: u32,
    pub(super) is_opus: bool,
}

impl RtpMap {
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        const FORM: &str = "a=rtpmap has a payload type and an encoding";
        let (payload_type, encoding) = value.split_once(' ').ok_or(FORM)?;
        let payload_type = payload_type.parse().map_err(|_| FORM)?;
        let mut fields = encoding.trim().split('/');
        let name = fields.next().filter(|n| !n.is_empty()).ok_or(FORM)?;
        let rate: u32 = fields.next().ok_or(FORM)?.parse().map_err(|_| FORM)?;
        let channels = fields.next().unwrap_or("1");
        // RFC 7587 §7: always "opus/48000/2".
        let is_opus = name.eq_ignore_ascii_case("opus") && rate == 48_000 && channels == "2";
        Ok(Self { payload_type, is_opus })
    }
}

/// `a=extmap`: id and URI; direction and attributes are of no concern here.
pub(super) fn extmap(value: &str) -> Result<(u32, &str), &'static str> {
    const FORM: &str = "a=extmap has an id and a URI";
    let mut fields = value.split_ascii_whitespace();
    let id = fields.next().ok_or(FORM)?;
    let id = id.split('/').next().unwrap_or(id);
    let uri = fields.next().ok_or(FORM)?;
    Ok((id.parse().map_err(|_| FORM)?, uri))
}

/// `a=rtcp-fb`: whose generic NACK it offers, `None` in it for every payload type; nothing of any other feedback.
pub(super) fn nack(value: &str) -> Option<Option<u32>> {
    let mut fields = value.split_ascii_whitespace();
    let payload_type = match fields.next()? {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    // `nack pli` and the like are other things.
    (fields.next() == Some("nack") && fields.next().is_none()).then_some(payload_type)
}

/// `a=ssrc`: the number.
pub(super) fn ssrc(value: &str) -> Result<u32, &'static str> {
    let number = value.split(' ').next().unwrap_or(value);
    number.parse().map_err(|_| "a=ssrc starts with a number")
}
