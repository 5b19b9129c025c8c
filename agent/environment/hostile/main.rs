//! A hostile program: each subcommand tries one thing that a sandbox must not let it do, and ends with 0 when it got nowhere.
//!
//! What got through is printed. Where the judgement is made from outside (a canary of the host's, a kill, a count), the subcommand only does its
//! worst. The table of all actions is in `tests/sandbox/hostile.rs`.

#![allow(unsafe_code, reason = "it attacks by system calls")]

mod attack;
mod files;
mod kernel;
mod matrix;
mod network;
mod processes;
mod resources;

use self::attack::Attack;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let action = arguments.next().unwrap_or_default();
    let mut attack = Attack::default();
    let is_known = kernel::perform(&action, &mut attack)
        || network::perform(&action, &mut attack)
        || processes::perform(&action, &mut attack)
        || files::perform(&action, &mut attack)
        || resources::perform(&action, &mut attack)
        || matrix::perform(&action, &mut attack);
    if !is_known {
        println!("unknown action {action:?}");
        std::process::exit(2);
    }
    std::process::exit(attack.finish());
}
