//! raft-kv, for those who used to run that program.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Like Go, and unlike `env::args` and `env::var`, take what is not UTF-8 without a panic.
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let mut arguments = env::args_os().map(lossy);
    let program = arguments.next().unwrap_or_else(|| "raft-kv".to_string());
    quorate::raft_kv::main(&program, arguments, |name| env::var_os(name).map(lossy))
}
