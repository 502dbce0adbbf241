//! What a log entry asks of the store, and what it is answered: the types, their limits and their bytes.
//!
//! The bytes go into the log, to peers and into checkpoints, so a number once given to a variant keeps its meaning.
//! Decoding slices its input instead of copying it, wants all of it used up, and never panics.
//!
//! Not handled: limits while decoding, but for the number of operations. Whoever takes a request from a client
//! calls [`Command::check`] and can say what is wrong; an entry over the limits that is in the log all the same is
//! refused when it is applied.

use crate::transaction::{MAX_TRANSACTION_DEPTH, MAX_TRANSACTION_OPERATIONS, Transaction};
use base::codec::{Malformed, Reader, Writer};
use base::{Index, NodeId};
use bytes::Bytes;
use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// These limits are part of the replicated state machine: replicas with others would disagree.
pub const MAX_KEY_BYTES: usize = 4096;
pub const MAX_VALUE_BYTES: usize = 1536 * 1024;
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;
pub const MAX_OPERATIONS: usize = 16_384;
/// One encoded command. [`Command::check`] counts a few bytes more than encoding takes, so that what passes it fits.
pub const MAX_COMMAND_BYTES: usize = 4 * 1024 * 1024;
/// As in etcd.
pub const MAX_TTL_SECONDS: u64 = 9_000_000_000;
/// So that it fits where numbers are signed.
pub const MAX_LEASE: u64 = i64::MAX as u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens a node's session. A newer boot replaces the node's older one, with all that it remembered; the boot that is
    /// there already is left as it is; an older one is refused.
    Register { session: SessionId },
    /// Applies the operations together or, if an equal request was applied before, gives that one's answer.
    Write {
        request: RequestId,
        /// When the node that was asked accepted it, by its own wall clock (Unix time); 0 if it did not know. Nothing
        /// but [`crate::View::accepted_ms`] comes of it.
        accepted_ms: u64,
        idempotency: Option<IdempotencyKey>,
        operations: Vec<Operation>,
    },
    /// Everything else, in the same way. Without a request it is the leader's own: nobody is answered, and it is applied
    /// as often as it comes.
    Act { request: Option<RequestId>, accepted_ms: u64, idempotency: Option<IdempotencyKey>, action: Action },
}

/// What is done less often than plain writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// From now on no revision below this one can be read.
    Compact {
        revision: u64,
    },
    Transaction(Transaction),
    /// Begins a lease. Lease 0: the store chooses a number that no lease ever had but by somebody's own choice.
    Grant {
        lease: u64,
        ttl_seconds: u64,
    },
    /// The lease has its whole time again.
    KeepAlive {
        lease: u64,
    },
    /// Ends a lease, and deletes its keys.
    Revoke {
        lease: u64,
    },
    /// The same for each of these that was not kept alive since the leader saw its time run out. The others are left as
    /// they are, and it is a success also if nothing is left to do.
    Expire {
        leases: Vec<Expired>,
    },
}

/// A lease, and the index of the entry that granted it or kept it alive last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    pub lease: u64,
    pub since: Index,
}

/// One run of one node, as a source of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId {
    pub node: NodeId,
    /// Higher for a later run.
    pub boot: u64,
}

/// Names a request for as long as anyone could send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    pub session: SessionId,
    /// Counted from 1.
    pub number: u64,
    /// Every number below this has been answered or given up.
    pub low_water: u64,
}

