//! `muster cache why-miss`: everything in which two actions differ.

use clap::Args;
use muster_cache::RemoteStore;
use muster_model::Digest;
use muster_proto::v1::{CaseFinished, ListRunsRequest, ShowRunRequest, ShowRunResponse};
use serde_json::{Value, json};

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use super::parse_digest;
use crate::cache_error::CacheError;
use crate::client::{Client, lookup_refusal, refusal};
use crate::error::{ExpectedError, FleetError};
use crate::table::{Align, Table};
use crate::text;
use crate::why_miss::{Difference, Subject, SubjectError, differences};

/// Runs that are looked at for the last one that had a case.
const RUNS_BEFORE_MAX: u32 = 1000;

/// `muster cache why-miss`
#[derive(Debug, Args)]
pub(in crate::commands) struct WhyMissArguments {
    /// An action's digest, [sha256:|blake3:]HASH/SIZE, or a run's number
    #[arg(value_name = "A")]
    first: String,
    /// The other action's digest, or the name of a case of that run, whole or from a `::` on
    #[arg(value_name = "B")]
    second: String,
    /// Show at most so many differences
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

/// Two actions, what they are called, and what may be said besides their differences.
struct Compared {
    first: (String, Subject),
    second: (String, Subject),
    notes: Vec<String>,
}

/// What came of it.
struct Found {
    names: [String; 2],
    differences: Vec<Difference>,
    more: bool,
    notes: Vec<String>,
}

impl WhyMissArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let limit = self.limit as usize;
        let found = ask(&self.ask, true, async |client| {
            let store = RemoteStore::new(client.channel());
            let compared = match self.first.parse::<u64>() {
                Ok(run) => case_and_its_last(&client, run, &self.second).await?,
                Err(_) => two_actions(&store, &self.first, &self.second).await?,
            };
            let Compared { first, second, notes } = compared;
            let (differences, more) = differences(&store, &first.1, &second.1, limit)
                .await
                .map_err(|error| CacheError::from(SubjectError::from(error)))?;
            Ok(Found { names: [first.0, second.0], differences, more, notes })
        })
        .await?;
        match self.ask.format {
            Format::Human => answer(&page(&found)),
            Format::Json => answer_json(&object(&found)),
        }
    }
}

async fn two_actions(store: &RemoteStore, first: &str, second: &str) -> Result<Compared, ExpectedError> {
    let read = |text: &str| -> Result<Digest, CacheError> {
        parse_digest(text).map_err(|why| CacheError::NoSubject { text: text.to_owned(), why })
    };
    let (one, other) = (read(first)?, read(second)?);
    let subject = async |digest: &Digest| Subject::of_action(store, digest).await.map_err(CacheError::from);
    let (first, second) = (subject(&one).await?, subject(&other).await?);
    let mut notes = Vec::new();
    for (digest, subject) in [(&one, &first), (&other, &second)] {
        if subject.never_cached {
            notes.push(format!("{digest} is never cached: its client set do_not_cache"));
        }
    }
    if one == other {
        notes.push("it is the same action: its result was never stored, was evicted, or lost one of its blobs".into());
    }
    Ok(Compared { first: (one.to_string(), first), second: (other.to_string(), second), notes })
}

async fn show(client: &Client, run: u64) -> Result<ShowRunResponse, ExpectedError> {
    let answer = client.runs().show_run(ShowRunRequest { run }).await;
    Ok(answer.map_err(lookup_refusal(client.url(), run))?.into_inner())
}

/// The one case of a run that a name means: its whole name, or the end of it from a `::` on.
fn find<'a>(run: u64, shown: &'a ShowRunResponse, name: &str) -> Result<&'a CaseFinished, CacheError> {
    if let Some(exact) = shown.cases.iter().find(|case| case.name == name) {
        return Ok(exact);
    }
    let ends = |case: &&CaseFinished| case.name.strip_suffix(name).is_some_and(|before| before.ends_with("::"));
    let found: Vec<_> = shown.cases.iter().filter(ends).collect();
    let case = name.to_owned();
    match found[..] {
        [one] => Ok(one),
        [] => Err(CacheError::NoSuchCase { run, case }),
        ref several => {
            let names = several.iter().map(|case| case.name.clone()).collect();
            Err(CacheError::SeveralCases { run, case, names })
        }
    }
}

async fn case_and_its_last(client: &Client, run: u64, name: &str) -> Result<Compared, ExpectedError> {
    let shown = show(client, run).await?;
    let case = find(run, &shown, name)?.clone();
    let project = shown.summary.unwrap_or_default().project;
    let (before, last) = last_before(client, run, &project, &case).await?;
    let mut notes = Vec::new();
    if case.cached {
        notes.push(format!("it was no miss: run {run} took the result of `{}` from the cache", case.name));
    }
    if last.outcome != "passed" {
        notes.push(format!(
            "in run {before} it was {}: only a result that passed is cached",
            last.outcome.replace('_', " ")
        ));
    }
    if case.environment == "host" {
        notes
            .push("it ran on the bare host: such results are only cached when --cache-host-results asks for it".into());
    }
    let named = |run| format!("`{}` of {} in run {run}", case.name, case.target_name);
    Ok(Compared {
        first: (named(before), target(client, before, last.target).await?),
        second: (named(run), target(client, run, case.target).await?),
        notes,
    })
}

