//! `muster fleet status`: who is there, what waits, what runs where.

use clap::Subcommand;
use muster_proto::v1::{
    AgentStatus, EnvironmentKind, FleetStatusRequest, FleetStatusResponse, RunningAttempt, WaitingAction, WarmServices,
};
use serde_json::{Value, json};

use super::fleet_access::{AskArguments, ask};
use super::{Format, answer, answer_json};
use crate::client::refusal;
use crate::error::ExpectedError;
use crate::table::{Align, Table};
use crate::text;

/// Digits of a base's digest that people need to tell two apart.
const DIGEST_DIGITS: usize = 12;

/// `muster fleet …`
#[derive(Debug, Subcommand)]
pub(super) enum FleetCommand {
    /// Show agents, slots, load, queue, and what runs where
    Status(AskArguments),
}

impl FleetCommand {
    pub(super) fn format(&self) -> Format {
        let Self::Status(arguments) = self;
        arguments.format
    }

    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let Self::Status(arguments) = self;
        let status = ask(&arguments, false, async |client| {
            let answer = client.status().fleet_status(FleetStatusRequest {}).await;
            Ok(answer.map_err(refusal(client.url(), "show the fleet"))?.into_inner())
        })
        .await?;
        match arguments.format {
            Format::Human => answer(&page(&status)),
            Format::Json => answer_json(&object(&status)),
        }
    }
}

fn page(status: &FleetStatusResponse) -> String {
    let mut page = format!(
        "coordinator {}, up for {}; {} open, {} running, {} waiting\n",
        text::escape_line(&status.version),
        text::millis(status.uptime_ms),
        text::counted(u64::from(status.open_runs), "run", "runs"),
        text::counted(u64::from(status.running_cases), "case", "cases"),
        status.queued_cases,
    );
    if status.running_actions > 0 || status.queued_actions > 0 {
        let running = text::counted(u64::from(status.running_actions), "action", "actions");
        page.push_str(&format!("remote execution: {running} on agents, {} waiting\n", status.queued_actions));
    }
    if status.agents.is_empty() {
        page.push_str("\nno agents\n  hint: muster agent start --coordinator URL\n");
        return page;
    }
    page.push('\n');
    page.push_str(&agents_table(&status.agents).render());
    for table in [running_table(&status.agents), actions_table(status), services_table(&status.agents)] {
        if !table.is_empty() {
            page.push('\n');
            page.push_str(&table.render());
        }
    }
    page
}

fn agents_table(agents: &[AgentStatus]) -> Table {
    let mut table = Table::new(&[
        ("agent", Align::Left),
        ("state", Align::Left),
        ("slots", Align::Right),
        ("load", Align::Right),
        ("environments", Align::Left),
        ("bases", Align::Left),
        ("labels", Align::Left),
    ]);
    for agent in agents {
        let used = agent.attempts.iter().filter(|attempt| attempt.stage == "running" || attempt.stage == "fetching");
        let state = match agent.state.as_str() {
            "silent" => format!("silent for {}", text::millis(agent.last_heard_ms_ago)),
            state => text::escape_line(state),
        };
        let labels = agent.properties.iter().map(|label| format!("{}={}", label.key, label.value));
        table.row([
            text::escape_line(&agent.name),
            state,
            format!("{}/{}", used.count(), agent.slots),
            format!("{:.2}", f64::from(agent.load_milli) / 1000.0),
            environments(agent).join(" "),
            text::escape_line(&bases(agent).join(" ")),
            text::escape_line(&labels.collect::<Vec<_>>().join(" ")),
        ]);
    }
    table
}

fn environments(agent: &AgentStatus) -> Vec<&'static str> {
    let name = |kind| match kind {
        EnvironmentKind::Sandbox => "sandbox",
        EnvironmentKind::Host => "host",
        EnvironmentKind::Docker => "docker",
        EnvironmentKind::Unspecified => "unknown",
    };
    agent.environments().map(name).collect()
}

fn bases(agent: &AgentStatus) -> Vec<String> {
    let shown = |base: &muster_proto::v1::Base| {
        let hash = base.digest.as_ref().map_or("", |digest| digest.hash.as_str());
        format!("{}@{}", base.name, hash.get(..DIGEST_DIGITS).unwrap_or(hash))
    };
    agent.bases.iter().map(shown).collect()
}

fn running_table(agents: &[AgentStatus]) -> Table {
    let mut table = Table::new(&[
        ("agent", Align::Left),
        ("run", Align::Right),
        ("target", Align::Left),
        ("stage", Align::Left),
        ("cases", Align::Right),
        ("age", Align::Right),
        ("case", Align::Left),
    ]);
    for agent in agents {
        for attempt in agent.attempts.iter().filter(|attempt| attempt.operation.is_empty()) {
            table.row([
                text::escape_line(&agent.name),
                attempt.run.to_string(),
                text::escape_line(&attempt.target),
                text::escape_line(&attempt.stage),
                attempt.cases.to_string(),
                text::millis(attempt.age_ms),
                text::escape_line(&attempt.running),
            ]);
        }
    }
    table
}

