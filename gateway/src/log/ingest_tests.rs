//! Tests of [`crate::log::ingest`], from within.

use super::*;
use bytes::Bytes;

const EPOCH: Epoch = Epoch::from_nanos(10);

fn publication(sequence: u64) -> Publication {
    Publication {
        sequence,
        time: sequence * 10,
        topic: "t".into(),
        event: None,
        data: Bytes::from_static(b"x"),
        marker: false,
        unrouted: false,
    }
}

fn state(last: u64) -> Info {
    Info { epoch: EPOCH, first: 1, last, last_time: last * 10, heard: Some(Duration::ZERO), unrouted: false }
}

fn info(last: u64) -> Answer {
    Answer::Info(state(last))
}

/// The machine behind 10, past its opening questions, and a clock.
struct Bench {
    ingest: Ingest,
    now: Instant,
    steps: Vec<Step>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let head = Mark { sequence: 10, stamp: Some(Stamp::from_millis(100)) };
        Self { ingest: Ingest::new(EPOCH, head, 100, true, 1000, now), now, steps: Vec::new() }
    }

    fn quiet() -> Self {
        let mut bench = Self::new();
        for from in [3, 11, 11, 11] {
            bench.now = bench.ingest.wake_at(bench.now).unwrap();
            assert_eq!(bench.ask(), Some(Ask::Batch { from, hole: false }));
            let messages = if from == 3 { vec![publication(10)] } else { vec![] };
            bench.answer(Answer::Batch { messages, more: false });
        }
        bench
    }

    fn live(&mut self, sequence: u64) {
        self.ingest.live(publication(sequence), self.now, &mut self.steps);
    }

    fn ask(&mut self) -> Option<Ask> {
        self.ingest.ask(self.now)
    }

    fn answer(&mut self, answer: Answer) {
        self.ingest.answer(answer, self.now, &mut self.steps);
    }

    fn batch(&mut self, sequences: &[u64]) {
        self.answer(Answer::Batch { messages: sequences.iter().copied().map(publication).collect(), more: false });
    }

    fn appended(&mut self) -> Vec<u64> {
        self.steps
            .drain(..)
            .map(|step| match step {
                Step::Append(publication) => publication.sequence,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn after_opening_the_tail_is_checked_three_times_and_then_with_growing_pauses() {
    let mut bench = Bench::new();
    let start = bench.now;
    let mut checks = Vec::new();
    for _ in 0..6 {
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
        assert!(matches!(bench.ask(), Some(Ask::Batch { hole: false, .. })));
        checks.push((bench.now - start).as_millis());
        bench.answer(Answer::Batch { messages: vec![], more: false });
    }
    assert_eq!(checks, [0, 250, 1000, 2000, 4000, 9000]);
}

#[test]
fn the_next_sequence_is_appended_at_once() {
    let mut bench = Bench::quiet();
    bench.live(11);
    bench.live(12);
    assert_eq!(bench.appended(), [11, 12]);
    assert_eq!(bench.ask(), None);
}

#[test]
fn a_hole_waits_for_a_reply_that_reaches_beyond_it() {
    let mut bench = Bench::quiet();
    bench.live(13);
    assert!(bench.appended().is_empty());
    assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: true }));
    bench.batch(&[12, 13, 14]);
    // That replica may have dropped 11 for its age, while the leader still has it.
    assert!(bench.appended().is_empty());
    assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
    bench.answer(Answer::Leader(Some(publication(12))));
    // 11 does not exist. It was deleted, or the stream begins behind it: that makes a difference.
    assert!(bench.appended().is_empty());
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(14));
    assert_eq!(bench.appended(), [12, 13, 14]);
}

#[test]
fn what_a_replica_has_dropped_for_its_age_is_read_from_the_leader() {
    let mut bench = Bench::quiet();
    bench.live(15);
    bench.ask();
    bench.batch(&[13, 14, 15, 17]);
    for sequence in [11, 12] {
        assert_eq!(bench.ask(), Some(Ask::Leader { from: sequence }));
        bench.answer(Answer::Leader(Some(publication(sequence))));
    }
    assert_eq!(bench.ask(), Some(Ask::Info), "16 may have been removed from the front by now");
    bench.answer(info(17));
    assert_eq!(bench.appended(), [11, 12, 13, 14, 15, 17]);
}

