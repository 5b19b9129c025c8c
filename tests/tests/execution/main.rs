//! Execute, WaitExecution and Operations against the real programs: a coordinator, agents, and a client that speaks the Remote Execution API.

mod endings;
mod outputs;
mod waiting;

use muster_tests::programs::{Fleet, Place};
use muster_tests::remote::Remote;

/// A coordinator with agents, and a connection to it.
struct World {
    place: Place,
    fleet: Fleet,
    remote: Remote,
}

impl World {
    async fn start(agents: usize) -> Self {
        let (place, fleet) = tokio::task::spawn_blocking(move || {
            let place = Place::empty();
            let fleet = Fleet::start(&place, agents);
            (place, fleet)
        })
        .await
        .expect("a fleet");
        let remote = Remote::connect(&fleet.url()).await;
        Self { place, fleet, remote }
    }
}
