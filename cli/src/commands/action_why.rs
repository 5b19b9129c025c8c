//! `muster runs why OPERATION`: where the time of a remotely executed action went, and one sentence of advice.

use muster_proto::code_name;
use muster_proto::v1::{ShowActionRequest, ShowActionResponse};
use serde_json::{Value, json};
use tonic::Code;

use super::fleet_access::{AskArguments, ask};
use super::{Format, answer, answer_json};
use crate::client::operation_refusal;
use crate::error::ExpectedError;
use crate::table::{Align, Table};
use crate::text;

/// The share of the whole time, as a percentage, from which a part is worth a sentence.
const SHARE_PERCENT: u64 = 40;

/// Asks and answers.
pub(super) async fn run(operation: String, arguments: &AskArguments) -> Result<(), ExpectedError> {
    let shown = ask(arguments, false, async |client| {
        let answer = client.status().show_action(ShowActionRequest { operation: operation.clone() }).await;
        Ok(answer.map_err(operation_refusal(client.url(), &operation))?.into_inner())
    })
    .await?;
    match arguments.format {
        Format::Human => answer(&page(&shown)),
        Format::Json => answer_json(&object(&shown)),
    }
}

/// A part of the time: its name, its microseconds, and what helps when it is large.
fn parts(shown: &ShowActionResponse) -> [(&'static str, u64, &'static str); 6] {
    [
        (
            "queue",
            shown.queue_us,
            "it waited for a slot: more agents help, or a lower priority number for what is urgent",
        ),
        (
            "fetch",
            shown.transfer_us,
            "its agent waited for inputs: it keeps them, so the next action with these directories is faster",
        ),
        ("environment", shown.environment_us, "making its environment took long: look at the agent's load"),
        ("execute", shown.execution_us, "the time is the command's own"),
        ("upload", shown.upload_us, "collecting and uploading outputs took long: declare fewer or smaller ones"),
        ("answer", shown.answer_us, "verifying and keeping the result took long: look at the coordinator's disk"),
    ]
}

fn advice(shown: &ShowActionResponse) -> String {
    if shown.cached {
        return "nothing was executed: the result came from the cache".into();
    }
    if shown.requests == 0 {
        return "nothing was executed: the action was refused before it was queued".into();
    }
    if shown.stage != "done" {
        return format!("it is not over yet: {}", text::escape_line(&shown.stage));
    }
    if shown.attempts > 1 {
        return format!("it took {} attempts: see the faults above", shown.attempts);
    }
    let largest = parts(shown).into_iter().max_by_key(|(_, micros, _)| *micros);
    match largest {
        Some((_, micros, advice)) if micros * 100 >= shown.total_us.saturating_mul(SHARE_PERCENT) => advice.into(),
        _ => "no part stands out".into(),
    }
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

/// What the action is for, as far as its client said.
fn purpose(shown: &ShowActionResponse) -> String {
    match (shown.mnemonic.as_str(), shown.target.as_str()) {
        ("", "") => String::new(),
        (mnemonic, "") => format!(" {},", text::escape_line(mnemonic)),
        ("", target) => format!(" for {},", text::escape_line(target)),
        (mnemonic, target) => format!(" {} for {},", text::escape_line(mnemonic), text::escape_line(target)),
    }
}

/// Who asked for it, as far as the client said.
fn requester(shown: &ShowActionResponse) -> String {
    let tool = if shown.tool.is_empty() { "a client without a name".into() } else { text::escape_line(&shown.tool) };
    match shown.invocation.as_str() {
        "" => tool,
        invocation => format!("{tool}, invocation {}", text::escape_line(invocation)),
    }
}

/// The status that the action ended with, by its name.
fn status(shown: &ShowActionResponse) -> &'static str {
    code_name(Code::from(shown.code))
}

fn page(shown: &ShowActionResponse) -> String {
    let is_done = shown.stage == "done";
    let mut page = format!(
        "{}:{} {} after {}\nasked by {}; {} {}; {}\n",
        text::escape_line(&shown.operation),
        purpose(shown),
        text::escape_line(&shown.stage),
        milliseconds(shown.total_us),
        requester(shown),
        text::counted(u64::from(shown.requests), "request", "requests"),
        if is_done { "answered" } else { "waiting for it" },
        if shown.agent.is_empty() { "on no agent".into() } else { format!("on {}", text::escape_line(&shown.agent)) },
    );
    if is_done {
        page.push_str(&format!("status {}", status(shown)));
        // What was not executed, or left no result, has no exit code, which the wire can't tell from 0.
        if shown.code == 0 || shown.exit_code != 0 {
            page.push_str(&format!(", exit code {}", shown.exit_code));
        }
        if !shown.message.is_empty() {
            page.push_str(&format!(": {}", text::escape_line(&shown.message)));
        }
        page.push('\n');
    }
    for fault in &shown.faults {
        page.push_str(&format!("fault {}\n", text::escape_line(fault)));
    }
    let mut table = Table::new(&[("part", Align::Left), ("time", Align::Right), ("share", Align::Right)]);
    for (name, micros, _) in parts(shown) {
        table.row([name.into(), milliseconds(micros), text::percent(micros, shown.total_us)]);
    }
    page.push('\n');
    page.push_str(&table.render());
    if shown.cpu_us > 0 || shown.memory_peak_bytes > 0 {
        page.push_str(&format!(
            "\nused {} of memory, {} of processor time, {} written, {} at one time, {} in all\n",
            text::size(shown.memory_peak_bytes),
            milliseconds(shown.cpu_us),
            text::size(shown.written_bytes),
            text::counted(u64::from(shown.processes_peak), "process", "processes"),
            shown.processes_created,
        ));
    }
    page.push_str(&format!("\nadvice: {}\n", advice(shown)));
    page
}

