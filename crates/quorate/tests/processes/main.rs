//! Real programs on real disks and sockets, in the words of those who use them.

#![cfg(unix)]

mod bad_input;
mod cli;
mod command_line;
mod failures;
mod foreign;
mod learners;
mod leases;
mod load;
mod membership;
mod pipes;
mod raft_kv;
mod raftd;
mod reads;
mod retries;
mod sharded;
mod stage;
mod walkthrough;
mod watch;
