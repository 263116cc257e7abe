//! Every way of a malformed or unsupported offer, beside the ones that work.

use super::*;

const SESSION: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
const TRANSPORT: &str = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
    a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n\
    a=setup:actpass\r\n";
const OPUS: &str = "a=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n";

fn audio(mid: &str, direction: &str) -> String {
    format!(
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na={direction}\r\n{TRANSPORT}{OPUS}"
    )
}

fn video(mid: &str, direction: &str) -> String {
    format!(
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{mid}\r\na={direction}\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\n{TRANSPORT}"
    )
}

fn one(direction: &str) -> String {
    format!("{SESSION}a=group:BUNDLE 0\r\n{}", audio("0", direction))
}

fn malformed(text: &str) -> String {
    match inspect(text, Role::Publisher) {
        Err(JoinError::Malformed(why)) => why,
        other => panic!("{other:?} for {text:?}"),
    }
}

fn refused(text: &str, role: Role) -> String {
    match inspect(text, role) {
        Err(JoinError::Unsupported(why)) => why,
        other => panic!("{other:?} for {text:?}"),
    }
}

#[test]
fn an_offer_of_opus_is_read() {
    let text = one("sendonly").replace(
        "a=rtcp-mux",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
         a=extmap:4/sendonly urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
         a=extmap:15 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r\n\
         a=ssrc:7 cname:x\r\na=ssrc:7 msid:a b\r\na=rtcp-rsize\r\na=rtcp-mux",
    );
    let offer = inspect(&text, Role::Publisher).unwrap();
    assert_eq!((offer.payload_type, offer.mid.as_deref(), offer.bundle), (111, Some("0"), true));
    assert_eq!(offer.extensions, Extensions { audio_level: Some(1), capture_time: None, mid: Some(4) });
    assert_eq!((offer.ssrcs, offer.reduced_rtcp), (vec![7], true));
    assert!(offer.opus.in_band_fec && !offer.opus.stereo && !offer.opus.dtx);
    assert_eq!((offer.ice.ufrag.as_str(), offer.fingerprint[..2].to_vec()), ("EsAw", vec![0xD2, 0xFA]));
}

#[test]
fn bare_line_feeds_session_level_transport_and_sendrecv_will_do() {
    let text = format!("{SESSION}{TRANSPORT}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n{OPUS}").replace('\r', "");
    for role in [Role::Publisher, Role::Listener] {
        let offer = inspect(&text, role).unwrap();
        assert_eq!((offer.mid, offer.bundle), (None, false));
    }
}

#[test]
fn the_sessions_direction_holds_where_a_section_has_none() {
    let text = one("mid-level").replace("a=group", "a=recvonly\r\na=group");
    assert!(refused(&text, Role::Publisher).contains("recvonly"));
    assert!(inspect(&text, Role::Listener).is_ok());
    assert!(inspect(&text.replace("a=mid-level", "a=sendonly"), Role::Publisher).is_ok());
}

#[test]
fn a_listener_may_offer_video_and_data_beside_the_audio() {
    let data = format!("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n{TRANSPORT}");
    let text = format!(
        "{SESSION}a=group:BUNDLE 0 1 2\r\n{}{}{data}",
        video("0", "recvonly"),
        audio("1", "recvonly")
    );
    let offer = inspect(&text, Role::Listener).unwrap();
    assert_eq!((offer.audio, offer.lines.len()), (1, 3));
    assert!(refused(&text, Role::Publisher).contains("video"));
}

#[test]
fn what_is_no_offer_is_malformed() {
    let good = one("sendonly");
    for text in ["", "\r\n", "hello", "v=1\r\n", "{\"sdp\":\"v=0\"}", "v=0\r\n", SESSION, "\u{FEFF}v=0"] {
        malformed(text);
    }
    for (from, to) in [
        ("o=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n", ""),
        ("o=- 4611731400430051336", "o=-"),
        ("a=ice-ufrag:EsAw\r\n", ""),
        ("a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n", ""),
        ("a=setup:actpass\r\n", ""),
        ("a=setup:actpass", "a=setup:maybe"),
        ("a=fingerprint:sha-256 D2", "a=x:sha-256 D2"),
        ("a=fingerprint:sha-256 D2:", "a=fingerprint:sha-256 "),
        ("a=fingerprint:sha-256 D2", "a=fingerprint:sha-256 ZZ"),
        ("a=fingerprint:sha-256 ", "a=fingerprint:"),
        ("EsAw", "EsA"),
        ("EsAw", &"x".repeat(257)),
        ("P2uYro0UCOQ4zxjKXaWCBui1", "short"),
        ("a=mid:0", "a=mid"),
        ("a=mid:0", "a=mid:"),
        ("a=mid:0", "a=mid:a b"),
        ("a=ice-ufrag:EsAw", "a=ice-ufrag"),
        ("a=rtpmap:111 opus/48000/2", "a=rtpmap"),
        ("a=rtpmap:111 opus/48000/2", "a=rtpmap:x opus/48000/2"),
        ("a=rtpmap:111 opus/48000/2", "a=rtpmap:111 opus"),
        ("a=fmtp:111", "a=fmtp:x"),
        ("a=rtcp-mux", "a=extmap:x urn:y\r\na=rtcp-mux"),
        ("a=rtcp-mux", "a=ssrc:x cname:y\r\na=rtcp-mux"),
        ("a=rtcp-mux", "a=:x\r\na=rtcp-mux"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "m=audio"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "m=audio x UDP/TLS/RTP/SAVPF 111"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "m=audio 9 UDP/TLS/RTP/SAVPF"),
        ("m=audio 9", "m=audio 99999"),
        ("s=-", "garbage"),
        ("s=-", "s"),
        ("s=-", "S=-"),
        ("s=-", "s=\u{0}"),
        ("BUNDLE 0", "BUNDLE 0 9"),
    ] {
        assert!(good.contains(from), "{from}");
        malformed(&good.replacen(from, to, 1));
    }
}

