//! The replicated state machine of one group: keys and values with their revisions, the sessions that make writes safe
//! to retry, and the group's configuration.
//!
//! Committed log entries go in, one at a time and in order, and answers come out. Nothing else gets in: no clock, no
//! randomness, no I/O, so every replica that applied the same entries is in the same state, to the byte, and
//! [`Store::state_hash`] proves it.
//!
//! - [`Command`] is what an entry asks for, and [`Answer`] what it came to ([`command`]).
//! - [`Store`] applies commands; the node's thread owns it.
//! - [`View`] is the state at one moment, for readers on any thread, and leads to the states at earlier revisions, each
//!   a [`Picture`], until they are compacted. A [`Query`] says what to read of it.
//! - [`Changes`] is the past revision by revision.
//! - [`Frozen`] is the whole of it at one moment, to be written as a checkpoint, from which [`Store::load`] makes an
//!   equal store ([`checkpoint`]).
//!
//! Revisions are etcd's. A request that changes something takes the next revision, one for all its changes. A key
//! remembers the revision that created it, the last that changed it, and how often it was changed since it was created;
//! deleting it forgets all three. Deleting what is not there changes nothing, and a request that changes nothing takes
//! no revision; putting the value that is already there is a change.
//!
//! The operations of a request are a set rather than a script: of several for the same key only the last counts, and
//! it counts once. (etcd refuses such requests, so there is no behaviour of its to follow; a JSON object that names a
//! key twice means the last, and so it is here.)
//!
//! Old versions are kept until they are compacted. From then on nobody gets them, and each entry that is applied takes
//! a few of them out of the engine, so that no entry has to take out many.
//!
//! A [`Transaction`] makes a change depend on what is there, and a [`Lease`] ends keys that nobody cares for any more.
//!
//! Not handled: deciding when to compact and when a lease is over, and telling watches that there is news.

pub mod changes;
pub mod checkpoint;
pub mod command;
mod durable;
mod execute;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod history;
mod home;
mod keys;
pub mod leases;
pub mod range;
mod record;
mod sessions;
mod store;
pub mod transaction;
mod view;

pub use changes::{Change, Changes, Revision};
pub use checkpoint::{Frozen, LoadError};
pub use command::{
    Action, Answer, Command, Expired, IdempotencyKey, Operation, OverLimit, Refusal, RequestId, SessionId,
    check_operations, fingerprint,
};
pub use command::{
    MAX_COMMAND_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_LEASE, MAX_OPERATIONS, MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
};
pub use home::Home;
pub use leases::Lease;
pub use range::{KeyEnd, KeyRange, MAX_PAGE_BYTES, Query};
pub use sessions::WINDOW;
pub use store::{MAX_CONFIGURATION_BYTES, MAX_IDEMPOTENCY_KEYS, Store};
pub use transaction::{Compare, Decided, Relation, Step, StepResult, Target, Transaction};
pub use transaction::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_DEPTH, MAX_TRANSACTION_OPERATIONS, MAX_TRANSACTION_ROWS};
pub use view::{KeyValue, OutOfReach, Page, Picture, Range, ReadError, View};
