//! What holds over every history of duplicated, reordered and senseless events.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::Stage;
use muster_model::{Epoch, limits};
use proptest::prelude::*;

use super::World;
use crate::{Command, Desired, Event};

#[derive(Clone, Debug)]
enum Step {
    Event(Event),
    Pass(Duration),
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (1_u64..12).prop_map(Epoch)
}

fn desired() -> impl Strategy<Value = Desired> {
    (epoch(), any::<bool>(), prop::bool::weighted(0.2), 0_u32..4)
        .prop_map(|(epoch, carries_assignment, recall, slots)| Desired { epoch, carries_assignment, recall, slots })
}

fn step() -> impl Strategy<Value = Step> {
    let received = (prop::collection::vec(desired(), 0..6), prop::collection::vec(epoch(), 0..3), 0_u64..10).prop_map(
        |(attempts, acknowledged, lease)| {
            Step::Event(Event::DesiredReceived { attempts, acknowledged, lease: Duration::from_secs(lease) })
        },
    );
    let stage = prop_oneof![Just(Stage::Waiting), Just(Stage::Fetching), Just(Stage::Running), Just(Stage::Finished)];
    prop_oneof![
        6 => received,
        2 => (epoch(), stage).prop_map(|(epoch, stage)| Step::Event(Event::StageReached { epoch, stage })),
        2 => (epoch(), 0_u32..4).prop_map(|(epoch, position)| Step::Event(Event::CaseStarted { epoch, position })),
        6 => (epoch(), any::<bool>()).prop_map(|(epoch, reported)| Step::Event(Event::AttemptEnded { epoch, reported })),
        3 => epoch().prop_map(|epoch| Step::Event(Event::EnvironmentGone { epoch })),
        1 => Just(Step::Event(Event::Connected)),
        1 => Just(Step::Event(Event::Disconnected)),
        1 => prop::collection::vec(epoch(), 0..3).prop_map(|epochs| Step::Event(Event::SpoolRestored { epochs })),
        2 => (0_u64..4000).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
    ]
}

proptest! {
    #[test]
    fn no_epoch_is_started_twice_and_none_above_the_slots(
        slots in 1_u32..4,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(slots);
        let mut started = BTreeSet::new();
        for step in steps {
            let commands = match step {
                Step::Event(event) => world.event(event),
                Step::Pass(time) => world.pass(time),
            };
            for command in commands {
                match command {
                    Command::Start { epoch } => prop_assert!(started.insert(epoch), "{epoch} was started twice"),
                    Command::Kill { epoch } => prop_assert!(started.contains(&epoch), "{epoch} never ran"),
                    Command::Report => { world.machine.report(); }
                    _ => {}
                }
            }
            prop_assert!(world.machine.view().occupied <= slots);
            prop_assert!(world.machine.view().delivering <= slots);
        }
    }

    #[test]
    fn a_drained_agent_always_comes_to_leave(
        slots in 1_u32..4,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(slots);
        let mut open = Vec::new();
        let mut queue: Vec<Step> = steps;
        queue.push(Step::Event(Event::Connected));
        queue.push(Step::Event(Event::DrainRequested));
        for step in queue {
            let commands = match step {
                Step::Event(event) => world.event(event),
                Step::Pass(time) => world.pass(time),
            };
            open.extend(commands);
        }
        let mut left = false;
        for _ in 0..4 {
            let mut more = Vec::new();
            for command in core::mem::take(&mut open) {
                match command {
                    Command::Start { epoch } | Command::Return { epoch } => {
                        more.extend(world.event(Event::AttemptEnded { epoch, reported: true }));
                    }
                    Command::Leave => left = true,
                    _ => {}
                }
            }
            let (_, finished) = world.machine.report();
            more.extend(world.event(Event::DesiredReceived {
                attempts: Vec::new(),
                acknowledged: finished,
                lease: limits::LEASE_TIME,
            }));
            more.extend(world.pass(limits::REPORT_RESEND_INTERVAL));
            open = more;
        }
        left |= open.contains(&Command::Leave);
        prop_assert!(left, "{:?}", world.machine.view());
    }
}
