//! The table of contents of an Opus packet (RFC 6716 §3.1): what the first bytes say about the rest.
//!
//! The relay never decodes. It needs a packet's duration (media time moves by it), whether it is DTX, and for
//! its statistics the mode and the bandwidth. Not here: the lengths of the frames inside.

/// Longest duration of a packet in 48 kHz ticks: 120 ms (RFC 6716 §3.2.5, R5).
pub const MAX_PACKET_TICKS: u32 = 5_760;

/// What an Opus packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toc {
    config: u8,
    stereo: bool,
    frames: u8,
}

impl Toc {
    /// Reads the table of contents at the start of `payload`.
    ///
    /// # Errors
    ///
    /// [`TocError`] if the payload cannot be an Opus packet.
    pub fn parse(payload: &[u8]) -> Result<Self, TocError> {
        let &first = payload.first().ok_or(TocError::Empty)?;
        let frames = match first & 0x03 {
            0 => 1,
            1 | 2 => 2,
            _ => payload.get(1).ok_or(TocError::NoFrameCount)? & 0x3f,
        };
        if frames == 0 {
            return Err(TocError::NoFrames);
        }
        let toc = Self { config: first >> 3, stereo: first & 0x04 != 0, frames };
        match toc.duration() {
            0..=MAX_PACKET_TICKS => Ok(toc),
            ticks => Err(TocError::TooLong { ticks }),
        }
    }

    /// The configuration number, 0–31.
    #[must_use]
    pub const fn config(self) -> u8 {
        self.config
    }

    /// Says whether the packet is coded in stereo.
    #[must_use]
    pub const fn is_stereo(self) -> bool {
        self.stereo
    }

    /// Opus frames in the packet, 1–48.
    #[must_use]
    pub const fn frames(self) -> u8 {
        self.frames
    }

    /// The coding mode.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self.config {
            0..=11 => Mode::Silk,
            12..=15 => Mode::Hybrid,
            _ => Mode::Celt,
        }
    }

    /// The audio bandwidth.
    #[must_use]
    pub const fn bandwidth(self) -> Bandwidth {
        match self.config {
            0..=3 | 16..=19 => Bandwidth::Narrow,
            4..=7 => Bandwidth::Medium,
            8..=11 | 20..=23 => Bandwidth::Wide,
            12 | 13 | 24..=27 => Bandwidth::SuperWide,
            _ => Bandwidth::Full,
        }
    }

    /// Duration of one Opus frame in 48 kHz ticks: 120 (2.5 ms) to 2880 (60 ms).
    #[must_use]
    pub const fn frame_duration(self) -> u32 {
        match self.mode() {
            Mode::Silk => [480, 960, 1_920, 2_880][(self.config & 3) as usize],
            Mode::Hybrid => [480, 960][(self.config & 1) as usize],
            Mode::Celt => [120, 240, 480, 960][(self.config & 3) as usize],
        }
    }

    /// Duration of the packet in 48 kHz ticks, at most [`MAX_PACKET_TICKS`].
    #[must_use]
    pub const fn duration(self) -> u32 {
        self.frame_duration() * self.frames as u32
    }
}

/// Which of Opus' two codecs coded a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Speech: linear prediction.
    Silk,
    /// SILK below 8 kHz, CELT above.
    Hybrid,
    /// Music and low delay: transform.
    Celt,
}

/// Audio bandwidth of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bandwidth {
    /// 4 kHz.
    Narrow,
    /// 6 kHz.
    Medium,
    /// 8 kHz.
    Wide,
    /// 12 kHz.
    SuperWide,
    /// 20 kHz.
    Full,
}

/// Why a payload cannot be an Opus packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TocError {
    /// There is not even a first byte.
    #[error("an opus packet has at least one byte")]
    Empty,
    /// The first byte says that a frame count follows, and none does.
    #[error("the frame count is cut off")]
    NoFrameCount,
    /// The frame count is zero.
    #[error("an opus packet of no frames")]
    NoFrames,
    /// Longer than 120 ms.
    #[error("an opus packet of {ticks} ticks is longer than 120 ms")]
    TooLong {
        /// The duration that the packet claims, in 48 kHz ticks.
        ticks: u32,
    },
}