/// A client's own name for a request, valid across nodes and their restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: Bytes,
    /// Of what the request says, by [`fingerprint`]: the same key for another request is a mistake to report.
    pub fingerprint: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Registered,
    /// `revision`: the request's own if it changed something, else the store's at that moment. `changed`: how many
    /// keys were put or really deleted.
    Done {
        revision: u64,
        changed: u32,
    },
    /// What a transaction came to. Revision and number of keys are as above.
    Decided {
        succeeded: bool,
        revision: u64,
        changed: u32,
    },
    /// The lease is there, and has its whole time.
    Granted {
        lease: u64,
        ttl_seconds: u64,
    },
    /// Nothing was applied. `UnknownSession` and `WindowExceeded` are not remembered: another copy of the request that is
    /// in the log already may still be applied, if by then the session is there or its low-water mark has risen. So a
    /// sender avoids both, by registering first and by counting what it has in flight.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node has not registered this boot, or is no member any more.
    UnknownSession,
    /// The node has registered a newer boot.
    OlderBoot,
    /// Below the session's low-water mark: already answered or given up, and which of them is forgotten.
    Stale,
    /// Too far above the session's low-water mark; may be sent again when that has risen.
    WindowExceeded,
    /// The idempotency key belongs to a request that said something else.
    KeyReused,
    /// A node that is no member can't register.
    NotAMember,
    /// Beyond what [`Command::check`] allows.
    OverLimit,
    /// The revision can't be read any more, or is compacted already.
    Compacted,
    /// The revision is still to come.
    FutureRevision,
    /// There is no such lease, or not any more.
    NoLease,
    /// A lease of that number is there already.
    LeaseExists,
}

/// What makes a command unacceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    EmptyKey,
    Key {
        bytes: usize,
    },
    Value {
        bytes: usize,
    },
    IdempotencyKey {
        bytes: usize,
    },
    Operations {
        count: usize,
    },
    Command {
        bytes: usize,
    },
    TransactionOperations {
        count: usize,
    },
    /// Transactions within transactions.
    Depth,
    /// A transaction could put a key twice, or put and delete it.
    KeyTwice,
    /// A lease's number or time.
    Lease,
}

