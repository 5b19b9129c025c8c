//! Retries, isolation and memory, from reports to outcomes.

use std::vec;
use std::vec::Vec;

use muster_model::attempt::{Interruption, Stage};
use muster_model::outcome::{CaseOutcome, FaultKind, RunOutcome, Verdict};
use muster_model::spec::Isolation;
use muster_model::{CaseIndex, Epoch};

use super::fixture::*;
use crate::{AttemptEnd, CaseSeed, CaseTries, Command, Event, SchedulingPolicy, TargetSeed};

/// One agent with one slot and one shard of so many quick cases.
fn company(policy: SchedulingPolicy, count: usize) -> (World, Leased) {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy, quick(count));
    let leased = world.leases().remove(0);
    assert_eq!(leased.cases().len(), count);
    (world, leased)
}

#[test]
fn a_run_of_passing_cases_passes() {
    let (mut world, shard) = company(policy(), 3);
    world.ran(&shard, &[(0, PASSED), (1, Verdict::Skipped), (2, PASSED)]);
    let commands = world.take();
    assert_eq!(finish(&commands), Some((RunOutcome::Passed, 3, 3)));
    let acknowledged =
        commands.iter().position(|command| matches!(command, Command::Acknowledge { fenced: false, .. }));
    let decided = commands.iter().rposition(|command| matches!(command, Command::DecideCase { .. }));
    assert!(acknowledged > decided, "acknowledged once everything is written");
}

#[test]
fn a_case_that_fails_in_company_and_passes_alone_is_interference_and_names_the_company() {
    let (mut world, shard) = company(policy(), 3);
    world.ran(&shard, &[(0, PASSED), (1, FAILED), (2, PASSED)]);
    let alone = world.lease();
    assert!(alone.is_alone());
    assert_eq!(alone.cases(), [1]);
    world.ran(&alone, &[(1, PASSED)]);
    let commands = world.take();
    let is_named = |command: &Command| matches!(command, Command::DecideCase { company: Some(epoch), .. } if *epoch == shard.epoch);
    assert!(commands.iter().any(is_named));
    assert_eq!(outcomes(&commands), [(1, CaseOutcome::Interference)]);
    assert_eq!(memories(&commands), [(1, true)]);
    assert_eq!(finish(&commands), Some((RunOutcome::Passed, 3, 3)));
}

#[test]
fn a_case_that_fails_alone_too_has_failed() {
    let (mut world, shard) = company(policy(), 2);
    world.ran(&shard, &[(0, PASSED), (1, FAILED)]);
    let alone = world.lease();
    world.ran(&alone, &[(1, FAILED)]);
    let commands = world.take();
    assert_eq!(outcomes(&commands), [(1, CaseOutcome::Verdict(FAILED))]);
    assert_eq!(finish(&commands), Some((RunOutcome::Failed, 2, 2)));
}

#[test]
fn a_pass_after_a_failure_alone_is_flaky() {
    let (mut world, shard) = company(SchedulingPolicy { retries: 2, ..policy() }, 2);
    world.ran(&shard, &[(0, PASSED), (1, FAILED)]);
    for _ in 0..2 {
        let alone = world.lease();
        world.ran(&alone, &[(1, FAILED)]);
    }
    let alone = world.lease();
    world.ran(&alone, &[(1, PASSED)]);
    assert_eq!(outcomes(&world.take()), [(1, CaseOutcome::Flaky)]);
}

#[test]
fn a_report_of_a_sanitizer_is_final_even_in_company() {
    let (mut world, shard) = company(SchedulingPolicy { retries: 2, ..policy() }, 2);
    let mut cases = vec![end(0, PASSED), end(1, FAILED)];
    cases[1].never_retry = true;
    world.finished(&shard, AttemptEnd::Ran { cases, interruption: None, leaked_in_company: false });
    assert_eq!(finish(&world.take()), Some((RunOutcome::Failed, 2, 2)));
}

