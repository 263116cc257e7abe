//! What a listener wants: another track, a pause, frames again.

use super::harness::{Bench, Out, events, on, positions, replays};
use crate::rtp::rtcp::Nack;
use crate::{
    Config, Event, Feedback, LegId, LegSpec, LegState, Limit, ListenerId, OnReturn, OpenError, Order, Peer,
    ReplayError, SelectError, TrackId, UnknownListener, Verdict,
};

/// Two tracks with a publisher each, and a listener of the first.
struct Stage {
    bench: Bench,
    tracks: [TrackId; 2],
    publishers: [LegId; 2],
    listener: ListenerId,
    leg: LegId,
    sent: [u16; 2],
}

impl Stage {
    fn new(spec: LegSpec) -> Self {
        let mut bench = Bench::new(Config::new());
        let tracks = [bench.track(), bench.track()];
        let publishers = tracks.map(|track| bench.publisher(track));
        let (listener, leg) = bench.listener_of(tracks[0], spec);
        Self { bench, tracks, publishers, listener, leg, sent: [0, 0] }
    }

    /// A frame on a track, now.
    fn frame(&mut self, track: usize) -> Vec<Out> {
        let n = self.sent[track];
        self.sent[track] += 1;
        assert_eq!(self.bench.send(self.publishers[track], n, u32::from(n) * 960), Verdict::Accepted);
        self.bench.drain()
    }

    /// So many frames on both tracks, in real time.
    fn frames(&mut self, count: u16) -> Vec<Out> {
        let mut out = Vec::new();
        for _ in 0..count {
            self.bench.wait(20);
            out.extend(self.frame(0));
            out.extend(self.frame(1));
        }
        out
    }

    fn select(&mut self, track: usize) {
        self.bench.relay.select(self.bench.now, self.listener, self.tracks[track]).unwrap();
    }

    fn pause(&mut self) {
        self.bench.relay.pause(self.bench.now, self.listener).unwrap();
    }

    fn resume(&mut self) {
        self.bench.relay.resume(self.bench.now, self.listener).unwrap();
    }

    fn state(&mut self, state: LegState) {
        self.bench.relay.handle_leg(self.bench.now, self.leg, state);
    }

    fn nack(&mut self, first: u16, following: u16) -> Verdict {
        let media_ssrc = self.bench.relay.listener_stats(self.listener).unwrap().ssrc;
        let nack = Nack { sender_ssrc: 1, media_ssrc, first, following };
        self.bench.relay.handle_feedback(self.bench.now, self.leg, Feedback::Nack(nack))
    }

    fn skipped(&self) -> u64 {
        self.bench.relay.listener_stats(self.listener).unwrap().frames_skipped
    }
}

/// Index, line and timestamp of each packet.
fn wire(out: &[Out]) -> Vec<(u64, u64, u32)> {
    out.iter()
        .filter_map(|out| match *out {
            Out::Packet { index, line, timestamp, .. } => Some((index, line, timestamp)),
            _ => None,
        })
        .collect()
}

#[test]
fn another_track_goes_on_at_the_next_index_with_the_time_that_passed() {
    let mut stage = Stage::new(LegSpec::new(96));
    let before = *wire(&stage.frames(30)).last().unwrap();
    stage.frame(1);
    stage.select(1);
    stage.select(1);
    assert_eq!(stage.bench.drain(), [], "on a frame boundary");
    let out = stage.frames(2);
    assert_eq!(positions(&out, stage.listener), [31, 32], "the new track's live edge");
    let after = wire(&out);
    assert_eq!(after[0], (before.0 + 1, 1, before.2.wrapping_add(960)));
    assert_eq!(after[1], (before.0 + 2, 1, before.2.wrapping_add(1_920)));
    stage.bench.wait(1_000);
    stage.select(0);
    let back = wire(&stage.frames(1))[0];
    assert_eq!(back, (before.0 + 3, 2, before.2.wrapping_add(1_920 + 48_000 + 960)));
    assert_eq!(stage.skipped(), 0);
}

#[test]
fn a_selected_tracks_first_frame_never_overlaps_the_last_of_the_old_one() {
    let mut stage = Stage::new(LegSpec::new(96));
    let before = *wire(&stage.frames(30)).last().unwrap();
    stage.bench.wait(3);
    stage.select(1);
    let after = wire(&stage.frame(1));
    assert_eq!(after, [(before.0 + 1, 1, before.2.wrapping_add(960))], "3 ms later on the clock");
}

