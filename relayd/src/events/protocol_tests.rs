//! The conversation in virtual time: every close code, every timer, both sides of each.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::conversation::Refusal;
use crate::session::{Audience, Event, Language, Status};

const UNIX_MS: u64 = 1_700_000_000_000;

struct Talk {
    protocol: Protocol,
    start: Instant,
    now: Instant,
}

impl Talk {
    fn new() -> Self {
        let start = Instant::now();
        let protocol = Protocol::new(start, UNIX_MS, Timing::from(&crate::config::Events::default()));
        Self { protocol, start, now: start }
    }

    /// One that was let in.
    fn live() -> Self {
        let mut talk = Self::new();
        talk.say(r#"{"t":"hello","d":{}}"#);
        assert!(matches!(talk.outputs()[..], [Output::Task(Task::Authenticate(_))]));
        talk.protocol.handle_welcomed(talk.now, welcomed(0, Some(snapshot())));
        assert_eq!(talk.names(), ["welcome", "sessionJoined"]);
        talk
    }

    fn say(&mut self, text: &str) {
        self.protocol.handle_text(self.now, text);
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.protocol.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.protocol.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.protocol.poll_output()).collect()
    }

    fn frames(&mut self) -> Vec<Value> {
        let outputs = self.outputs();
        outputs
            .iter()
            .map(|output| match output {
                Output::Send(text) => serde_json::from_str(text).unwrap(),
                other => panic!("not a frame: {other:?}"),
            })
            .collect()
    }

    fn names(&mut self) -> Vec<String> {
        self.frames().iter().map(|frame| frame["t"].as_str().unwrap().to_owned()).collect()
    }

    /// Checks that it ends with this, and that nothing comes after.
    #[track_caller]
    fn closed(&mut self, number: u16) -> String {
        let outputs = self.outputs();
        let Some(Output::Close(close)) = outputs.last() else { panic!("not closed: {outputs:?}") };
        assert_eq!(close.code.number(), number, "{close:?}");
        assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Close(_))).count(), 1);
        self.say(r#"{"t":"heartbeat","d":{}}"#);
        self.protocol.handle_binary(self.now, &Bytes::new());
        self.protocol.handle_event(&event(99), true);
        self.protocol.handle_lost(self.now, 99, snapshot());
        self.protocol.handle_over();
        self.protocol.handle_drain("");
        self.protocol.handle_timeout(self.now + Duration::from_secs(3600));
        assert_eq!(self.outputs(), [], "nothing comes after the end");
        assert!(self.protocol.is_closed() && self.protocol.poll_timeout().is_none());
        close.reason.to_string()
    }
}

fn welcomed(after: u64, snapshot: Option<Snapshot>) -> Welcomed {
    let frame = ServerFrame::Welcome {
        session_id: crate::session::SessionId::demo(),
        node: "n".into(),
        epoch: 1,
        heartbeat_ms: 10_000,
        resume: "ticket".into(),
        seq: after,
        role: "listen",
        resumed: snapshot.is_none(),
    };
    Welcomed { frame, after, head: after, snapshot }
}

fn snapshot() -> Snapshot {
    let en: Language = "en".parse().unwrap();
    Snapshot {
        session_id: crate::session::SessionId::demo(),
        status: Status::Created,
        source_language: en.clone(),
        languages: vec![en],
        speaker_connected: false,
        listeners: 0,
        tracks: Vec::new(),
    }
}

fn event(seq: u64) -> Numbered {
    Numbered { seq, ts: UNIX_MS, audience: Audience::Everyone, event: Event::SessionPaused {} }
}

#[test]
fn a_hello_is_asked_about_and_answered_with_welcome_and_snapshot() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello","d":{"token":"a.b.c","seq":3}}"#);
    let hello = Hello { token: Some(Hidden("a.b.c".into())), seq: Some(3), ..Hello::default() };
    assert_eq!(talk.outputs(), [Output::Task(Task::Authenticate(hello))]);
    talk.now += Duration::from_millis(250);
    talk.protocol.handle_welcomed(talk.now, welcomed(7, Some(snapshot())));
    let frames = talk.frames();
    assert_eq!((frames[0]["t"].as_str(), frames[1]["t"].as_str()), (Some("welcome"), Some("sessionJoined")));
    assert_eq!(frames[0]["seq"], 7);
    assert_eq!(frames[0]["ts"], UNIX_MS + 250);
    assert_eq!(frames[0]["d"]["heartbeatMs"], 10_000);
    assert_eq!(frames[1]["d"]["speakerConnected"], false);
    assert!(talk.protocol.is_live());
}

