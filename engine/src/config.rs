//! Limits and timings: each with its default, its unit and what it costs in memory (I3).
//!
//! A `Config` is valid by construction: a setter clamps what could not work and its doc says to what.

use std::time::Duration;

use crate::id::MAX_SLOTS;

/// Limits and timings of a [`Relay`](crate::Relay).
///
/// ```
/// use relay_engine::Config;
/// use std::time::Duration;
///
/// let config = Config::new().max_listeners(10_000).history_duration(Duration::from_secs(10));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) number: u8,
    pub(crate) max_tracks: usize,
    pub(crate) max_listeners: usize,
    pub(crate) max_listeners_per_track: usize,
    pub(crate) max_legs: usize,
    pub(crate) max_closed_events: usize,
    pub(crate) history: HistoryLimits,
    pub(crate) rate: RateLimits,
    pub(crate) max_payload_bytes: usize,
    pub(crate) report_interval: Duration,
    pub(crate) silence_after: Duration,
    pub(crate) path_skew: Duration,
    pub(crate) pacing: Pacing,
    pub(crate) hole_patience: Duration,
}

/// How fast frames are handed out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pacing {
    /// Times real time, for what was not handed out before.
    pub(crate) rate: u32,
    /// Times real time, for what was.
    pub(crate) resend_rate: u32,
    /// Frames at once.
    pub(crate) burst: u32,
}

impl Pacing {
    /// The rate of what was handed out before: not below the other.
    pub(crate) const fn again(self) -> u32 {
        if self.resend_rate < self.rate { self.rate } else { self.resend_rate }
    }
}

/// What one track's history may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    pub(crate) frames: usize,
    pub(crate) duration: Duration,
    pub(crate) payload_bytes: usize,
    pub(crate) largest_payload: usize,
}

/// What one publisher leg may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimits {
    pub(crate) packets_per_second: u32,
    pub(crate) bits_per_second: u32,
    pub(crate) burst: Duration,
}

