//! Figure 3 of environments: how soon after PostgreSQL accepts a case may start, how soon it has a database of its own, and what a suite takes that
//! needs one.

use std::time::{Duration, Instant};

use super::postgres::{Server, Suite};
use super::{Bench, goal, median, percentile, shown};
use crate::programs::{Fleet, Place, TestRun};
use crate::python;

/// Servers started in a round, and databases cloned from one that is warm.
const STARTS: usize = 10;
const CLONES: usize = 40;
const GOAL: Duration = Duration::from_millis(50);
/// `--health-interval` in GitHub's own example of a job with PostgreSQL.
const HEALTH_INTERVAL: Duration = Duration::from_secs(10);

impl Bench {
    /// PostgreSQL for tests.
    ///
    /// # Panics
    ///
    /// When something that is measured fails.
    pub fn services(&self) {
        self.service_starts();
        self.database_clones();
        self.sql_suite();
    }

    /// What the server's own log says of the time between its readiness and the first case.
    fn service_starts(&self) {
        let place = logged(1);
        let (mut answered, mut begun, mut without_clone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds * STARTS {
            // An agent that ends takes its services along, so that the next one starts anew.
            let run = place.test(&["--agents", "1", "--slots", "1", "--no-cache"]);
            for log in logs(&run) {
                let accepts = log.first("ready to accept connections").at;
                let began = log.first("began").at.saturating_sub(accepts);
                answered.push(log.first("connection authorized").at.saturating_sub(accepts));
                without_clone.push(began.saturating_sub(log.cloning()));
                begun.push(began);
            }
        }
        println!("\n### PostgreSQL 15, started {} times: from its word that it accepts connections\n", begun.len());
        table(&[
            ("until Muster has its first answer", &answered),
            ("until the first case's first line", &begun),
            ("— without the time for its clone", &without_clone),
        ]);
        let nearly_all = percentile(&without_clone, 99);
        goal("ready to test within 50 ms, p99", &shown(nearly_all), nearly_all <= GOAL);
    }

    /// What the server's own log says of databases that were asked for and made.
    fn database_clones(&self) {
        let place = logged(self.rounds * CLONES);
        let fleet = Fleet::start(&place, 1);
        let output = place.muster(["test", "--format", "json", "--no-cache", "--fleet", &fleet.url()]).output();
        let run = TestRun::read(&output.expect("muster starts"));
        let clones: Vec<Duration> = logs(&run).iter().map(Log::cloning).collect();
        println!(
            "\n### {} cases, each with a database of its own: from asking for it until it is there\n",
            clones.len()
        );
        table(&[("connecting, and `CREATE DATABASE` from the template", &clones)]);
        let nearly_all = percentile(&clones, 99);
        goal("a cloned database within 50 ms, p99", &shown(nearly_all), nearly_all <= GOAL);
    }

    /// A suite that needs a database, with a server that runs already and with ones that have to be started.
    fn sql_suite(&self) {
        let place = python::sql_suite("bench");
        let suite = Suite { project: place.project(), python: python::interpreter() };
        let running = Server::start(&suite.project);
        running.wait();
        let fleet = Fleet::start(&place, 2);
        let muster = |arguments: &[&str]| {
            let mut command = place.muster(["test", "--format", "json", "--no-cache"]);
            let run = TestRun::read(&command.args(arguments).output().expect("muster starts"));
            assert_eq!((run.code, run.count("passed")), (Some(0), python::SQL_CASES), "{run:#?}");
        };
        let mut ways = [
            "plain `pytest`, one process, the server runs already",
            "`muster test --no-cache`, two agents, services warm",
            "`muster test --no-cache`, two agents, nothing warm",
            "plain `pytest` in two shards, a fresh server each",
            "GitHub's back-off, health known at any time, then plain `pytest`",
            "GitHub's back-off, health looked at every 10 s, then plain `pytest`",
        ]
        .map(|name| (name, Vec::new()));
        for round in 0..=self.rounds {
            // Made before, as everything of this way is.
            let database = running.clone_database(&format!("round_{round}"));
            for (number, (_, walls)) in ways.iter_mut().enumerate() {
                let began = Instant::now();
                match number {
                    0 => suite.run(&database, &[]),
                    1 => muster(&["--fleet", &fleet.url()]),
                    2 => muster(&["--agents", "2", "--slots", "1"]),
                    3 => suite.run_with_fresh_servers(),
                    4 => suite.run_as_a_job(None),
                    _ => suite.run_as_a_job(Some(HEALTH_INTERVAL)),
                }
                // The first round only warms what all of them use.
                if round > 0 {
                    walls.push(began.elapsed());
                }
            }
        }
        println!("\n### {} tests of pytest and psycopg that ask PostgreSQL 15\n", python::SQL_CASES);
        println!("| | wall, median | least | most | wall / first |\n|---|---:|---:|---:|---:|");
        let wall = |way: usize| median(ways[way].1.clone()).as_secs_f64();
        for (number, (name, walls)) in ways.iter().enumerate() {
            let [least, most] = [0, 100].map(|percent| percentile(walls, percent).as_secs_f64());
            println!("| {name} | {:.2} s | {least:.2} s | {most:.2} s | {:.2} |", wall(number), wall(number) / wall(0));
        }
        for (way, words) in [(3, "a fresh server per shard"), (4, "GitHub's back-off")] {
            let ratio = wall(1) / wall(way);
            goal(&format!("against {words}: below 1.00"), &format!("{ratio:.2}"), ratio < 1.0);
        }
    }
}

/// A project with a case for each shard, which tells what its server has logged.
fn logged(shards: usize) -> Place {
    let place = Place::of("server-log");
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    place.write("muster.toml", &text.replace("SHARDS", &shards.to_string()));
    place
}

/// What every case told.
fn logs(run: &TestRun) -> Vec<Log> {
    let cases = run.events.iter().filter(|event| event["event"] == "case_finished");
    let logs: Vec<Log> = cases
        .map(|case| Log(case["output"].as_str().unwrap_or_default().lines().filter_map(Line::read).collect()))
        .collect();
    assert!(!logs.is_empty() && logs.iter().all(|log| !log.0.is_empty()), "nobody told anything: {run:#?}");
    logs
}

/// Lines of a server and of a case, which share a clock.
struct Log(Vec<Line>);

struct Line {
    /// Since 1970; the server's own lines to the millisecond.
    at: Duration,
    process: String,
    text: String,
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let at = words.next()?.parse().ok()?;
        let (process, text) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Self { at: Duration::try_from_secs_f64(at).ok()?, process, text })
    }
}

impl Log {
    fn first(&self, words: &str) -> &Line {
        let found = self.0.iter().find(|line| line.text.contains(words));
        found.unwrap_or_else(|| panic!("nobody said {words:?}"))
    }

    /// From the connection that asked for the newest database to the answer.
    fn cloning(&self) -> Duration {
        let made = self.0.iter().rfind(|line| line.text.contains("CREATE DATABASE")).expect("a database was made");
        let is_asking = |line: &&Line| line.process == made.process && line.text.contains("connection received");
        let asked = self.0.iter().rfind(is_asking).expect("somebody asked for it");
        made.at.saturating_sub(asked.at)
    }
}

fn table(rows: &[(&str, &[Duration])]) {
    println!("| | p50 | p90 | p99 |\n|---|---:|---:|---:|");
    for (name, times) in rows {
        let [half, most, nearly_all] = [50, 90, 99].map(|percent| shown(percentile(times, percent)));
        println!("| {name} | {half} | {most} | {nearly_all} |");
    }
}
