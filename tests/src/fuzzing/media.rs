//! What a client says over a media WebSocket: frames, and the conversation.

use std::time::{Duration, Instant};

use bytes::Bytes;
use relayd::conversation::{CloseCode, Refusal, Timing};
use relayd::media::frame::{MAX_FRAME_BYTES, MAX_NUMBER, MAX_PAYLOAD_BYTES};
use relayd::media::protocol::{Output, Protocol, Task};
use relayd::media::{ClientMessage, MediaFrame, MediaRole, MediaWelcome, ServerMessage};

/// A frame that is read has its fields within their limits, its payload is the end of the message, and it is written
/// back the same, byte for byte.
pub(super) fn media_frame(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    let Ok(frame) = MediaFrame::read(&message) else { return };
    assert!(data.len() <= MAX_FRAME_BYTES);
    assert!(frame.position <= MAX_NUMBER && frame.media_time.ticks() <= MAX_NUMBER);
    assert!((1..=MAX_PAYLOAD_BYTES).contains(&frame.payload.len()));
    assert!(data.ends_with(&frame.payload));
    assert!(frame.audio_level.is_none_or(|level| level.level < 128));
    assert_eq!(frame.write(), message);
}

/// The first byte says who talks. Then lines are messages, a line of one byte is time or something that the relay does,
/// a line that is no UTF-8 or that begins with a binary 1 is binary. The conversation keeps its order, says what the
/// relay's messages are, ends once, and a listener is sent each position once, in order.
pub(super) fn media_message(data: &[u8]) {
    let Some((who, data)) = data.split_first() else { return };
    let role = if who % 2 == 0 { MediaRole::Publisher } else { MediaRole::Listener };
    let start = Instant::now();
    let mut talk = Talk {
        role,
        named: who % 4 < 2,
        now: start,
        protocol: Protocol::new(start, role, Timing::from(&relayd::config::Events::default())),
        joins: 0,
        welcomed: false,
        over: false,
        renewing: false,
        next: None,
        taken: 0,
    };
    for line in data.split(|byte| *byte == b'\n').take(300) {
        match line {
            [step] => talk.step(*step),
            [1, ..] => talk.protocol.handle_binary(talk.now, &Bytes::copy_from_slice(line)),
            _ => match str::from_utf8(line) {
                Ok(text) => {
                    read(text);
                    talk.protocol.handle_text(talk.now, text);
                }
                Err(_) => talk.protocol.handle_binary(talk.now, &Bytes::copy_from_slice(line)),
            },
        }
        talk.drain();
    }
    // Whatever was said, silence ends it.
    for _ in 0..2 {
        talk.now += Duration::from_secs(30);
        talk.protocol.handle_timeout(talk.now);
        talk.drain();
    }
    assert!(talk.protocol.is_closed() && talk.protocol.poll_timeout().is_none());
}

fn read(text: &str) {
    match ClientMessage::read(text) {
        Ok(message) => assert_eq!(ClientMessage::read(&message.write()), Ok(message)),
        Err(why) => {
            let why = why.to_string();
            assert!(!why.is_empty() && why.chars().count() <= 200, "{why}");
        }
    }
}

struct Talk {
    role: MediaRole,
    /// Whether a listener said where it goes on.
    named: bool,
    now: Instant,
    protocol: Protocol,
    joins: usize,
    welcomed: bool,
    over: bool,
    renewing: bool,
    /// Of a listener: what comes next, once it is known.
    next: Option<u64>,
    /// Of a publisher: one after the highest position taken.
    taken: u64,
}

