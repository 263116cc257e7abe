//! Sans-IO engine that relays live Opus audio from one speaker to many listeners.
//!
//! A publisher's packets go in, each listener's packets come out. Between the two are a timeline, which gives every
//! frame its position on the track whatever happens to sequence numbers, SSRCs and connections; a history, which stores
//! each frame once for all; and for each listener a cursor and a few numbers. There is no socket, thread, clock, runtime
//! or global in here: the owner brings those.
//!
//! ```text
//!   leg ─┐    ┌──────────┐        ┌──────────────────────────────┐      ┌─ cursor ─► leg   listener 1
//!        ├───►│ Timeline │ frames │ History: bounded, shared     │──────┤
//!   leg ─┘    │ wire→pos │───────►│ ring, one per track          │      └─ cursor ─► leg ┐ listener 2,
//!  publisher  └──────────┘        │ [oldest … position … newest] │                 ─► leg ┘ switching
//!                                 └──────────────────────────────┘
//! ```
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | track | one audio channel, one timeline |
//! | publisher | who feeds a track; two legs at a time at most |
//! | listener | who receives a track; two legs at a time at most |
//! | leg | one transport connection of a publisher or listener |
//! | packet | what is on the wire: sequence, timestamp, SSRC |
//! | frame | what is stored: one Opus packet with its position and media time |
//! | position | counts a track's frames from its start; what never came is a hole |
//! | media time | 48 kHz ticks from a track's start |
//! | arrival | counts the frames in the order they came; differs from position where packets overtook each other |
//! | cursor | a listener's place among the arrivals; among the positions while it catches up |
//! | cut | the position at which a listener or a publisher moves to another leg |
//! | replay | a frame that is handed out again, from the history |
//! | hold | what arrives for a leg that is not up waits in the history |
//!
//! # Driving it
//!
//! A [`Relay`] has four kinds of method: *commands* (verbs: what the owner wants), *handlers* (`handle_*`: what the world
//! did), *polls* (`poll_*`: what must happen next) and getters. Commands and handlers are legal in any order, any number
//! of times. The loop is always the same: hand something in, drain [`poll_output`](Relay::poll_output) to `None`, sleep
//! until [`poll_timeout`](Relay::poll_timeout) or the next input.
//!
//! ```
//! use relay_engine::{Config, Epoch, Event, LegSpec, LegState, Output, Relay, TrackSpec, Verdict, rtp};
//! use std::time::{Duration, Instant, SystemTime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut now = Instant::now();
//! let epoch = Epoch { instant: now, wall: SystemTime::now() };
//! let mut relay = Relay::new(Config::new(), epoch, 42);
//!
//! // Commands. The spec of a leg is what its transport negotiated.
//! let track = relay.open_track(now, TrackSpec { name: "en".to_owned() })?;
//! let publisher = relay.open_publisher_leg(now, track, LegSpec::new(111))?;
//! let (listener, leg) = relay.open_listener(now, track, LegSpec::new(96))?;
//!
//! // Handlers. The transports came up, then a packet came.
//! relay.handle_leg(now, publisher, LegState::Up);
//! relay.handle_leg(now, leg, LegState::Up);
//! let mut datagram = [0; 1500];
//! let header = rtp::Emit { payload_type: 111, sequence: 1, timestamp: 960, ssrc: 7, ..Default::default() };
//! let length = header.write(&[0xf8, 0xff, 0xfe], &mut datagram)?;
//! let packet = rtp::Packet::parse(datagram[..length].to_vec().into())?;
//! now += Duration::from_millis(20);
//! assert_eq!(relay.handle_packet(now, publisher, packet), Verdict::Accepted);
//!
//! // Polls. Drain, then sleep until the deadline or the next input.
//! let mut packets = 0;
//! while let Some(output) = relay.poll_output() {
//!     match output {
//!         Output::Packet(packet) => {
//!             let length = packet.write(&mut datagram)?; // the whole RTP packet: encrypt it and send it on packet.leg
//!             assert_eq!(length, 12 + 3);
//!             packets += 1;
//!         }
//!         Output::SenderReport { leg, report } => { /* send it in an RTCP compound on leg */ }
//!         Output::ReceiverReport { leg, report } => { /* send it in an RTCP compound on leg */ }
//!         Output::Event(Event::Closed { peer }) => { /* forget what was kept for it */ }
//!         Output::Event(event) => { /* tell whoever cares */ }
//!     }
//! }
//! assert_eq!(packets, 1);
//! assert!(relay.poll_timeout().is_some_and(|deadline| deadline.at > now));
//! # Ok(())
//! # }
//! ```
//!
//! `examples/loopback.rs` does the same on two UDP sockets, in under a hundred lines.
//!
//! # What the owner brings
//!
//! | when | the owner |
//! |---|---|
//! | somebody connects | opens a leg with what was negotiated, and keeps its [`LegId`] beside the connection; [`LegId::slot`] indexes arrays |
//! | an answer must name the SSRC | gave it to [`LegSpec::ssrc`], or asks [`ListenerStats::ssrc`] for the one that was drawn |
//! | the transport is ready, lost, back | says so: [`handle_leg`](Relay::handle_leg) |
//! | a datagram comes from a publisher | tells RTP from RTCP ([`rtp::is_rtcp`]), decrypts, parses ([`rtp::Packet::parse`]) and hands it in. The history keeps the buffer that a payload is a slice of, so it is a buffer of the datagram's own size |
//! | RTCP comes | decrypts, reads it ([`rtp::rtcp::Compound`]) and hands in what it says: see [`handle_feedback`](Relay::handle_feedback) |
//! | a packet comes out | writes it ([`OutboundPacket::write`]), encrypts it with [`OutboundPacket::index`] as the SRTP index, sends it on [`OutboundPacket::leg`] |
//! | a report comes out | writes the compound, see [`Output`], encrypts it and sends it |
//! | the connection is gone | [closes](Relay::close) its leg, and frees what it kept when [`Event::Closed`] comes |
//!
//! A relay is `Send` and single-threaded; for more cores run more of them. Keep connection set-up, HTTP and logging off
//! the thread that drives it: the path from `handle_packet` to `poll_output` takes no lock and, in the steady state,
//! allocates nothing.
//!
//! # What it promises
//!
//! | | |
//! |---|---|
//! | I1 order | Each frame that arrives for a listener is settled once: handed out, or told as skipped. What is handed out again after that, on whichever leg, is marked as a replay. The arrivals that pass through a leg strictly increase; on a leg in [order of position](Order::Position) positions do, but where it goes back to replay |
//! | I2 lossless switch | A switch skips nothing that the history has, whichever leg comes up or goes down first |
//! | I3 bounds | Every queue, map and ring has a limit in [`Config`], with its memory formula |
//! | I4 progress | After a drain the deadline is in the future, or there is none |
//! | I5 replay | The same config, epoch, seed and calls give the same outputs, byte for byte |
//! | I6 addressing | Output goes only to legs that are up |
//! | I7 time | Time never runs backwards: an older `now` counts as the last one |
//! | I8 fencing | Once a track has a publisher's leg of a higher [epoch](LegSpec::epoch), frames of lower ones are not taken |
//!
//! I1 orders arrivals and not positions, on purpose: positions could only increase if a packet that was overtaken on its
//! way in were dropped, or those that overtook it held back. The far end's jitter buffer, which is there anyway, does
//! better.
//!
//! For a listener that makes:
//!
//! | | |
//! |---|---|
//! | L1 exactly once | From where it joined it is handed every frame that arrives, once but for replays, over all its legs. Excepted is what left the history before its leg was up or the relay drained, and what it chose to miss: a pause, another track, [`OnReturn::Live`] |
//! | L2 order | What it missed comes by position, before what arrives meanwhile; index and timestamp stay on their lines |
//! | L3 continuity | The old leg is sent on until the new one is where it is: a switch makes no gap. A leg that was away for a time is back at the live edge after a third of it, at the default [rate](Config::replay_rate); what goes [again](Config::resend_rate) on a leg keeps what is new waiting for less than 200 ms where 5 s are not acknowledged |
//! | L4 return | It comes back through what it missed, not over it, unless its leg asked for the live edge |
//! | L5 declared | What it was not handed is told, with the exact count: [`Event::FramesSkipped`]. If frames from before it joined came late and the history lost them before the relay was drained, they may be in the count. One that begins before the history is told positions, holes included |
//!
//! On the wire of a listener's leg, for the leg's life: one SSRC; the sequence number and the SRTP index are the position
//! plus a constant, so a hole stays a hole; the timestamp is the media time plus a constant. That holds whatever the
//! publisher does: sequence and timestamp wraps, a new SSRC, a jump, silence, or a new leg, after which positions go on
//! without a hole and media time goes on with the wall clock. The constants change where they must, and
//! [`OutboundPacket::line`] with them: when the listener selects another track or is resumed, the next index follows
//! without a hole; when a leg missed 2^15 positions or more, which the far end's rollover counter could not follow, the
//! index goes on as after a single loss. No index ever stands for two packets.
//!
//! # A listener's leg
//!
//! | state of the leg that is sent on | arrivals | leaves it |
//! |---|---|---|
//! | Waiting: never up | are not for it | up: to Live, or to CatchUp from [`LegSpec::resume_from`] |
//! | CatchUp: by position, paced: [what it was not handed](Config::replay_rate), and much faster [what it was](Config::resend_rate) | behind its cursor: at once; others wait for it | nothing is left: to Live; not up: to Held |
//! | Live | pass through | not up: to Held; [`replay`](Relay::replay): to CatchUp |
//! | Held: was up, is not | are owed | up: to CatchUp after what was acknowledged, else from what is owed; to Live if that is nothing |
//! | Paused | are not for it | [resumed](Relay::resume): to Live |
//!
//! | second leg | event | then |
//! |---|---|---|
//! | Waiting | [`switch`](Relay::switch) | CatchUp from [`LegSpec::resume_from`], else after what was acknowledged, else from what was not handed out; its packets are replays |
//! | Waiting, CatchUp | the first leg is or goes down, or is closed; the listener is paused | the cut, at once |
//! | CatchUp | it is where the first leg is | the cut |
//! | CatchUp | it goes down | Waiting; the switch stays ordered |
//! | CatchUp | `switch` to the first leg | Waiting; no switch is ordered |
//!
//! At the cut the second leg becomes the one that is sent on, and the first is Spent: [`Event::LegSpent`]. A receiver
//! report acknowledges up to its highest sequence number, [`Feedback::Delivered`] up to its position. A NACK is answered
//! from the history, at the [pace](Config::replay_rate) of what the leg was not handed, and at most once in about a round
//! trip for each packet.
//!
//! What cannot be kept is said: [`Event::FramesSkipped`] for a listener whose leg was down for longer than the history
//! reaches or whose relay was not drained, [`Event::FramesLost`] for a track's holes that nobody filled, a [`Verdict`] and a counter for every packet that was not taken. Nothing that a peer sends is an error or a panic;
//! only the owner's own mistakes are errors ([`OpenError`]).
//!
//! A publisher cannot harm others: its packets are checked for type, size and rate before they touch anything, and its
//! timeline is its track's alone.
//!
//! # Limits and memory
//!
//! | what | default | costs |
//! |---|---|---|
//! | [tracks](Config::max_tracks) | 1024 | < 1 KiB each, plus the history |
//! | [listeners](Config::max_listeners) | 65 536 | < 512 bytes each, leg included, whatever the history |
//! | [legs](Config::max_legs) | 131 072 | 96 bytes each, plus < 1280 bytes per publisher's, plus < 512 bytes per listener's second |
//! | a listener that catches up | | < 200 bytes while it does, plus a bit for each position of the history |
//! | a listener that was switched, or that a frame came too late for | | < 128 bytes, plus at most two bits for each position of the history |
//! | a leg that sent a NACK | | < 2 KiB |
//! | [history, positions](Config::history_frames) | 3000 | 36 bytes each per track, up to 40 if frames come far out of order |
//! | [history, time](Config::history_duration) | 30 s | |
//! | [history, payload](Config::history_payload_bytes) | 2 MiB | as much per track |
//! | [payload of a packet](Config::max_payload_bytes) | 1400 bytes | |
//! | [packets](Config::max_packet_rate), [bits](Config::max_bit_rate) of a publisher | 200/s, 512 kb/s over [2 s](Config::burst) | |
//! | [closed ids not yet drained](Config::max_closed_events) | 262 144 | 12 bytes each, rounded up to a power of two |
//!
//! Total: O(histories) + O(listeners), never their product. A history starts empty and grows as frames come. What is
//! closed leaves its place for the next, so arrays are as long as the most that were open at once; they double to grow.
//!
//! # What is not here
//!
//! Transports, encryption, signalling and sessions (`relayd` has them); transcoding and mixing; a jitter buffer, because
//! the far ends have one; RED.

mod config;
mod frame;
mod history;
mod id;
mod io;
mod listener;
mod relay;
pub mod rtp;
mod schedule;
mod stats;
mod time;
mod track;

pub use self::config::Config;
pub use self::frame::{CarriedFrame, Frame};
pub use self::id::{LegId, ListenerId, Peer, TrackId};
pub use self::io::{
    Deadline, Event, Feedback, LegSpec, LegState, Limit, MAX_TRACK_NAME_BYTES, OnReturn, OpenError, Order,
    OutboundPacket, Output, Reason, ReplayError, SelectError, SwitchError, TrackSpec, UnknownListener,
    Verdict,
};
pub use self::relay::Relay;
pub use self::rtp::{AudioLevel, CaptureTime, ExtensionIds, Mid};
pub use self::stats::{
    Alignment, LegStats, ListenerReport, ListenerStats, PublisherLegStats, Reception, Rule, Stats,
    TrackStats, Verdicts,
};
pub use self::time::{Epoch, MediaTime, NtpTime};
