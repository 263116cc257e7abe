//! Reads a trickle ICE fragment (`application/trickle-ice-sdpfrag`, RFC 8840 §9), bounded.
//!
//! An ICE-lite peer learns where the other side is from its checks, so of candidates only the form matters;
//! what counts are the ICE credentials: other ones than before ask for an ICE restart.

use super::offer::IceCredentials;

/// The longest fragment that is read, in bytes.
pub const MAX_FRAGMENT_BYTES: usize = 16 * 1024;
/// The most lines that are read.
const MAX_LINES: usize = 512;

/// What a fragment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    /// The credentials of the ICE session it belongs to, or is to start.
    pub(super) ice: Option<IceCredentials>,
    /// How many candidates it has.
    pub(super) candidates: usize,
    /// Whether there are no more candidates to come.
    pub(super) end_of_candidates: bool,
}

impl Fragment {
    /// Reads a fragment.
    ///
    /// # Errors
    /// What is wrong with it, for the peer's author.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_FRAGMENT_BYTES {
            return Err(format!("longer than {MAX_FRAGMENT_BYTES} bytes"));
        }
        let mut fragment = Self::default();
        let (mut ufrag, mut password) = (None, None);
        for (index, raw) in text.split('\n').enumerate() {
            let line = raw.strip_suffix('\r').unwrap_or(raw);
            let at = |what: &str| format!("line {}: {what}", index + 1);
            if index == MAX_LINES {
                return Err(at("too many lines"));
            }
            if line.bytes().any(|b| b < b' ' && b != b'\t') {
                return Err(at("control character"));
            }
            if let Some(attribute) = line.strip_prefix("a=") {
                let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
                match name {
                    "ice-ufrag" => keep(&mut ufrag, value).map_err(at)?,
                    "ice-pwd" => keep(&mut password, value).map_err(at)?,
                    "candidate" => {
                        check_candidate(value).map_err(at)?;
                        fragment.candidates += 1;
                    }
                    "end-of-candidates" => fragment.end_of_candidates = true,
                    "" => return Err(at("attribute without a name")),
                    _ => {}
                }
            } else if !line.is_empty() && !line.starts_with("m=") && !line.starts_with("c=") {
                return Err(at("neither an attribute nor a media line"));
            }
        }
        fragment.ice = match (ufrag, password) {
            (None, None) => None,
            (Some(ufrag), Some(password)) => {
                Some(IceCredentials::new(ufrag, password).map_err(str::to_owned)?)
            }
            _ => return Err("ice-ufrag and ice-pwd go together".to_owned()),
        };
        if fragment == Self::default() {
            return Err("neither credentials nor candidates".to_owned());
        }
        Ok(fragment)
    }
}

/// Credentials may be repeated for each section, but bundled sections have the same.
fn keep<'a>(slot: &mut Option<&'a str>, value: &'a str) -> Result<(), &'static str> {
    match slot {
        Some(before) if *before != value => Err("two different ICE credentials"),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// RFC 8839 §5.1: foundation, component, transport, priority, address, port, `typ`, type.
fn check_candidate(value: &str) -> Result<(), &'static str> {
    const FORM: &str = "not a candidate";
    let mut fields = value.split_ascii_whitespace();
    let mut next = || fields.next().ok_or(FORM);
    let _foundation = next()?;
    let _component: u16 = next()?.parse().map_err(|_| FORM)?;
    let _transport = next()?;
    let _priority: u32 = next()?.parse().map_err(|_| FORM)?;
    let _address = next()?;
    let _port: u16 = next()?.parse().map_err(|_| FORM)?;
    if next()? != "typ" || next().is_err() {
        return Err(FORM);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n";

    #[test]
    fn reads_the_fragment_of_the_rfc() {
        let text = format!(
            "{CREDENTIALS}m=audio 9 RTP/AVP 0\r\na=mid:0\r\n\
             a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw\r\n\
             a=candidate:3471623853 1 udp 2122194687 abcd.local 61765 typ host\r\na=end-of-candidates\r\n"
        );
        let fragment = Fragment::parse(&text).unwrap();
        assert_eq!(fragment.ice.unwrap().ufrag, "EsAw");
        assert_eq!((fragment.candidates, fragment.end_of_candidates), (2, true));
    }

    #[test]
    fn refuses_what_is_malformed() {
        for text in [
            "",
            "\r\n",
            "hello",
            "v=0",
            "a=",
            "a=:x",
            "a=ice-ufrag:abcd",
            "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
            "a=ice-ufrag:abc\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
            "a=ice-ufrag:EsAw\na=ice-ufrag:other\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
            "a=candidate:",
            "a=candidate:1 1 udp x 192.0.2.1 61764 typ host",
            "a=candidate:1 1 udp 1 192.0.2.1 99999 typ host",
            "a=candidate:1 1 udp 1 192.0.2.1 9 typ",
            "a=mid:\u{1}0",
        ] {
            assert!(Fragment::parse(text).is_err(), "{text:?}");
        }
        assert!(Fragment::parse(&"a=mid:0\n".repeat(513)).is_err());
        assert!(Fragment::parse(&"a".repeat(MAX_FRAGMENT_BYTES + 1)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(a=|m=|ice-ufrag:|ice-pwd:|candidate:|[ -~\r\n]{0,9}){0,20}") {
            let _verdict = Fragment::parse(&text);
        }
    }
}
