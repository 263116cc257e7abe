//! What goes into a [`Relay`](crate::Relay) and what comes out of it.

use std::time::Instant;

use crate::frame::Frame;
use crate::id::{LegId, ListenerId, Peer, TrackId};
use crate::rtp::{Emit, ExtensionIds, WriteError, rtcp};

/// What a track is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackSpec {
    /// Its BCP-47 language tag: 1 to [`MAX_TRACK_NAME_BYTES`] bytes. The engine gives it no meaning.
    pub name: String,
}

/// Longest name of a track, bytes. BCP 47 asks for room for 35.
pub const MAX_TRACK_NAME_BYTES: usize = 64;

/// What a leg has negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegSpec {
    pub(crate) payload_type: u8,
    pub(crate) ssrc: Option<u32>,
    pub(crate) extensions: ExtensionIds,
    pub(crate) reports: bool,
    pub(crate) epoch: u64,
    pub(crate) order: Order,
    pub(crate) resume_from: Option<u64>,
    pub(crate) on_return: OnReturn,
    pub(crate) feed: bool,
}

/// In which order a listener's leg is handed frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// As they arrive, at once: the far end has a jitter buffer that puts them in order.
    #[default]
    Arrival,
    /// By position, strictly increasing: for a transport that is ordered and reliable itself. A hole is waited for, up
    /// to [`Config::hole_patience`](crate::Config::hole_patience); a frame that comes later still is not handed out and
    /// is told as skipped.
    Position,
}

/// Where a listener's leg goes on after it was not up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnReturn {
    /// After the last position that the far end acknowledged. If it acknowledged none: where its listener began, if it
    /// was handed at most 50 frames, which may all be under way; else at the first that was not handed out. A late frame
    /// that an acknowledged position says nothing of, because it was a hole then, is handed out again too.
    #[default]
    Replay,
    /// At the live edge; what was missed is told as skipped.
    Live,
}

impl LegSpec {
    /// A leg whose Opus packets have `payload_type` (0 ..= 127), without header extensions, with reports.
    #[must_use]
    pub fn new(payload_type: u8) -> Self {
        Self {
            payload_type,
            ssrc: None,
            extensions: ExtensionIds::default(),
            reports: true,
            epoch: 0,
            order: Order::Arrival,
            resume_from: None,
            on_return: OnReturn::Replay,
            feed: false,
        }
    }

    /// The SSRC that a listener's leg sends with. Without it, one is drawn from the seed, and
    /// [`ListenerStats::ssrc`](crate::ListenerStats::ssrc) tells which.
    ///
    /// A publisher leg takes whatever SSRC comes, so this means nothing on one.
    #[must_use]
    pub const fn ssrc(mut self, ssrc: u32) -> Self {
        self.ssrc = Some(ssrc);
        self
    }

    /// The ids of the header extensions: read on a publisher leg, written on a listener's.
    #[must_use]
    pub const fn extensions(mut self, ids: ExtensionIds) -> Self {
        self.extensions = ids;
        self
    }

    /// Whether reports are made for this leg: sender reports on a listener's leg, receiver reports on a publisher's.
    #[must_use]
    pub const fn reports(mut self, reports: bool) -> Self {
        self.reports = reports;
        self
    }

    /// The ownership that a publisher leg belongs to; default 0. A leg of a higher one fences those of lower ones (I8).
    ///
    /// Means nothing on a listener's leg.
    #[must_use]
    pub const fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// In which order a listener's leg is handed frames. Default [`Order::Arrival`].
    #[must_use]
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The first position that a listener wants on this leg: one after the last that it has. Default: the live edge for
    /// a listener's first leg, what the other leg is not known to have delivered for its second.
    ///
    /// What the history no longer has of it is told as skipped; a position that is still to come means the live edge.
    #[must_use]
    pub const fn resume_from(mut self, position: u64) -> Self {
        self.resume_from = Some(position);
        self
    }

    /// Where a listener's leg goes on when it was down and is up again. Default [`OnReturn::Replay`].
    #[must_use]
    pub const fn on_return(mut self, on_return: OnReturn) -> Self {
        self.on_return = on_return;
        self
    }

    /// A listener's leg that feeds another relay of this process: it is handed a frame before other listeners are, and
    /// what it missed without a pace. Default no.
    ///
    /// Means nothing on a publisher's leg. The other end is [`Relay::handle_fed`](crate::Relay::handle_fed).
    #[must_use]
    pub const fn feed(mut self, feed: bool) -> Self {
        self.feed = feed;
        self
    }