/// Services that agents keep running for nobody.
fn services_table(agents: &[AgentStatus]) -> Table {
    let mut table = Table::new(&[
        ("agent", Align::Left),
        ("warm services", Align::Left),
        ("idle", Align::Right),
        ("key", Align::Left),
    ]);
    for agent in agents {
        for services in &agent.services {
            table.row([
                text::escape_line(&agent.name),
                text::escape_line(&services.names.join(" ")),
                text::millis(services.idle_ms),
                text::escape_line(services.key.get(..12).unwrap_or(&services.key)),
            ]);
        }
    }
    table
}

/// A text of a client, which may have said nothing.
fn said(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text::escape_line(text) }
}

/// Actions on agents, then those that wait.
fn actions_table(status: &FleetStatusResponse) -> Table {
    let mut table = Table::new(&[
        ("agent", Align::Left),
        ("stage", Align::Left),
        ("age", Align::Right),
        ("action", Align::Left),
        ("for", Align::Left),
        ("operation", Align::Left),
    ]);
    for agent in &status.agents {
        for attempt in agent.attempts.iter().filter(|attempt| !attempt.operation.is_empty()) {
            table.row([
                text::escape_line(&agent.name),
                text::escape_line(&attempt.stage),
                text::millis(attempt.age_ms),
                said(&attempt.mnemonic),
                said(&attempt.target),
                text::escape_line(&attempt.operation),
            ]);
        }
    }
    for action in &status.waiting_actions {
        table.row([
            "-".into(),
            "queued".into(),
            text::millis(action.age_ms),
            said(&action.mnemonic),
            said(&action.target),
            text::escape_line(&action.operation),
        ]);
    }
    table
}

fn object(status: &FleetStatusResponse) -> Value {
    json!({
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "generation": status.generation,
        "open_runs": status.open_runs,
        "queued_cases": status.queued_cases,
        "running_cases": status.running_cases,
        "queued_actions": status.queued_actions,
        "running_actions": status.running_actions,
        "waiting_actions": status.waiting_actions.iter().map(waiting_object).collect::<Vec<_>>(),
        "agents": status.agents.iter().map(agent_object).collect::<Vec<_>>(),
    })
}

fn waiting_object(action: &WaitingAction) -> Value {
    json!({
        "operation": action.operation,
        "mnemonic": action.mnemonic,
        "target": action.target,
        "age_ms": action.age_ms,
    })
}

