//! Prints how long a start takes, against a plain fork and exec.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_environment::{
    Environment, EnvironmentError, EnvironmentSpec, KillSwitch, OutputChunk, SandboxConfig, SandboxEnvironment,
};
use muster_model::spec::{CommandSpec, Profile};
use tokio::sync::mpsc;

const STARTS: usize = 300;

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "{name:<24} p10 {:>9.2?} p50 {:>9.2?} p90 {:>9.2?} p99 {:>9.2?}",
        times[times.len() / 10],
        times[times.len() / 2],
        times[times.len() * 9 / 10],
        times[times.len() * 99 / 100]
    );
}

fn specification() -> EnvironmentSpec {
    EnvironmentSpec {
        with_base: true,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: std::env::args().skip(1).collect(),
            environment: Vec::new(),
            working_directory: "/work".into(),
        },
        memory_bytes: 1 << 30,
        processes: 64,
        output_bytes: 1 << 20,
        profile: Profile::Strict,
        collect: Vec::new(),
        collector: None,
        variables: Default::default(),
        network: None,
    }
}

/// Starts one after the other in each of two tasks, as two slots do, and tells how many there were in a second.
async fn print_rate(driver: Arc<SandboxEnvironment>, spec: &EnvironmentSpec) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let tasks = [(); 2].map(|()| {
        let (driver, spec) = (driver.clone(), spec.clone());
        tokio::spawn(async move {
            for _ in 0..STARTS {
                let prepared = driver.prepare(spec.clone()).await?;
                let (sender, _receiver) = mpsc::channel(16);
                driver.run(prepared, sender, KillSwitch::default()).await?;
            }
            Ok::<_, EnvironmentError>(())
        })
    });
    for task in tasks {
        task.await??;
    }
    println!("{:<24} {:.0} in a second", "two at a time", (2 * STARTS) as f64 / started.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    for _ in 0..3 {
        let started = Instant::now();
        let driver = SandboxEnvironment::new(SandboxConfig::new(directory.path().into()))?;
        let made = started.elapsed();
        driver.check_readiness()?;
        println!("a driver in {made:?}, found ready in {:?}", started.elapsed() - made);
    }
    let driver = Arc::new(SandboxEnvironment::new(SandboxConfig::new(directory.path().into()))?);
    let mut spec = specification();
    if spec.command.arguments.is_empty() {
        spec.command.arguments = vec!["/bin/true".into()];
    } else {
        let prepared = driver.prepare(spec).await?;
        let (sender, mut receiver) = mpsc::channel::<OutputChunk>(16);
        let print = async {
            while let Some(chunk) = receiver.recv().await {
                print!("{}", String::from_utf8_lossy(&chunk.bytes));
            }
        };
        let (exit, ()) = tokio::join!(driver.run(prepared, sender, KillSwitch::default()), print);
        println!("{:?}", exit?);
        return Ok(());
    }
    let (mut plain, mut whole, mut preparation, mut execution, mut cleaning) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..STARTS {
        let started = Instant::now();
        let status = std::process::Command::new("/bin/true").status()?;
        assert!(status.success(), "true is true");
        plain.push(started.elapsed());
        let started = Instant::now();
        let prepared = driver.prepare(spec.clone()).await?;
        preparation.push(prepared.preparation());
        let (sender, _receiver) = mpsc::channel(16);
        let exit = driver.run(prepared, sender, KillSwitch::default()).await?;
        whole.push(started.elapsed());
        execution.push(exit.execution);
        cleaning.push(exit.cleaning);
    }
    print("plain fork and exec", plain);
    print("sandbox", whole);
    print("  preparation", preparation);
    print("  execution", execution);
    print("  cleaning", cleaning);
    print_rate(driver, &spec).await?;
    Ok(())
}
