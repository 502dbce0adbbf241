//! The byte codec of everything we write to disk or send to a peer: fixed little-endian integers, LEB128 varints
//! and length-prefixed blobs.
//!
//! Reading never panics and never allocates by a length that the input merely claims: a blob is a slice of the input.

use bytes::Bytes;
use std::fmt;

/// What was read is not what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.0)
    }
}

impl std::error::Error for Malformed {}

#[derive(Clone, Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { buffer: Vec::with_capacity(bytes) }
    }

    pub fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.buffer.push(u8::from(value));
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u128(&mut self, value: u128) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// LEB128: 7 bits a byte, least significant first.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }

    /// A varint length, then the bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.blob(text.as_bytes());
    }

    /// Bytes without a length: the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.buffer
    }

    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.buffer)
    }
}

#[derive(Clone, Debug)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>("u8")?[0])
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("bool")),
        }
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array("u32")?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array("u64")?))
    }

    pub fn u128(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array("u128")?))
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut rest = &self.rest[..];
        let value = varint(&mut rest)?;
        let _ = self.rest.split_to(self.rest.len() - rest.len());
        Ok(value)
    }

    /// How many items follow. Each takes at least one byte, so a larger count is a lie and is refused before anyone
    /// reserves room for it.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.varint()?;
        if count > self.rest.len() as u64 {
            return Err(Malformed("count"));
        }
        Ok(count as usize)
    }

    pub fn blob(&mut self) -> Result<Bytes, Malformed> {
        let length = self.varint()?;
        if length > self.rest.len() as u64 {
            return Err(Malformed("blob"));
        }
        Ok(self.rest.split_to(length as usize))
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.blob()?.to_vec()).map_err(|_| Malformed("text"))
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("end")) }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        if self.rest.len() < N {
            return Err(Malformed(what));
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.rest[..N]);
        let _ = self.rest.split_to(N);
        Ok(out)
    }
}

/// Takes a varint off the front of a slice.
pub fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for (at, &byte) in rest.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(Malformed("varint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut w = Writer::new();
            w.varint(value);
            w.u64(value);
            w.blob(b"abc");
            w.text("é");
            w.bool(true);
            let mut r = Reader::new(w.into_bytes());
            assert_eq!(r.varint(), Ok(value));
            assert_eq!(r.u64(), Ok(value));
            assert_eq!(r.blob().unwrap(), &b"abc"[..]);
            assert_eq!(r.text().unwrap(), "é");
            assert_eq!(r.bool(), Ok(true));
            r.finish().unwrap();
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_input_is_refused() {
        let mut w = Writer::new();
        w.varint(u64::MAX);
        assert_eq!(Reader::new(w.clone().into_bytes()).blob(), Err(Malformed("blob")));
        assert_eq!(Reader::new(w.into_bytes()).count(), Err(Malformed("count")));
    }

    #[test]
    fn an_endless_varint_is_refused() {
        assert_eq!(Reader::new(Bytes::from_static(&[0xff; 20])).varint(), Err(Malformed("varint")));
        assert_eq!(Reader::new(Bytes::from_static(&[0x80])).varint(), Err(Malformed("varint")));
    }
}