impl Talk {
    /// Time, or what the relay does.
    fn step(&mut self, step: u8) {
        match step {
            b'p' => self.protocol.handle_paused(),
            b'r' => self.protocol.handle_resumed(self.taken, 960),
            b'c' => self.protocol.handle_control(self.now),
            b'w' => {
                if self.joins == 1 && !self.welcomed {
                    self.welcome();
                }
            }
            b'f' => {
                let refusal = Refusal {
                    code: "FORBIDDEN",
                    detail: "no".into(),
                    close: CloseCode::AuthenticationFailed,
                };
                self.protocol.handle_refused(refusal);
            }
            b'0'..=b'9' => self.frame(u64::from(step)),
            _ => {
                self.now += Duration::from_millis(u64::from(step) * 20);
                self.protocol.handle_timeout(self.now);
            }
        }
    }

    fn welcome(&mut self) {
        self.welcomed = true;
        let named = self.named;
        let welcome = MediaWelcome {
            role: self.role,
            session_id: "demo".into(),
            language: "en".parse().expect("a tag"),
            resource: "a".repeat(32),
            ticket: "t".repeat(43),
            position: 50,
            next: 50,
            media_time: 0,
            history_ms: 30_000,
            ack_ms: 100,
            heartbeat_ms: 10_000,
        };
        self.next = named.then_some(50);
        self.protocol.handle_joined(self.now, welcome, named);
    }

    fn frame(&mut self, position: u64) {
        let message = [&[1, 0][..], &position.to_be_bytes(), &0_u64.to_be_bytes(), &[7]].concat();
        let frame = MediaFrame::read(&message.into()).expect("a frame");
        self.protocol.handle_frame(&frame);
    }

    fn drain(&mut self) {
        while let Some(output) = self.protocol.poll_output() {
            assert!(!self.over, "{output:?} after the end");
            self.hear(output);
        }
        assert_eq!(self.protocol.is_closed(), self.over);
    }

    fn hear(&mut self, output: Output) {
        match output {
            Output::Send(text) => {
                assert!(
                    self.joins == 1 && text.len() < 1_000,
                    "an answer is short, and to nobody unknown: {text}"
                );
                self.told(&ServerMessage::read(&text).expect("a message of the relay's"));
                if std::mem::take(&mut self.renewing) {
                    self.protocol.handle_renewed(self.now, Err(("FORBIDDEN", "why".to_owned())));
                }
            }
            Output::SendFrame(bytes) => {
                assert!(self.welcomed && self.role == MediaRole::Listener);
                let position = MediaFrame::read(&bytes).expect("a frame").position;
                assert_eq!(self.next.unwrap_or(position), position);
                self.next = Some(position + 1);
            }
            Output::Task(Task::Join(hello)) => {
                self.joins += 1;
                assert_eq!(self.joins, 1, "asked twice");
                assert!(hello.from.is_none() || self.role == MediaRole::Listener);
            }
            Output::Task(Task::Take(frame)) => {
                assert!(self.welcomed && self.role == MediaRole::Publisher);
                self.taken = self.taken.max(frame.position + 1);
            }
            Output::Task(Task::Delivered(position)) => assert!(self.next.is_some_and(|next| position < next)),
            Output::Ask => {
                assert!(self.welcomed && self.role == MediaRole::Publisher);
                self.protocol.handle_progress(self.now, self.taken);
            }
            Output::Renew(_) => {
                assert!(self.welcomed && !self.renewing, "one at a time");
                self.renewing = true;
            }
            Output::Close(close) => {
                assert!(CloseCode::ALL.contains(&close.code) && close.reason.len() <= 123, "{close:?}");
                self.over = true;
            }
        }
    }

    fn told(&mut self, message: &ServerMessage) {
        match message {
            ServerMessage::FramesLost { count, from, to } => {
                assert_eq!((Some(*from), from + count - 1), (self.next, *to));
                self.next = Some(to + 1);
            }
            ServerMessage::Ack { recv, safe } => assert!(*recv == self.taken && recv == safe),
            ServerMessage::Paused {} | ServerMessage::Resumed { .. } => {
                assert!(self.welcomed && self.role == MediaRole::Publisher);
            }
            _ => {}
        }
    }
}
