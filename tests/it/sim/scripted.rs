//! Worlds written by hand, in which the number of packets heard is known beforehand.

use std::time::Duration;

use relay_engine::{LegState, Verdict};
use relay_tests::link::{GilbertElliott, LinkSpec};
use relay_tests::oracle::LegTerms;
use relay_tests::scenario::{Action, Scenario};
use relay_tests::stream::StreamSpec;
use relay_tests::world::{Honest, Report, run};

const TERMS: LegTerms = LegTerms {
    payload_type: 111,
    ssrc: Some(99),
    reports: true,
    level_id: Some(1),
    capture_id: Some(2),
    mid: Some((3, "0")),
};

/// 50 frames in a second.
const STREAM: StreamSpec = StreamSpec {
    frame_ticks: 960,
    first_sequence: 65_530,
    first_timestamp: u32::MAX - 5_000,
    ssrc: 7,
    dtx: 0.0,
    longest_payload: 100,
    extensions: true,
    payload_type: 111,
};

fn at(ms: u64, action: Action) -> (Duration, Action) {
    (Duration::from_millis(ms), action)
}

fn publish(publisher: usize, stream: StreamSpec, link: LinkSpec) -> Action {
    Action::Publish { publisher, track: 0, stream, link, reports: true }
}

fn join(listener: usize) -> Action {
    Action::Join { listener, track: 0, terms: TERMS, link: LinkSpec::perfect() }
}

fn up(listener: usize) -> Action {
    Action::ListenerState(listener, LegState::Up)
}

fn down(listener: usize) -> Action {
    Action::ListenerState(listener, LegState::Down)
}

fn heard(actions: Vec<(Duration, Action)>) -> Report {
    run(&Scenario::scripted(actions), Duration::ZERO, &mut Honest)
        .unwrap_or_else(|failure| super::fail(&failure))
}

fn verdicts(report: &Report, verdict: Verdict) -> u64 {
    report.verdicts[verdict as usize]
}

#[test]
fn a_listener_that_comes_before_the_publisher_hears_the_first_frame_and_all_others() {
    let report = heard(vec![
        at(0, Action::OpenTrack),
        at(10, join(0)),
        at(20, up(0)),
        at(500, publish(0, STREAM, LinkSpec::perfect())),
        at(1_490, Action::Unpublish(0)),
    ]);
    assert_eq!((report.packets, report.skipped), (50, 0));
}

#[test]
fn a_listener_that_comes_later_starts_at_the_live_edge() {
    let report = heard(vec![
        at(0, Action::OpenTrack),
        at(0, publish(0, STREAM, LinkSpec::perfect())),
        at(505, join(0)),
        at(510, up(0)),
        at(990, Action::Unpublish(0)),
    ]);
    assert_eq!(report.packets, 24, "of 50, the 26 up to 500 ms were before it");
}

#[test]
fn a_publisher_that_leaves_and_returns_goes_on_in_the_same_numbers() {
    let again = StreamSpec { ssrc: 8, first_sequence: 3, first_timestamp: 9, ..STREAM };
    let report = heard(vec![
        at(0, Action::OpenTrack),
        at(0, join(0)),
        at(0, up(0)),
        at(0, publish(0, STREAM, LinkSpec::perfect())),
        at(490, Action::Unpublish(0)),
        at(5_000, publish(1, again, LinkSpec::perfect())),
        at(5_490, Action::Unpublish(1)),
    ]);
    assert_eq!((report.packets, report.skipped), (50, 0));
}

#[test]
fn a_leg_that_was_down_is_told_what_it_missed() {
    let report = heard(vec![
        at(0, Action::OpenTrack),
        at(0, join(0)),
        at(0, up(0)),
        at(0, publish(0, STREAM, LinkSpec::perfect())),
        at(205, down(0)),
        at(405, up(0)),
        at(990, Action::Unpublish(0)),
    ]);
    assert_eq!(report.skipped, 10);
    // What was on its way when the leg was lost is asked for, and comes again.
    assert!((40..=52).contains(&report.packets), "{report:?}");
}

#[test]
fn a_new_ssrc_is_taken_at_once_and_a_jump_costs_one_frame() {
    let source = |action| {
        heard(vec![
            at(0, Action::OpenTrack),
            at(0, join(0)),
            at(0, up(0)),
            at(0, publish(0, STREAM, LinkSpec::perfect())),
            at(505, action),
            at(990, Action::Unpublish(0)),
        ])
    };
    assert_eq!(source(Action::ChangeSource(0, 1234, 5, 6)).packets, 50);
    let jumped = source(Action::Jump(0, 20_000));
    assert_eq!((jumped.packets, verdicts(&jumped, Verdict::Suspicious)), (49, 1));
}

#[test]
fn what_is_lost_on_the_way_in_stays_a_hole_and_nothing_else_is_lost() {
    let lossy = LinkSpec::perfect().loss(GilbertElliott::bursts(0.1, 3.0));
    let report = heard(vec![
        at(0, Action::OpenTrack),
        at(0, join(0)),
        at(0, up(0)),
        at(0, publish(0, STREAM, lossy)),
        at(19_990, Action::Unpublish(0)),
    ]);
    assert_eq!(report.packets, verdicts(&report, Verdict::Accepted));
    assert!((700..1_000).contains(&report.packets), "{report:?}");
}

#[test]
fn duplicates_are_dropped_once_and_disorder_passes_through() {
    let frame = Duration::from_millis(20);
    let messy = LinkSpec::perfect().reorder(0.3, frame * 5).duplicate(0.3, frame * 5);
    let report = heard(vec![
        at(0, Action::OpenTrack),
        at(0, join(0)),
        at(0, up(0)),
        at(0, publish(0, STREAM, messy)),
        at(9_990, Action::PublisherState(0, LegState::Up)),
        at(10_000, Action::Unpublish(0)),
    ]);
    let late = verdicts(&report, Verdict::BeforeStart) + verdicts(&report, Verdict::UnknownLeg);
    assert!(report.packets + late >= 500, "{report:?}");
    assert!(verdicts(&report, Verdict::Duplicate) > 100, "{report:?}");
    assert!(report.packets <= 501, "{report:?}");
}

#[test]
fn ten_listeners_hear_the_same_and_one_that_leaves_in_mid_drain_disturbs_nobody() {
    let mut actions = vec![at(0, Action::OpenTrack)];
    for listener in 0..10 {
        actions.push(at(0, join(listener)));
        actions.push(at(0, up(listener)));
    }
    actions.push(at(1, publish(0, STREAM, LinkSpec::perfect())));
    // Four of the ten have had the frame of 501 ms when the third of them leaves.
    actions.push(at(500, Action::Lazy(3, 4)));
    actions.push(at(502, Action::Leave(2, false)));
    actions.push(at(995, Action::Unpublish(0)));
    let report = heard(actions);
    assert_eq!((report.packets, report.skipped), (9 * 50 + 26, 0));
}
