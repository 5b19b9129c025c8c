//! The scheduler as a whole: events in, commands out.

mod actions;
mod fixture;
mod fleet;
mod honest;
mod ladder;
mod resources;
mod warm;
