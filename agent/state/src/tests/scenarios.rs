//! One story each; together they name every event and every command.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::{AttemptStatus, Stage};
use muster_model::{Epoch, limits};

use super::{World, desired, forget, give_back, kill, start};
use crate::{Command, Desired, Event};

fn self_fence() -> Duration {
    let (numerator, denominator) = limits::LEASE_SELF_FENCE;
    limits::LEASE_TIME * numerator / denominator
}

#[test]
fn attempts_start_in_the_order_received_while_slots_are_free() {
    let mut world = World::connected(2);
    assert_eq!(world.want(&[7, 5, 9]), [start(7), start(5), Command::Report]);
    assert_eq!(world.report().0, [(5, Stage::Fetching), (7, Stage::Fetching), (9, Stage::Waiting)]);
    assert_eq!(world.end(5, true), [start(9), Command::Report]);
    assert_eq!(world.report(), (vec![(5, Stage::Finished), (7, Stage::Fetching), (9, Stage::Fetching)], vec![5]));
}

#[test]
fn a_finished_attempt_stays_until_it_is_acknowledged() {
    let mut world = World::connected(1);
    world.want(&[1]);
    world.end(1, true);
    assert_eq!(world.report(), (vec![(1, Stage::Finished)], vec![1]));
    assert_eq!(world.want(&[]), [], "wanted or not");
    assert_eq!(world.report(), (vec![(1, Stage::Finished)], vec![]));
    assert_eq!(world.acknowledge(&[1]), [forget(1), Command::Report]);
    assert_eq!(world.report(), (vec![], vec![]));
    assert_eq!(world.acknowledge(&[1]), [], "said twice");
}

#[test]
fn what_the_coordinator_does_not_want_is_killed_or_dropped() {
    let mut world = World::connected(1);
    world.want(&[1, 2, 3]);
    assert_eq!(world.want(&[3]), [kill(1), Command::Report]);
    assert_eq!(world.report().0, [(3, Stage::Waiting)], "a killed attempt is not listed");
    assert_eq!(world.machine.view().occupied, 1, "but keeps its slot until it is dead");
    assert_eq!(world.want(&[3]), [], "and is killed once");
    assert_eq!(world.end(1, false), [start(3), Command::Report]);
}

#[test]
fn a_slot_is_free_when_the_environment_is_gone_and_not_too_much_is_on_its_way() {
    let mut world = World::connected(1);
    let gone = |epoch| Event::EnvironmentGone { epoch: Epoch(epoch) };
    let held = |world: &World| (world.machine.view().occupied, world.machine.view().delivering);
    world.want(&[1, 2, 3]);
    assert_eq!(world.event(gone(1)), [start(2)]);
    assert_eq!(world.report().0, [(1, Stage::Uploading), (2, Stage::Fetching), (3, Stage::Waiting)]);
    assert_eq!(world.event(gone(2)), [], "as much is on its way as there are slots");
    assert_eq!(held(&world), (1, 1));
    assert_eq!(world.end(1, true), [start(3), Command::Report]);
    assert_eq!(held(&world), (1, 1), "2 left its slot for 3");
    assert_eq!(world.want(&[3]), [kill(2), Command::Report]);
    assert_eq!(held(&world), (1, 1), "until it is dead");
    assert_eq!(world.want(&[2, 3]), []);
    assert_eq!(world.end(2, false), [give_back(2), Command::Report]);
    assert_eq!(world.event(gone(2)), [], "said too late");
    assert_eq!(world.event(gone(3)), []);
    assert_eq!(world.pass(self_fence()), [kill(3), Command::Report], "what is on its way is own work too");
    assert_eq!((world.end(3, false), held(&world)), (vec![Command::Report], (0, 0)));
}

#[test]
fn a_killed_attempt_whose_environment_goes_keeps_its_slot() {
    let mut world = World::connected(1);
    world.want(&[1, 2]);
    world.want(&[2]);
    assert_eq!(world.event(Event::EnvironmentGone { epoch: Epoch(1) }), []);
    assert_eq!(world.end(1, false), [start(2), Command::Report]);
}

#[test]
fn an_ended_epoch_is_never_started_again() {
    let mut world = World::connected(1);
    world.want(&[1]);
    world.end(1, true);
    world.report();
    world.acknowledge(&[1]);
    assert_eq!(world.want(&[1]), [], "a doubled message");
    assert_eq!(world.machine.view().waiting, 0);
}

