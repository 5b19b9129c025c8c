//! Prints the host's base, and how long it took to find it.

use std::time::Instant;

use muster_environment::{BaseConfig, HostBase};

const TIMES: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = BaseConfig::default();
    for _ in 0..TIMES {
        let started = Instant::now();
        let base = HostBase::identify(&config)?;
        println!("{} entries {} read {} bytes in {:?}", base.base(), base.entries, base.read_bytes, started.elapsed());
    }
    Ok(())
}
