//! Figure 6: how soon an agent's end is noticed, and how soon its work starts elsewhere: when it is killed, and when its network goes silent.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Bench, goal, median};
use crate::programs::{Fleet, Place, TestRun, start_until};

const AGENTS: usize = 4;
/// Each has an agent of its own, and one agent stays idle: how long a busy fleet takes is a question of what it is busy with.
const CASES: usize = AGENTS - 1;

/// What a loss took.
#[derive(Clone, Copy)]
struct Loss {
    noticed: Duration,
    elsewhere: Duration,
}

impl Bench {
    /// One of four agents is lost while it runs a case, and another one is idle.
    ///
    /// # Panics
    ///
    /// When a run does not pass, or the loss is not reported.
    pub fn recovery(&self) {
        let (mut killed, mut cut) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            killed.push(lose(6, |fleet, _, victim| drop(fleet.agents.remove(victim))));
            cut.push(lose(14, |_, relays, victim| relays[victim].silence()));
        }
        println!("\n### One of {AGENTS} agents is lost, another one is idle\n");
        println!("| | noticed, median | the case it ran starts elsewhere, median | most |\n|---|---:|---:|---:|");
        for (name, losses) in [("killed", &killed), ("silent partition", &cut)] {
            let (noticed, elsewhere) = medians(losses);
            let most = losses.iter().map(|loss| loss.elsewhere).max().unwrap_or_default();
            let [noticed, elsewhere, most] = [noticed, elsewhere, most].map(|time| time.as_secs_f64());
            println!("| {name} | {noticed:.2} s | {elsewhere:.2} s | {most:.2} s |");
        }
        let (elsewhere, noticed) = (medians(&killed).1, medians(&cut).0);
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        goal("killed: starts elsewhere within 2 s", &seconds(elsewhere), elsewhere <= Duration::from_secs(2));
        goal("silent: noticed within 10 s", &seconds(noticed), noticed <= Duration::from_secs(10));
    }
}

fn medians(losses: &[Loss]) -> (Duration, Duration) {
    (
        median(losses.iter().map(|loss| loss.noticed).collect()),
        median(losses.iter().map(|loss| loss.elsewhere).collect()),
    )
}

/// A fleet whose agents reach their coordinator only through relays, one each.
fn fleet_behind_relays(place: &Place) -> (Fleet, Vec<Relay>) {
    let mut fleet = Fleet::start(place, 0);
    let relays = (0..AGENTS).map(|_| Relay::default()).collect::<Vec<_>>();
    for relay in &relays {
        let url = relay.to(&fleet.address);
        fleet.start_agent_at(&url, &[]);
    }
    fleet.wait_for_agents(place, AGENTS);
    (fleet, relays)
}

/// Runs cases that sleep for so many seconds, loses the agent that started the last of them, and reads from the events what followed.
fn lose(seconds: u64, strike: impl FnOnce(&mut Fleet, &[Relay], usize)) -> Loss {
    let place = Place::of("workspace");
    let case = |number: usize| {
        format!("#[test]\nfn sleeps_{number}() {{ std::thread::sleep(std::time::Duration::from_secs({seconds})); }}\n")
    };
    place.write("alpha/src/lib.rs", &(0..CASES).map(case).collect::<String>());
    place.write("beta/src/lib.rs", "");
    let (mut fleet, relays) = fleet_behind_relays(&place);
    let mut command = place.muster(["test", "--format", "json", "--no-cache", "--isolation", "process"]);
    command.args(["--fleet", &fleet.url()]);
    let (mut started, mut victim) = (0, String::new());
    let running = start_until(command, |event| {
        if event["event"] == "case_started" {
            started += 1;
            victim = event["agent"].as_str().unwrap_or_default().to_owned();
        }
        started == CASES
    });
    // Agents are named by their position.
    let position =
        victim.strip_prefix("agent-").and_then(|number| number.parse().ok()).expect("an agent of this fleet");
    let struck_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    strike(&mut fleet, &relays, position);
    let run = running.finish();
    assert_eq!(run.code, Some(0), "{}\n{}", run.errors, fleet.logs());
    run.assert_complete();
    after(&run, &victim, struck_ms)
}

fn after(run: &TestRun, victim: &str, struck_ms: u64) -> Loss {
    let at = |event: &Value| event["at_unix_ms"].as_u64().unwrap_or_default();
    let since = |event: &Value| Duration::from_millis(at(event).saturating_sub(struck_ms));
    let started = |event: &&Value| event["event"] == "case_started";
    let own = run.events.iter().filter(started).find(|event| event["agent"] == victim);
    let name = &own.expect("the agent ran a case")["name"];
    let fault = |event: &&Value| event["event"] == "attempt_fault" && event["agent"] == victim;
    let noticed = run.events.iter().find(fault).expect("the loss is reported");
    let elsewhere = run.events.iter().filter(started).find(|event| event["name"] == *name && event["agent"] != victim);
    Loss { noticed: since(noticed), elsewhere: since(elsewhere.expect("the case it ran starts elsewhere")) }
}

/// A network between an agent and its coordinator that can go silent: connections stay open, and nothing gets through any more.
#[derive(Clone, Default)]
struct Relay {
    is_silent: Arc<AtomicBool>,
}

impl Relay {
    fn silence(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    /// Begins to relay to an address; returns the URL of this end. Its threads end with the process, or with their connections.
    fn to(&self, address: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("has an address"));
        let (relay, address) = (self.clone(), address.to_owned());
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&address) else { continue };
                for (from, to) in [(here.try_clone(), there.try_clone()), (there.try_clone(), here.try_clone())] {
                    if let (Ok(from), Ok(to)) = (from, to) {
                        let relay = relay.clone();
                        std::thread::spawn(move || relay.copy(from, to));
                    }
                }
            }
        });
        url
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if !self.is_silent.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        // Whoever waits at the other end is told, unless nothing gets through.
        if !self.is_silent.load(Ordering::SeqCst) {
            let _ = to.shutdown(std::net::Shutdown::Both);
        }
    }
}