#[test]
fn an_epoch_that_ended_without_a_report_is_given_back_when_asked_for_again() {
    let mut world = World::connected(1);
    world.want(&[1, 2]);
    world.want(&[1]);
    assert_eq!(world.want(&[1, 2]), [give_back(2)]);
    assert_eq!(world.end(2, true), [Command::Report]);
    assert_eq!(world.report().1, [2]);
    assert_eq!(world.want(&[2]), [kill(1), Command::Report]);
    assert_eq!(world.want(&[1, 2]), [], "not before it is dead");
    assert_eq!(world.end(1, false), [give_back(1), Command::Report]);
}

#[test]
fn a_report_that_overtakes_its_kill_is_kept() {
    let mut world = World::connected(1);
    world.want(&[1]);
    world.want(&[]);
    assert_eq!(world.end(1, true), [Command::Report]);
    assert_eq!(world.report(), (vec![(1, Stage::Finished)], vec![1]));
    assert_eq!(world.acknowledge(&[1]), [forget(1), Command::Report]);
}

#[test]
fn only_what_has_not_started_can_be_recalled() {
    let mut world = World::connected(1);
    world.want(&[1, 2]);
    let recalled = |epoch| Desired { recall: true, carries_assignment: false, ..desired(epoch) };
    let event = Event::DesiredReceived {
        attempts: vec![recalled(1), recalled(2)],
        acknowledged: Vec::new(),
        lease: limits::LEASE_TIME,
    };
    assert_eq!(world.event(event.clone()), [give_back(2)]);
    assert_eq!(world.event(event), [], "asked twice");
    assert_eq!(world.report().0, [(1, Stage::Fetching), (2, Stage::Waiting)]);
    world.end(1, true);
    assert_eq!(world.machine.view().occupied, 0, "what is being given back never starts");
    assert_eq!(world.end(2, true), [Command::Report]);
    assert_eq!(world.report().1, [1, 2]);
}

#[test]
fn an_unknown_epoch_without_its_assignment_is_left_to_the_next_message() {
    let mut world = World::connected(1);
    let bare = Desired { carries_assignment: false, ..desired(1) };
    let event = Event::DesiredReceived { attempts: vec![bare], acknowledged: vec![], lease: limits::LEASE_TIME };
    assert_eq!(world.event(event), []);
    assert_eq!(world.want(&[1]), [start(1), Command::Report]);
}

#[test]
fn reports_are_sent_once_per_connection_and_again_after_a_reconnect() {
    let mut world = World::connected(1);
    world.want(&[1]);
    world.end(1, true);
    assert_eq!(world.report().1, [1]);
    assert_eq!(world.report().1, []);
    assert_eq!(world.event(Event::Disconnected), []);
    assert_eq!(world.pass(limits::REPORT_INTERVAL), [], "nobody to report to");
    assert_eq!(world.event(Event::Connected), [Command::Report]);
    assert_eq!(world.report(), (vec![(1, Stage::Finished)], vec![1]));
}

#[test]
fn a_report_that_is_not_acknowledged_is_sent_again() {
    let mut world = World::connected(1);
    world.want(&[1]);
    world.end(1, true);
    assert_eq!(world.report().1, [1]);
    assert_eq!(world.pass(limits::REPORT_RESEND_INTERVAL), [Command::Report]);
    assert_eq!(world.report().1, [1]);
}

#[test]
fn a_restored_spool_is_reported_at_once() {
    let mut world = World::new(1);
    assert_eq!(world.event(Event::SpoolRestored { epochs: vec![Epoch(3), Epoch(4)] }), []);
    assert_eq!(world.event(Event::Connected), [Command::Report]);
    assert_eq!(world.report(), (vec![(3, Stage::Finished), (4, Stage::Finished)], vec![3, 4]));
    assert_eq!(world.want(&[3, 4]), [], "what is finished is not started");
}

#[test]
fn running_work_survives_a_short_silence_and_not_a_long_one() {
    let mut world = World::connected(1);
    world.want(&[1, 2]);
    world.event(Event::Disconnected);
    assert_eq!(world.machine.poll_timeout(), Some(world.now + self_fence()));
    assert_eq!(world.pass(self_fence() - Duration::from_nanos(1)), []);
    assert_eq!(world.pass(Duration::from_nanos(1)), [kill(1)]);
    assert_eq!(world.event(Event::Connected), [Command::Report]);
    assert_eq!(world.report().0, [], "neither the killed nor the dropped one is listed");
}

#[test]
fn silence_on_an_open_stream_fences_too() {
    let mut world = World::connected(1);
    world.want(&[1]);
    assert_eq!(world.pass(self_fence()), [kill(1), Command::Report]);
}