/// Says whether a payload is discontinuous transmission: nothing to code, so at most two bytes.
///
/// RFC 6716 §2.1.9 leaves the wire form open; encoders send the table of contents alone, or with one byte.
#[must_use]
pub const fn is_dtx(payload: &[u8]) -> bool {
    matches!(payload.len(), 1 | 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn toc(config: u8, stereo: bool, code: u8) -> u8 {
        (config << 3) | (u8::from(stereo) << 2) | code
    }

    #[test]
    fn every_config_has_the_mode_bandwidth_and_duration_of_table_2() {
        use Bandwidth::{Full, Medium, Narrow, SuperWide, Wide};
        // RFC 6716 table 2, durations in tenths of a millisecond.
        let rows: [(Mode, Bandwidth, &[u32]); 10] = [
            (Mode::Silk, Narrow, &[100, 200, 400, 600]),
            (Mode::Silk, Medium, &[100, 200, 400, 600]),
            (Mode::Silk, Wide, &[100, 200, 400, 600]),
            (Mode::Hybrid, SuperWide, &[100, 200]),
            (Mode::Hybrid, Full, &[100, 200]),
            (Mode::Celt, Narrow, &[25, 50, 100, 200]),
            (Mode::Celt, Wide, &[25, 50, 100, 200]),
            (Mode::Celt, SuperWide, &[25, 50, 100, 200]),
            (Mode::Celt, Full, &[25, 50, 100, 200]),
            (Mode::Celt, Full, &[]),
        ];
        let mut config = 0;
        for (mode, bandwidth, durations) in rows {
            for tenths in durations {
                let read = Toc::parse(&[toc(config, false, 0), 0xff]).unwrap();
                let expected = (config, mode, bandwidth, tenths * 48 / 10);
                assert_eq!((read.config(), read.mode(), read.bandwidth(), read.frame_duration()), expected);
                config += 1;
            }
        }
        assert_eq!(config, 32);
    }

    #[test]
    fn the_code_says_how_many_frames() {
        for (payload, frames) in [
            (vec![toc(1, false, 0), 9], 1),
            (vec![toc(1, false, 1), 9, 9], 2),
            (vec![toc(1, false, 2), 1, 9, 9], 2),
            (vec![toc(1, false, 3), 3, 9, 9, 9], 3),
            (vec![toc(1, false, 3), 0xc0 | 6, 9], 6),
        ] {
            let read = Toc::parse(&payload).unwrap();
            assert_eq!((read.frames(), read.duration()), (frames, 960 * u32::from(frames)), "{payload:?}");
        }
    }

    #[test]
    fn stereo_is_its_own_bit() {
        assert!(Toc::parse(&[toc(31, true, 0)]).unwrap().is_stereo());
        assert!(!Toc::parse(&[toc(31, false, 0)]).unwrap().is_stereo());
    }

    #[test]
    fn what_cannot_be_a_packet_is_refused_by_name() {
        assert_eq!(Toc::parse(&[]), Err(TocError::Empty));
        assert_eq!(Toc::parse(&[toc(1, false, 3)]), Err(TocError::NoFrameCount));
        assert_eq!(Toc::parse(&[toc(1, false, 3), 0xc0]), Err(TocError::NoFrames));
        assert_eq!(Toc::parse(&[toc(3, false, 3), 3]), Err(TocError::TooLong { ticks: 8_640 }));
    }

    #[test]
    fn exactly_120_ms_is_allowed_however_it_is_cut() {
        for (config, frames) in [(3, 2), (2, 3), (1, 6), (0, 12), (16, 48)] {
            let read = Toc::parse(&[toc(config, false, 3), frames]).unwrap();
            assert_eq!(read.duration(), MAX_PACKET_TICKS);
            assert!(Toc::parse(&[toc(config, false, 3), frames + 1]).is_err());
        }
    }

    #[test]
    fn one_or_two_bytes_are_dtx_and_nothing_else_is() {
        let dtx: Vec<bool> = (0..5).map(|length| is_dtx(&[0x08; 5][..length])).collect();
        assert_eq!(dtx, [false, true, true, false, false]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_within_bounds(payload in prop::collection::vec(any::<u8>(), 0..8)) {
            if let Ok(read) = Toc::parse(&payload) {
                prop_assert!((120..=MAX_PACKET_TICKS).contains(&read.duration()));
                prop_assert!((1..=48).contains(&read.frames()));
                prop_assert_eq!(read.duration() % read.frame_duration(), 0);
            }
        }
    }
}
