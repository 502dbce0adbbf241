//! A running node: its sockets, threads and files, around the pure one of `node`.
//!
//! Not handled: TLS, and authentication of clients and peers.

mod address;
mod handle;
mod inbox;

pub use handle::{Handle, Identity, Phase};
