//! Connections are replaced, broken and moved while audio flows, and every listener's file is what was published.
//!
//! The daemon, a publisher and listeners of ours, WebRTC and WebSocket, each through a bad path of its own: 2 % loss,
//! reordering, duplicates, delay; outages and changes of ports on top. `RELAY_LOSSLESS_LONG=1` makes the one long run of
//! 100 refreshes of the speaker and of 50 listeners.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod stage;

use std::time::Duration;

use relay_tests::link::{GilbertElliott, LinkSpec};
use stage::{Act, Cast, Kind, Stage};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn is_long() -> bool {
    std::env::var_os("RELAY_LOSSLESS_LONG").is_some()
}

/// Rounds, listeners over WebRTC and over WebSockets: of the variable if it says so, as in `100,40,10`.
fn long_form() -> (u64, usize, usize) {
    let said = std::env::var("RELAY_LOSSLESS_LONG").unwrap_or_default();
    let numbers: Vec<usize> = said.split(',').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [rounds, webrtc, websocket] => (rounds as u64, webrtc, websocket),
        _ => (100, 40, 10),
    }
}

/// What datagrams go through, each way.
fn rough() -> LinkSpec {
    LinkSpec::perfect()
        .loss(GilbertElliott::independent(0.02))
        .delay(ms(15))
        .reorder(0.02, ms(40))
        .duplicate(0.01, ms(20))
}

fn cast(speaker: Kind, seconds: u64) -> Cast {
    Cast { speaker, webrtc: 2, websocket: 2, seconds, path: rough(), seed: 7 }
}

#[test]
fn refreshes_on_bad_paths_lose_nothing_over_webrtc() {
    let stage = Stage::open(cast(Kind::WebRtc, 300));
    for round in 1..=4 {
        stage.refresh(round);
    }
    stage.close();
}

#[test]
fn refreshes_on_bad_paths_lose_nothing_over_websockets() {
    let stage = Stage::open(cast(Kind::WebSocket, 300));
    for round in 1..=4 {
        stage.refresh(round);
    }
    stage.close();
}

#[test]
fn outages_of_two_seconds_lose_nothing_over_webrtc() {
    let stage = Stage::open(cast(Kind::WebRtc, 300));
    stage.play(&[(ms(2_000), Act::SpeakerDark(ms(2_000))), (ms(9_000), Act::ListenersDark(ms(2_000)))]);
    stage.close();
}

#[test]
fn outages_of_two_seconds_lose_nothing_over_websockets() {
    let stage = Stage::open(cast(Kind::WebSocket, 300));
    stage.play(&[(ms(2_000), Act::SpeakerDark(ms(2_000))), (ms(9_000), Act::ListenersDark(ms(2_000)))]);
    stage.close();
}

#[test]
fn changes_of_port_and_cut_sockets_lose_nothing_over_webrtc() {
    let stage = Stage::open(cast(Kind::WebRtc, 300));
    stage.play(&[
        (ms(2_000), Act::SpeakerMoves),
        (ms(5_000), Act::ListenersMove),
        (ms(8_000), Act::SpeakerMoves),
        (ms(8_000), Act::ListenersMove),
    ]);
    stage.close();
}

#[test]
fn cut_sockets_lose_nothing_over_websockets() {
    let stage = Stage::open(cast(Kind::WebSocket, 300));
    stage.play(&[
        (ms(2_000), Act::SpeakerMoves),
        (ms(5_000), Act::ListenersMove),
        (ms(8_000), Act::SpeakerMoves),
        (ms(8_000), Act::ListenersMove),
    ]);
    stage.close();
}

#[test]
fn a_path_that_is_gone_for_long_loses_nothing() {
    let dark = if is_long() { ms(25_000) } else { ms(5_000) };
    let stage = Stage::open(cast(Kind::WebRtc, 300));
    stage.play(&[(ms(1_000), Act::SpeakerDark(dark))]);
    let again = dark + ms(8_000);
    stage.play(&[(again, Act::ListenersDark(dark)), (again + dark, Act::ListenersDark(ms(0)))]);
    stage.close();
}

/// The long form; without the variable a short one of the same code, with every kind of fault at once.
#[test]
fn many_refreshes_and_faults_together_lose_nothing() {
    let long = is_long();
    let (rounds, webrtc, websocket) = if long { long_form() } else { (3, 3, 1) };
    let seconds = if long { 3_000 } else { 300 };
    let cast = Cast { webrtc, websocket, ..cast(Kind::WebRtc, seconds) };
    let stage = Stage::open(cast);
    for round in 1..=rounds {
        stage.refresh(round);
        match round % 10 {
            2 => stage.act(Act::ListenersMove),
            3 => stage.act(Act::SpeakerMoves),
            5 => stage.act(Act::ListenersDark(ms(2_000))),
            8 => stage.act(Act::SpeakerDark(ms(2_000))),
            _ => {}
        }
    }
    stage.close();
}