    /// The negotiated payload type.
    #[must_use]
    pub const fn payload_type(&self) -> u8 {
        self.payload_type
    }

    /// Where a listener wants to go on, as [`resume_from`](Self::resume_from) set it.
    #[must_use]
    pub const fn resume_position(&self) -> Option<u64> {
        self.resume_from
    }

    /// The negotiated header extensions.
    #[must_use]
    pub const fn extension_ids(&self) -> &ExtensionIds {
        &self.extensions
    }
}

/// The state of a leg's transport. A leg starts `Connecting`; output goes only to legs that are `Up` (I6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LegState {
    /// Not yet usable.
    Connecting,
    /// Usable.
    Up,
    /// Was usable, and may be again.
    Down,
}

/// What must happen next, from [`Relay::poll_output`](crate::Relay::poll_output).
///
/// A report goes out in a compound, with the name of its source behind it (RFC 3550 §6.1):
///
/// ```
/// use relay_engine::rtp::{WriteError, rtcp};
///
/// fn to_listener(report: &rtcp::SenderReport, cname: &str, out: &mut [u8]) -> Result<usize, WriteError> {
///     let length = report.write(&[], out)?;
///     Ok(length + rtcp::write_description(report.ssrc, cname, &mut out[length..])?)
/// }
///
/// /// `ssrc` is the owner's choice: the relay sends no media to a publisher.
/// fn to_publisher(ssrc: u32, report: rtcp::ReportBlock, cname: &str, out: &mut [u8]) -> Result<usize, WriteError> {
///     let length = rtcp::ReceiverReport::write(ssrc, &[report], out)?;
///     Ok(length + rtcp::write_description(ssrc, cname, &mut out[length..])?)
/// }
/// # let mut out = [0; 100];
/// # let length = to_publisher(1, rtcp::ReportBlock::default(), "relay", &mut out).unwrap();
/// # assert_eq!(rtcp::Compound::parse(&out[..length]).count(), 2);
/// # let length = to_listener(&rtcp::SenderReport::default(), "relay", &mut out).unwrap();
/// # assert_eq!(rtcp::Compound::parse(&out[..length]).count(), 2);
/// ```
#[derive(Debug)]
pub enum Output<'a> {
    /// Send this packet to this listener.
    Packet(OutboundPacket<'a>),
    /// Send this sender report on this listener's leg.
    SenderReport {
        /// The listener's leg.
        leg: LegId,
        /// The report, with the leg's own SSRC.
        report: rtcp::SenderReport,
    },
    /// Send this report block on this publisher's leg, in a receiver report.
    ReceiverReport {
        /// The publisher's leg.
        leg: LegId,
        /// What the relay received of the publisher's current SSRC.
        report: rtcp::ReportBlock,
    },
    /// Something that the owner may want to know.
    Event(Event),
}

/// Something that happened inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// The first frame of a track, or the first one after a silence, arrived. Comes before the frame's packets.
    TrackActive {
        /// The track.
        track: TrackId,
    },
    /// No frame has arrived on an active track for [`Config::silence_after`](crate::Config::silence_after).
    TrackSilent {
        /// The track.
        track: TrackId,
    },
    /// A listener was not handed these frames and will not be: the history went past them before its leg was up or the
    /// relay drained, or they came too late for its order, or its leg wants no replay. Comes before the next packet to
    /// that listener.
    FramesSkipped {
        /// The listener.
        listener: ListenerId,
        /// The first position that is missing, if that is still known; else the one after the highest handed out.
        from: u64,
        /// How many frames arrived and were not handed out.
        count: u64,
    },
    /// A switch is done: nothing more comes for `leg`, and nothing more is needed from it. The owner closes it.
    ///
    /// Comes at most once for a leg, and before its [`Closed`](Self::Closed).
    /// Nothing more comes for, or is needed from, this leg: another one has taken over. The owner closes it.
    LegSpent {
        /// The leg that is spent.
        leg: LegId,
        /// The leg that took over.
        to: LegId,
        /// The cut: the first position that is the other leg's.
        position: u64,
        /// Frames that were handed out on the new leg and may have been heard on the old one; 0 for a publisher's.
        replayed: u64,
        /// Positions before the cut that are missing, as far as is known now.
        gap_frames: u64,
    },
    /// These positions were holes when the history went past them: no leg brought them in time, none ever will.
    FramesLost {
        /// The track.
        track: TrackId,
        /// The first position that is lost.
        from: u64,
        /// How many are lost, in a row.
        count: u64,
    },
    /// This id is closed, by whatever call. Comes exactly once for each track, leg and listener that was open.
    Closed {
        /// Whose id it was.
        peer: Peer,
    },
}

