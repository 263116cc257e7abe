//! The demo's speakers: bundled speech, looped into tracks of a shard in real time.
//!
//! They are publishers like any other, only without a connection: their packets go to the media plane as if they had
//! come from one. Sequence numbers and timestamps go on over the loops, so listeners hear one endless stream.

use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use relay_engine::rtp::{CaptureTime, Emit, ExtensionIds, NtpTime, Packet};
use relay_engine::{LegId, LegSpec, OpenError, Peer, TrackId};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::ogg;
use crate::client::pace::Pacer;
use crate::shard::{ShardError, Shards};

/// Bundled recordings by language.
const SPEECH: [(&str, &[u8]); 2] =
    [("en", include_bytes!("../assets/en.ogg")), ("es", include_bytes!("../assets/es.ogg"))];

/// As browsers number Opus; nothing on a wire depends on it.
const PAYLOAD_TYPE: u8 = 111;
const CAPTURE_TIME_ID: u8 = 1;
/// Between attempts while somebody else speaks on the track.
const RETRY: Duration = Duration::from_secs(1);
/// A header with one extension, and a packet of the recordings (at most 32 kb/s).
const PACKET_BYTES: usize = 512;

/// Languages that there is a recording for.
pub fn languages() -> impl Iterator<Item = &'static str> {
    SPEECH.iter().map(|(language, _)| *language)
}

/// Speaks on the given tracks, named by language, until the task is aborted or the tracks are closed. Needs a tokio runtime.
///
/// A track without a recording in its language is left silent. A track that has a publisher is waited for.
pub fn run(shard: Shards, tracks: impl IntoIterator<Item = (String, TrackId)>) -> JoinHandle<()> {
    let mut speakers = JoinSet::new();
    for (language, track) in tracks {
        match recording(&language) {
            Some(packets) => {
                speakers.spawn(speak(shard.clone(), track, packets));
            }
            None => tracing::warn!(language, "no demo recording in this language: the track is silent"),
        }
    }
    // Aborting this task drops the set, which aborts the speakers, which close their legs.
    tokio::spawn(async move { while speakers.join_next().await.is_some() {} })
}

fn recording(language: &str) -> Option<Vec<ogg::Packet>> {
    let primary = language.split('-').next().unwrap_or_default();
    let (_, file) = SPEECH.iter().find(|(name, _)| name.eq_ignore_ascii_case(primary))?;
    let packets = ogg::Reader::new(*file).and_then(ogg::Reader::read_all);
    Some(packets.expect("the bundled recordings are tested"))
}