#[test]
fn a_replica_that_lags_proves_nothing_and_the_leader_is_asked() {
    let mut bench = Bench::quiet();
    bench.live(13);
    bench.ask();
    bench.batch(&[]);
    assert!(bench.appended().is_empty());
    assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
    bench.answer(Answer::Leader(Some(publication(11))));
    assert_eq!(bench.appended(), [11]);
    assert_eq!(bench.ask(), Some(Ask::Batch { from: 12, hole: true }));
    bench.batch(&[12]);
    assert_eq!(bench.appended(), [12, 13]);
}

#[test]
fn deleted_messages_are_absent_when_the_leader_says_so_twice_and_knows_better() {
    let mut bench = Bench::quiet();
    bench.live(13);
    bench.ask();
    bench.batch(&[]);
    assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
    bench.answer(Answer::Leader(None));
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(13));
    assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
    assert!(bench.appended().is_empty());
    bench.answer(Answer::Leader(None));
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(13));
    assert_eq!(bench.appended(), [13]);
}

#[test]
fn what_was_removed_from_the_front_before_it_was_seen_is_told() {
    let mut bench = Bench::quiet();
    bench.live(14);
    bench.ask();
    bench.batch(&[14]);
    assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
    bench.answer(Answer::Leader(Some(publication(14))));
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(Answer::Info(Info { first: 13, ..state(14) }));
    let expired = Step::Expired(Mark { sequence: 12, stamp: None });
    let rest = [Step::Skip(Mark { sequence: 13, stamp: None }), Step::Append(publication(14))];
    assert_eq!(bench.steps[0], expired);
    assert!(bench.steps[1..] == rest || bench.steps[1..] == rest[1..], "{:?}", bench.steps);
}

#[test]
fn where_values_replace_each_other_nothing_is_lost_in_between() {
    let mut bench = Bench::quiet();
    bench.ingest.keeps_all = false;
    bench.live(14);
    bench.ask();
    bench.batch(&[14]);
    assert_eq!(bench.appended(), [14]);
}

#[test]
fn a_sequence_that_was_never_given_out_is_forgotten() {
    let mut bench = Bench::quiet();
    bench.live(1_000_000);
    bench.ask();
    bench.batch(&[]);
    bench.ask();
    bench.answer(Answer::Leader(None));
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(10));
    assert!(!bench.ingest.is_waiting());
    bench.live(11);
    assert_eq!(bench.appended(), [11]);
}

#[test]
fn an_old_sequence_with_a_newer_time_stops_everything_until_the_leader_has_spoken() {
    let mut bench = Bench::quiet();
    bench.ingest.live(Publication { time: 5000, ..publication(1) }, bench.now, &mut bench.steps);
    bench.live(11);
    assert!(bench.appended().is_empty());
    assert_eq!(bench.ask(), Some(Ask::Info));
    let epoch = Epoch::from_nanos(11);
    bench.answer(Answer::Info(Info { epoch, last_time: 5010, ..state(2) }));
    let head = Mark { sequence: 2, stamp: Some(Stamp::from_millis(5010)) };
    assert_eq!(bench.steps, [Step::Reset { epoch, head, first: 1 }]);
}

#[test]
fn after_a_reconnect_the_message_at_the_head_must_be_the_one_we_know() {
    for (found, first, same) in [
        (Some(publication(10)), 1, true),
        (Some(Publication { time: 99, ..publication(10) }), 1, false),
        // It is gone, with all that came before.
        (Some(publication(12)), 11, true),
        (None, 11, true),
    ] {
        let mut bench = Bench::quiet();
        bench.ingest.reconnected(bench.now);
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(Answer::Info(Info { first, ..state(30) }));
        bench.live(11);
        assert_eq!(bench.ask(), Some(Ask::Leader { from: 10 }));
        assert!(bench.steps.is_empty());
        bench.answer(Answer::Leader(found));
        if same {
            assert_eq!(bench.appended(), [11]);
        } else {
            let head = Mark { sequence: 30, stamp: Some(Stamp::from_millis(300)) };
            assert_eq!(bench.steps, [Step::Reset { epoch: EPOCH, head, first }]);
        }
    }
}

#[test]
fn a_duplicate_is_no_sign_of_anything() {
    let mut bench = Bench::quiet();
    bench.live(11);
    bench.live(11);
    bench.live(10);
    assert_eq!(bench.appended(), [11]);
    assert_eq!(bench.ask(), None);
}