#[test]
fn after_a_crash_only_the_unaccounted_are_run_again_alone_and_the_suspect_is_remembered() {
    let (mut world, shard) = company(policy(), 4);
    world.interrupted(&shard, &[(0, PASSED)], Interruption::Crashed { signal: 11 }, Some(1));
    let commands = world.take();
    assert_eq!(outcomes(&commands), [(0, CaseOutcome::Verdict(PASSED))]);
    assert_eq!(memories(&commands), [(1, true)]);
    let alone = leases_of(&commands);
    let mut again: Vec<u32> = alone.iter().flat_map(Leased::cases).collect();
    again.sort_unstable();
    assert_eq!(again, [1, 2, 3]);
    assert!(alone.iter().all(Leased::is_alone));
    world.interrupted(&alone[0], &[(2, PASSED), (3, PASSED)], Interruption::Crashed { signal: 11 }, Some(1));
    let commands = world.take();
    assert!(outcomes(&commands).contains(&(1, CaseOutcome::Verdict(Verdict::Crashed { signal: 11 }))));
    assert_eq!(finish(&commands), Some((RunOutcome::Failed, 4, 4)));
}

#[test]
fn an_interruption_alone_becomes_the_verdict_of_each_kind() {
    let table = [
        (Interruption::TimedOut, Verdict::TimedOut),
        (Interruption::MemoryExceeded, Verdict::MemoryExceeded),
        (Interruption::OutputExceeded, Verdict::OutputExceeded),
        (Interruption::ProcessesExceeded, Verdict::ProcessesExceeded),
        (Interruption::Contradicted, FAILED),
    ];
    for (kind, verdict) in table {
        let (mut world, shard) = company(SchedulingPolicy { isolation: Isolation::Process, ..policy() }, 1);
        assert!(shard.is_alone());
        world.interrupted(&shard, &[], kind, None);
        assert_eq!(outcomes(&world.take()), [(0, CaseOutcome::Verdict(verdict))]);
    }
}

#[test]
fn a_report_that_passes_over_cases_in_silence_is_a_fault_and_never_a_pass() {
    let (mut world, shard) = company(policy(), 2);
    world.ran(&shard, &[(0, PASSED)]);
    for _ in 0..3 {
        let alone = world.lease();
        assert_eq!(alone.cases(), [1]);
        world.ran(&alone, &[]);
    }
    assert_eq!(finish(&world.take()), Some((RunOutcome::Fault, 2, 2)));
}

#[test]
fn reports_about_cases_that_were_not_asked_for_count_for_nothing() {
    let (mut world, shard) = company(policy(), 1);
    world.ran(&shard, &[(7, FAILED), (0, PASSED), (0, FAILED)]);
    let commands = world.take();
    assert_eq!(outcomes(&commands), [(0, CaseOutcome::Verdict(PASSED))]);
    assert_eq!(finish(&commands), Some((RunOutcome::Passed, 1, 1)));
}

#[test]
fn a_leak_in_company_sends_all_of_it_alone_next_time() {
    let (mut world, shard) = company(policy(), 2);
    world.ran_with(&shard, &[(0, PASSED), (1, PASSED)], None, true);
    let commands = world.take();
    assert_eq!(outcomes(&commands).len(), 2);
    assert_eq!(memories(&commands), [(0, true), (1, true)]);
}

#[test]
fn a_leaker_found_alone_acquits_the_others() {
    let mut world = World::new();
    world.agent(1, 1);
    let seed = CaseSeed { needs_alone: true, ..known(10) };
    world.run(policy(), vec![seed; 3]);
    let shard = world.leases().remove(0);
    assert!(shard.is_alone());
    let mut cases = vec![end(0, PASSED), end(1, PASSED), end(2, PASSED)];
    cases[1].leaked = true;
    world.finished(&shard, AttemptEnd::Ran { cases, interruption: None, leaked_in_company: false });
    assert_eq!(memories(&world.take()), [(0, false), (2, false)]);
}

#[test]
fn passing_alone_without_a_leaker_acquits_nobody() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), vec![CaseSeed { needs_alone: true, ..known(10) }; 2]);
    let shard = world.leases().remove(0);
    world.ran(&shard, &[(0, PASSED), (1, PASSED)]);
    assert_eq!(memories(&world.take()), []);
}

#[test]
fn fail_fast_cancels_what_is_undecided_and_withdraws_what_runs() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 1);
    let policy = SchedulingPolicy { isolation: Isolation::Process, fail_fast: true, ..policy() };
    world.run(policy, vec![known(6000); 4]);
    let leases = world.leases();
    let case = leases[0].cases()[0];
    world.ran(&leases[0], &[(case, FAILED)]);
    let commands = world.take();
    let withdrawn: Vec<Epoch> = commands.iter().filter_map(withdrawn).collect();
    assert!(leases[1..].iter().all(|lease| withdrawn.contains(&lease.epoch)), "{withdrawn:?}");
    assert_eq!(outcomes(&commands).iter().filter(|(_, outcome)| *outcome == CaseOutcome::Cancelled).count(), 3);
    assert_eq!(finish(&commands), Some((RunOutcome::Failed, 4, 4)));
}