#[test]
fn what_fills_a_hole_before_a_selected_tracks_first_frame_comes_after_the_old_track() {
    let mut stage = Stage::new(LegSpec::new(96));
    let before = *wire(&stage.frames(30)).last().unwrap();
    stage.bench.wait(20);
    stage.select(1);
    stage.sent[1] += 50;
    let first = wire(&stage.frame(1))[0];
    stage.sent[1] = 30;
    let late = wire(&stage.frame(1))[0];
    assert_eq!((late.0, late.1), (before.0 + 1, 1), "the line's first index");
    assert_eq!(late.2, before.2.wrapping_add(2 * 960), "after the old track's");
    assert_eq!(first, (before.0 + 51, 1, before.2.wrapping_add(52 * 960)));
}

#[test]
fn a_track_may_be_selected_back_and_forth_before_anything_of_it_came() {
    let mut stage = Stage::new(LegSpec::new(96));
    let before = *wire(&stage.frames(3)).last().unwrap();
    for _ in 0..5 {
        stage.select(1);
        stage.bench.wait(10);
        stage.select(0);
        stage.bench.wait(10);
    }
    let after = wire(&stage.frame(0));
    assert_eq!(after, [(before.0 + 1, 1, before.2.wrapping_add(4_800))]);
}

#[test]
fn a_selection_while_catching_up_or_held_leaves_the_rest_behind_unsaid() {
    for up in [true, false] {
        let mut stage = Stage::new(LegSpec::new(96));
        stage.frames(5);
        stage.state(LegState::Down);
        stage.frames(50);
        if up {
            stage.state(LegState::Up);
            stage.bench.drain();
        }
        stage.select(1);
        let mut out = stage.frames(2);
        stage.state(LegState::Up);
        out.extend(stage.bench.rest(10));
        assert_eq!(positions(&out, stage.listener), [55, 56], "{up}");
        assert_eq!((events(&out), stage.skipped()), (vec![], 0));
    }
}

#[test]
fn a_selection_while_switching_cuts_at_once() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(50);
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(3));
    let new = stage.bench.relay.add_leg(stage.bench.now, stage.listener, LegSpec::new(96)).unwrap();
    stage.bench.relay.handle_leg(stage.bench.now, new, LegState::Up);
    stage.bench.relay.switch(stage.bench.now, new).unwrap();
    let before = wire(&stage.bench.drain());
    assert_eq!(before.len(), 10, "the burst");
    stage.select(1);
    let mut out = stage.bench.drain();
    let spent = Event::LegSpent { leg: stage.leg, to: new, position: 50, replayed: 10, gap_frames: 0 };
    assert_eq!(events(&out), [spent]);
    out.extend(stage.frames(2));
    assert_eq!(on(&out, new), [50, 51]);
    assert_eq!(wire(&out)[0].0, before[9].0 + 1, "the new leg's own numbers");
}

#[test]
fn only_open_tracks_with_room_can_be_selected() {
    let mut stage = Stage::new(LegSpec::new(96));
    let mut bench = Bench::new(Config::new().max_listeners_per_track(1));
    let (one, two) = (bench.track(), bench.track());
    let (first, _) = bench.listener(one);
    bench.listener(two);
    assert_eq!(bench.relay.select(bench.now, first, two), Err(SelectError::Limit(1)));
    let full = OpenError::Limit { what: Limit::ListenersPerTrack, limit: 1 };
    assert_eq!(bench.try_listener(one), Err(full), "it stayed where it was");
    let (listener, tracks) = (stage.listener, stage.tracks);
    stage.bench.close(Peer::Track(tracks[1]));
    let now = stage.bench.now;
    assert_eq!(stage.bench.relay.select(now, listener, tracks[1]), Err(SelectError::UnknownTrack(tracks[1])));
    stage.bench.close(Peer::Track(tracks[0]));
    assert_eq!(
        stage.bench.relay.select(now, listener, tracks[0]),
        Err(SelectError::UnknownListener(listener))
    );
    assert_eq!(stage.bench.relay.pause(now, listener), Err(UnknownListener(listener)));
    assert_eq!(stage.bench.relay.resume(now, listener), Err(UnknownListener(listener)));
    assert_eq!(stage.bench.relay.replay(now, stage.leg, None), Err(ReplayError::UnknownLeg(stage.leg)));
}