#[test]
fn a_head_that_goes_backwards_is_believed_the_second_time() {
    let mut bench = Bench::quiet();
    bench.ingest.interrupted(bench.now);
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(7));
    assert_eq!((bench.ask(), bench.steps.len()), (None, 0));
    bench.now = bench.ingest.wake_at(bench.now).unwrap();
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(7));
    let head = Mark { sequence: 7, stamp: Some(Stamp::from_millis(70)) };
    assert_eq!(bench.steps, [Step::Reset { epoch: EPOCH, head, first: 1 }]);
}

#[test]
fn what_arrived_while_the_leader_was_asked_is_not_a_step_backwards() {
    let mut bench = Bench::quiet();
    bench.ingest.confirm(bench.now);
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.live(11);
    bench.answer(info(10));
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.appended(), [11]);
    bench.ingest.confirm(bench.now);
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(10));
    assert!(bench.steps.is_empty(), "that was the first step backwards");
}

#[test]
fn too_far_behind_is_a_jump() {
    let mut bench = Bench::quiet();
    bench.ingest.interrupted(bench.now);
    bench.ask();
    bench.answer(info(5000));
    assert_eq!(bench.steps, [Step::Jump(Mark { sequence: 5000, stamp: Some(Stamp::from_millis(50_000)) })]);
}

#[test]
fn too_far_behind_after_a_reconnect_is_a_jump_and_not_another_stream() {
    let mut bench = Bench::quiet();
    bench.ingest.reconnected(bench.now);
    bench.ask();
    bench.answer(info(5000));
    assert_eq!((bench.ask(), bench.steps.len()), (Some(Ask::Leader { from: 10 }), 0));
    bench.answer(Answer::Leader(Some(publication(10))));
    assert_eq!(bench.steps, [Step::Jump(Mark { sequence: 5000, stamp: Some(Stamp::from_millis(50_000)) })]);
}

#[test]
fn what_was_asked_before_a_reconnect_says_nothing_about_the_stream_behind_it() {
    let mut bench = Bench::quiet();
    bench.ingest.confirm(bench.now);
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.ingest.reconnected(bench.now);
    bench.live(11);
    bench.answer(info(11));
    assert_eq!((bench.ask(), bench.steps.len()), (Some(Ask::Info), 0), "asked anew, and nothing is believed before");
    let epoch = Epoch::from_nanos(11);
    bench.answer(Answer::Info(Info { epoch, last_time: 5010, ..state(11) }));
    let head = Mark { sequence: 11, stamp: Some(Stamp::from_millis(5010)) };
    assert_eq!(bench.steps, [Step::Reset { epoch, head, first: 1 }]);
}

#[test]
fn a_reply_that_broke_the_connection_is_read_from_the_leader_instead() {
    let mut bench = Bench::quiet();
    bench.live(12);
    assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: true }));
    bench.answer(Answer::Broken);
    assert_eq!(bench.ask(), None);
    bench.now = bench.ingest.wake_at(bench.now).unwrap();
    assert_eq!(bench.ask(), Some(Ask::Leader { from: 11 }));
    bench.answer(Answer::Leader(Some(publication(11))));
    assert_eq!(bench.appended(), [11, 12]);
}

#[test]
fn a_delete_marker_takes_its_sequence_and_is_not_shown() {
    let mut bench = Bench::quiet();
    bench.ingest.live(Publication { marker: true, ..publication(11) }, bench.now, &mut bench.steps);
    assert_eq!(bench.steps, [Step::Skip(Mark { sequence: 11, stamp: Some(Stamp::from_millis(110)) })]);
}

#[test]
fn an_unavailable_broker_is_asked_with_growing_pauses() {
    let mut bench = Bench::quiet();
    bench.live(12);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let before = bench.now;
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
        pauses.push(bench.now - before);
        assert!(bench.ask().is_some());
        bench.answer(Answer::Unavailable);
    }
    assert!(pauses[4] > pauses[1] * 2, "{pauses:?}");
}

#[test]
fn what_was_asked_before_a_break_of_the_other_connection_is_void_as_well() {
    let mut bench = Bench::quiet();
    bench.live(13);
    assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: true }));
    bench.ingest.doubted(bench.now);
    bench.batch(&[11, 12, 13]);
    assert_eq!((bench.ask(), bench.steps.len()), (Some(Ask::Info), 0));
}

