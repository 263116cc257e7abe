use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::conversation::Hidden;

const SECOND: Duration = Duration::from_secs(1);

fn timing() -> Timing {
    Timing { hello: 10 * SECOND, heartbeat: 10 * SECOND, dead_after: 25 * SECOND, rate: 20, burst: 100 }
}

fn frame(position: u64) -> MediaFrame {
    MediaFrame::plain(position, Bytes::from_static(&[0xfc, 1]))
}

fn welcome(role: MediaRole, position: u64) -> MediaWelcome {
    MediaWelcome {
        role,
        session_id: "demo".into(),
        language: "en".parse().unwrap(),
        resource: "a".repeat(32),
        ticket: "t".repeat(43),
        position,
        next: position,
        media_time: position * 960,
        history_ms: 30_000,
        ack_ms: 100,
        heartbeat_ms: 10_000,
    }
}

/// A conversation and its clock.
struct Talk {
    now: Instant,
    protocol: Protocol,
}

impl Talk {
    fn new(role: MediaRole) -> Self {
        let now = Instant::now();
        Self { now, protocol: Protocol::new(now, role, timing()) }
    }

    /// One that was let in, at a position.
    fn live(role: MediaRole, position: u64, named: bool) -> Self {
        let mut talk = Self::new(role);
        assert!(matches!(talk.say(&json!({"t": "hello"}))[..], [Output::Task(Task::Join(_))]));
        talk.protocol.handle_joined(talk.now, welcome(role, position), named);
        assert_eq!(talk.heard()[0]["t"], "welcome");
        talk
    }

    fn say(&mut self, message: &Value) -> Vec<Output> {
        self.protocol.handle_text(self.now, &message.to_string());
        self.outputs()
    }

    fn send(&mut self, position: u64) -> Vec<Output> {
        self.protocol.handle_binary(self.now, &frame(position).write());
        self.outputs()
    }

