//! `muster conformance`: does a server keep the rules of the Remote Execution API?

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{Format, answer};
use crate::client::connect_server;
use crate::conformance::report::{self, Summary};
use crate::conformance::session::{Options, Session};
use crate::conformance::{self, Check};
use crate::error::{ExpectedError, FleetError};
use crate::exit_code::ExitCode;
use crate::paint::{ColorChoice, Paint};
use crate::text;

/// `muster conformance`
#[derive(Debug, Args)]
pub(super) struct ConformanceArguments {
    /// The server's address: grpc://HOST:PORT or http://HOST:PORT, without TLS
    #[arg(value_name = "URL")]
    url: String,
    /// The instance that is asked
    #[arg(long, value_name = "NAME", default_value = "")]
    instance: String,
    /// Run only checks whose name contains one of these; may be given several times
    #[arg(long, value_name = "WORDS")]
    filter: Vec<String>,
    /// A platform property of every action that is executed; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    property: Vec<(String, String)>,
    /// How long one check may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = text::parse_duration)]
    timeout: Duration,
    /// What blobs are made from: a run with the same seed sends the same bytes [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Leave with 1 also for what a server should do, or clients need, and is not done
    #[arg(long)]
    strict: bool,
    /// List the checks and their rules, and ask nobody
    #[arg(long)]
    list: bool,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(super) format: Format,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a property is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl ConformanceArguments {
    pub(super) async fn run(self, color: ColorChoice) -> Result<ExitCode, ExpectedError> {
        let checks = self.checks();
        if self.list {
            return list(&checks, self.format).map(|()| ExitCode::Passed);
        }
        if checks.is_empty() {
            return Err(FleetError::NoSuchCheck { filters: self.filter }.into());
        }
        let paint = Paint::for_stream(color, &std::io::stdout());
        let channel = connect_server(&self.url).await?;
        let seed = self.seed.unwrap_or_else(clock);
        let options = Options { instance: self.instance, seed, properties: self.property };
        let session = Session::open(channel, options).await;
        let start = Instant::now();
        let mut summary = Summary::default();
        for check in checks {
            let ran = conformance::run(check, &session, self.timeout).await;
            summary.add(&ran);
            match self.format {
                Format::Human => answer(&report::line(&ran, paint))?,
                Format::Json => answer(&format!("{}\n", report::object(&ran)))?,
            }
        }
        match self.format {
            Format::Human => answer(&summary.page(seed, start.elapsed()))?,
            Format::Json => answer(&format!("{}\n", summary.object(seed, start.elapsed(), self.strict)))?,
        }
        Ok(if summary.conforms(self.strict) { ExitCode::Passed } else { ExitCode::TestFailed })
    }

    fn checks(&self) -> Vec<Check> {
        let wanted =
            |check: &Check| self.filter.is_empty() || self.filter.iter().any(|words| check.name.contains(words));
        conformance::all().into_iter().filter(wanted).collect()
    }
}

fn list(checks: &[Check], format: Format) -> Result<(), ExpectedError> {
    for check in checks {
        match format {
            Format::Human => {
                answer(&format!("{}: {} ({}, {})\n", check.name, check.rule, check.level.name(), check.section))?;
            }
            Format::Json => answer(&format!("{}\n", report::description(check)))?,
        }
    }
    Ok(())
}

/// Blobs have to be new to the server, whoever asked it before: the clock is.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_has_a_name_and_a_value() {
        assert_eq!(property("base=debian=12"), Ok(("base".into(), "debian=12".into())));
        assert!(property("base").is_err());
    }
}