#[test]
fn an_offer_is_bounded_in_every_direction() {
    malformed(&format!("{}{}", one("sendonly"), "a=x\r\n".repeat(MAX_OFFER_BYTES)));
    malformed(&format!("{}a={}\r\n", one("sendonly"), "x".repeat(MAX_LINE_BYTES)));
    malformed(&format!("{SESSION}{}", "m=audio 9 RTP/AVP 0\r\n".repeat(MAX_SECTIONS + 1)));
    malformed(&format!("{SESSION}{}{}", audio("0", "sendonly"), video("0", "sendonly")));
}

#[test]
fn what_the_relay_does_not_do_is_refused_with_a_reason() {
    let good = one("sendonly");
    for (from, to, why) in [
        ("opus/48000/2", "PCMU/8000/1", "no Opus"),
        ("opus/48000/2", "opus/48000/1", "no Opus"),
        ("opus/48000/2", "opus/16000/2", "no Opus"),
        ("a=rtcp-mux\r\n", "", "rtcp-mux"),
        ("a=setup:actpass", "a=setup:passive", "setup:passive"),
        ("a=setup:actpass", "a=setup:holdconn", "holdconn"),
        ("a=group", "a=ice-lite\r\na=group", "ice-lite"),
        ("UDP/TLS/RTP/SAVPF", "RTP/AVP", "SAVPF"),
        ("a=sendonly", "a=recvonly", "recvonly"),
        ("a=sendonly", "a=inactive", "inactive"),
        ("sha-256", "sha-1", "sha-256"),
        ("m=audio 9", "m=audio 0", "no audio"),
    ] {
        assert!(good.contains(from), "{from}");
        let reason = refused(&good.replacen(from, to, 1), Role::Publisher);
        assert!(reason.contains(why), "{reason} for {to}");
    }
    assert!(refused(&good, Role::Listener).contains("sendonly"));
    assert!(refused(&one("inactive"), Role::Listener).contains("inactive"));
    assert!(refused(&good.replace("111", "200"), Role::Publisher).contains("127"));
    assert!(refused(&good.replace("111", "72"), Role::Publisher).contains("RTCP"));
}

#[test]
fn tracks_and_bundles_that_can_not_be_served_are_refused() {
    let two = format!("{SESSION}a=group:BUNDLE 0 1\r\n{}{}", audio("0", "sendonly"), audio("1", "sendonly"));
    assert!(refused(&two, Role::Publisher).contains("two audio"));
    let only_video = format!("{SESSION}a=group:BUNDLE 0\r\n{}", video("0", "sendonly"));
    assert!(refused(&only_video, Role::Publisher).contains("video only"));
    let apart = format!("{SESSION}{}{}", audio("0", "recvonly"), video("1", "recvonly"));
    assert!(refused(&apart, Role::Listener).contains("BUNDLE"));
    let outside =
        format!("{SESSION}a=group:BUNDLE 1\r\n{}{}", audio("0", "recvonly"), video("1", "recvonly"));
    assert!(refused(&outside, Role::Listener).contains("BUNDLE"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _verdict = inspect(&text, Role::Listener);
    }

    #[test]
    fn no_damage_to_a_good_offer_panics(at in 0_usize..900, byte in 0_u8..128, cut: bool) {
        let mut text = one("sendrecv").into_bytes();
        let at = at % text.len();
        if cut { text.truncate(at) } else { text[at] = byte }
        let text = String::from_utf8(text).unwrap();
        let _verdict = inspect(&text, Role::Listener);
    }
}