fn agent_object(agent: &AgentStatus) -> Value {
    let attempt = |attempt: &RunningAttempt| {
        json!({
            "epoch": attempt.epoch,
            "run_id": attempt.run,
            "target": attempt.target,
            "stage": attempt.stage,
            "cases": attempt.cases,
            "running": (!attempt.running.is_empty()).then_some(&attempt.running),
            "age_ms": attempt.age_ms,
            "operation": (!attempt.operation.is_empty()).then_some(&attempt.operation),
            "mnemonic": (!attempt.mnemonic.is_empty()).then_some(&attempt.mnemonic),
        })
    };
    let services =
        |services: &WarmServices| json!({"key": services.key, "names": services.names, "idle_ms": services.idle_ms});
    let labels: serde_json::Map<String, Value> =
        agent.properties.iter().map(|label| (label.key.clone(), label.value.clone().into())).collect();
    json!({
        // A string: JSON's numbers lose digits past 53 bits.
        "agent_id": format!("{:016x}", agent.agent_id),
        "name": agent.name,
        "state": agent.state,
        "slots": agent.slots,
        "load": f64::from(agent.load_milli) / 1000.0,
        "bases": bases(agent),
        "environments": environments(agent),
        "labels": labels,
        "last_heard_ms_ago": agent.last_heard_ms_ago,
        "version": agent.version,
        "services": agent.services.iter().map(services).collect::<Vec<_>>(),
        "attempts": agent.attempts.iter().map(attempt).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::v1::{Base, Property};

    fn status() -> FleetStatusResponse {
        let digest = muster_model::Digest::of(b"base");
        let busy = AgentStatus {
            agent_id: 0xabc,
            name: "build-1".into(),
            slots: 4,
            state: "connected".into(),
            load_milli: 1530,
            bases: vec![Base { name: "debian-12".into(), digest: Some(digest.into()) }],
            environments: vec![EnvironmentKind::Sandbox.into(), EnvironmentKind::Host.into()],
            properties: vec![Property { key: "arch".into(), value: "x86_64".into() }],
            attempts: vec![
                RunningAttempt {
                    epoch: 9,
                    run: 17,
                    target: "shapes (lib)".into(),
                    stage: "running".into(),
                    cases: 12,
                    running: "tests::volume".into(),
                    age_ms: 1500,
                    ..RunningAttempt::default()
                },
                RunningAttempt {
                    epoch: 11,
                    target: "//shapes:volume".into(),
                    stage: "running".into(),
                    age_ms: 300,
                    operation: "operations/0f".into(),
                    mnemonic: "CppCompile".into(),
                    ..RunningAttempt::default()
                },
                RunningAttempt {
                    run: 17,
                    target: "shapes (lib)".into(),
                    stage: "waiting".into(),
                    ..Default::default()
                },
            ],
            services: vec![WarmServices {
                key: "0123456789abcdef".into(),
                names: vec!["postgres".into(), "redis".into()],
                idle_ms: 2500,
            }],
            ..AgentStatus::default()
        };
        let silent = AgentStatus {
            name: "build-2\u{1b}[2J".into(),
            state: "silent".into(),
            last_heard_ms_ago: 4200,
            ..busy.clone()
        };
        FleetStatusResponse {
            agents: vec![busy, AgentStatus { attempts: Vec::new(), services: Vec::new(), ..silent }],
            queued_cases: 40,
            running_cases: 12,
            open_runs: 1,
            generation: 3,
            version: "0.1.0".into(),
            uptime_ms: 65_000,
            queued_actions: 7,
            running_actions: 1,
            waiting_actions: vec![WaitingAction {
                operation: "operations/10".into(),
                mnemonic: "CppLink".into(),
                target: "//shapes".into(),
                age_ms: 20,
            }],
        }
    }

    #[test]
    fn the_page_shows_agents_and_what_runs_where() {
        insta::assert_snapshot!(page(&status()), @r"
        coordinator 0.1.0, up for 1 min 05 s; 1 run open, 12 cases running, 40 waiting
        remote execution: 1 action on agents, 7 waiting

        agent             state              slots  load  environments  bases                   labels
        build-1           connected            2/4  1.53  sandbox host  debian-12@de8f3fcf327e  arch=x86_64
        build-2\u{1b}[2J  silent for 4.20 s    0/4  1.53  sandbox host  debian-12@de8f3fcf327e  arch=x86_64

        agent    run  target        stage    cases      age  case
        build-1   17  shapes (lib)  running     12   1.50 s  tests::volume
        build-1   17  shapes (lib)  waiting      0  0.000 s

        agent    stage        age  action      for              operation
        build-1  running  0.300 s  CppCompile  //shapes:volume  operations/0f
        -        queued   0.020 s  CppLink     //shapes         operations/10

        agent    warm services     idle  key
        build-1  postgres redis  2.50 s  0123456789ab
        ");
    }

    #[test]
    fn a_fleet_without_agents_says_how_to_get_one() {
        insta::assert_snapshot!(page(&FleetStatusResponse { version: "0.1.0".into(), ..Default::default() }), @r"
        coordinator 0.1.0, up for 0.000 s; 0 runs open, 0 cases running, 0 waiting

        no agents
          hint: muster agent start --coordinator URL
        ");
    }

    #[test]
    fn the_object_names_every_field() {
        insta::assert_snapshot!(format!("{:#}", object(&status())["agents"][0]), @r#"
        {
          "agent_id": "0000000000000abc",
          "attempts": [
            {
              "age_ms": 1500,
              "cases": 12,
              "epoch": 9,
              "mnemonic": null,
              "operation": null,
              "run_id": 17,
              "running": "tests::volume",
              "stage": "running",
              "target": "shapes (lib)"
            },
            {
              "age_ms": 300,
              "cases": 0,
              "epoch": 11,
              "mnemonic": "CppCompile",
              "operation": "operations/0f",
              "run_id": 0,
              "running": null,
              "stage": "running",
              "target": "//shapes:volume"
            },
            {
              "age_ms": 0,
              "cases": 0,
              "epoch": 0,
              "mnemonic": null,
              "operation": null,
              "run_id": 17,
              "running": null,
              "stage": "waiting",
              "target": "shapes (lib)"
            }
          ],
          "bases": [
            "debian-12@de8f3fcf327e"
          ],
          "environments": [
            "sandbox",
            "host"
          ],
          "labels": {
            "arch": "x86_64"
          },
          "last_heard_ms_ago": 0,
          "load": 1.53,
          "name": "build-1",
          "services": [
            {
              "idle_ms": 2500,
              "key": "0123456789abcdef",
              "names": [
                "postgres",
                "redis"
              ]
            }
          ],
          "slots": 4,
          "state": "connected",
          "version": ""
        }
        "#);
    }
}