fn object(shown: &ShowActionResponse) -> Value {
    json!({
        "operation": shown.operation,
        "tool": shown.tool,
        "invocation": shown.invocation,
        "mnemonic": shown.mnemonic,
        "target": shown.target,
        "stage": shown.stage,
        "requests": shown.requests,
        "cached": shown.cached,
        "agent": shown.agent,
        "attempts": shown.attempts,
        "faults": shown.faults,
        "queue_us": shown.queue_us,
        "fetch_us": shown.transfer_us,
        "environment_us": shown.environment_us,
        "execute_us": shown.execution_us,
        "upload_us": shown.upload_us,
        "answer_us": shown.answer_us,
        "total_us": shown.total_us,
        "fetched_bytes": shown.fetched_bytes,
        "memory_peak_bytes": shown.memory_peak_bytes,
        "cpu_us": shown.cpu_us,
        "written_bytes": shown.written_bytes,
        "processes_peak": shown.processes_peak,
        "processes_created": shown.processes_created,
        "code": shown.code,
        "status": (shown.stage == "done").then(|| status(shown)),
        "message": shown.message,
        "exit_code": shown.exit_code,
        "advice": advice(shown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> ShowActionResponse {
        ShowActionResponse {
            operation: "operations/0f".into(),
            tool: "bazel 4.2.3".into(),
            invocation: "b7\u{1b}[2J".into(),
            mnemonic: "CppCompile".into(),
            target: "//shapes:volume".into(),
            stage: "done".into(),
            requests: 2,
            agent: "build-1".into(),
            attempts: 1,
            queue_us: 1_250,
            transfer_us: 700,
            environment_us: 4_000,
            execution_us: 90_000,
            upload_us: 2_050,
            answer_us: 1_900,
            total_us: 100_000,
            memory_peak_bytes: 48 << 20,
            cpu_us: 81_000,
            written_bytes: 3 << 10,
            processes_peak: 3,
            processes_created: 7,
            ..ShowActionResponse::default()
        }
    }

    #[test]
    fn the_page_shows_each_part_of_the_time() {
        insta::assert_snapshot!(page(&shown()), @r"
        operations/0f: CppCompile for //shapes:volume, done after 100.000 ms
        asked by bazel 4.2.3, invocation b7\u{1b}[2J; 2 requests answered; on build-1
        status OK, exit code 0

        part              time  share
        queue         1.250 ms    1 %
        fetch         0.700 ms    1 %
        environment   4.000 ms    4 %
        execute      90.000 ms   90 %
        upload        2.050 ms    2 %
        answer        1.900 ms    2 %

        used 48.0 MiB of memory, 81.000 ms of processor time, 3.0 KiB written, 3 processes at one time, 7 in all

        advice: the time is the command's own
        ");
    }

    #[test]
    fn a_status_has_its_name_and_an_exit_code_only_where_there_is_one() {
        let of = |code: Code, message: &str, exit_code| {
            let shown = ShowActionResponse { code: code.into(), message: message.into(), exit_code, ..shown() };
            assert_eq!(object(&shown)["status"], code_name(code));
            page(&shown).lines().nth(2).unwrap_or_default().to_owned()
        };
        assert_eq!(of(Code::Ok, "", 3), "status OK, exit code 3");
        assert_eq!(
            of(Code::FailedPrecondition, "no agent has base \u{1b}[2J", 0),
            "status FAILED_PRECONDITION: no agent has base \\u{1b}[2J"
        );
        assert_eq!(of(Code::DeadlineExceeded, "1s", 137), "status DEADLINE_EXCEEDED, exit code 137: 1s");
        let waiting = ShowActionResponse { stage: "queued".into(), ..shown() };
        assert_eq!(object(&waiting)["status"], Value::Null);
    }

    #[test]
    fn what_a_client_does_not_say_is_left_out() {
        let shown = ShowActionResponse {
            operation: "operations/0f".into(),
            stage: "queued".into(),
            requests: 1,
            queue_us: 1_250,
            total_us: 1_250,
            ..ShowActionResponse::default()
        };
        let page = page(&shown);
        let head: Vec<&str> = page.lines().take(2).collect();
        assert_eq!(
            head,
            [
                "operations/0f: queued after 1.250 ms",
                "asked by a client without a name; 1 request waiting for it; on no agent"
            ]
        );
    }

    #[test]
    fn advice_names_the_largest_part_unless_something_else_says_more() {
        let of = |change: fn(&mut ShowActionResponse)| {
            let mut shown = shown();
            change(&mut shown);
            advice(&shown)
        };
        assert!(of(|shown| shown.queue_us = 95_000).starts_with("it waited for a slot"));
        assert!(of(|shown| shown.cached = true).contains("came from the cache"));
        assert!(of(|shown| shown.attempts = 3).contains("3 attempts"));
        assert_eq!(of(|shown| shown.stage = "fetching".into()), "it is not over yet: fetching");
        assert_eq!(of(|shown| shown.execution_us = 30_000), "no part stands out");
        assert!(of(|shown| shown.requests = 0).contains("refused before it was queued"));
    }
}
