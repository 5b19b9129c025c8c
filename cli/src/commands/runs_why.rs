//! `muster runs why`: where the time went, and one sentence of advice.

use muster_proto::v1::{AttemptSummary, CaseFinished, Efficiency, ShowRunResponse};
use serde_json::{Value, json};

use super::runs::attempt_fields;
use crate::reporter::{case_fields, efficiency_fields, merged, summary_fields};
use crate::table::{Align, Table};
use crate::text;

/// Rows of each table.
const SHOWN_MAX: usize = 10;
/// Characters of a whole bar.
const BAR_CHARACTERS: u64 = 30;
/// The share of the wall time, as a percentage, from which one case is what holds the run up.
const LONGEST_CASE_PERCENT: u64 = 60;
/// The share of the wall time, as a percentage, from which a loss is worth a sentence.
const LOSS_PERCENT: u64 = 20;

/// A part of the wall time: its name, its milliseconds, and what helps when it is large.
struct Part {
    name: &'static str,
    millis: u64,
    advice: &'static str,
}

fn losses(efficiency: &Efficiency) -> [Part; 4] {
    [
        Part {
            name: "tail",
            millis: efficiency.tail_ms,
            advice: "slots stood idle at the end: fewer slots would have done, or the longest cases can be split",
        },
        Part {
            name: "dispatch",
            millis: efficiency.dispatch_ms,
            advice: "work waited for the coordinator: discovery is cached the next time; if it stays, look at the coordinator's disk and network",
        },
        Part {
            name: "transfer",
            millis: efficiency.transfer_ms,
            advice: "agents waited for inputs: they keep them, so the next run is faster; a bigger --cache-size keeps them longer",
        },
        Part {
            name: "environment",
            millis: efficiency.environment_ms,
            advice: "making environments took long: let cases share them with --isolation auto, and mend those that need one alone",
        },
    ]
}

fn slowest_cases(shown: &ShowRunResponse) -> Vec<&CaseFinished> {
    let mut cases: Vec<&CaseFinished> = shown.cases.iter().filter(|case| !case.cached).collect();
    cases.sort_by_key(|case| std::cmp::Reverse(case.duration_us));
    cases.truncate(SHOWN_MAX);
    cases
}

fn slowest_attempts(shown: &ShowRunResponse) -> Vec<&AttemptSummary> {
    let mut attempts: Vec<&AttemptSummary> = shown.attempts.iter().collect();
    attempts.sort_by_key(|attempt| std::cmp::Reverse(total_us(attempt)));
    attempts.truncate(SHOWN_MAX);
    attempts
}

