//! Leases: keys that end together unless somebody keeps the lease alive.
//!
//! There is no clock here. A lease has its time, and the index of the entry that last gave it all of that time; how much
//! of it has passed the nodes measure by themselves, each from when it applied that entry, and the leader says when it is
//! over ([`crate::Action::Expire`]). It names that index, so a keep-alive that came in between saves the lease.

use crate::keys::{Key, LEASE_KEYS_END, LEASES_END};
use crate::view::View;
use base::Index;
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use storage::StorageError;
use storage::engine::{AnyView, View as _};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: u64,
    pub ttl_seconds: u64,
    /// Of the entry that granted it or kept it alive last.
    pub since: Index,
}

impl Lease {
    pub(crate) fn find(id: u64, engine: &AnyView) -> Result<Option<Lease>, StorageError> {
        let row = engine.get(Key::Lease(id).encode().as_slice())?;
        row.map(|row| Lease::read(id, row)).transpose()
    }

    fn read(id: u64, row: Bytes) -> Result<Lease, StorageError> {
        Lease::decode(id, row).map_err(|malformed| Key::Lease(id).damaged(malformed))
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(20);
        writer.varint(self.ttl_seconds);
        writer.varint(self.since);
        Bytes::copy_from_slice(writer.as_slice())
    }

    pub(crate) fn decode(id: u64, bytes: Bytes) -> Result<Lease, Malformed> {
        let mut reader = Reader::new(bytes);
        let lease = Lease { id, ttl_seconds: reader.varint()?, since: reader.varint()? };
        reader.finish()?;
        Ok(lease)
    }
}

impl View {
    pub fn lease(&self, id: u64) -> Result<Option<Lease>, StorageError> {
        Lease::find(id, &self.engine)
    }

    /// How many leases there are.
    pub fn lease_count(&self) -> u64 {
        self.head().leases
    }

    /// In the order of their numbers, from the first above `after` on.
    pub fn leases(&self, after: u64) -> impl Iterator<Item = Result<Lease, StorageError>> {
        let from =
            after.checked_add(1).map_or(LEASES_END.to_vec(), |next| Key::Lease(next).encode().as_slice().to_vec());
        self.engine.range(&from, Some(LEASES_END)).map(|row| {
            let (home, row) = row?;
            match Key::decode(&home) {
                Some(Key::Lease(id)) => Lease::read(id, row),
                _ => Err(StorageError::damaged_row(&home, "it should be a lease")),
            }
        })
    }

    /// The keys that end with the lease, in order, from the first above `after` on.
    pub fn lease_keys(&self, id: u64, after: &[u8]) -> impl Iterator<Item = Result<Bytes, StorageError>> {
        let from = Key::Leased(id, &[after, &[0][..]].concat()).encode();
        let to = id.checked_add(1).map(|next| Key::Leased(next, b"").encode());
        let to = to.as_ref().map_or(LEASE_KEYS_END, |to| to.as_slice());
        self.engine.range(from.as_slice(), Some(to)).map(|row| {
            let (home, _) = row?;
            // Behind the lease.
            Ok(home.slice(9..))
        })
    }
}