#[test]
fn one_that_comes_back_hears_what_it_missed_and_no_snapshot() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello","d":{"resume":"ticket","seq":3}}"#);
    talk.outputs();
    talk.protocol.handle_welcomed(talk.now, Welcomed { head: 5, ..welcomed(3, None) });
    talk.protocol.handle_event(&event(4), true);
    talk.protocol.handle_event(&event(5), false);
    talk.say(r#"{"t":"heartbeat","d":{"seq":4}}"#);
    let frames = talk.frames();
    let seen: Vec<_> =
        frames.iter().map(|frame| (frame["t"].as_str().unwrap(), frame["seq"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("welcome", 3), ("sessionPaused", 4), ("heartbeatAck", 5)]);
}

#[test]
fn events_before_the_welcome_are_not_told() {
    let mut talk = Talk::new();
    talk.protocol.handle_event(&event(1), true);
    talk.protocol.handle_lost(talk.now, 1, snapshot());
    assert_eq!(talk.outputs(), []);
}

#[test]
fn what_cannot_be_read_first_is_4001() {
    for text in ["", "{", "[]", r#"{"t":"hallo"}"#, r#"{"t":"hello","d":{"seq":"x"}}"#] {
        let mut talk = Talk::new();
        talk.say(text);
        talk.closed(4001);
    }
    let mut talk = Talk::new();
    talk.protocol.handle_binary(talk.now, &Bytes::new());
    talk.closed(4001);
}

#[test]
fn something_else_first_or_nothing_in_five_seconds_is_4003() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"heartbeat","d":{}}"#);
    talk.closed(4003);
    let mut talk = Talk::new();
    talk.pass(Duration::from_millis(4_999));
    assert_eq!(talk.outputs(), []);
    talk.pass(Duration::from_millis(1));
    talk.closed(4003);
    let mut talk = Talk::new();
    talk.pass(Duration::from_millis(4_000));
    talk.protocol.handle_control(talk.now);
    talk.pass(Duration::from_millis(1_000));
    talk.closed(4003);
}

fn refusal() -> Refusal {
    Refusal { code: "SESSION_ENDED", detail: "it is over".into(), close: CloseCode::SessionGone }
}

#[test]
fn a_refusal_closes_as_it_says() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello"}"#);
    talk.protocol.handle_refused(refusal());
    assert_eq!(talk.closed(4006), "it is over");
}