    fn wait(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.protocol.handle_timeout(self.now);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.protocol.poll_output()).collect()
    }

    /// What is sent to the client, as values; frames by their positions.
    fn heard(&mut self) -> Vec<Value> {
        self.outputs()
            .into_iter()
            .map(|output| match output {
                Output::Send(text) => serde_json::from_str(&text).unwrap(),
                Output::SendFrame(bytes) => json!(MediaFrame::read(&bytes).unwrap().position),
                Output::Close(close) => json!({"close": close.code.number()}),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn code(outputs: &[Output]) -> Option<CloseCode> {
    match outputs.last() {
        Some(Output::Close(close)) => Some(close.code),
        _ => None,
    }
}

fn sent(outputs: &[Output]) -> Vec<Value> {
    let text = |output: &Output| match output {
        Output::Send(text) => Some(serde_json::from_str(text).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(text).collect()
}

#[test]
fn hello_comes_first_and_once() {
    for first in [json!({"t": "heartbeat"}), json!({"t": "ack", "d": {"position": 1}})] {
        let outputs = Talk::new(MediaRole::Listener).say(&first);
        assert_eq!(code(&outputs), Some(CloseCode::NotAuthenticated), "{first}");
    }
    let mut talk = Talk::new(MediaRole::Publisher);
    assert_eq!(code(&talk.send(0)), Some(CloseCode::NotAuthenticated));
    let mut talk = Talk::new(MediaRole::Publisher);
    assert_eq!(code(&talk.say(&json!({"t": "nonsense"}))), Some(CloseCode::BadMessage));
    let mut talk = Talk::live(MediaRole::Publisher, 0, true);
    assert_eq!(code(&talk.say(&json!({"t": "hello"}))), Some(CloseCode::AlreadyAuthenticated));
    let mut talk = Talk::new(MediaRole::Publisher);
    talk.say(&json!({"t": "hello"}));
    assert_eq!(code(&talk.say(&json!({"t": "hello"}))), Some(CloseCode::AlreadyAuthenticated));
}

#[test]
fn what_is_for_the_other_role_is_refused() {
    let from = json!({"t": "hello", "d": {"from": 3}});
    assert_eq!(code(&Talk::new(MediaRole::Publisher).say(&from)), Some(CloseCode::BadMessage));
    let secret = json!({"t": "hello", "d": {"resumeSecret": "s"}});
    assert_eq!(code(&Talk::new(MediaRole::Listener).say(&secret)), Some(CloseCode::BadMessage));
    let mut talk = Talk::live(MediaRole::Publisher, 0, true);
    let outputs = talk.say(&json!({"t": "ack", "d": {"position": 0}}));
    assert_eq!(sent(&outputs)[0]["d"]["code"], "INVALID_MESSAGE");
    let mut talk = Talk::live(MediaRole::Listener, 0, true);
    assert_eq!(code(&talk.send(0)), Some(CloseCode::BadMessage));
}

#[test]
fn a_publisher_hears_how_far_the_track_is_every_tenth_of_a_second_while_that_changes() {
    let mut talk = Talk::live(MediaRole::Publisher, 7, true);
    assert_eq!(talk.send(7), [Output::Task(Task::Take(frame(7)))]);
    assert_eq!(talk.send(8), [Output::Task(Task::Take(frame(8)))]);
    assert_eq!(talk.protocol.poll_timeout(), Some(talk.now + ACK_EVERY));
    assert_eq!(talk.wait(ACK_EVERY), [Output::Ask]);
    talk.protocol.handle_progress(talk.now, 8);
    assert_eq!(talk.heard(), [json!({"t": "ack", "d": {"recv": 8, "safe": 8}})]);
    // One of them is still on its way.
    assert_eq!(talk.wait(ACK_EVERY), [Output::Ask]);
    talk.protocol.handle_progress(talk.now, 8);
    assert!(talk.outputs().is_empty(), "nothing has changed");
    assert_eq!(talk.wait(ACK_EVERY), [Output::Ask]);
    talk.protocol.handle_progress(talk.now, 9);
    assert_eq!(talk.heard(), [json!({"t": "ack", "d": {"recv": 9, "safe": 9}})]);
    assert!(talk.wait(ACK_EVERY).is_empty(), "all that came was acknowledged");
}

#[test]
fn what_came_again_and_is_here_is_not_asked_for() {
    let mut talk = Talk::live(MediaRole::Publisher, 7, true);
    assert_eq!(talk.send(3), [Output::Task(Task::Take(frame(3)))]);
    assert!(talk.wait(ACK_EVERY).is_empty());
}

#[test]
fn in_a_break_frames_are_passed_over_until_the_client_goes_on_as_it_was_told() {
    let mut talk = Talk::live(MediaRole::Publisher, 0, true);
    talk.send(0);
    talk.protocol.handle_paused();
    talk.protocol.handle_paused();
    assert_eq!(talk.heard(), [json!({"t": "paused", "d": {}})]);
    assert!(talk.send(1).is_empty() && talk.wait(ACK_EVERY).is_empty());
    let early = talk.say(&json!({"t": "continue"}));
    assert_eq!(sent(&early)[0]["d"]["code"], "INVALID_MESSAGE");
    talk.protocol.handle_resumed(1, 96_000);
    assert_eq!(talk.heard(), [json!({"t": "resumed", "d": {"position": 1, "mediaTime": 96_000}})]);
    // Sent before the client has heard of it: its number means another frame now.
    assert!(talk.send(2).is_empty());
    assert!(talk.say(&json!({"t": "continue", "d": {}})).is_empty());
    assert_eq!(talk.send(1), [Output::Task(Task::Take(frame(1)))]);
    // Another break before the client has answered the end of the first.
    talk.protocol.handle_paused();
    talk.protocol.handle_resumed(2, 99_000);
    talk.protocol.handle_paused();
    talk.protocol.handle_resumed(2, 100_000);
    let names: Vec<Value> = talk.heard().iter().map(|message| message["t"].clone()).collect();
    assert_eq!(names, ["paused", "resumed", "paused", "resumed"]);
    // A listener hears what there is.
    let mut talk = Talk::live(MediaRole::Listener, 0, true);
    talk.protocol.handle_paused();
    talk.protocol.handle_resumed(1, 96_000);
    talk.protocol.handle_progress(talk.now, 9);
    assert!(talk.outputs().is_empty());
}

#[test]
fn a_listener_hears_rising_positions_and_what_is_missing_between() {
    let mut talk = Talk::live(MediaRole::Listener, 5, true);
    for position in [5, 6, 6, 4, 9, 7, 10] {
        talk.protocol.handle_frame(&frame(position));
    }
    let lost = json!({"t": "framesLost", "d": {"count": 2, "from": 7, "to": 8}});
    assert_eq!(talk.heard(), [json!(5), json!(6), lost, json!(9), json!(10)]);
    let mut talk = Talk::live(MediaRole::Listener, 5, true);
    talk.protocol.handle_frame(&frame(6));
    let lost = json!({"t": "framesLost", "d": {"count": 1, "from": 5, "to": 5}});
    assert_eq!(talk.heard(), [lost, json!(6)]);
    let mut talk = Talk::live(MediaRole::Listener, 5, false);
    talk.protocol.handle_frame(&frame(6));
    assert_eq!(talk.heard(), [json!(6)], "it had named no position");
    let mut talk = Talk::live(MediaRole::Publisher, 5, true);
    talk.protocol.handle_frame(&frame(6));
    assert!(talk.outputs().is_empty());
}

#[test]
fn a_listener_acknowledges_what_was_sent() {
    let mut talk = Talk::live(MediaRole::Listener, 5, true);
    let ack = |position: u64| json!({"t": "ack", "d": {"position": position}});
    assert_eq!(sent(&talk.say(&ack(5)))[0]["d"]["code"], "INVALID_MESSAGE");
    talk.protocol.handle_frame(&frame(5));
    talk.outputs();
    assert_eq!(talk.say(&ack(5)), [Output::Task(Task::Delivered(5))]);
    assert_eq!(sent(&talk.say(&ack(6)))[0]["d"]["code"], "INVALID_MESSAGE");
}

#[test]
fn a_frame_that_is_none_ends_it() {
    let read = |bytes: Vec<u8>| {
        let mut talk = Talk::live(MediaRole::Publisher, 0, true);
        talk.protocol.handle_binary(talk.now, &bytes.into());
        code(&talk.outputs())
    };
    assert_eq!(read(vec![]), Some(CloseCode::BadMessage));
    assert_eq!(read(vec![9; 40]), Some(CloseCode::BadMessage));
    let long = MediaFrame { payload: vec![1; 1401].into(), ..frame(0) };
    assert_eq!(read(long.write().to_vec()), Some(CloseCode::TooLong));
}

#[test]
fn silence_ends_it_and_heartbeats_go_both_ways() {
    let mut talk = Talk::new(MediaRole::Publisher);
    assert_eq!(talk.protocol.poll_timeout(), Some(talk.now + 10 * SECOND));
    assert_eq!(code(&talk.wait(10 * SECOND)), Some(CloseCode::NotAuthenticated));
    let mut talk = Talk::live(MediaRole::Listener, 0, true);
    assert_eq!(sent(&talk.wait(10 * SECOND)), [json!({"t": "heartbeat", "d": {}})]);
    let answer = talk.say(&json!({"t": "heartbeat", "d": {}}));
    assert_eq!(sent(&answer), [json!({"t": "heartbeatAck", "d": {}})]);
    talk.wait(15 * SECOND);
    assert_eq!(code(&talk.wait(10 * SECOND)), Some(CloseCode::HeartbeatTimeout));
    // Frames are signs of life too; pings are none.
    let mut talk = Talk::live(MediaRole::Publisher, 0, true);
    for position in 0..5 {
        talk.send(position);
        assert_eq!(code(&talk.wait(10 * SECOND)), None);
    }
    talk.protocol.handle_control(talk.now);
    assert_eq!(code(&talk.wait(15 * SECOND)), Some(CloseCode::HeartbeatTimeout));
}

/// A code, the reason of the `bye` before it, and what brings it about.
type Ending = (CloseCode, Option<&'static str>, fn(&mut Talk));

/// What ends a conversation that is live.
fn endings() -> Vec<Ending> {
    use CloseReason::{Deleted, Failed, Refreshed, SessionEnded, Shutdown, TokenExpired};
    vec![
        (CloseCode::Normal, Some("refreshed"), |talk| talk.protocol.handle_ended(Refreshed)),
        (CloseCode::Normal, Some("closed"), |talk| talk.protocol.handle_ended(Deleted)),
        (CloseCode::TakenOver, Some("displaced"), |talk| {
            talk.protocol.handle_ended(CloseReason::TakenOver);
        }),
        (CloseCode::AuthenticationFailed, Some("expired"), |talk| talk.protocol.handle_ended(TokenExpired)),
        (CloseCode::SessionGone, Some("ended"), |talk| talk.protocol.handle_ended(SessionEnded)),
        (CloseCode::Internal, Some("maxAge"), |talk| talk.protocol.handle_ended(CloseReason::MaxAge)),
        (CloseCode::Internal, Some("overloaded"), |talk| talk.protocol.handle_ended(CloseReason::Overloaded)),
        (CloseCode::Internal, Some("failed"), |talk| talk.protocol.handle_ended(CloseReason::JoinTimeout)),
        (CloseCode::Draining, Some("drain"), |talk| talk.protocol.handle_ended(Shutdown)),
        (CloseCode::Draining, Some("drain"), |talk| talk.protocol.handle_drain("wss://other.example")),
        (CloseCode::Internal, Some("failed"), |talk| talk.protocol.handle_ended(Failed)),
        (CloseCode::TooLong, None, |talk| talk.protocol.handle_too_long()),
        (CloseCode::BadMessage, None, |talk| talk.protocol.handle_unreadable()),
        (CloseCode::NotAuthenticated, None, |talk| {
            *talk = Talk::new(MediaRole::Listener);
            talk.now += 10 * SECOND;
            talk.protocol.handle_timeout(talk.now);
        }),
        (CloseCode::AlreadyAuthenticated, None, |talk| {
            talk.protocol.handle_text(talk.now, r#"{"t":"hello"}"#)
        }),
        (CloseCode::TooMuch, None, |talk| talk.protocol.handle_slow()),
        (CloseCode::TooMuch, None, |talk| {
            (0..101).for_each(|_| talk.protocol.handle_control(talk.now));
        }),
        (CloseCode::HeartbeatTimeout, None, |talk| {
            talk.now += 25 * SECOND;
            talk.protocol.handle_timeout(talk.now);
        }),
        (CloseCode::Version, None, |talk| talk.protocol.handle_version()),
    ]
}

#[test]
fn every_end_has_its_code_and_those_of_the_relays_making_say_goodbye() {
    let mut seen = BTreeSet::new();
    for (expected, bye, end) in endings() {
        for role in [MediaRole::Publisher, MediaRole::Listener] {
            let mut talk = Talk::live(role, 0, true);
            end(&mut talk);
            let outputs = talk.outputs();
            assert_eq!(code(&outputs), Some(expected));
            let told: Vec<Value> =
                sent(&outputs).iter().map(|message| message["d"]["reason"].clone()).collect();
            assert_eq!(told, bye.map(Value::from).into_iter().collect::<Vec<_>>(), "{expected:?}");
            assert!(talk.protocol.is_closed() && talk.protocol.poll_timeout().is_none());
            for (_, _, again) in
                endings().into_iter().filter(|ending| ending.0 != CloseCode::NotAuthenticated)
            {
                again(&mut talk);
                assert!(talk.outputs().is_empty(), "nothing follows the close");
            }
            seen.insert(expected);
        }
    }
    // Of clusters, which there are none of.
    let all: BTreeSet<CloseCode> =
        CloseCode::ALL.into_iter().filter(|code| *code != CloseCode::NodeFailed).collect();
    assert_eq!(seen, all);
}

#[test]
fn who_is_refused_hears_why() {
    let mut talk = Talk::new(MediaRole::Publisher);
    talk.say(&json!({"t": "hello"}));
    let close = CloseCode::TakenOver;
    talk.protocol.handle_refused(Refusal { code: "SPEAKER_EXISTS", detail: "taken".into(), close });
    let error = json!({"t": "error", "d": {"code": "SPEAKER_EXISTS", "detail": "taken"}});
    assert_eq!(talk.heard(), [error, json!({"close": 4010})]);
}

#[test]
fn a_token_is_renewed_one_at_a_time() {
    let mut talk = Talk::live(MediaRole::Listener, 0, true);
    let refresh = json!({"t": "token.refresh", "d": {"token": "x"}});
    assert_eq!(talk.say(&refresh), [Output::Renew(Hidden("x".into()))]);
    assert_eq!(sent(&talk.say(&refresh))[0]["d"]["code"], "INVALID_MESSAGE");
    talk.protocol.handle_renewed(talk.now, Ok(5));
    assert_eq!(talk.heard(), [json!({"t": "tokenRefreshed", "d": {"expiresAt": 5}})]);
    talk.protocol.handle_renewed(talk.now, Ok(6));
    assert!(talk.outputs().is_empty());
    assert_eq!(talk.say(&refresh).len(), 1);
    talk.protocol.handle_renewed(talk.now, Err(("FORBIDDEN", "no".into())));
    assert_eq!(talk.heard()[0]["d"]["code"], "FORBIDDEN");
}

proptest! {
    #[test]
    fn whatever_is_handed_in_a_listener_hears_each_position_once_in_order_or_is_told(
        positions in proptest::collection::vec(0..40_u64, 0..80),
        first in 0..10_u64,
    ) {
        let mut talk = Talk::live(MediaRole::Listener, first, true);
        positions.iter().for_each(|position| talk.protocol.handle_frame(&frame(*position)));
        let mut next = first;
        for heard in talk.heard() {
            if let Some(position) = heard.as_u64() {
                prop_assert_eq!(position, next);
                next += 1;
            } else {
                prop_assert_eq!(&heard["d"]["from"], next);
                next += heard["d"]["count"].as_u64().unwrap();
                prop_assert_eq!(&heard["d"]["to"], next - 1);
            }
        }
        let highest = positions.iter().filter(|position| **position >= first).max();
        prop_assert_eq!(next, highest.map_or(first, |highest| highest + 1));
    }
}