#[test]
fn a_pause_leaves_no_hole_in_rtp_and_is_no_loss() {
    for order in [Order::Arrival, Order::Position] {
        let mut stage = Stage::new(LegSpec::new(96).order(order));
        let before = *wire(&stage.frames(10)).last().unwrap();
        stage.pause();
        stage.pause();
        assert_eq!(positions(&stage.frames(50), stage.listener), []);
        assert!(stage.bench.relay.listener_stats(stage.listener).unwrap().paused);
        stage.resume();
        stage.resume();
        let out = stage.frames(2);
        assert_eq!(positions(&out, stage.listener), [60, 61]);
        let after = wire(&out);
        assert_eq!(after[0], (before.0 + 1, 1, before.2.wrapping_add(51 * 960)));
        assert_eq!((after[1].0, after[1].1), (before.0 + 2, 1));
        assert_eq!((events(&out), stage.skipped()), (vec![], 0));
    }
}

#[test]
fn a_pause_outlives_a_leg_that_goes_down_and_ends_a_switch() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(5);
    stage.pause();
    stage.state(LegState::Down);
    stage.frames(5);
    stage.state(LegState::Up);
    assert_eq!(positions(&stage.frames(5), stage.listener), []);
    let new = stage.bench.relay.add_leg(stage.bench.now, stage.listener, LegSpec::new(96)).unwrap();
    stage.bench.relay.handle_leg(stage.bench.now, new, LegState::Up);
    stage.bench.relay.switch(stage.bench.now, new).unwrap();
    let spent = Event::LegSpent { leg: stage.leg, to: new, position: 15, replayed: 0, gap_frames: 0 };
    assert_eq!(events(&stage.bench.drain()), [spent]);
    stage.resume();
    assert_eq!(on(&stage.frames(2), new), [15, 16]);
    assert_eq!(stage.skipped(), 0);
}

#[test]
fn a_listener_may_be_paused_before_it_ever_came_up() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, leg) = bench.try_listener(track).unwrap();
    bench.relay.pause(bench.now, listener).unwrap();
    bench.relay.handle_leg(bench.now, leg, LegState::Up);
    bench.next(publisher, 0);
    assert_eq!(bench.heard(listener), []);
    bench.relay.resume(bench.now, listener).unwrap();
    bench.next(publisher, 1);
    assert_eq!(bench.heard(listener), [1]);
}

#[test]
fn a_replay_comes_in_order_before_what_arrives_and_under_the_same_indices() {
    let mut stage = Stage::new(LegSpec::new(96));
    let first = wire(&stage.frames(50));
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, None), Ok(50), "all may be under way");
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(29));
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, None), Ok(20));
    let mut out = stage.bench.drain();
    out.extend(stage.frames(20));
    assert_eq!(positions(&out, stage.listener), (30..70).collect::<Vec<_>>());
    assert_eq!(replays(&out), 20);
    assert_eq!(wire(&out)[..20], first[30..]);
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, Some(68)), Ok(2));
    assert_eq!(positions(&stage.bench.drain(), stage.listener), [68, 69]);
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, Some(1 << 40)), Ok(0));
    let publisher = stage.publishers[0];
    let wrong = stage.bench.relay.replay(stage.bench.now, publisher, None);
    assert_eq!(wrong, Err(ReplayError::WrongDirection(publisher)));
    let new = stage.bench.relay.add_leg(stage.bench.now, stage.listener, LegSpec::new(96)).unwrap();
    assert_eq!(stage.bench.relay.replay(stage.bench.now, new, None), Err(ReplayError::NotLive(new)));
}

/// How many milliseconds of frames in real time it takes until they are no replays, and the most packets at once.
fn until_live(stage: &mut Stage) -> (u64, usize) {
    let (mut most, mut burst) = (0, stage.bench.drain());
    for ms in 1..3_000 {
        most = most.max(burst.len());
        if ms % 20 != 0 {
            burst = stage.bench.rest(1);
            continue;
        }
        stage.bench.wait(1);
        burst = stage.frame(0);
        if positions(&burst, stage.listener) == [u64::from(stage.sent[0]) - 1] {
            return (ms, most);
        }
    }
    panic!("never live");
}