#[test]
fn a_second_hello_is_4005_before_and_after_the_welcome() {
    let mut talk = Talk::live();
    talk.say(r#"{"t":"hello","d":{}}"#);
    talk.closed(4005);
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello","d":{}}"#);
    talk.say(r#"{"t":"hello","d":{}}"#);
    talk.closed(4005);
}

#[test]
fn what_ends_it_from_outside_has_its_code() {
    type End = fn(&mut Protocol);
    let cases: [(u16, End); 8] = [
        (4001, Protocol::handle_unreadable),
        (4006, Protocol::handle_over),
        (4004, Protocol::handle_expired),
        (4010, Protocol::handle_taken_over),
        (4008, Protocol::handle_slow),
        (1009, Protocol::handle_too_long),
        (4012, Protocol::handle_version),
        (4013, |protocol| protocol.handle_drain("wss://other.example/")),
    ];
    for (number, end) in cases {
        let mut talk = Talk::live();
        end(&mut talk.protocol);
        let reason = talk.closed(number);
        assert_eq!(number == 4013, reason == "wss://other.example/");
    }
}

#[test]
fn malformed_messages_get_an_error_and_it_goes_on() {
    let mut talk = Talk::live();
    for text in ["", "nonsense", r#"{"t":"dance"}"#, r#"{"t":"heartbeat","d":{"seq":"x"}}"#] {
        talk.say(text);
        let frames = talk.frames();
        assert_eq!(frames.len(), 1);
        assert_eq!((&frames[0]["t"], &frames[0]["d"]["code"]), (&"error".into(), &"INVALID_MESSAGE".into()));
    }
    talk.protocol.handle_binary(talk.now, &Bytes::new());
    assert_eq!(talk.names(), ["error"]);
    talk.say(r#"{"t":"heartbeat","d":{}}"#);
    assert_eq!(talk.names(), ["heartbeatAck"]);
}

#[test]
fn a_heartbeat_cannot_have_seen_what_has_not_happened() {
    let mut talk = Talk::live();
    talk.protocol.handle_event(&event(4), true);
    talk.outputs();
    talk.say(r#"{"t":"heartbeat","d":{"seq":4}}"#);
    talk.say(r#"{"t":"heartbeat","d":{"seq":5}}"#);
    assert_eq!(talk.names(), ["heartbeatAck", "error"]);
}

#[test]
fn a_burst_of_a_hundred_then_twenty_a_second_then_4008() {
    let mut talk = Talk::live();
    for _ in 0..99 {
        talk.say(r#"{"t":"heartbeat","d":{}}"#);
    }
    assert_eq!(talk.outputs().len(), 99, "the hello was the first of the hundred");
    talk.pass(Duration::from_secs(1));
    for _ in 0..20 {
        talk.say("junk");
    }
    assert_eq!(talk.names().len(), 20);
    talk.say("junk");
    talk.closed(4008);
    let mut talk = Talk::live();
    for _ in 0..100 {
        talk.protocol.handle_control(talk.now);
    }
    talk.closed(4008);
}

#[test]
fn heartbeats_come_every_ten_seconds_and_silence_is_4009_after_25() {
    let mut talk = Talk::live();
    talk.pass(Duration::from_millis(9_999));
    assert_eq!(talk.names(), Vec::<String>::new());
    talk.pass(Duration::from_millis(15_000));
    assert_eq!(talk.names(), ["heartbeat", "heartbeat"]);
    talk.protocol.handle_control(talk.now);
    talk.pass(Duration::from_millis(1));
    talk.closed(4009);
    assert_eq!(talk.now - talk.start, Duration::from_secs(25));
}

#[test]
fn one_that_beats_lives() {
    let mut talk = Talk::live();
    for _ in 0..1000 {
        talk.pass(Duration::from_secs(10));
        talk.say(r#"{"t":"heartbeat","d":{"seq":0}}"#);
        assert_eq!(talk.names(), ["heartbeat", "heartbeatAck"]);
    }
}

#[test]
fn one_that_is_never_answered_is_dead_in_the_end() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello"}"#);
    talk.outputs();
    talk.pass(Duration::from_secs(25));
    talk.closed(4009);
}

#[test]
fn a_token_is_renewed_or_not_and_it_goes_on() {
    let mut talk = Talk::live();
    talk.say(r#"{"t":"token.refresh","d":{"token":"x"}}"#);
    assert_eq!(talk.outputs(), [Output::Renew(Hidden("x".into()))]);
    talk.say(r#"{"t":"token.refresh","d":{"token":"y"}}"#);
    assert_eq!(talk.names(), ["error"], "one at a time");
    talk.protocol.handle_renewed(talk.now, Ok(5));
    let frames = talk.frames();
    assert_eq!((&frames[0]["t"], &frames[0]["d"]["expiresAt"]), (&"tokenRefreshed".into(), &5.into()));
    talk.say(r#"{"t":"token.refresh","d":{"token":"y"}}"#);
    assert_eq!(talk.outputs().len(), 1);
    talk.protocol.handle_renewed(talk.now, Err(("FORBIDDEN", "another subject".into())));
    assert_eq!(talk.frames()[0]["d"]["code"], "FORBIDDEN");
    assert!(talk.protocol.is_live());
}

#[test]
fn a_token_before_the_welcome_is_not_looked_at() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello"}"#);
    talk.outputs();
    talk.say(r#"{"t":"token.refresh","d":{"token":"x"}}"#);
    assert_eq!(talk.names(), ["error"]);
}

#[test]
fn whoever_lost_events_gets_the_session_as_it_is() {
    let mut talk = Talk::live();
    talk.protocol.handle_lost(talk.now, 300, snapshot());
    let frames = talk.frames();
    assert_eq!((&frames[0]["t"], &frames[0]["seq"]), (&"resync".into(), &300.into()));
    assert_eq!(frames[0]["d"]["snapshot"]["sessionId"], "demo");
}

#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let mut talk = Talk::new();
    talk.protocol.handle_welcomed(talk.now, welcomed(0, None));
    talk.protocol.handle_refused(refusal());
    assert_eq!(talk.outputs(), []);
    talk.say(r#"{"t":"hello"}"#);
    talk.protocol.handle_drain("");
    talk.protocol.handle_welcomed(talk.now, welcomed(0, None));
    talk.closed(4013);
}

fn ack(recv: u64) -> TrackAck {
    TrackAck { language: "en".parse().unwrap(), recv, safe: recv, ssrc: None, sequence: None }
}

#[test]
fn a_connection_that_is_named_is_looked_for_after_the_welcome() {
    let mut talk = Talk::new();
    talk.say(r#"{"t":"hello","d":{"leg":"x"}}"#);
    assert_eq!(talk.outputs(), [Output::Task(Task::Authenticate(Hello::default()))]);
    talk.protocol.handle_welcomed(talk.now, welcomed(0, None));
    assert_eq!(talk.outputs().last(), Some(&Output::Task(Task::Bind(Hidden("x".into())))));
    talk.say(r#"{"t":"leg","d":{"leg":"y"}}"#);
    assert_eq!(talk.frames()[0]["d"]["code"], "INVALID_MESSAGE", "one at a time");
    talk.protocol.handle_bound(talk.now, None);
    assert_eq!(talk.frames()[0]["d"]["code"], "LEG_NOT_FOUND");
    talk.say(r#"{"t":"leg","d":{"leg":"y"}}"#);
    assert_eq!(talk.outputs(), [Output::Task(Task::Bind(Hidden("y".into())))]);
    talk.protocol.handle_bound(talk.now, Some(false));
    talk.pass(Duration::from_secs(5));
    assert_eq!(talk.outputs(), [], "a listener hears no acknowledgements");
    let anchor =
        LineAnchor { leg: "y".into(), ssrc: 1, sequence: 2, position: 3, timestamp: 4, media_time: 5 };
    talk.protocol.handle_anchor(talk.now, anchor);
    let started = &talk.frames()[0];
    assert_eq!((&started["t"], &started["d"]["mediaTime"]), (&"mediaStarted".into(), &5.into()));
}

#[test]
fn a_publisher_hears_every_tenth_of_a_second_what_has_arrived_if_that_has_changed() {
    let mut talk = Talk::live();
    talk.say(r#"{"t":"leg","d":{"leg":"x"}}"#);
    talk.protocol.handle_bound(talk.now, Some(true));
    talk.outputs();
    let mut acked = Vec::new();
    for recv in [None, Some(0), Some(0), Some(5), Some(5), Some(6)] {
        talk.pass(ACK_EVERY);
        assert_eq!(talk.outputs(), [Output::Ask]);
        talk.pass(ACK_EVERY);
        assert_eq!(talk.outputs(), [], "the answer is awaited");
        talk.protocol.handle_progress(talk.now, recv.map(ack));
        acked.extend(talk.frames().iter().map(|frame| frame["d"]["recv"].as_u64().unwrap()));
    }
    assert_eq!(acked, [0, 5, 6]);
    // Another connection of the same publisher: told anew.
    talk.say(r#"{"t":"leg","d":{"leg":"y"}}"#);
    talk.protocol.handle_bound(talk.now, Some(true));
    talk.outputs();
    talk.protocol.handle_progress(talk.now, Some(ack(6)));
    assert_eq!(talk.names(), ["ack"]);
}

proptest! {
    /// At most one close, the last; nothing leaks through before the welcome; numbers never go back.
    #[test]
    fn any_order_of_anything_keeps_the_rules(steps in proptest::collection::vec(0..18_u8, 0..80)) {
        let mut talk = Talk::new();
        let (mut asked, mut welcomed_once, mut over, mut number) = (false, false, false, 0);
        let mut next = 0;
        for step in steps {
            match step {
                0 => talk.say(r#"{"t":"hello"}"#),
                1 => talk.say(r#"{"t":"heartbeat"}"#),
                2 => talk.say("junk"),
                3 => talk.protocol.handle_binary(talk.now, &Bytes::new()),
                4 => talk.protocol.handle_welcomed(talk.now, welcomed(next, Some(snapshot()))),
                5 => talk.say(r#"{"t":"token.refresh","d":{"token":"x"}}"#),
                6 => talk.protocol.handle_renewed(talk.now, Ok(1)),
                7 | 8 => { next += 1; talk.protocol.handle_event(&event(next), step == 7); }
                9 => talk.pass(Duration::from_secs(4)),
                10 => talk.pass(Duration::from_secs(11)),
                11 => { next += 5; talk.protocol.handle_lost(talk.now, next, snapshot()); }
                12 => talk.protocol.handle_control(talk.now),
                13 => talk.say(r#"{"t":"leg","d":{"leg":"x"}}"#),
                14 => talk.protocol.handle_bound(talk.now, Some(true)),
                15 => talk.protocol.handle_bound(talk.now, None),
                16 => talk.protocol.handle_progress(talk.now, Some(ack(next))),
                _ => if next > 20 { talk.protocol.handle_over() },
            }
            for output in talk.outputs() {
                prop_assert!(!over, "{output:?} after the end");
                match output {
                    Output::Close(_) => over = true,
                    Output::Task(Task::Authenticate(_)) => { prop_assert!(!asked); asked = true; }
                    Output::SendFrame(_) => prop_assert!(false, "messages are text"),
                    Output::Renew(_) | Output::Task(Task::Bind(_)) | Output::Ask => prop_assert!(welcomed_once),
                    Output::Send(text) => {
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        let name = frame["t"].as_str().unwrap();
                        welcomed_once |= name == "welcome";
                        prop_assert!(welcomed_once || ["error", "heartbeatAck", "tokenRefreshed"].contains(&name), "{name}");
                        let seq = frame["seq"].as_u64().unwrap();
                        prop_assert!(seq >= number, "{seq} after {number}");
                        number = seq;
                    }
                }
            }
            prop_assert_eq!(talk.protocol.is_closed(), over);
        }
    }
}
