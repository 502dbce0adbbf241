//! distributor, for those who used to run the one of the sharded hraftd.

use clap::Parser;
use quorate::distributor::{self, Args};
use std::process::ExitCode;

fn main() -> ExitCode {
    match distributor::run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("distributor: {reason}");
            ExitCode::FAILURE
        }
    }
}
