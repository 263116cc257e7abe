//! Writes the SDP answer and the trickle fragment: the whole of what the relay says of itself.
//!
//! Every section of the offer is answered at its place; all but the audio are rejected with port 0
//! (RFC 3264 §6, RFC 8843 §7.3).

use std::fmt::Write;
use std::net::SocketAddr;

use super::Role;
use super::offer::{IceCredentials, MediaKind, Offer, Remote};

/// What the relay says of itself in one answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) offer: &'a Offer,
    pub(super) role: Role,
    /// Ours.
    pub(super) ice: &'a IceCredentials,
    /// SHA-256 of our certificate.
    pub(super) fingerprint: [u8; 32],
    /// Host candidates; never empty.
    pub(super) candidates: &'a [SocketAddr],
    /// The SSRC that the relay sends with; listeners only.
    pub(super) ssrc: u32,
    /// The name that the relay's sender reports carry.
    pub(super) cname: &'a str,
    /// Session id of the `o=` line.
    pub(super) session_id: u64,
}

impl Answer<'_> {
    /// The answer as `application/sdp`.
    pub(super) fn to_sdp(&self) -> String {
        let mut sdp = String::with_capacity(1024);
        self.write(&mut sdp).expect("a String takes everything");
        sdp
    }

    fn write(&self, sdp: &mut String) -> std::fmt::Result {
        let id = self.session_id >> 1;
        write!(sdp, "v=0\r\no=- {id} 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n")?;
        if let (true, Some(mid)) = (self.offer.bundle, &self.offer.mid) {
            write!(sdp, "a=group:BUNDLE {mid}\r\n")?;
        }
        for (index, line) in self.offer.lines.iter().enumerate() {
            if index == self.offer.audio {
                self.write_audio(sdp)?;
                continue;
            }
            write!(sdp, "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\n", line.name, line.protocol, line.format)?;
            if let Some(mid) = &line.mid {
                write!(sdp, "a=mid:{mid}\r\n")?;
            }
            if line.kind != MediaKind::Other {
                sdp.push_str("a=inactive\r\n");
            }
        }
        Ok(())
    }

    fn write_audio(&self, sdp: &mut String) -> std::fmt::Result {
        let offer = self.offer;
        let pt = offer.payload_type;
        let protocol = &offer.lines[offer.audio].protocol;
        let first = self.candidates[0];
        write!(sdp, "m=audio {} {protocol} {pt}\r\n", first.port())?;
        write!(sdp, "c=IN {} {}\r\n", family(first), first.ip())?;
        write_transport(sdp, self.ice, self.candidates)?;
        sdp.push_str("a=fingerprint:sha-256 ");
        for (index, byte) in self.fingerprint.iter().enumerate() {
            write!(sdp, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        sdp.push_str("\r\na=setup:passive\r\n");
        if let Some(mid) = &offer.mid {
            write!(sdp, "a=mid:{mid}\r\n")?;
        }
        let ids = offer.extensions;
        for (id, uri) in [
            (ids.audio_level, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
            (ids.capture_time, "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"),
            (ids.mid, "urn:ietf:params:rtp-hdrext:sdes:mid"),
        ] {
            if let Some(id) = id {
                write!(sdp, "a=extmap:{id} {uri}\r\n")?;
            }
        }
        sdp.push_str(match self.role {
            Role::Publisher => "a=recvonly\r\n",
            Role::Listener => "a=sendonly\r\na=msid:relay audio\r\n",
        });
        sdp.push_str("a=rtcp-mux\r\n");
        if offer.reduced_rtcp {
            sdp.push_str("a=rtcp-rsize\r\n");
        }
        write!(sdp, "a=rtpmap:{pt} opus/48000/2\r\n")?;
        if offer.nack {
            // A listener's are answered from the history; holes of a publisher's are asked for.
            write!(sdp, "a=rtcp-fb:{pt} nack\r\n")?;
        }
        write!(sdp, "a=fmtp:{pt} minptime=10")?;
        // What a publisher may send is ours to say: in-band FEC always. To a listener its own words are repeated.
        if offer.opus.in_band_fec || self.role == Role::Publisher {
            sdp.push_str(";useinbandfec=1");
        }
        if offer.opus.stereo {
            sdp.push_str(";stereo=1");
        }
        if offer.opus.dtx {
            sdp.push_str(";usedtx=1");
        }
        sdp.push_str("\r\n");
        if self.role == Role::Listener {
            write!(sdp, "a=ssrc:{} cname:{}\r\n", self.ssrc, self.cname)?;
        }
        Ok(())
    }
}

/// Our side of an ICE restart as `application/trickle-ice-sdpfrag` (RFC 8840, RFC 9725 §4.3.3).
pub(super) fn fragment(remote: &Remote, ice: &IceCredentials, candidates: &[SocketAddr]) -> String {
    let mut text = String::with_capacity(512);
    let written: std::fmt::Result = (|| {
        text.push_str("a=ice-lite\r\n");
        if let (true, Some(mid)) = (remote.bundle, &remote.mid) {
            write!(text, "a=group:BUNDLE {mid}\r\n")?;
        }
        write!(text, "m=audio 9 {} {}\r\n", remote.protocol, remote.payload_type)?;
        if let Some(mid) = &remote.mid {
            write!(text, "a=mid:{mid}\r\n")?;
        }
        write_transport(&mut text, ice, candidates)
    })();
    written.expect("a String takes everything");
    text
}

fn write_transport(sdp: &mut String, ice: &IceCredentials, candidates: &[SocketAddr]) -> std::fmt::Result {
    write!(sdp, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", ice.ufrag, ice.password)?;
    for (index, address) in candidates.iter().enumerate() {
        // RFC 8445 §5.1.2.1: host type preference 126, component 1; earlier addresses are preferred.
        let priority = (126_u32 << 24) | ((65_535 - index as u32) << 8) | 255;
        let (foundation, ip, port) = (index + 1, address.ip(), address.port());
        write!(sdp, "a=candidate:{foundation} 1 udp {priority} {ip} {port} typ host\r\n")?;
    }
    sdp.push_str("a=end-of-candidates\r\n");
    Ok(())
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IP4" } else { "IP6" }
}

#[cfg(test)]
mod tests {
    use super::super::offer;
    use super::*;

    const TRANSPORT: &str = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=setup:actpass\r\n\
        a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n";

    fn answer(media: &str, role: Role) -> String {
        let text = format!("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{TRANSPORT}{media}");
        let offer = offer::inspect(&text, role).unwrap();
        let ice = IceCredentials::new("ours", "0123456789abcdef01234567").unwrap();
        let candidates = ["192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()];
        Answer {
            offer: &offer,
            role,
            ice: &ice,
            fingerprint: [0xAB; 32],
            candidates: &candidates,
            ssrc: 99,
            cname: "name",
            session_id: 8,
        }
        .to_sdp()
    }

    #[test]
    fn what_is_not_audio_is_rejected_at_its_place() {
        let sdp = answer(
            "a=group:BUNDLE v a d\r\n\
             m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:v\r\na=recvonly\r\na=rtcp-mux\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\na=mid:a\r\na=recvonly\r\na=rtcp-mux\r\n\
             a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=rtpmap:63 red/48000/2\r\n\
             a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1;stereo=1\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\n",
            Role::Listener,
        );
        let media: Vec<&str> = sdp.lines().filter(|line| line.starts_with("m=")).collect();
        assert_eq!(
            media,
            [
                "m=video 0 UDP/TLS/RTP/SAVPF 96",
                "m=audio 7 UDP/TLS/RTP/SAVPF 111",
                "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
            ]
        );
        for line in [
            "a=ice-lite",
            "a=group:BUNDLE a",
            "a=mid:v",
            "a=inactive",
            "a=mid:a",
            "c=IN IP4 192.0.2.1",
            "a=candidate:1 1 udp 2130706431 192.0.2.1 7 typ host",
            "a=candidate:2 1 udp 2130706175 2001:db8::1 7 typ host",
            "a=setup:passive",
            "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid",
            "a=sendonly",
            "a=rtcp-mux",
            "a=fmtp:111 minptime=10;useinbandfec=1;stereo=1",
            "a=ssrc:99 cname:name",
            "a=mid:d",
        ] {
            assert_eq!(sdp.matches(&format!("{line}\r\n")).count(), 1, "{line} in {sdp}");
        }
        assert!(sdp.lines().all(|line| !line.is_empty()) && sdp.ends_with("\r\n"));
    }

    #[test]
    fn generic_nack_is_answered_where_it_is_offered_for_opus() {
        let offer = |feedback: &str, role| {
            let direction = if role == Role::Listener { "recvonly" } else { "sendonly" };
            answer(
                &format!(
                    "m=audio 9 UDP/TLS/RTP/SAVPF 96 63\r\na={direction}\r\na=rtcp-mux\r\n\
                     a=rtpmap:96 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\n{feedback}"
                ),
                role,
            )
        };
        for role in [Role::Listener, Role::Publisher] {
            for feedback in [
                "a=rtcp-fb:96 nack\r\n",
                "a=rtcp-fb:* nack\r\n",
                "a=rtcp-fb:63 nack\r\na=rtcp-fb:96 nack\r\n",
            ] {
                let sdp = offer(feedback, role);
                assert_eq!(sdp.matches("a=rtcp-fb").count(), 1, "{sdp}");
                assert!(sdp.contains("a=rtcp-fb:96 nack\r\n"), "{sdp}");
            }
            for feedback in [
                "",
                "a=rtcp-fb:63 nack\r\n",
                "a=rtcp-fb:96 nack pli\r\n",
                "a=rtcp-fb:96 transport-cc\r\n",
                "a=rtcp-fb:x nack\r\n",
            ] {
                assert!(!offer(feedback, role).contains("rtcp-fb"), "{feedback}");
            }
        }
    }

    #[test]
    fn a_publisher_is_asked_for_in_band_fec_and_told_no_ssrc() {
        let sdp = answer(
            "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:96 opus/48000/2\r\n",
            Role::Publisher,
        );
        assert!(sdp.contains("a=recvonly\r\n") && sdp.contains("a=fmtp:96 minptime=10;useinbandfec=1\r\n"));
        for absent in ["a=ssrc", "a=mid", "a=group", "a=extmap", "a=msid"] {
            assert!(!sdp.contains(absent), "{absent} in {sdp}");
        }
    }
}