/// A packet for one listener: the frame, shared, and this leg's own header.
#[derive(Clone, Copy, Debug)]
pub struct OutboundPacket<'a> {
    /// Whom it is for.
    pub listener: ListenerId,
    /// The leg to send it on.
    pub leg: LegId,
    /// The leg's SSRC, one for its life.
    pub ssrc: u32,
    /// The leg's payload type.
    pub payload_type: u8,
    /// The 48-bit SRTP packet index: rollover counter and sequence number (RFC 3711 §3.3.1).
    ///
    /// Affine in the frame's position; the first one of a leg is below 2^15, with a rollover counter of 0.
    pub index: u64,
    /// Counts the leg's lines: on one line the index is the position plus a constant.
    ///
    /// A new one begins where that relation changes: after [`Relay::select`](crate::Relay::select),
    /// [`Relay::resume`](crate::Relay::resume) and a step over 2^15 positions. An index comes again only on the same
    /// line, for the same position and so for the same packet, marked [`replay`](Self::replay).
    pub line: u64,
    /// The RTP timestamp, affine in the frame's media time.
    pub timestamp: u32,
    /// The frame, as stored in the history.
    pub frame: Frame<'a>,
    /// It was settled before: the position was handed to this listener, or told as skipped.
    pub replay: bool,
    /// The leg's header extensions.
    pub extensions: &'a ExtensionIds,
}

impl OutboundPacket<'_> {
    /// The RTP sequence number: the low 16 bits of [`index`](Self::index).
    #[must_use]
    pub const fn sequence(&self) -> u16 {
        self.index as u16
    }

    /// The packet's header, ready to be written.
    #[must_use]
    pub fn header(&self) -> Emit {
        Emit {
            marker: self.frame.marker,
            payload_type: self.payload_type,
            sequence: self.sequence(),
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            extensions: self.extensions.values(self.frame.audio_level, self.frame.capture_time),
        }
    }

    /// Writes the whole RTP packet; returns its length. Does not allocate.
    ///
    /// # Errors
    ///
    /// [`WriteError::NoSpace`] if `out` is too short. `FIXED_BYTES + 64 + payload` bytes are always enough.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WriteError> {
        self.header().write(self.frame.payload, out)
    }
}

/// What came back on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// From a publisher: its clocks.
    SenderReport(rtcp::SenderReport),
    /// From a listener: what it received.
    ReceiverReport(rtcp::ReportBlock),
    /// From a listener: what it misses. Answered from the history.
    Nack(rtcp::Nack),
    /// From a listener's transport that knows: every position up to and with this one was delivered.
    Delivered(u64),
    /// The far end says that it leaves. Counted; the owner of the transport closes.
    Bye,
}

/// What became of a packet or of feedback: the sender's doing, so counted, never an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Taken.
    Accepted,
    /// Its position is in the history already.
    Duplicate,
    /// Older than what the history can still place.
    TooLate,
    /// Older than the first packet of its source.
    BeforeStart,
    /// A jump in sequence or time, or a source that was replaced: the next packet in sequence confirms it.
    Suspicious,
    /// Over the packet rate or the bit rate.
    RateLimited,
    /// The payload is longer than the limit.
    TooLarge,
    /// No payload.
    Empty,
    /// Not the payload type that the leg negotiated.
    WrongPayloadType,
    /// The leg is down.
    LegDown,
    /// A leg of this kind does not send that: media on a listener's leg, or the other side's report.
    WrongDirection,
    /// Feedback about an SSRC that the leg does not have.
    WrongSsrc,
    /// No such leg, or no longer.
    UnknownLeg,
    /// Kept until it is known that the track's other publisher leg does not bring it, or what is before it.
    Held,
    /// The leg's epoch is over: one of a higher epoch has the track (I8).
    Fenced,
    /// Its carried position is further ahead than the history reaches.
    Ahead,
}

