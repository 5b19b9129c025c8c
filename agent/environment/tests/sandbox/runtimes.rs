//! Whole language runtimes under the filter of system calls: real programs that do what tests do.

use muster_environment::{EnvironmentSpec, ExitStatus};

use crate::support::{Place, program};

const MEMORY_BYTES: u64 = 1024 * 1024 * 1024;

/// Runs a program over a layer with one file of the project.
async fn run(file: (&str, &str), arguments: &[&str]) -> String {
    let place = Place::new();
    let layers = vec![place.layer("project", &[file])];
    let spec = EnvironmentSpec { layers, memory_bytes: MEMORY_BYTES, ..program(arguments) };
    let (exit, text) = place.run(spec).await.expect("an exit");
    assert_eq!((exit.status, exit.killed, exit.leaked_processes), (ExitStatus::Code(0), None, 0), "{text}");
    text
}

#[tokio::test]
async fn node_runs_under_the_filter() {
    let probe = ("/project/probe.js", include_str!("runtimes/probe.js"));
    let text = run(probe, &["node", "--expose-gc", "probe.js"]).await;
    assert_eq!(text, "files hello\nchildren child 3\nthreads 42\nhttp pong\nmemory 10000 true true 16\n");
}

#[tokio::test]
async fn the_jvm_runs_under_the_filter_with_each_of_its_collectors() {
    for collector in ["-XX:+UseSerialGC", "-XX:+UseParallelGC", "-XX:+UseG1GC", "-XX:+UseZGC"] {
        let probe = ("/project/Probe.java", include_str!("runtimes/Probe.java"));
        let text = run(probe, &["java", "-Xmx128m", collector, "Probe.java"]).await;
        let expected = "files jello\nchildren child 3\nthreads 140\nhttp pong\nmemory true true true\n";
        assert_eq!(text, expected, "{collector}");
    }
}