fn total_us(attempt: &AttemptSummary) -> u64 {
    [attempt.waited_us, attempt.transfer_us, attempt.environment_us, attempt.execution_us]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// One sentence on what would make the run faster.
fn advice(shown: &ShowRunResponse) -> String {
    let efficiency = shown.efficiency.unwrap_or_default();
    let summary = shown.summary.clone().unwrap_or_default();
    let wall_ms = efficiency.wall_ms.max(summary.wall_ms);
    if summary.outcome == "running" {
        return "the run is not over yet".into();
    }
    if summary.executed == 0 {
        return "nothing was executed: every result came from the cache".into();
    }
    let share = |millis: u64| (u128::from(millis) * 100 / u128::from(wall_ms.max(1))) as u64;
    if let Some(longest) = slowest_cases(shown).first()
        && efficiency.slots > 1
        && share(longest.duration_us / 1000) >= LONGEST_CASE_PERCENT
    {
        return format!(
            "the longest case, {}, alone takes {} of the wall: splitting it helps, more agents do not",
            text::escape_line(&longest.name),
            text::percent(longest.duration_us / 1000, wall_ms),
        );
    }
    let largest = losses(&efficiency).into_iter().max_by_key(|part| part.millis);
    match largest {
        Some(part) if share(part.millis) >= LOSS_PERCENT => part.advice.into(),
        _ => format!(
            "{} of the wall is the tests' own time on {}: more slots help, faster tests too",
            text::percent(efficiency.lower_bound_ms, wall_ms),
            text::counted(u64::from(efficiency.slots), "slot", "slots"),
        ),
    }
}

fn bar(millis: u64, wall_ms: u64) -> String {
    let share = u128::from(millis) * u128::from(BAR_CHARACTERS);
    let characters = share.div_ceil(u128::from(wall_ms.max(1))).min(u128::from(BAR_CHARACTERS));
    "#".repeat(characters as usize)
}

/// The answer for people.
pub(super) fn page(shown: &ShowRunResponse) -> String {
    let efficiency = shown.efficiency.unwrap_or_default();
    let summary = shown.summary.clone().unwrap_or_default();
    let mut page = format!(
        "run {} of {}: {} after {}, efficiency {} on {}\n\n",
        summary.run,
        text::escape_line(&summary.project),
        text::escape_line(&summary.outcome).replace('_', " "),
        text::millis(summary.wall_ms),
        text::percent(u64::from(efficiency.efficiency_milli), 1000),
        text::counted(u64::from(efficiency.slots), "slot", "slots"),
    );
    push_environments(&mut page, shown);
    let mut table =
        Table::new(&[("part", Align::Left), ("time", Align::Right), ("share", Align::Right), ("", Align::Left)]);
    let bound = Part { name: "lower bound", millis: efficiency.lower_bound_ms, advice: "" };
    for part in std::iter::once(bound).chain(losses(&efficiency)) {
        table.row([
            part.name.into(),
            text::millis(part.millis),
            text::percent(part.millis, efficiency.wall_ms),
            bar(part.millis, efficiency.wall_ms),
        ]);
    }
    page.push_str(&table.render());
    push_cases(&mut page, shown);
    push_attempts(&mut page, shown);
    push_usage(&mut page, shown);
    page.push_str(&format!("\nadvice: {}\n", advice(shown)));
    page
}

/// Says where sandboxes were not what they are by default.
fn push_environments(page: &mut String, shown: &ShowRunResponse) {
    let before = page.len();
    for target in &shown.targets {
        let mut departures: Vec<String> = target.without.iter().map(|wall| format!("without {wall}")).collect();
        if target.profile == "debug" {
            departures.push("under the debug profile".into());
        }
        if !departures.is_empty() {
            let (name, departures) = (text::escape_line(&target.name), text::escape_line(&departures.join(", ")));
            page.push_str(&format!("{name} ran {departures}\n"));
        }
    }
    if page.len() > before {
        page.push('\n');
    }
}

fn push_cases(page: &mut String, shown: &ShowRunResponse) {
    let mut table = Table::new(&[
        ("slowest cases", Align::Right),
        ("outcome", Align::Left),
        ("attempts", Align::Right),
        ("agent", Align::Left),
        ("case", Align::Left),
    ]);
    for case in slowest_cases(shown) {
        table.row([
            text::micros(case.duration_us),
            text::escape_line(&case.outcome),
            case.attempts.to_string(),
            text::escape_line(&case.agent),
            format!("{} {}", text::escape_line(&case.target_name), text::escape_line(&case.name)),
        ]);
    }
    if !table.is_empty() {
        page.push('\n');
        page.push_str(&table.render());
    }
}

fn push_attempts(page: &mut String, shown: &ShowRunResponse) {
    let mut table = Table::new(&[
        ("slowest attempts", Align::Right),
        ("waited", Align::Right),
        ("transfer", Align::Right),
        ("environment", Align::Right),
        ("execution", Align::Right),
        ("agent", Align::Left),
        ("what", Align::Left),
    ]);
    for attempt in slowest_attempts(shown) {
        table.row([
            text::micros(total_us(attempt)),
            text::micros(attempt.waited_us),
            text::micros(attempt.transfer_us),
            text::micros(attempt.environment_us),
            text::micros(attempt.execution_us),
            text::escape_line(&attempt.agent),
            what(shown, attempt),
        ]);
    }
    if !table.is_empty() {
        page.push('\n');
        page.push_str(&table.render());
    }
}

/// What the same attempts used. What their machines could not tell is a dash.
fn push_usage(page: &mut String, shown: &ShowRunResponse) {
    let known = |value: u64, text: String| if value == 0 { "-".into() } else { text };
    let mut table = Table::new(&[
        ("memory used", Align::Right),
        ("processor", Align::Right),
        ("written", Align::Right),
        ("at once", Align::Right),
        ("started", Align::Right),
        ("what", Align::Left),
    ]);
    let has_used = |attempt: &&AttemptSummary| attempt.cpu_us > 0 || attempt.memory_peak_bytes > 0;
    for attempt in slowest_attempts(shown).into_iter().filter(has_used) {
        table.row([
            known(attempt.memory_peak_bytes, text::size(attempt.memory_peak_bytes)),
            known(attempt.cpu_us, text::micros(attempt.cpu_us)),
            known(attempt.written_bytes, text::size(attempt.written_bytes)),
            known(attempt.processes_peak.into(), attempt.processes_peak.to_string()),
            known(attempt.processes_created, attempt.processes_created.to_string()),
            what(shown, attempt),
        ]);
    }
    if !table.is_empty() {
        page.push('\n');
        page.push_str(&table.render());
    }
}

/// An attempt's target and work.
fn what(shown: &ShowRunResponse, attempt: &AttemptSummary) -> String {
    let target = shown.targets.iter().find(|target| target.target == attempt.target);
    let work = match (attempt.discover, attempt.alone) {
        (true, _) => "discovery".into(),
        (false, true) => format!("{} alone", text::counted(u64::from(attempt.cases), "case", "cases")),
        (false, false) => text::counted(u64::from(attempt.cases), "case", "cases"),
    };
    format!("{}: {work}", target.map_or_else(String::new, |target| text::escape_line(&target.name)))
}

/// The answer for programs.
pub(super) fn object(shown: &ShowRunResponse) -> Value {
    let summary = shown.summary.clone().unwrap_or_default();
    let efficiency = shown.efficiency.unwrap_or_default();
    let mut object = merged([efficiency_fields(&efficiency), summary_fields(&summary)]);
    let name = |attempt: &AttemptSummary| {
        let found = shown.targets.iter().find(|target| target.target == attempt.target);
        found.map(|target| target.name.clone())
    };
    let cases = slowest_cases(shown).into_iter().map(|case| {
        let mut fields = merged([case_fields(case)]);
        // `runs show` has it; here it would only be in the way.
        fields.remove("output");
        Value::Object(fields)
    });
    object.insert("slowest_cases".into(), cases.collect());
    let targets = shown.targets.iter().map(|target| {
        json!({"name": target.name, "environment": target.environment, "without": target.without, "profile": target.profile})
    });
    object.insert("targets".into(), targets.collect());
    let attempts = slowest_attempts(shown).into_iter().map(|attempt| attempt_fields(attempt, name(attempt)));
    object.insert("slowest_attempts".into(), attempts.collect());
    object.insert("advice".into(), json!(advice(shown)));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::shown;
    use super::*;

    #[test]
    fn the_page_says_where_the_time_went() {
        insta::assert_snapshot!(page(&shown()), @r"
        run 17 of shapes: failed after 1.00 s, efficiency 85 % on 2 slots

        part            time  share
        lower bound  0.850 s   85 %  ##########################
        tail         0.100 s   10 %  ###
        dispatch     0.027 s    3 %  #
        transfer     0.020 s    2 %  #
        environment  0.003 s    0 %  #

        slowest cases  outcome  attempts  agent    case
              0.850 s  failed          1  agent-0  shapes (lib) tests::volume
              0.040 s  passed          1  agent-0  shapes (lib) tests::edge

        slowest attempts   waited  transfer  environment  execution  agent    what
                 0.923 s  0.000 s   0.020 s      0.003 s    0.900 s  agent-0  shapes (lib): 2 cases
                 0.027 s  0.000 s   0.020 s      0.003 s    0.004 s  agent-0  shapes (lib): discovery

        memory used  processor  written  at once  started  what
           96.0 MiB     1.20 s  5.0 KiB        4        9  shapes (lib): 2 cases
           96.0 MiB     1.20 s        -        4        9  shapes (lib): discovery

        advice: the longest case, tests::volume, alone takes 85 % of the wall: splitting it helps, more agents do not
        ");
    }

    #[test]
    fn a_weaker_sandbox_is_named() {
        let mut shown = shown();
        shown.targets[0].without = vec!["control-groups".into()];
        shown.targets[0].profile = "debug".into();
        let page = page(&shown);
        assert!(page.contains("\nshapes (lib) ran without control-groups, under the debug profile\n"), "{page}");
    }

    #[test]
    fn the_advice_follows_the_largest_part() {
        let advice_for = |change: fn(&mut ShowRunResponse, &mut Efficiency)| {
            let mut shown = shown();
            let mut efficiency = shown.efficiency.unwrap();
            shown.cases[0].duration_us = 1000;
            change(&mut shown, &mut efficiency);
            shown.efficiency = Some(efficiency);
            advice(&shown)
        };
        assert!(advice_for(|shown, _| shown.cases[0].duration_us = 900_000).contains("splitting it helps"));
        assert!(advice_for(|_, efficiency| efficiency.tail_ms = 500).starts_with("slots stood idle"));
        assert!(advice_for(|_, efficiency| efficiency.dispatch_ms = 500).starts_with("work waited"));
        assert!(advice_for(|_, efficiency| efficiency.transfer_ms = 500).starts_with("agents waited"));
        assert!(advice_for(|_, efficiency| efficiency.environment_ms = 500).starts_with("making environments"));
        assert!(advice_for(|_, _| {}).contains("more slots help"));
        assert!(advice_for(|shown, _| shown.summary.as_mut().unwrap().executed = 0).contains("from the cache"));
        assert!(advice_for(|shown, _| shown.summary.as_mut().unwrap().outcome = "running".into()).contains("not over"));
    }

    #[test]
    fn figures_from_a_strange_peer_do_not_overflow() {
        let mut shown = shown();
        shown.attempts[0].execution_us = u64::MAX;
        shown.cases[0].duration_us = u64::MAX;
        let lost = Efficiency { tail_ms: u64::MAX, wall_ms: 0, ..Efficiency::default() };
        shown.efficiency = Some(lost);
        assert!(page(&shown).contains("advice:"));
        assert!(page(&ShowRunResponse::default()).contains("advice:"));
    }
}
