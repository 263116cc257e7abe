//! What a client says over the events WebSocket.

use std::time::{Duration, Instant};

use bytes::Bytes;
use relayd::conversation::{CloseCode, Timing};
use relayd::events::frame::ClientFrame;
use relayd::events::{Output, Protocol, ServerFrame, Task, Welcomed};
use serde_json::Value;

/// Lines are messages, a line of one byte is time, one without UTF-8 is binary. A frame that is read is written back
/// the same; the conversation keeps its order, answers with JSON, ends once, and says nothing of what it was told.
pub(super) fn ws_message(data: &[u8]) {
    let start = Instant::now();
    let mut now = start;
    let mut protocol =
        Protocol::new(now, 1_700_000_000_000, Timing::from(&relayd::config::Events::default()));
    let mut talk = Talk::default();
    for line in data.split(|byte| *byte == b'\n').take(300) {
        match str::from_utf8(line) {
            Ok(text) if text.len() == 1 => {
                now += Duration::from_millis(u64::from(line[0]) * 20);
                protocol.handle_timeout(now);
            }
            Ok(text) => {
                read(text);
                protocol.handle_text(now, text);
            }
            Err(_) => protocol.handle_binary(now, &Bytes::copy_from_slice(line)),
        }
        while let Some(output) = protocol.poll_output() {
            talk.hear(&mut protocol, now, output);
        }
        assert_eq!(protocol.is_closed(), talk.over);
    }
    // Whatever was said, silence ends it.
    for _ in 0..2 {
        now += Duration::from_secs(30);
        protocol.handle_timeout(now);
    }
    assert!(protocol.is_closed() && protocol.poll_timeout().is_none());
}

fn read(text: &str) {
    match ClientFrame::read(text) {
        Ok(frame) => assert_eq!(ClientFrame::read(&frame.write()), Ok(frame)),
        Err(why) => {
            let why = why.to_string();
            assert!(!why.is_empty() && why.chars().count() <= 200, "{why}");
        }
    }
}

#[derive(Default)]
struct Talk {
    asked: bool,
    welcomed: bool,
    renewing: bool,
    binding: bool,
    bound: bool,
    publishes: bool,
    over: bool,
}

impl Talk {
    fn hear(&mut self, protocol: &mut Protocol, now: Instant, output: Output) {
        assert!(!self.over, "{output:?} after the end");
        match output {
            Output::Task(Task::Authenticate(_)) => {
                assert!(!std::mem::replace(&mut self.asked, true), "asked twice");
                let frame = ServerFrame::Heartbeat {};
                protocol.handle_welcomed(now, Welcomed { frame, after: 5, head: 9, snapshot: None });
                self.welcomed = true;
            }
            Output::Renew(_) => {
                assert!(self.welcomed && !self.renewing, "one at a time");
                self.renewing = true;
            }
            Output::Task(Task::Bind(_)) => {
                assert!(self.welcomed && !self.binding, "one at a time");
                self.binding = true;
                self.publishes = !self.publishes;
            }
            Output::Ask => {
                assert!(self.bound, "of whom?");
                protocol.handle_progress(now, None);
            }
            Output::Send(text) => {
                assert!(self.asked, "{text} to a stranger");
                let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                assert_eq!(frame["seq"], 5, "{text}");
                assert!(text.len() < 1_000, "an answer is short: {text}");
                if self.renewing {
                    protocol.handle_renewed(now, Err(("FORBIDDEN", "why".to_owned())));
                    self.renewing = false;
                }
                if std::mem::take(&mut self.binding) {
                    self.bound = true;
                    protocol.handle_bound(now, Some(self.publishes));
                }
            }
            Output::SendFrame(frame) => panic!("{frame:?} is of another subprotocol"),
            Output::Close(close) => {
                assert!(CloseCode::ALL.contains(&close.code) && close.reason.len() <= 123, "{close:?}");
                self.over = true;
            }
        }
    }
}