/// The newest run before this one that had the case.
async fn last_before(
    client: &Client,
    run: u64,
    project: &str,
    case: &CaseFinished,
) -> Result<(u64, CaseFinished), ExpectedError> {
    let runs = client.runs().list_runs(ListRunsRequest { limit: RUNS_BEFORE_MAX }).await;
    let runs = runs.map_err(refusal(client.url(), "list runs"))?.into_inner().runs;
    for earlier in runs.iter().filter(|earlier| earlier.run < run && earlier.project == project) {
        let shown = show(client, earlier.run).await?;
        let same = |other: &CaseFinished| other.name == case.name && other.target_name == case.target_name;
        if let Some(found) = shown.cases.into_iter().find(same) {
            return Ok((earlier.run, found));
        }
    }
    Err(CacheError::NoEarlierRun { run, project: project.to_owned(), case: case.name.clone() }.into())
}

async fn target(client: &Client, run: u64, target: u32) -> Result<Subject, ExpectedError> {
    let answer = client.runs().show_spec(ShowRunRequest { run }).await;
    let spec = answer.map_err(lookup_refusal(client.url(), run))?.into_inner();
    let unknown = || FleetError::Protocol { message: format!("run {run} has no target {target}") };
    let target = spec.targets.get(target as usize).ok_or_else(unknown)?;
    Ok(Subject::of_target(target).map_err(CacheError::from)?)
}

fn page(found: &Found) -> String {
    let [first, second] = found.names.each_ref().map(|name| text::escape_line(name));
    let mut page = format!("A: {first}\nB: {second}\n\n");
    if found.differences.is_empty() {
        page.push_str("no part of them differs\n");
    } else {
        let mut table = Table::new(&[
            ("differs", Align::Left),
            ("name", Align::Left),
            ("in A", Align::Left),
            ("in B", Align::Left),
        ]);
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "-".into(), text::escape_line);
        for one in &found.differences {
            let name = text::escape_line(&one.name);
            table.row([one.kind.words().into(), name, value(&one.first), value(&one.second)]);
        }
        page.push_str(&table.render());
    }
    if found.more {
        page.push_str("and more: --limit N shows more of them\n");
    }
    for note in &found.notes {
        page.push_str(&format!("note: {}\n", text::escape_line(note)));
    }
    page
}

fn object(found: &Found) -> Value {
    let difference = |one: &Difference| json!({"kind": one.kind.words().replace(' ', "_"), "name": one.name, "a": one.first, "b": one.second});
    json!({
        "a": found.names[0],
        "b": found.names[1],
        "differences": found.differences.iter().map(difference).collect::<Vec<_>>(),
        "more": found.more,
        "notes": found.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why_miss::Kind;

    fn found() -> Found {
        let difference = |kind, name: &str, first: Option<&str>, second: Option<&str>| Difference {
            kind,
            name: name.into(),
            first: first.map(str::to_owned),
            second: second.map(str::to_owned),
        };
        Found {
            names: ["sha256:aa/142".into(), "sha256:bb/142".into()],
            differences: vec![
                difference(Kind::Variable, "PATH", Some("/usr/bin"), Some("/home/me/bin:/usr/bin")),
                difference(Kind::Property, "OSFamily", Some("linux"), None),
                difference(Kind::Input, "lib/a.h", Some("sha256:cc/10"), Some("sha256:dd/11, executable")),
            ],
            more: true,
            notes: vec!["sha256:bb/142 is never cached: its client set do_not_cache".into()],
        }
    }

    #[test]
    fn each_difference_has_its_name_and_both_values() {
        insta::assert_snapshot!(page(&found()), @r"
        A: sha256:aa/142
        B: sha256:bb/142

        differs   name      in A          in B
        variable  PATH      /usr/bin      /home/me/bin:/usr/bin
        property  OSFamily  linux         -
        input     lib/a.h   sha256:cc/10  sha256:dd/11, executable
        and more: --limit N shows more of them
        note: sha256:bb/142 is never cached: its client set do_not_cache
        ");
        assert_eq!(object(&found())["differences"][1]["b"], Value::Null);
        assert_eq!(object(&found())["differences"][2]["kind"], "input");
    }

    #[test]
    fn a_case_may_be_named_by_its_end() {
        let case = |name: &str| CaseFinished { name: name.into(), ..CaseFinished::default() };
        let shown = ShowRunResponse {
            cases: vec![case("a::tests::one"), case("b::tests::one"), case("b::tests::two"), case("one")],
            ..ShowRunResponse::default()
        };
        assert_eq!(find(1, &shown, "tests::two").unwrap().name, "b::tests::two");
        assert_eq!(find(1, &shown, "one").unwrap().name, "one");
        assert!(matches!(find(1, &shown, "tests::one"), Err(CacheError::SeveralCases { .. })));
        assert!(matches!(find(1, &shown, "wo"), Err(CacheError::NoSuchCase { .. })));
    }
}
