//! A whole cluster in one thread, from one seed.
//!
//! Real nodes ([`node::Node`]) on real logs and checkpoints (`storage`, on disks in memory), in a world of which every
//! part is drawn from a seed: the network's delays, losses and cuts, the disks' pace, crashes that lose what was not
//! synced, pauses, clocks that run fast or slow, times of day that are anything, members that come and go, and clients
//! that never stop asking: for keys, transactions, leases, pages of the past; and watches of all that changes.
//!
//! - [`World`] is that world: hosts, network, time. It goes on by one event at a time, in the order of (time, sequence).
//! - [`live`] is one life of it: faults first, then everything heals and must go on and agree.
//! - [`check`] judges: after every turn what Raft promises, at the end what clients were promised.
//!
//! The same seed gives the same life, to the byte; [`Life::digest`] tells two lives apart. Nothing here knows sockets,
//! files, threads or a clock.
//!
//! Not handled: clients that lose answers on the way (to them it is the same as a time limit), bandwidth, flipped bits.

mod actors;
pub mod check;
mod clients;
mod disk;
mod host;
mod life;
mod network;
mod totals;
mod trace;
mod troubles;
mod watchers;
mod world;

pub use life::{Life, Plan, live};
pub use network::Weather;
pub use totals::Totals;
pub use world::{Answer, Notable, Sabotage, Settings, World};

/// Simulated time, since the world began.
pub type Micros = u64;
/// Hosts are counted from 1, and keep their numbers.
pub type HostNumber = usize;

pub const SECOND: Micros = 1_000_000;

/// Whoever reads what a node shows expects that: nothing damages what a disk was given and kept.
const IS_READ: &str = "the state can be read";