#[test]
fn a_quiet_agent_reports_every_interval() {
    let mut world = World::connected(1);
    assert_eq!(world.machine.poll_timeout(), Some(world.now + limits::REPORT_INTERVAL));
    assert_eq!(world.pass(limits::REPORT_INTERVAL / 2), []);
    assert_eq!(world.pass(limits::REPORT_INTERVAL / 2), [Command::Report]);
}

#[test]
fn progress_is_told_soon_but_not_for_every_case() {
    let mut world = World::connected(1);
    world.want(&[1]);
    let stage = |stage| Event::StageReached { epoch: Epoch(1), stage };
    let case = |position| Event::CaseStarted { epoch: Epoch(1), position };
    world.pass(limits::PROGRESS_REPORT_INTERVAL);
    assert_eq!(world.event(stage(Stage::Running)), [Command::Report]);
    assert_eq!(world.event(case(0)), []);
    assert_eq!(world.event(case(1)), []);
    assert_eq!(world.pass(limits::PROGRESS_REPORT_INTERVAL), [Command::Report]);
    let expected = AttemptStatus { epoch: Epoch(1), stage: Stage::Running, running: Some(1) };
    assert_eq!(world.machine.report().0, [expected]);
    assert_eq!(world.event(stage(Stage::Fetching)), [], "stages do not go back");
    assert_eq!(world.report().0, [(1, Stage::Running)]);
}

#[test]
fn a_drained_agent_gives_back_what_waits_finishes_what_runs_and_leaves() {
    let mut world = World::connected(1);
    world.want(&[1, 2]);
    assert_eq!(world.event(Event::DrainRequested), [give_back(2), Command::Report]);
    assert_eq!(world.want(&[1, 2, 3]), [give_back(3)], "new work is given back unseen");
    for epoch in 1..=3 {
        world.end(epoch, true);
    }
    assert_eq!(world.report().1, [1, 2, 3]);
    assert_eq!(world.acknowledge(&[1, 2, 3]), [forget(1), forget(2), forget(3), Command::Report, Command::Leave]);
    assert_eq!(world.event(Event::DrainRequested), [], "it leaves once");
}

#[test]
fn an_idle_agent_leaves_when_the_coordinator_knows_or_is_not_there() {
    let mut connected = World::connected(1);
    assert_eq!(connected.event(Event::DrainRequested), [Command::Report]);
    assert_eq!(connected.want(&[]), [Command::Leave]);
    let mut alone = World::new(1);
    assert_eq!(alone.event(Event::DrainRequested), [Command::Leave]);
}

#[test]
fn a_coordinator_cannot_fill_an_agent_without_bound() {
    let mut world = World::connected(1);
    let epochs: Vec<u64> = (1..=limits::SPOOL_ATTEMPTS_MAX as u64 + 10).collect();
    world.want(&epochs);
    assert_eq!(world.machine.view().waiting as usize, limits::SPOOL_ATTEMPTS_MAX - 1);
}

#[test]
fn what_takes_several_slots_waits_for_them_and_nothing_overtakes_it() {
    let mut world = World::connected(3);
    let want = |world: &mut World, wanted: &[(u64, u32)]| {
        let attempts = wanted.iter().map(|&(epoch, slots)| Desired { slots, ..desired(epoch) }).collect();
        world.event(Event::DesiredReceived { attempts, acknowledged: Vec::new(), lease: limits::LEASE_TIME })
    };
    let starts = |commands: Vec<Command>| -> Vec<u64> {
        let epoch = |command: &Command| match command {
            Command::Start { epoch } => Some(epoch.0),
            _ => None,
        };
        commands.iter().filter_map(epoch).collect()
    };
    let all = [(1, 2), (2, 2), (3, 1)];
    assert_eq!(starts(want(&mut world, &all)), [1], "two of three slots are left to nobody who takes two");
    assert_eq!(starts(world.end(1, true)), [2, 3]);
    assert_eq!(world.machine.view().occupied, 3);
    // More than there are is all of them.
    assert_eq!(starts(want(&mut world, &[(2, 2), (3, 1), (4, 9)])), [0; 0]);
    assert_eq!(starts(world.end(2, true)), [0; 0]);
    assert_eq!(starts(world.end(3, true)), [4]);
    assert_eq!(want(&mut world, &[]).first(), Some(&kill(4)));
    assert_eq!(world.machine.ending().collect::<Vec<_>>(), [Epoch(4)], "it has its slots until it is dead");
    assert_eq!(world.machine.view().occupied, 3);
    world.end(4, false);
    assert_eq!((world.machine.view().occupied, world.machine.ending().count()), (0, 0));
}
