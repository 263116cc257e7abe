//! Offers that real clients made, kept among the fuzz seeds: who is answered, and who is told why not.

use std::path::Path;

use relayd::webrtc::{JoinError, Role, dry_run};

fn answer(client: &str, role: Role) -> Result<String, JoinError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/sdp_offer").join(client);
    let offer = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    dry_run::answer(&offer, role)
}

#[test]
fn every_client_that_speaks_is_answered() {
    for client in ["chromium_sendonly", "chromium_data", "aiortc_sendonly", "wrtc_sendonly", "str0m_sendonly"]
    {
        let answered = answer(client, Role::Publisher).unwrap_or_else(|error| panic!("{client}: {error}"));
        assert!(answered.contains("a=recvonly\r\n"), "{client}:\n{answered}");
        assert!(answered.contains("opus/48000/2"), "{client}:\n{answered}");
    }
}

#[test]
fn every_client_that_listens_is_answered() {
    for client in ["chromium_recvonly", "aiortc_recvonly", "wrtc_recvonly", "str0m_recvonly"] {
        let answered = answer(client, Role::Listener).unwrap_or_else(|error| panic!("{client}: {error}"));
        assert!(answered.contains("a=sendonly\r\n"), "{client}:\n{answered}");
    }
}

#[test]
fn a_camera_is_refused_with_the_reason() {
    for client in ["aiortc_audio_video", "rfc9725"] {
        let Err(JoinError::Unsupported(why)) = answer(client, Role::Publisher) else { panic!("{client}") };
        assert!(why.contains("video"), "{why}");
    }
}

#[test]
fn whoever_offers_the_wrong_thing_is_told() {
    for (client, role) in [
        ("chromium_video_only", Role::Publisher),
        ("chromium_two_audio", Role::Publisher),
        ("chromium_recvonly", Role::Publisher),
        ("chromium_sendonly", Role::Listener),
        ("edge_no_opus", Role::Publisher),
    ] {
        assert!(matches!(answer(client, role), Err(JoinError::Unsupported(_))), "{client} as {role:?}");
    }
    for client in ["edge_no_fingerprint", "edge_no_ice", "edge_empty", "edge_nul", "edge_v0"] {
        assert!(matches!(answer(client, Role::Publisher), Err(JoinError::Malformed(_))), "{client}");
    }
}
