//! What the fleet is doing, for people.

use std::time::Duration;

use muster_model::attempt::Work;
use muster_model::{ActionId, AgentId, Epoch, limits};
use muster_proto::v1;
use muster_scheduler::{AgentState, AttemptView};

use super::SchedulerTask;
use crate::agents::Agent;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl SchedulerTask {
    /// The answer to `muster fleet status`.
    pub(super) fn status(&self) -> v1::FleetStatusResponse {
        let view = self.scheduler.view();
        let attempts = || view.agents().flat_map(|agent| view.attempts(agent.agent));
        let running: u32 = attempts().filter(|attempt| attempt.action.is_none()).map(|attempt| attempt.cases).sum();
        let waiting = view.actions().filter(|(_, attempts)| *attempts == 0).take(limits::WAITING_ACTIONS_SHOWN_MAX);
        v1::FleetStatusResponse {
            agents: self.agents.iter().map(|(agent, state)| self.agent_status(agent, state)).collect(),
            queued_cases: u32::try_from(view.queue().cases).unwrap_or(u32::MAX),
            running_cases: running,
            open_runs: u32::try_from(self.runs.len()).unwrap_or(u32::MAX),
            generation: self.surroundings.ledger.generation(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: millis(self.surroundings.clock.uptime()),
            queued_actions: view.queue().actions,
            running_actions: u32::try_from(attempts().filter(|attempt| attempt.action.is_some()).count())
                .unwrap_or(u32::MAX),
            waiting_actions: waiting.filter_map(|(action, _)| self.waiting_action(action)).collect(),
        }
    }

    fn agent_status(&self, agent: AgentId, state: &Agent) -> v1::AgentStatus {
        let view = self.scheduler.view();
        let known = view.agents().find(|view| view.agent == agent).map(|view| view.state);
        let name = match known {
            Some(AgentState::Draining) => "draining",
            Some(AgentState::Connected) if state.is_connected() => "connected",
            _ => "silent",
        };
        let mut report = v1::AgentReport::default();
        if let Some(hello) = &state.hello {
            hello.write_into(&mut report);
        }
        v1::AgentStatus {
            agent_id: agent.0,
            name: self.agents.name(agent),
            slots: report.slots,
            state: name.into(),
            load_milli: state.load_milli,
            services: state.services.clone(),
            bases: report.bases,
            environments: report.environments,
            properties: report.properties,
            attempts: view.attempts(agent).map(|attempt| self.attempt_status(&attempt)).collect(),
            last_heard_ms_ago: millis(self.surroundings.clock.now().since(state.last_heard)),
            version: report.version,
        }
    }

    fn waiting_action(&self, action: ActionId) -> Option<v1::WaitingAction> {
        let facts = self.surroundings.room.facts(action)?;
        Some(v1::WaitingAction {
            operation: facts.operation,
            mnemonic: facts.requester.mnemonic,
            target: facts.requester.target,
            age_ms: millis(self.surroundings.clock.now().since(facts.queued)),
        })
    }

    fn attempt_status(&self, attempt: &AttemptView) -> v1::RunningAttempt {
        if let Some(action) = attempt.action {
            let facts = self.surroundings.room.facts(action).unwrap_or_default();
            return v1::RunningAttempt {
                epoch: attempt.epoch.0,
                target: facts.requester.target,
                stage: attempt.stage.name().into(),
                age_ms: millis(attempt.age),
                operation: facts.operation,
                mnemonic: facts.requester.mnemonic,
                ..v1::RunningAttempt::default()
            };
        }
        let run = self.runs.get(&attempt.run);
        let target = run.and_then(|run| run.target(attempt.target));
        let running = match (run, attempt.running) {
            (Some(run), Some(case)) => run.case_name(attempt.target, case).to_owned(),
            _ => String::new(),
        };
        v1::RunningAttempt {
            epoch: attempt.epoch.0,
            run: attempt.run.0,
            target: target.map(|target| target.prepared.spec.name.clone()).unwrap_or_default(),
            stage: attempt.stage.name().into(),
            cases: attempt.cases,
            running: if self.is_discovery(attempt.epoch) { "discovery".into() } else { running },
            age_ms: millis(attempt.age),
            ..v1::RunningAttempt::default()
        }
    }

    fn is_discovery(&self, epoch: Epoch) -> bool {
        self.scheduler.view().work(epoch) == Some(&Work::Discover)
    }
}
