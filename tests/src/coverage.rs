//! What really happened in a run: a generator promises little until it is counted what reached the relay.

/// Something that worlds are generated for. Counted where the oracle has seen it, on both sides of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Incident {
    /// A frame was taken in ahead of its turn: frames before it are lost or late.
    Hole,
    /// A frame was taken in after one that follows it.
    Overtaken,
    /// The same, and another source had begun in between: it fills a hole that the source before left.
    Straggler,
    /// A publisher's sequence number wrapped.
    SequenceWrap,
    /// A publisher's timestamp wrapped.
    TimestampWrap,
    /// A publisher's timestamp went on by more than its sequence number says: DTX.
    Gap,
    /// A publisher went on under another SSRC.
    NewSource,
    /// A publisher's sequence number jumped.
    Jump,
    /// Another publisher's leg went on with a track.
    Return,
    /// A track fell silent.
    Silence,
    /// A listener that was up before the track's first frame was handed a frame.
    EarlyListener,
    /// A listener opened on a track that another had left.
    Rejoin,
    /// A listener was told of frames that it missed.
    Skipped,
    /// A leg's own sequence number wrapped.
    LegWrap,
    /// A leg missed more positions than its far end's rollover counter can follow.
    LegStep,
    /// A listener's leg was sent a report.
    SenderReport,
    /// A publisher's leg was sent a report.
    ReceiverReport,
    /// A publisher's leg was sent a report that tells of loss.
    ReportedLoss,
    /// A publisher's leg was sent a report that answers one of its own.
    AnsweredReport,
    /// A listener asked for what it missed.
    Nack,
}

impl Incident {
    /// All of them, in order.
    pub const ALL: [Self; 20] = [
        Self::Hole,
        Self::Overtaken,
        Self::Straggler,
        Self::SequenceWrap,
        Self::TimestampWrap,
        Self::Gap,
        Self::NewSource,
        Self::Jump,
        Self::Return,
        Self::Silence,
        Self::EarlyListener,
        Self::Rejoin,
        Self::Skipped,
        Self::LegWrap,
        Self::LegStep,
        Self::SenderReport,
        Self::ReceiverReport,
        Self::ReportedLoss,
        Self::AnsweredReport,
        Self::Nack,
    ];
}

/// How often each happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: [u64; Incident::ALL.len()],
}

impl Coverage {
    /// How often it happened.
    #[must_use]
    pub const fn of(&self, incident: Incident) -> u64 {
        self.counts[incident as usize]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    pub(crate) const fn count(&mut self, incident: Incident) {
        self.counts[incident as usize] += 1;
    }

    pub(crate) const fn count_if(&mut self, happened: bool, incident: Incident) {
        self.counts[incident as usize] += happened as u64;
    }
}
