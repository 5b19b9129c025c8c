//! The scheduler as a whole: events in, commands out.

mod fixture;
mod honest;
mod smoke;