#[test]
fn a_subject_that_the_route_does_not_have_yet_holds_the_head_until_it_does_not_exist() {
    let unrouted = || Publication { unrouted: true, ..publication(11) };
    let mut bench = Bench::quiet();
    bench.ingest.live(unrouted(), bench.now, &mut bench.steps);
    bench.live(12);
    assert!(bench.steps.is_empty());
    for _ in 0..5 {
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(Answer::Info(Info { unrouted: true, ..state(12) }));
        assert_eq!((bench.ask(), bench.steps.len()), (None, 0));
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
    }
    // The subject was taken away from the channel: its last messages are not shown.
    assert_eq!(bench.ask(), Some(Ask::Info));
    bench.answer(info(12));
    let skipped = Step::Skip(Mark { sequence: 11, stamp: Some(Stamp::from_millis(110)) });
    assert_eq!(bench.steps, [skipped, Step::Append(publication(12))]);
}

#[test]
fn a_subject_whose_route_never_comes_is_given_up_and_told() {
    let mut bench = Bench::quiet();
    bench.ingest.live(Publication { unrouted: true, ..publication(11) }, bench.now, &mut bench.steps);
    bench.live(12);
    let start = bench.now;
    while bench.steps.is_empty() {
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
        assert!(bench.now - start <= HOLD + Duration::from_secs(1));
        if bench.ask().is_some() {
            bench.answer(Answer::Info(Info { unrouted: true, ..state(12) }));
        }
    }
    let told = Step::Expired(Mark { sequence: 11, stamp: Some(Stamp::from_millis(110)) });
    assert_eq!(bench.steps, [told, Step::Append(publication(12))]);
}

#[test]
fn a_state_is_confirmed_by_a_leader_that_was_one_at_that_moment_or_later() {
    let mut bench = Bench::quiet();
    bench.ingest.confirm(bench.now);
    let since = bench.now;
    for (ago, confirmed) in [(900, false), (950, false), (100, true)] {
        assert_eq!(bench.ask(), Some(Ask::Info));
        bench.answer(Answer::Info(Info { heard: Some(Duration::from_millis(ago)), ..state(10) }));
        assert_eq!(bench.ingest.confirmed().is_some_and(|known| known.at >= since), confirmed);
        bench.now += Duration::from_millis(250);
    }
    assert_eq!(bench.ask(), Some(Ask::Batch { from: 11, hole: false }), "no more questions about the state");
}

#[test]
fn what_came_late_of_the_stream_before_is_not_appended_where_nothing_is_left_at_its_sequence() {
    let mut bench = Bench::quiet();
    let late = Publication { time: 5, ..publication(13) };
    bench.ingest.live(late, bench.now, &mut bench.steps);
    for _ in 0..20 {
        bench.now = bench.ingest.wake_at(bench.now).unwrap();
        let found = |from: u64| (from <= 11).then(|| publication(11));
        match bench.ask() {
            Some(Ask::Info) => bench.answer(info(13)),
            Some(Ask::Batch { from, .. }) => {
                bench.answer(Answer::Batch { messages: found(from).into_iter().collect(), more: false });
            }
            Some(Ask::Leader { from }) => bench.answer(Answer::Leader(found(from))),
            _ => {}
        }
    }
    let appended = bench.steps.iter().filter_map(|step| match step {
        Step::Append(publication) => Some(publication.sequence),
        _ => None,
    });
    assert_eq!(appended.collect::<Vec<_>>(), [11]);
    assert_eq!(bench.ingest.head().sequence, 13);
}

#[test]
fn what_was_stored_before_the_stream_was_made_is_read_or_not_there() {
    let now = Instant::now();
    let epoch = Epoch::from_nanos(50_000_000);
    let mut ingest = Ingest::new(epoch, Mark { sequence: 0, stamp: None }, 0, true, 1000, now);
    let mut steps = Vec::new();
    ingest.live(Publication { time: 50, ..publication(1) }, now, &mut steps);
    assert_eq!(ingest.ask(now), Some(Ask::Info));
    ingest.answer(Answer::Info(Info { epoch, last_time: 60, ..state(1) }), now, &mut steps);
    assert_eq!(steps, []);
    assert!(matches!(ingest.ask(now), Some(Ask::Batch { from: 1, .. })));
    let stored = Publication { time: 60, ..publication(1) };
    ingest.answer(Answer::Batch { messages: vec![stored.clone()], more: false }, now, &mut steps);
    assert_eq!(steps, [Step::Append(stored)]);
}
