//! The plain way through.

use super::fixture::*;
use muster_model::outcome::RunOutcome;

#[test]
fn a_run_of_passing_cases_passes() {
    let mut world = World::new();
    world.agent(1, 2);
    world.run(policy(), quick(4));
    let leases = world.leases();
    let mut cases: std::vec::Vec<u32> = leases.iter().flat_map(|lease| lease.cases()).collect();
    cases.sort_unstable();
    assert_eq!(cases, [0, 1, 2, 3]);
    for lease in &leases {
        let ends: std::vec::Vec<_> = lease.cases().iter().map(|&case| (case, PASSED)).collect();
        world.ran(lease, &ends);
    }
    assert_eq!(finish(&world.take()), Some((RunOutcome::Passed, 4, 4)));
}
