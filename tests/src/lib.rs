//! Simulation, end-to-end tests, benchmarks and the checks the house holds itself to.
