//! raftd, for those who used to run that program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Like Go, and unlike `std::env::args`, take arguments that are not UTF-8 without a panic.
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_else(|| "raftd".to_string());
    quorate::raftd::main(&program, arguments)
}