impl Verdict {
    /// Every verdict, in order.
    pub const ALL: [Self; 16] = [
        Self::Accepted,
        Self::Duplicate,
        Self::TooLate,
        Self::BeforeStart,
        Self::Suspicious,
        Self::RateLimited,
        Self::TooLarge,
        Self::Empty,
        Self::WrongPayloadType,
        Self::LegDown,
        Self::WrongDirection,
        Self::WrongSsrc,
        Self::UnknownLeg,
        Self::Held,
        Self::Fenced,
        Self::Ahead,
    ];
}

/// When to call [`Relay::handle_timeout`](crate::Relay::handle_timeout) at the latest, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// What for.
    pub why: Reason,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A track may have fallen silent.
    Silence(TrackId),
    /// A report is due on a leg.
    Report(LegId),
    /// A frame of a publisher's second leg has waited long enough.
    Merge(TrackId),
    /// The next frame of a replay is due on a listener's leg.
    Replay(LegId),
    /// A hole has been waited for long enough on a listener's leg in order of position.
    Hole(LegId),
}

/// Why something could not be opened: the owner's mistake, or a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such track, or no longer.
    #[error("unknown track {0}")]
    UnknownTrack(TrackId),
    /// The track has two publisher legs of this epoch; close one first.
    #[error("{0} has its publisher legs already")]
    PublisherExists(TrackId),
    /// The track belongs to a higher epoch (I8).
    #[error("the track is owned by epoch {epoch}")]
    Fenced {
        /// The track's epoch.
        epoch: u64,
    },
    /// The name is empty or too long.
    #[error("a track name has 1 to {MAX_TRACK_NAME_BYTES} bytes, not {0}")]
    TrackName(usize),
    /// The payload type has more than 7 bits.
    #[error("payload type {0} is above 127")]
    PayloadType(u8),
    /// An extension id is 0 or 15, or used twice (RFC 8285 §4.2).
    #[error("header extension id {0} is reserved or used twice")]
    ExtensionId(u8),
    /// A configured limit is reached.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Which limit.
        what: Limit,
        /// Its value.
        limit: usize,
    },
    /// No such listener, or no longer.
    #[error("unknown listener {0}")]
    UnknownListener(ListenerId),
    /// The listener has two legs; close one first.
    #[error("{0} has two legs already")]
    LegExists(ListenerId),
    /// Too many closed events wait to be drained.
    #[error("{0} closed events wait to be drained")]
    Undrained(usize),
}

/// Why a switch was not ordered: the owner's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// No such leg, or no longer.
    #[error("unknown leg {0}")]
    UnknownLeg(LegId),
    /// There is no other leg to switch from.
    #[error("{0} is the only leg")]
    OnlyLeg(LegId),
    /// The leg is not up.
    #[error("{0} is not up")]
    NotUp(LegId),
    /// The leg was switched from; it does not come back.
    #[error("{0} is spent")]
    Spent(LegId),
}

/// Why a listener could not be given another track: the owner's mistake, or a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// No such listener, or no longer.
    #[error("unknown listener {0}")]
    UnknownListener(ListenerId),
    /// No such track, or no longer.
    #[error("unknown track {0}")]
    UnknownTrack(TrackId),
    /// The track has as many listeners as it may have.
    #[error("the limit of {0} listeners per track is reached")]
    Limit(usize),
}

/// Why nothing is replayed: the owner's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// No such leg, or no longer.
    #[error("unknown leg {0}")]
    UnknownLeg(LegId),
    /// It is a publisher's leg.
    #[error("{0} is a publisher's leg")]
    WrongDirection(LegId),
    /// The leg was switched from, or not yet switched to.
    #[error("{0} is not the leg that its listener is sent on")]
    NotLive(LegId),
}

/// No such listener, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown listener {0}")]
pub struct UnknownListener(pub ListenerId);

/// A limit of the [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`Config::max_tracks`](crate::Config::max_tracks)
    Tracks,
    /// [`Config::max_listeners`](crate::Config::max_listeners)
    Listeners,
    /// [`Config::max_listeners_per_track`](crate::Config::max_listeners_per_track)
    ListenersPerTrack,
    /// [`Config::max_legs`](crate::Config::max_legs)
    Legs,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tracks => "tracks",
            Self::Listeners => "listeners",
            Self::ListenersPerTrack => "listeners per track",
            Self::Legs => "legs",
        })
    }
}