async fn speak(shard: Shards, track: TrackId, packets: Vec<ogg::Packet>) {
    let spec = LegSpec::new(PAYLOAD_TYPE).extensions(extension_ids()).reports(false);
    loop {
        match shard.open_publisher(track, spec).await {
            Ok(leg) => {
                let leg = Leg { shard: shard.clone(), id: leg };
                leg.speak(&packets).await;
            }
            Err(error @ (ShardError::Closed | ShardError::Open(OpenError::UnknownTrack(_)))) => {
                tracing::debug!(%error, "the demo ends on this track");
                return;
            }
            // Somebody else speaks, or a limit is reached: neither for ever.
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn extension_ids() -> ExtensionIds {
    ExtensionIds { capture_time: Some(CAPTURE_TIME_ID), ..ExtensionIds::default() }
}

/// An open publisher leg; closed when dropped.
struct Leg {
    shard: Shards,
    id: LegId,
}

impl Leg {
    /// Speaks until the leg is closed by somebody else.
    async fn speak(&self, packets: &[ogg::Packet]) {
        self.shard.publisher_up(self.id);
        let mut speech = Speech::new(packets, Instant::now(), SystemTime::now());
        loop {
            for _ in packets {
                tokio::time::sleep_until(speech.pacer.due().into()).await;
                // A full queue is counted by the shard; the listeners hear a hole, as with any speaker.
                let _counted = self.shard.packet(self.id, speech.take(Instant::now()));
            }
            // Once per loop is often enough to learn that the session is gone.
            if !matches!(self.shard.leg_stats(self.id).await, Ok(Some(_))) {
                return;
            }
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.shard.close(Peer::Leg(self.id));
    }
}

/// The endless stream of one recording.
struct Speech<'a> {
    packets: std::iter::Cycle<std::slice::Iter<'a, ogg::Packet>>,
    pacer: Pacer,
    sequence: u16,
    ssrc: u32,
}

impl<'a> Speech<'a> {
    fn new(packets: &'a [ogg::Packet], now: Instant, wall: SystemTime) -> Self {
        let pacer = Pacer::new(now, wall, rand::random());
        Self { packets: packets.iter().cycle(), pacer, sequence: rand::random(), ssrc: rand::random() }
    }

    /// The packet that is due.
    fn take(&mut self, now: Instant) -> Packet {
        let recorded = self.packets.next().expect("a recording has packets");
        let stamp = self.pacer.take(now, recorded.samples);
        let captured = CaptureTime { time: NtpTime::from_wall(stamp.captured), offset: None };
        let header = Emit {
            marker: stamp.marker,
            payload_type: PAYLOAD_TYPE,
            sequence: self.sequence,
            timestamp: stamp.timestamp,
            ssrc: self.ssrc,
            extensions: extension_ids().values(None, Some(captured)),
        };
        self.sequence = self.sequence.wrapping_add(1);
        packet(&header, &recorded.data)
    }
}

fn packet(header: &Emit, payload: &Bytes) -> Packet {
    let mut datagram = BytesMut::zeroed(PACKET_BYTES);
    let length = header.write(payload, &mut datagram).expect("the recordings have small packets");
    datagram.truncate(length);
    Packet::parse(datagram.freeze()).expect("it was written as a packet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_found_by_primary_language() {
        assert_eq!(languages().collect::<Vec<_>>(), ["en", "es"]);
        for tag in ["en", "es", "en-US", "ES-419"] {
            assert!(recording(tag).is_some(), "{tag}");
        }
        for tag in ["", "e", "eng", "de"] {
            assert!(recording(tag).is_none(), "{tag}");
        }
    }

    #[test]
    fn the_stream_goes_on_over_the_loops() {
        let recorded = recording("es").unwrap();
        let start = Instant::now();
        let wall = SystemTime::now();
        let mut speech = Speech::new(&recorded, start, wall);
        let rounds = recorded.len() * 2 + 10;
        let packets: Vec<Packet> = (0..rounds)
            .map(|_| {
                let due = speech.pacer.due();
                speech.take(due)
            })
            .collect();
        for (index, packet) in packets.iter().enumerate() {
            assert_eq!(packet.payload, recorded[index % recorded.len()].data);
            assert_eq!(packet.header.marker, index == 0);
            assert_eq!(packet.header.ssrc, packets[0].header.ssrc);
            let captured = packet.header.extensions.capture_time(CAPTURE_TIME_ID).unwrap();
            let expected = wall + Duration::from_millis(20) * index as u32;
            assert_eq!(captured.time, NtpTime::from_wall(expected));
        }
        for pair in packets.windows(2) {
            assert_eq!(pair[1].header.sequence, pair[0].header.sequence.wrapping_add(1));
            assert_eq!(pair[1].header.timestamp, pair[0].header.timestamp.wrapping_add(960));
        }
    }

    #[tokio::test]
    async fn a_speaker_feeds_its_track_and_leaves_it_free() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (shard, thread) = Shards::spawn(&[socket], &crate::shard::ShardConfig::default().into()).unwrap();
        let track = shard.open_track("en").await.unwrap();
        let silent = shard.open_track("de").await.unwrap();
        let demo = run(shard.clone(), [("en".to_owned(), track), ("de".to_owned(), silent)]);
        let frames = async |track| shard.track_stats(track).await.unwrap().unwrap().frames;
        let heard = async {
            while frames(track).await < 10 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the demo speaks");
        assert_eq!(frames(silent).await, 0);

        demo.abort();
        drop(demo.await);
        let spec = LegSpec::new(PAYLOAD_TYPE);
        let free = async {
            while shard.open_publisher(track, spec).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), free).await.expect("the track is free again");
        shard.shutdown();
        thread.join().expect("the media thread ends well");
    }
}
