//! Connections are replaced, broken and moved while audio flows, and every listener's file is what was published.
//!
//! The daemon, a publisher and listeners of ours, WebRTC and WebSocket, each through a bad path of its own: 2 % loss,
//! reordering, duplicates, delay; outages and changes of ports on top. `RELAY_LOSSLESS_LONG=1` makes the one long run of
//! 100 refreshes of the speaker and of 50 listeners.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod stage;

use std::time::Duration;

use relay_tests::link::{GilbertElliott, LinkSpec};
use stage::{Act, Cast, Kind, Stage, Who};

const fn ms(ms: u64) -> Duration {
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

/// Everybody is refreshed four times.
fn refresh_all(speaker: Kind) {
    let stage = Stage::open(cast(speaker, 300));
    for round in 1..=4 {
        stage.refresh(round);
    }
    stage.close();
}

/// Things happen at their times.
fn play(speaker: Kind, script: &[(Duration, Who, Act)]) {
    let stage = Stage::open(cast(speaker, 300));
    stage.play(script);
    stage.close();
}

const OUTAGES: [(Duration, Who, Act); 2] =
    [(ms(2_000), Who::Speaker, Act::Dark(ms(2_000))), (ms(9_000), Who::Listeners, Act::Dark(ms(2_000)))];

const MOVES: [(Duration, Who, Act); 4] = [
    (ms(2_000), Who::Speaker, Act::Moves),
    (ms(5_000), Who::Listeners, Act::Moves),
    (ms(8_000), Who::Speaker, Act::Moves),
    (ms(8_000), Who::Listeners, Act::Moves),
];

#[test]
fn refreshes_on_bad_paths_lose_nothing_over_webrtc() {
    refresh_all(Kind::WebRtc);
}

#[test]
fn refreshes_on_bad_paths_lose_nothing_over_websockets() {
    refresh_all(Kind::WebSocket);
}

#[test]
fn a_refresh_sends_little_of_what_has_come_again() {
    let stage = Stage::open(cast(Kind::WebRtc, 300));
    // Nine seconds: receiver reports each five, as is usual, would be four old.
    stage.listen_until(450);
    stage.refresh(1);
    let replayed = stage.replayed(Kind::WebRtc);
    assert!(replayed < 2 * 125, "{replayed} frames to two listeners");
    stage.close();
}

/// Each ends at the position at which the one before it did, and a client hears of it on one connection or on both.
#[test]
fn refreshes_while_nothing_is_heard_of_the_speaker_are_all_counted() {
    let stage = Stage::open(cast(Kind::WebRtc, 300));
    stage.listen_until(50);
    stage.act(Who::Speaker, Act::Dark(ms(6_000)));
    for round in 1..=6 {
        stage.refresh_of(round, &["listener"]);
    }
    stage.close();
}

#[test]
fn outages_of_two_seconds_lose_nothing_over_webrtc() {
    play(Kind::WebRtc, &OUTAGES);
}

#[test]
fn outages_of_two_seconds_lose_nothing_over_websockets() {
    play(Kind::WebSocket, &OUTAGES);
}

#[test]
fn changes_of_port_and_broken_sockets_lose_nothing_over_webrtc() {
    play(Kind::WebRtc, &MOVES);
}

#[test]
fn broken_sockets_lose_nothing_over_websockets() {
    play(Kind::WebSocket, &MOVES);
}

#[test]
fn a_path_that_is_gone_for_long_loses_nothing() {
    let dark = if is_long() { ms(25_000) } else { ms(5_000) };
    let again = (dark + ms(8_000), Who::Listeners, Act::Dark(dark));
    play(Kind::WebRtc, &[(ms(1_000), Who::Speaker, Act::Dark(dark)), again]);
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
            2 => stage.act(Who::Listeners, Act::Moves),
            3 => stage.act(Who::Speaker, Act::Moves),
            5 => stage.act(Who::Listeners, Act::Dark(ms(2_000))),
            8 => stage.act(Who::Speaker, Act::Dark(ms(2_000))),
            _ => {}
        }
    }
    stage.close();
}