/// A digest of what a request says. The parts are told apart: `["ab", "c"]` is not `["a", "bc"]`.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut digest = Xxh3::new();
    for part in parts {
        digest.update(&(part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.digest()
}

impl Command {
    /// Whether the command is within the limits.
    pub fn check(&self) -> Result<(), OverLimit> {
        match self {
            Command::Register { .. } => Ok(()),
            Command::Write { idempotency, operations, .. } => {
                check_idempotency(idempotency.as_ref())?;
                check_operations(operations)
            }
            Command::Act { idempotency, action, .. } => {
                check_idempotency(idempotency.as_ref())?;
                action.check()
            }
        }
    }

    pub fn encode(&self) -> Bytes {
        match self {
            Command::Register { session } => {
                let mut writer = Writer::with_capacity(20);
                writer.u8(REGISTER);
                encode_session(session, &mut writer);
                writer.into_bytes()
            }
            Command::Write { request, accepted_ms, idempotency, operations } => {
                let content: usize = operations.iter().map(|o| o.bytes() + OPERATION_HEAD_BYTES).sum();
                let mut writer = Writer::with_capacity(64 + content);
                writer.u8(WRITE);
                encode_request(request, &mut writer);
                encode_accepted(*accepted_ms, idempotency.as_ref(), &mut writer);
                writer.varint(operations.len() as u64);
                for operation in operations {
                    operation.encode(&mut writer);
                }
                writer.into_bytes()
            }
            Command::Act { request, accepted_ms, idempotency, action } => {
                let mut writer = Writer::with_capacity(64 + action.bytes());
                writer.u8(ACT);
                writer.bool(request.is_some());
                if let Some(request) = request {
                    encode_request(request, &mut writer);
                }
                encode_accepted(*accepted_ms, idempotency.as_ref(), &mut writer);
                action.encode(&mut writer);
                writer.into_bytes()
            }
        }
    }

    pub fn decode(bytes: Bytes) -> Result<Command, Malformed> {
        let mut reader = Reader::new(bytes);
        let command = match reader.u8()? {
            REGISTER => Command::Register { session: decode_session(&mut reader)? },
            WRITE => {
                let request = decode_request(&mut reader)?;
                let (accepted_ms, idempotency) = decode_accepted(&mut reader)?;
                let count = reader.count()?;
                if count > MAX_OPERATIONS {
                    return Err(Malformed("count of operations"));
                }
                let operations = (0..count).map(|_| Operation::decode(&mut reader)).collect::<Result<_, _>>()?;
                Command::Write { request, accepted_ms, idempotency, operations }
            }
            ACT => {
                let request = if reader.bool()? { Some(decode_request(&mut reader)?) } else { None };
                let (accepted_ms, idempotency) = decode_accepted(&mut reader)?;
                Command::Act { request, accepted_ms, idempotency, action: Action::decode(&mut reader)? }
            }
            _ => return Err(Malformed("command")),
        };
        reader.finish()?;
        Ok(command)
    }
}

impl Action {
    /// Whether it is within the limits.
    pub fn check(&self) -> Result<(), OverLimit> {
        match self {
            Action::Compact { .. } => Ok(()),
            Action::Transaction(transaction) => {
                transaction.check()?;
                check_command(HEAD_BYTES + transaction.bytes())
            }
            Action::Grant { lease, ttl_seconds } => {
                let fits = *lease <= MAX_LEASE && (1..=MAX_TTL_SECONDS).contains(ttl_seconds);
                if fits { Ok(()) } else { Err(OverLimit::Lease) }
            }
            Action::KeepAlive { .. } | Action::Revoke { .. } => Ok(()),
            Action::Expire { leases } => {
                let count = leases.len();
                if count > MAX_OPERATIONS { Err(OverLimit::Operations { count }) } else { Ok(()) }
            }
        }
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Action::Transaction(transaction) => transaction.bytes(),
            Action::Expire { leases } => 20 * leases.len(),
            Action::Compact { .. } | Action::Grant { .. } | Action::KeepAlive { .. } | Action::Revoke { .. } => 20,
        }
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Action::Compact { revision } => {
                writer.u8(COMPACT);
                writer.varint(*revision);
            }
            Action::Transaction(transaction) => {
                writer.u8(TRANSACTION);
                transaction.encode(writer);
            }
            Action::Grant { lease, ttl_seconds } => {
                writer.u8(GRANT);
                writer.varint(*lease);
                writer.varint(*ttl_seconds);
            }
            Action::KeepAlive { lease } => {
                writer.u8(KEEP_ALIVE);
                writer.varint(*lease);
            }
            Action::Revoke { lease } => {
                writer.u8(REVOKE);
                writer.varint(*lease);
            }
            Action::Expire { leases } => {
                writer.u8(EXPIRE);
                writer.varint(leases.len() as u64);
                for Expired { lease, since } in leases {
                    writer.varint(*lease);
                    writer.varint(*since);
                }
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Action, Malformed> {
        match reader.u8()? {
            COMPACT => Ok(Action::Compact { revision: reader.varint()? }),
            TRANSACTION => Ok(Action::Transaction(Transaction::decode(reader)?)),
            GRANT => Ok(Action::Grant { lease: reader.varint()?, ttl_seconds: reader.varint()? }),
            KEEP_ALIVE => Ok(Action::KeepAlive { lease: reader.varint()? }),
            REVOKE => Ok(Action::Revoke { lease: reader.varint()? }),
            EXPIRE => {
                let count = reader.count()?;
                if count > MAX_OPERATIONS {
                    return Err(Malformed("count of leases"));
                }
                let leases = (0..count)
                    .map(|_| Ok(Expired { lease: reader.varint()?, since: reader.varint()? }))
                    .collect::<Result<_, _>>()?;
                Ok(Action::Expire { leases })
            }
            _ => Err(Malformed("action")),
        }
    }
}

impl Operation {
    pub fn key(&self) -> &Bytes {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Delete { key } => key.len(),
        }
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Operation::Put { key, value } => {
                writer.u8(PUT);
                writer.blob(key);
                writer.blob(value);
            }
            Operation::Delete { key } => {
                writer.u8(DELETE);
                writer.blob(key);
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Operation, Malformed> {
        match reader.u8()? {
            PUT => Ok(Operation::Put { key: reader.blob()?, value: reader.blob()? }),
            DELETE => Ok(Operation::Delete { key: reader.blob()? }),
            _ => Err(Malformed("operation")),
        }
    }
}

impl Answer {
    pub fn encode(&self, writer: &mut Writer) {
        match self {
            Answer::Registered => writer.u8(REGISTERED),
            Answer::Done { revision, changed } => {
                writer.u8(DONE);
                writer.varint(*revision);
                writer.varint(u64::from(*changed));
            }
            Answer::Decided { succeeded, revision, changed } => {
                writer.u8(DECIDED);
                writer.bool(*succeeded);
                writer.varint(*revision);
                writer.varint(u64::from(*changed));
            }
            Answer::Granted { lease, ttl_seconds } => {
                writer.u8(GRANTED);
                writer.varint(*lease);
                writer.varint(*ttl_seconds);
            }
            Answer::Refused(refusal) => {
                writer.u8(REFUSED);
                writer.u8(refusal.number());
            }
        }
    }

    pub fn decode(reader: &mut Reader) -> Result<Answer, Malformed> {
        match reader.u8()? {
            REGISTERED => Ok(Answer::Registered),
            DONE => Ok(Answer::Done { revision: reader.varint()?, changed: decode_changed(reader)? }),
            DECIDED => Ok(Answer::Decided {
                succeeded: reader.bool()?,
                revision: reader.varint()?,
                changed: decode_changed(reader)?,
            }),
            GRANTED => Ok(Answer::Granted { lease: reader.varint()?, ttl_seconds: reader.varint()? }),
            REFUSED => {
                let number = reader.u8()?;
                let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.number() == number);
                Ok(Answer::Refused(refusal.ok_or(Malformed("refusal"))?))
            }
            _ => Err(Malformed("answer")),
        }
    }
}

impl Refusal {
    pub const ALL: [Refusal; 11] = [
        Refusal::UnknownSession,
        Refusal::OlderBoot,
        Refusal::Stale,
        Refusal::WindowExceeded,
        Refusal::KeyReused,
        Refusal::NotAMember,
        Refusal::OverLimit,
        Refusal::Compacted,
        Refusal::FutureRevision,
        Refusal::NoLease,
        Refusal::LeaseExists,
    ];

    fn number(self) -> u8 {
        match self {
            Refusal::UnknownSession => 1,
            Refusal::OlderBoot => 2,
            Refusal::Stale => 3,
            Refusal::WindowExceeded => 4,
            Refusal::KeyReused => 5,
            Refusal::NotAMember => 6,
            Refusal::OverLimit => 7,
            Refusal::Compacted => 8,
            Refusal::FutureRevision => 9,
            Refusal::NoLease => 10,
            Refusal::LeaseExists => 11,
        }
    }
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OverLimit::EmptyKey => write!(f, "the key is empty; a key has 1 to {MAX_KEY_BYTES} bytes"),
            OverLimit::Key { bytes } => write!(f, "the key has {bytes} bytes; at most {MAX_KEY_BYTES} are allowed"),
            OverLimit::Value { bytes } => {
                write!(f, "the value has {bytes} bytes; at most {MAX_VALUE_BYTES} are allowed")
            }
            OverLimit::IdempotencyKey { bytes } => {
                write!(f, "the idempotency key has {bytes} bytes; it must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES}")
            }
            OverLimit::Operations { count } => {
                write!(f, "the request has {count} operations; at most {MAX_OPERATIONS} are allowed")
            }
            OverLimit::Command { bytes } => {
                write!(f, "the request has {bytes} bytes in all; at most {MAX_COMMAND_BYTES} are allowed")
            }
            OverLimit::TransactionOperations { count } => {
                write!(f, "the transaction has {count} operations; at most {MAX_TRANSACTION_OPERATIONS} are allowed")
            }
            OverLimit::Depth => write!(f, "transactions are nested deeper than {MAX_TRANSACTION_DEPTH}"),
            OverLimit::KeyTwice => {
                write!(f, "the transaction may change a key twice; put each key once, and do not delete it beside that")
            }
            OverLimit::Lease => {
                write!(f, "a lease is a number from 1 to {MAX_LEASE}, for 1 to {MAX_TTL_SECONDS} seconds")
            }
        }
    }
}

impl std::error::Error for OverLimit {}

pub(crate) fn check_idempotency(idempotency: Option<&IdempotencyKey>) -> Result<(), OverLimit> {
    match idempotency.map(|idempotency| idempotency.key.len()) {
        Some(bytes) if !(1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&bytes) => Err(OverLimit::IdempotencyKey { bytes }),
        _ => Ok(()),
    }
}

/// Whether a write of these is within the limits, whatever its idempotency key is.
pub fn check_operations(operations: &[Operation]) -> Result<(), OverLimit> {
    if operations.len() > MAX_OPERATIONS {
        return Err(OverLimit::Operations { count: operations.len() });
    }
    let mut bytes = HEAD_BYTES;
    for operation in operations {
        let key = operation.key();
        if key.is_empty() {
            return Err(OverLimit::EmptyKey);
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(OverLimit::Key { bytes: key.len() });
        }
        if let Operation::Put { value, .. } = operation
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(OverLimit::Value { bytes: value.len() });
        }
        bytes += operation.bytes() + OPERATION_HEAD_BYTES;
    }
    check_command(bytes)
}