#[test]
fn what_was_handed_out_before_goes_again_so_fast_that_what_is_new_hardly_waits() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(300);
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(49));
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, None), Ok(250), "5 s");
    let (ms, most) = until_live(&mut stage);
    assert!(ms <= 200 && most <= 25, "live after {ms} ms, {most} packets at once");
}

#[test]
fn replays_without_end_go_at_the_lower_rate() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(300);
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(49));
    let mut out = Vec::new();
    for _ in 0..1_000 {
        stage.bench.relay.replay(stage.bench.now, stage.leg, None).unwrap();
        out.extend(stage.bench.rest(10));
    }
    // 10 s of frames, what 4 times real time is in 10 s, and the bursts.
    assert!((2_400..=2_540).contains(&replays(&out)), "{}", replays(&out));
}

#[test]
fn a_replay_leaves_out_what_turns_out_to_be_there() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(50);
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, Some(10)), Ok(40));
    assert_eq!(positions(&stage.bench.drain(), stage.listener), (10..20).collect::<Vec<_>>(), "the burst");
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(47));
    assert_eq!(positions(&stage.frames(2), stage.listener), [48, 49, 50, 51]);
}

#[test]
fn a_replay_asked_for_while_the_leg_is_down_is_where_it_goes_on() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(20);
    stage.state(LegState::Down);
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, Some(15)), Ok(0));
    stage.frames(3);
    stage.state(LegState::Up);
    assert_eq!(positions(&stage.bench.drain(), stage.listener), (15..23).collect::<Vec<_>>());
}

#[test]
fn a_nack_is_answered_once_in_a_while_with_the_same_packets() {
    let mut stage = Stage::new(LegSpec::new(96));
    let first = wire(&stage.frames(50));
    let lost = first[40].0 as u16;
    assert_eq!(stage.nack(lost, 0b101), Verdict::Accepted);
    stage.nack(lost, 0);
    let out = stage.bench.drain();
    assert_eq!(wire(&out), [first[40], first[41], first[43]]);
    assert_eq!(replays(&out), 3);
    stage.nack(lost, 0);
    assert_eq!(stage.bench.drain(), [], "it is on its way");
    stage.bench.rest(100);
    stage.nack(lost, 0);
    assert_eq!(wire(&stage.bench.drain()), [first[40]]);
    stage.nack((first[49].0 + 1) as u16, u16::MAX);
    assert_eq!(stage.bench.drain(), [], "nobody can miss what was not sent");
    let stats = stage.bench.relay.listener_stats(stage.listener).unwrap();
    assert_eq!((stats.nacks, stats.nacked_packets, stats.replayed), (5, 23, 4));
}

#[test]
fn a_storm_of_nacks_is_answered_at_the_pace() {
    let mut stage = Stage::new(LegSpec::new(96));
    let first = wire(&stage.frames(500));
    let mut answered = 0;
    for ms in 0..1_000_u64 {
        for n in 0..20 {
            stage.nack((first[400].0 + (ms * 7 + n) % 90) as u16, u16::MAX);
        }
        answered += positions(&stage.bench.rest(1), stage.listener).len();
    }
    assert!((100..=210).contains(&answered), "{answered} in a second");
}

#[test]
fn a_nack_for_an_earlier_line_or_on_a_leg_that_is_not_up_is_not_answered() {
    let mut stage = Stage::new(LegSpec::new(96));
    let first = wire(&stage.frames(5));
    stage.select(1);
    stage.frames(5);
    stage.nack(first[4].0 as u16, 0);
    assert_eq!(stage.bench.drain(), []);
    stage.nack((first[4].0 + 2) as u16, 0);
    stage.state(LegState::Down);
    assert_eq!(stage.bench.drain(), []);
}

#[test]
fn a_listener_may_begin_in_the_past() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(50);
    let (listener, _) = stage.bench.listener_of(stage.tracks[0], LegSpec::new(96).resume_from(40));
    let out = stage.bench.drain();
    assert_eq!(positions(&out, listener), (40..50).collect::<Vec<_>>());
    assert_eq!((events(&out), replays(&out)), (vec![], 0));
    let (listener, _) = stage.bench.listener_of(stage.tracks[0], LegSpec::new(96).resume_from(1 << 40));
    assert_eq!(positions(&stage.frames(2), listener), [50, 51]);
}

