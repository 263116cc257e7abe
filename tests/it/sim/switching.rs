//! Worlds of switches: legs of speakers and listeners are replaced, lost and brought back, and nobody may hear it.
//!
//! `RELAY_SEEDS=a..b` runs other seeds than the first 10 000, `RELAY_THREADS` on so many threads. A campaign of more is
//! `cargo run --release -p relay-tests --bin campaign`; it also replays one seed and prints its script.

use std::time::Duration;

use relay_engine::Verdict;
use relay_tests::campaign::{check_fed, check_script, check_switching, run_seeds, seeds, threads};
use relay_tests::switching::script::Script;
use relay_tests::switching::{Count, Report};

mod mutation;

/// What fails, with the command that replays it.
fn fail(failures: &[(u64, String)], with: &str) -> String {
    let lines = failures.iter().take(20).map(|(seed, what)| {
        format!("{what}\n  replay: {with}RELAY_SEED={seed} cargo run --release -p relay-tests --bin campaign")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_world_of_switches_keeps_every_promise() {
    let seeds = seeds(0..10_000);
    let done = run_seeds(&seeds, threads(), check_switching);
    eprintln!("{seeds:?}: {} fail, {:?}\n{}", done.failures.len(), done.total, fail(&done.failures, ""));
    assert!(done.failures.is_empty(), "{} of {seeds:?} fail", done.failures.len());
    if seeds.end - seeds.start >= 2_000 {
        goes_everywhere(&done.total);
    }
}

/// Speakers at home, listeners at a relay that home feeds: the oracle, which knows of one, holds the two to what it promises.
#[test]
fn a_relay_that_is_fed_keeps_every_promise_of_the_one_that_feeds_it() {
    let seeds = seeds(0..2_000);
    let done = run_seeds(&seeds, threads(), check_fed);
    eprintln!("{seeds:?}: {} fail\n{}", done.failures.len(), fail(&done.failures, "RELAY_FED=1 "));
    assert!(done.failures.is_empty(), "{} of {seeds:?} fail", done.failures.len());
    assert!(
        done.total.of(Count::Replayed) >= 100 && done.total.of(Count::Resumed) >= 100,
        "{:?}",
        done.total
    );
}

/// Worlds in which something was wrong, one for each kind.
fn keep(seeds: &[u64]) {
    for &seed in seeds {
        check_switching(seed).unwrap_or_else(|what| panic!("{seed}: {what}"));
    }
}

/// Who resumes has what is before: a switch before it has said anything hands out all since.
#[test]
fn a_switch_soon_after_a_resumption_repeats_what_is_under_way() {
    keep(&[2123]);
}

/// A leg in order of position waits for holes and is paced behind them; the pace is that of its longest backlog.
#[test]
fn legs_in_order_catch_up_behind_holes() {
    keep(&[3675, 3836, 6095, 8239, 17_673]);
}

/// What arrives while late frames are made good waits for its turn.
#[test]
fn late_frames_below_the_first_are_made_good_at_the_pace() {
    keep(&[6383, 15_226, 144_616, 184_989, 235_266]);
}

/// A switch to a leg that is ahead waits until the other one is there, and drops nothing on the way; by arrival, the frame
/// that comes when time is over is the next one.
#[test]
fn a_splice_of_separate_encodings_leaves_no_gap() {
    keep(&[16_944, 22_148, 42_048, 42_712, 115_037, 29_326, 69_577, 90_330, 244_886]);
}

/// A rest shows in the splices of what arrives until it is over, and so does a dark path. An encoder that another one
/// stood in for begins anew.
#[test]
fn a_splice_after_a_rest_may_show_it() {
    keep(&[12_752, 13_303, 21_129, 27_133, 29_118, 30_625, 65_416]);
}

/// What is sent again from before a stream began is older than it, whichever leg brings it and whenever.
#[test]
fn what_is_sent_again_from_before_a_stream_is_not_appended() {
    keep(&[18_529, 25_928, 28_824, 32_057, 37_530, 60_973]);
}

/// What may fill a hole of a stream of a leg that is gone waits for proof.
#[test]
fn what_is_sent_again_and_was_never_there_waits_for_proof() {
    keep(&[105_449, 153_260, 165_588, 175_214]);
}

/// Capture times are believed as far as the earliest of the frames before says, and back to just before the history.
#[test]
fn capture_times_are_believed_after_frames_that_came_late() {
    keep(&[27_747, 40_122, 62_725, 249_163, 244_959]);
}

/// A leg begins so far back that its live frames set the clocks far ahead: what the other one holds is where they say then.
#[test]
fn what_is_held_when_clocks_are_set_anew_is_not_dropped() {
    keep(&[7_043_726]);
}

/// A leg that rests may have frames on their way that the new one lost.
#[test]
fn a_leg_that_rests_is_not_spent_before_the_path_skew_is_over() {
    keep(&[21_051, 211_452, 299_308]);
}

/// The numbers of a leg before a splice and before what it sent again are both remembered.
#[test]
fn what_is_sent_again_over_a_splice_finds_its_place() {
    keep(&[273_877]);
}

/// Frames of a twin that nothing of the newest stretch has proved to be one.
#[test]
fn what_nothing_proves_to_be_a_twin_may_be_given_up() {
    keep(&[
        15_021, 27_358, 26_211, 47_816, 121_840, 120_164, 62_726, 93_971, 195_835, 103_053, 137_187, 159_586,
        229_349, 272_593,
    ]);
}

/// Another owner begins after what the legs before it held; a short history has no room for what comes with its newest.
#[test]
fn frames_that_come_at_once_with_newer_ones_are_counted_right() {
    keep(&[117_163, 170_755, 201_611, 81_476]);
}

/// What is handed out below an acknowledged position, because it was a hole then, is repeated until it is acknowledged.
#[test]
fn late_frames_of_legs_in_order_are_repeated_though_later_ones_were_acknowledged() {
    keep(&[3441, 13_818]);
}

/// The old leg's frames may be under way when it is called spent, also before anything was acknowledged.
#[test]
fn a_switch_before_the_first_acknowledgement_repeats_what_may_be_under_way() {
    keep(&[10_176, 26_242, 26_486]);
}

/// Nothing later shows that the last packet before a rest was lost.
#[test]
fn the_last_packet_before_a_rest_is_sent_again() {
    keep(&[5712]);
}

/// Frames that came out of order are counted by what is held, not by how many came after them.
#[test]
fn what_the_history_lost_is_told_by_its_positions() {
    keep(&[19_384, 23_659, 81_476]);
}

/// At the cut all is told that the history lost of what waited for its pace.
#[test]
fn a_cut_behind_a_jump_tells_what_was_pushed_out() {
    keep(&[42_393]);
}

/// What fills a hole goes before what waits behind it, and at the pace.
#[test]
fn a_leg_in_order_waits_while_its_hole_is_filled() {
    keep(&[47_335]);
}

/// A line that is not its leg's first reaches down to the first hole that may be filled.
#[test]
fn late_frames_have_their_numbers_on_a_later_line() {
    keep(&[30_392]);
}

/// The first frames of an ordered leg that come together go out in order.
#[test]
fn the_first_frames_of_a_leg_in_order_may_overtake_each_other() {
    keep(&[100_519, 113_334]);
}

/// Answers to NACKs take their share of the pace from a replay, and a second leg has a pace of its own.
#[test]
fn a_replay_shares_its_pace_with_answers() {
    keep(&[104_719, 112_145]);
}

/// Frames that come late, below the first that a listener had, take time on both of its legs, and at the end of the world.
#[test]
fn what_fills_holes_that_nobody_counted_on_goes_at_the_pace() {
    keep(&[203_508, 204_098]);
}

/// Only a call tells the relay the time: one that is not made makes nothing due.
#[test]
fn nothing_is_due_before_the_relay_is_told_the_time() {
    keep(&[521_880, 614_428, 655_085]);
}

/// A listener that is not up is told of what it missed, and not of what is from before it began, though the log forgets it.
#[test]
fn late_frames_from_before_a_listener_began_are_not_told_as_skipped() {
    keep(&[304_736]);
}

/// A report about what was not handed out on its leg yet says nothing, and all is repeated.
#[test]
fn a_report_of_what_a_leg_did_not_bring_says_nothing() {
    keep(&[346_129]);
}

/// What is late for the old leg is late for the new one: it takes nothing of the pace of what is new.
#[test]
fn late_frames_after_a_cut_do_not_hold_up_what_is_new() {
    keep(&[676_113]);
}

/// What comes with the return of a speaker's leg is from before the live edge of who is resumed after it.
#[test]
fn who_is_resumed_begins_behind_what_came_at_the_same_time() {
    keep(&[845_472]);
}

/// Late frames that were handed out and not acknowledged come on the new leg too, at the pace.
#[test]
fn a_switch_repeats_late_frames_and_takes_its_time() {
    keep(&[350_965]);
}

/// What fills a hole before a selected track's first frame has its place after the old track.
#[test]
fn a_hole_before_the_first_frame_of_a_track_has_room_on_the_line() {
    keep(&[753_752]);
}

/// What proves where a frame belongs is any frame that both legs brought, or a clock that agrees with its numbers; without
/// proof its numbers are believed when its leg is gone.
#[test]
fn what_waits_for_proof_is_not_lost() {
    keep(&[400_721, 582_920, 652_958, 775_922, 793_673, 846_928]);
}

/// A leg that led and leads again goes on with its numbers and times.
#[test]
fn a_leg_that_leads_again_goes_on_where_it_was() {
    keep(&[447_377, 491_781, 608_683, 692_637]);
}

/// Twins are known also while the one that leads is not lined up yet. A splice that fits by luck is one all the same.
#[test]
fn twins_are_known_whichever_of_them_leads() {
    keep(&[457_831, 532_559, 900_390]);
}

/// What was on its way on a leg that is gone shows in the splice after the one to what the leg had brought.
#[test]
fn what_a_lost_leg_had_under_way_may_show_in_the_next_splice() {
    keep(&[552_320, 676_600, 739_990, 979_904]);
}

/// Frames from before the first, and those of holes that only numbers tell, are not appended.
#[test]
fn what_is_old_by_its_numbers_or_its_clock_is_not_appended() {
    keep(&[639_355, 889_130, 928_096]);
}

/// A leg that is spent, leads again while the new one is down, and is switched from again.
#[test]
fn a_leg_is_told_of_as_spent_once() {
    keep(&[840_565]);
}

/// A live frame of the stream that another leg sends again is known by its numbers, however old that is and though nothing
/// but its arrival says when it was.
#[test]
fn what_comes_far_ahead_of_what_is_sent_again_by_arrival_alone_is_of_its_stream() {
    keep(&[921_992]);
}

/// A campaign in which something never happens says nothing about it.
fn goes_everywhere(total: &Report) {
    for what in Count::ALL {
        assert!(total.of(what) >= 100, "{what:?} only {} times", total.of(what));
    }
    for verdict in [Verdict::Accepted, Verdict::Duplicate, Verdict::Held, Verdict::Fenced, Verdict::LegDown] {
        let count = total.verdicts[verdict as usize];
        assert!(count >= 100, "{verdict:?} only {count} times");
    }
}

/// 1000 switches of the speaker, and 1000 of its 200 listeners, at 2 % loss with disorder and duplicates both ways: the
/// far ends have every frame once and in order.
#[test]
fn a_thousand_switches_before_two_hundred_listeners_lose_nothing() {
    let script = Script::thousand_switches(7, 200, 1_000);
    let report = check_script(&script).unwrap_or_else(|what| panic!("{what}"));
    eprintln!("{report:?}");
    assert!(report.of(Count::SpeakerSwitch) >= 1_000, "{report:?}");
    assert!(report.of(Count::ListenerSwitch) >= 1_000, "{report:?}");
    assert!(report.of(Count::Spent) >= 1_900, "{report:?}");
    assert_eq!((report.of(Count::Lost), report.of(Count::Skipped)), (0, 0), "{report:?}");
}

/// A gap of 0: while one leg is up, a switch delays nothing, as the oracle's rule L3 has it for each frame.
#[test]
fn worlds_without_troubles_need_no_replays_but_those_of_switches() {
    let script = Script::thousand_switches(3, 5, 50);
    let report = check_script(&script).unwrap_or_else(|what| panic!("{what}"));
    assert!(report.packets > 1_000 && report.of(Count::Resent) == 0, "{report:?}");
    assert!(script.end > Duration::from_secs(5));
}