fn check_command(bytes: usize) -> Result<(), OverLimit> {
    if bytes > MAX_COMMAND_BYTES { Err(OverLimit::Command { bytes }) } else { Ok(()) }
}

fn decode_changed(reader: &mut Reader) -> Result<u32, Malformed> {
    u32::try_from(reader.varint()?).map_err(|_| Malformed("count of changed keys"))
}

fn encode_session(session: &SessionId, writer: &mut Writer) {
    writer.varint(session.node);
    writer.varint(session.boot);
}

fn decode_session(reader: &mut Reader) -> Result<SessionId, Malformed> {
    Ok(SessionId { node: reader.varint()?, boot: reader.varint()? })
}

fn encode_request(request: &RequestId, writer: &mut Writer) {
    encode_session(&request.session, writer);
    writer.varint(request.number);
    writer.varint(request.low_water);
}

fn decode_request(reader: &mut Reader) -> Result<RequestId, Malformed> {
    Ok(RequestId { session: decode_session(reader)?, number: reader.varint()?, low_water: reader.varint()? })
}

fn encode_accepted(accepted_ms: u64, idempotency: Option<&IdempotencyKey>, writer: &mut Writer) {
    // As many bytes for any time, so that a wall clock can't even change when a log is full.
    writer.u64(accepted_ms);
    writer.bool(idempotency.is_some());
    if let Some(IdempotencyKey { key, fingerprint }) = idempotency {
        writer.blob(key);
        writer.u64(*fingerprint);
    }
}

fn decode_accepted(reader: &mut Reader) -> Result<(u64, Option<IdempotencyKey>), Malformed> {
    let accepted_ms = reader.u64()?;
    let idempotency = match reader.bool()? {
        true => Some(IdempotencyKey { key: reader.blob()?, fingerprint: reader.u64()? }),
        false => None,
    };
    Ok((accepted_ms, idempotency))
}

/// At least what encoding a write takes beside its operations: kind, session, numbers, time, idempotency key, count.
const HEAD_BYTES: usize = 320;
/// At least what an operation takes beside its key and value: kind and lengths.
const OPERATION_HEAD_BYTES: usize = 6;

const REGISTER: u8 = 1;
const WRITE: u8 = 2;
const ACT: u8 = 3;

const COMPACT: u8 = 1;
const TRANSACTION: u8 = 2;
const GRANT: u8 = 3;
const KEEP_ALIVE: u8 = 4;
const REVOKE: u8 = 5;
const EXPIRE: u8 = 6;

const PUT: u8 = 1;
const DELETE: u8 = 2;

const REGISTERED: u8 = 1;
const DONE: u8 = 2;
const REFUSED: u8 = 3;
const DECIDED: u8 = 4;
const GRANTED: u8 = 5;