#[test]
fn what_was_delivered_of_another_track_says_nothing_of_this_one() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(5);
    stage.select(1);
    stage.frames(3);
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(900));
    assert_eq!(stage.bench.relay.listener_stats(stage.listener).unwrap().acked, None);
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(6));
    assert_eq!(stage.bench.relay.listener_stats(stage.listener).unwrap().acked, Some(6));
}

#[test]
fn where_to_begin_on_a_track_means_nothing_on_another() {
    let mut stage = Stage::new(LegSpec::new(96));
    stage.frames(5);
    let spec = LegSpec::new(96).resume_from(2);
    (stage.listener, stage.leg) =
        stage.bench.relay.open_listener(stage.bench.now, stage.tracks[0], spec).unwrap();
    stage.select(1);
    stage.state(LegState::Up);
    assert_eq!(positions(&stage.frames(1), stage.listener), [5]);
}

#[test]
fn who_begins_before_the_history_is_told_what_is_gone() {
    let mut bench = Bench::new(Config::new().history_frames(10));
    let track = bench.track();
    let publisher = bench.publisher(track);
    (0..50).for_each(|n| assert_eq!(bench.next(publisher, n), Verdict::Accepted));
    bench.drain();
    for order in [Order::Arrival, Order::Position] {
        let (listener, _) = bench.listener_of(track, LegSpec::new(96).resume_from(5).order(order));
        let out = bench.drain();
        assert_eq!(out[0], Out::Event(Event::FramesSkipped { listener, from: 5, count: 35 }));
        assert_eq!(positions(&out, listener), (40..50).collect::<Vec<_>>());
    }
}

#[test]
fn who_wants_no_replay_is_told_what_it_missed_also_of_a_catch_up() {
    let mut stage = Stage::new(LegSpec::new(96).on_return(OnReturn::Live).resume_from(0));
    stage.frames(10);
    stage.state(LegState::Down);
    stage.frames(10);
    stage.state(LegState::Up);
    let out = stage.frames(2);
    assert_eq!(events(&out), [Event::FramesSkipped { listener: stage.listener, from: 10, count: 10 }]);
    assert_eq!(positions(&out, stage.listener), [20, 21]);
}

/// A listener of track 0 that heard `heard` frames, and chooses track 1 while it is paused.
fn chosen_while_paused(heard: u16) -> Stage {
    let mut stage = Stage::new(LegSpec::new(96).order(Order::Position));
    for _ in 0..heard {
        stage.bench.wait(20);
        stage.frame(0);
    }
    for _ in 0..5 {
        stage.frame(1);
    }
    stage.pause();
    stage.select(1);
    stage.bench.drain();
    stage
}

#[test]
fn what_is_acknowledged_of_the_old_track_after_another_was_chosen_in_a_pause_means_nothing() {
    let mut stage = chosen_while_paused(100);
    stage.bench.relay.handle_feedback(stage.bench.now, stage.leg, Feedback::Delivered(99));
    stage.resume();
    assert_eq!(stage.bench.relay.listener_stats(stage.listener).unwrap().acked, None);
    let heard = stage.frames(3);
    assert_eq!(positions(&heard, stage.listener), [5, 6, 7]);
    stage.state(LegState::Down);
    stage.state(LegState::Up);
    assert_eq!(positions(&stage.bench.rest(100), stage.listener), [5, 6, 7], "nobody acknowledged them");
}

#[test]
fn a_switch_in_a_pause_in_which_another_track_was_chosen_takes_nothing_over_from_the_old_one() {
    let mut stage = chosen_while_paused(100);
    let spec = LegSpec::new(96).order(Order::Position);
    let new = stage.bench.relay.add_leg(stage.bench.now, stage.listener, spec).unwrap();
    stage.bench.relay.handle_leg(stage.bench.now, new, LegState::Up);
    stage.bench.relay.switch(stage.bench.now, new).unwrap();
    stage.resume();
    stage.frames(2);
    stage.sent[1] += 1;
    stage.bench.wait(20);
    assert_eq!(positions(&stage.frame(1), stage.listener), [], "it waits for the hole");
    stage.bench.send(stage.publishers[1], 7, 7 * 960);
    let out = stage.bench.rest(400);
    assert_eq!((positions(&out, stage.listener), stage.skipped()), (vec![7, 8], 0));
}