fn withdrawn(command: &Command) -> Option<Epoch> {
    if let Command::Withdraw { epoch, .. } = command { Some(*epoch) } else { None }
}

#[test]
fn a_case_under_way_is_told_once() {
    let (mut world, shard) = company(policy(), 2);
    let running = [status(&shard, muster_model::attempt::Stage::Running, Some(1))];
    world.report(1, &running);
    world.report(1, &running);
    let started = Command::ReportCaseStarted { run: RUN, target: TARGET, case: CaseIndex(1), agent: shard.agent };
    assert_eq!(world.take(), [started]);
}

/// What is charged to a case, as it was told last.
fn tries_of(commands: &[Command], wanted: u32) -> CaseTries {
    let told = commands.iter().rev().find_map(|command| match command {
        Command::RecordTries { case, tries, .. } if case.0 == wanted => Some(*tries),
        _ => None,
    });
    told.expect("it was charged with something")
}

/// A world in which the coordinator has been restarted: one case, with what was charged to it before.
fn restarted(retries: u32, tries: CaseTries) -> World {
    let mut world = World::new();
    world.agent(1, 1);
    let policy = SchedulingPolicy { retries, ..policy() };
    world.run(policy, vec![CaseSeed { tries, ..known(10) }]);
    world
}

#[test]
fn a_restart_does_not_give_a_case_its_tries_back() {
    let (mut world, shard) = company(SchedulingPolicy { retries: 1, ..policy() }, 1);
    world.ran(&shard, &[(0, FAILED)]);
    let tries = tries_of(&world.take(), 0);
    assert_eq!((tries.attempts, tries.failed_tries, tries.alone), (1, 1, true));

    let mut world = restarted(1, tries);
    let shard = world.leases().remove(0);
    world.ran(&shard, &[(0, FAILED)]);
    assert_eq!(outcomes(&world.take()), [(0, CaseOutcome::Verdict(FAILED))]);
}

#[test]
fn interference_is_shown_over_a_restart() {
    let (mut world, shard) = company(policy(), 2);
    world.ran(&shard, &[(0, PASSED), (1, FAILED)]);
    let tries = tries_of(&world.take(), 1);
    assert_eq!(tries.failed_in_company, Some(shard.epoch));

    let mut world = restarted(0, tries);
    let alone = world.leases().remove(0);
    assert!(alone.is_alone());
    world.ran(&alone, &[(0, PASSED)]);
    let commands = world.take();
    let companies: Vec<Option<Epoch>> = commands
        .iter()
        .filter_map(|command| match command {
            Command::DecideCase { outcome: CaseOutcome::Interference, company, .. } => Some(*company),
            _ => None,
        })
        .collect();
    assert_eq!(companies, [Some(shard.epoch)]);
}

#[test]
fn poison_stays_under_suspicion_over_a_restart() {
    let mut world = restarted(0, CaseTries { losses: 1, losses_alone: 1, alone: true, ..CaseTries::default() });
    let shard = world.leases().remove(0);
    assert!(shard.is_alone());
    world.report(1, &[status(&shard, Stage::Running, Some(0))]);
    world.finished(&shard, AttemptEnd::Fault(FaultKind::AgentLost));
    assert_eq!(outcomes(&world.take()), [(0, CaseOutcome::Poison)]);
}

#[test]
fn a_target_may_have_retries_of_its_own() {
    let mut world = World::new();
    world.agent(1, 1);
    let targets = vec![TargetSeed { requirements: requirements(), retries: Some(1), ..TargetSeed::default() }];
    world.event(Event::RunSubmitted { run: RUN, policy: policy(), targets });
    world.event(Event::CasesDiscovered { run: RUN, target: TARGET, cases: vec![known(10)] });
    for verdict in [FAILED, PASSED] {
        let shard = world.leases().remove(0);
        world.ran(&shard, &[(0, verdict)]);
    }
    assert_eq!(outcomes(&world.take()), [(0, CaseOutcome::Flaky)]);
}