impl Config {
    /// The defaults, as each setter states them.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            number: 0,
            max_tracks: 1_024,
            max_listeners: 65_536,
            max_listeners_per_track: 65_536,
            max_legs: 131_072,
            max_closed_events: 262_144,
            history: HistoryLimits {
                frames: 3_000,
                duration: Duration::from_secs(30),
                payload_bytes: 2 * 1_024 * 1_024,
                largest_payload: 1_400,
            },
            rate: RateLimits {
                packets_per_second: 200,
                bits_per_second: 512_000,
                burst: Duration::from_secs(2),
            },
            max_payload_bytes: 1_400,
            report_interval: Duration::from_secs(5),
            silence_after: Duration::from_secs(2),
            path_skew: Duration::from_millis(450),
            pacing: Pacing { rate: 4, resend_rate: 32, burst: 10 },
            hole_patience: Duration::from_millis(450),
        }
    }

    /// The relay's number, which its ids carry. Default 0.
    ///
    /// Ids of relays with different numbers are different, and to each other unknown: of several in one process an id
    /// says whose it is.
    #[must_use]
    pub const fn relay(mut self, number: u8) -> Self {
        self.number = number;
        self
    }

    /// Open tracks. Default 1024; clamped to 1 ..= 2^24.
    ///
    /// Memory: below 1 KiB per open track, plus its history, which starts empty and grows to
    /// [`history_frames`](Self::history_frames) and [`history_payload_bytes`](Self::history_payload_bytes).
    #[must_use]
    pub const fn max_tracks(mut self, tracks: usize) -> Self {
        self.max_tracks = slots(tracks);
        self
    }

    /// The limit of open tracks, as [`max_tracks`](Self::max_tracks) set it.
    #[must_use]
    pub const fn track_limit(&self) -> usize {
        self.max_tracks
    }

    /// Open listeners over all tracks. Default 65 536; clamped to 1 ..= 2^24.
    ///
    /// Memory: below 512 bytes per open listener, its leg included, however long the history is. While one catches up,
    /// below 200 bytes more and a bit for each position of the history. After a switch, or once a frame came too late for
    /// it, below 128 bytes more and at most two bits for each position.
    #[must_use]
    pub const fn max_listeners(mut self, listeners: usize) -> Self {
        self.max_listeners = slots(listeners);
        self
    }

    /// Open listeners of one track. Default 65 536; at least 1. Memory: 4 bytes each, in the track.
    #[must_use]
    pub const fn max_listeners_per_track(mut self, listeners: usize) -> Self {
        self.max_listeners_per_track = at_least_one(listeners);
        self
    }

    /// Open legs of publishers and listeners together. Default 131 072; clamped to 1 ..= 2^24.
    ///
    /// Memory: 96 bytes per open leg, plus below 1280 bytes per publisher leg and below 512 bytes per listener's second
    /// leg; below 2 KiB more for a listener's leg that ever sent a NACK or was sent its last packet again. While a
    /// publisher has two legs, each keeps up to 512 frames that wait, below 192 bytes each beside the payload.
    #[must_use]
    pub const fn max_legs(mut self, legs: usize) -> Self {
        self.max_legs = slots(legs);
        self
    }

    /// [`Event::Closed`](crate::Event::Closed) events that may wait in an undrained relay before it refuses to open more.
    ///
    /// Default 262 144; at least 1. Beyond it opens fail with [`OpenError::Undrained`](crate::OpenError::Undrained);
    /// closes never fail, so the queue holds at most this many plus one for each id then open.
    /// Memory: 12 bytes per waiting event, rounded up to a power of two.
    #[must_use]
    pub const fn max_closed_events(mut self, events: usize) -> Self {
        self.max_closed_events = at_least_one(events);
        self
    }

    /// Positions that one track's history spans, holes included. Default 3000 (60 s of 20 ms frames);
    /// clamped to 1 ..= 1 048 576.
    ///
    /// Memory: 36 bytes for each position, payload not counted, and a sixteenth more while it grows:
    /// 106 KiB per full history by default, 54 KiB when [`history_duration`](Self::history_duration) keeps it at 1500
    /// frames. If frames come far out of order, up to 4 bytes more for each position.
    #[must_use]
    pub const fn history_frames(mut self, frames: usize) -> Self {
        self.history.frames = at_least_one(frames);
        if self.history.frames > MAX_HISTORY_FRAMES {
            self.history.frames = MAX_HISTORY_FRAMES;
        }
        self
    }

    /// How long a track's history keeps a frame after its arrival. Default 30 s.
    ///
    /// Checked when the next frame arrives; the newest frame always stays. Memory: bounded by the other two.
    #[must_use]
    pub const fn history_duration(mut self, duration: Duration) -> Self {
        self.history.duration = duration;
        self
    }

    /// How long a track's history keeps a frame after its arrival, as [`history_duration`](Self::history_duration) set it.
    pub const fn kept_for(&self) -> Duration {
        self.history.duration
    }

    /// Payload bytes that one track's history keeps. Default 2 MiB (30 s at 512 kb/s); the newest frame always stays.
    ///
    /// Memory: the payloads' own bytes, in chunks of 4 KiB (or of the largest payload, if that is more), at most one
    /// and a half times this and two chunks. Where late frames lie far behind newer ones, so that chunks stay partly
    /// empty, this may end the history a little before its other limits do.
    #[must_use]
    pub const fn history_payload_bytes(mut self, bytes: usize) -> Self {
        self.history.payload_bytes = at_least_one(bytes);
        self
    }

    /// Largest payload accepted from a publisher, bytes. Default 1400: with RTP header, extensions and an SRTP tag it
    /// still fits a 1500-byte MTU. Clamped to 1 ..= 65 000. Longer ones are [`Verdict::TooLarge`](crate::Verdict::TooLarge).
    #[must_use]
    pub const fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = at_least_one(bytes);
        if self.max_payload_bytes > 65_000 {
            self.max_payload_bytes = 65_000;
        }
        self.history.largest_payload = self.max_payload_bytes;
        self
    }

    /// Packets per second that a publisher leg may send, averaged over [`burst`](Self::burst).
    ///
    /// Default 200 (5 ms frames); at least 1. More are [`Verdict::RateLimited`](crate::Verdict::RateLimited).
    #[must_use]
    pub const fn max_packet_rate(mut self, packets_per_second: u32) -> Self {
        self.rate.packets_per_second = if packets_per_second == 0 { 1 } else { packets_per_second };
        self
    }

    /// Payload bits per second that a publisher leg may send, averaged over [`burst`](Self::burst).
    ///
    /// Default 512 000 (Opus itself ends at 510 000); at least 8.
    #[must_use]
    pub const fn max_bit_rate(mut self, bits_per_second: u32) -> Self {
        self.rate.bits_per_second = if bits_per_second < 8 { 8 } else { bits_per_second };
        self
    }

    /// How much of its rate a publisher leg may save up while it is quiet. Default 2 s; clamped to 10 ms ..= 1 h.
    ///
    /// After a stalled network this much may arrive at once: 400 packets by default.
    #[must_use]
    pub fn burst(mut self, burst: Duration) -> Self {
        self.rate.burst = burst.clamp(Duration::from_millis(10), Duration::from_secs(3_600));
        self
    }

    /// Mean time between the reports on a leg. Default 5 s; clamped to 100 ms ..= 1 h.
    ///
    /// Each interval is drawn from 0.5 to 1.5 times it, so that reports do not synchronise (RFC 3550 §6.2).
    #[must_use]
    pub fn report_interval(mut self, interval: Duration) -> Self {
        self.report_interval = interval.clamp(Duration::from_millis(100), Duration::from_secs(3_600));
        self
    }

    /// Time without a frame after which a track is silent. Default 2 s; clamped to 10 ms ..= 1 h.
    ///
    /// Opus in DTX still sends a frame every 400 ms; the default lets four of them be lost in a row.
    #[must_use]
    pub fn silence_after(mut self, silence: Duration) -> Self {
        self.silence_after = silence.clamp(Duration::from_millis(10), Duration::from_secs(3_600));
        self
    }

    /// How far one leg of a publisher may lag behind the other. Default 450 ms; clamped to 10 ms ..= 10 s.
    ///
    /// A frame that one leg brings ahead of a hole waits this long for the other leg to fill it; a leg that brings
    /// nothing for this long, while the other does, is passed over.
    #[must_use]
    pub fn path_skew(mut self, skew: Duration) -> Self {
        self.path_skew = skew.clamp(Duration::from_millis(10), Duration::from_secs(10));
        self
    }

    /// How fast a listener's leg is handed what it missed, times real time. Default 4; clamped to 1 ..= 100.
    ///
    /// For frames that were never handed out on the leg, and for answers to NACKs. What only keeps pace never arrives,
    /// so 1 counts as 1.25.
    #[must_use]
    pub fn replay_rate(mut self, times: u32) -> Self {
        self.pacing.rate = times.clamp(1, 100);
        self
    }

    /// How fast a listener's leg is handed again what it was handed before, times real time. Default 32; clamped to
    /// 1 ..= 1000, and never below [`replay_rate`](Self::replay_rate).
    ///
    /// A far end that reports every 5 s has mostly received what it has not acknowledged, and what is new waits behind
    /// it: by default for less than 200 ms. What goes again beyond 10 s of frames, less what `replay_rate` makes good
    /// meanwhile, goes at `replay_rate`: no far end can make a leg be sent more than that for long.
    #[must_use]
    pub fn resend_rate(mut self, times: u32) -> Self {
        self.pacing.resend_rate = times.clamp(1, 1_000);
        self
    }

    /// How many frames of 20 ms a listener's leg may be handed at once before the pace holds, at each of the two rates.
    /// Default 10, so 20 packets at once at most; clamped to 1 ..= 1000.
    #[must_use]
    pub fn replay_burst(mut self, frames: u32) -> Self {
        self.pacing.burst = frames.clamp(1, 1_000);
        self
    }

    /// How long a leg in [order of position](crate::Order::Position) waits for a hole, from the arrival of the first
    /// frame behind it. Default 450 ms; at most 1 h.
    #[must_use]
    pub fn hole_patience(mut self, patience: Duration) -> Self {
        self.hole_patience = patience.min(Duration::from_secs(3_600));
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

const fn at_least_one(n: usize) -> usize {
    if n == 0 { 1 } else { n }
}

/// As many as ids can tell apart.
const fn slots(n: usize) -> usize {
    if n > MAX_SLOTS { MAX_SLOTS } else { at_least_one(n) }
}

const MAX_HISTORY_FRAMES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_clamped_to_what_works() {
        let config = Config::new()
            .max_tracks(0)
            .max_listeners(0)
            .max_listeners_per_track(0)
            .max_legs(0)
            .history_frames(0)
            .history_payload_bytes(0)
            .max_payload_bytes(0)
            .max_packet_rate(0)
            .max_bit_rate(0)
            .burst(Duration::ZERO)
            .report_interval(Duration::ZERO)
            .silence_after(Duration::ZERO);
        assert_eq!(config.track_limit(), 1);
        let config = config.max_listeners(usize::MAX).max_legs(usize::MAX).max_tracks(usize::MAX);
        assert_eq!([config.max_listeners, config.max_legs, config.max_tracks], [MAX_SLOTS; 3]);
        assert_eq!(config.history.frames, 1);
        assert_eq!(config.max_payload_bytes, 1);
        assert_eq!(config.rate.packets_per_second, 1);
        assert!(config.report_interval > Duration::ZERO, "I4: a deadline of now would be a busy loop");
        assert!(config.silence_after > Duration::ZERO, "I4");
    }

    #[test]
    fn the_default_is_new() {
        assert_eq!(Config::default(), Config::new());
    }
}
