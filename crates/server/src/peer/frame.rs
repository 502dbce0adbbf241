//! Frames: how one message after another lies on a connection between two nodes.
//!
//! Each side opens with a [`PREFACE`], which no HTTP request begins with, and its [`VERSION`]. Then come frames: the
//! payload's length and a CRC-32C over length and payload, four bytes each, little-endian, and the payload. A length
//! beyond the limit is refused before any room is made for it, and room is made only as bytes arrive.
//!
//! Not handled: compression, and more than one version.

use base::codec::{Malformed, Writer};
use bytes::{Buf, Bytes, BytesMut};

pub const PREFACE: [u8; 8] = *b"\0quorate";
pub const VERSION: u8 = 1;
pub const OPENING_BYTES: usize = PREFACE.len() + 1;
/// Room for the largest batch of entries that consensus sends in one message.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
/// What a stranger may send before we know who it is.
pub const MAX_HANDSHAKE_BYTES: usize = 4096;

const HEADER_BYTES: usize = 8;

/// Takes the next whole frame's payload off the front of `buffer`; `None` if it is not all there yet.
pub fn take(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Bytes>, Malformed> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (length, sum) = header.split_at(4);
    let claimed = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if claimed > max_bytes {
        return Err(Malformed("frame: too long"));
    }
    let Some(payload) = rest.get(..claimed) else {
        return Ok(None);
    };
    if base::checksum_append(base::checksum(length), payload).to_le_bytes() != sum {
        return Err(Malformed("frame: checksum"));
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some(buffer.split_to(claimed).freeze()))
}

/// Many frames for one write to the socket.
#[derive(Default)]
pub struct Frames {
    writer: Writer,
    starts: Vec<usize>,
}

impl Frames {
    pub fn with_capacity(bytes: usize) -> Frames {
        Frames { writer: Writer::with_capacity(bytes), starts: Vec::new() }
    }

    pub fn push(&mut self, encode: impl FnOnce(&mut Writer)) {
        self.starts.push(self.writer.len());
        self.writer.raw(&[0; HEADER_BYTES]);
        encode(&mut self.writer);
    }

    pub fn len(&self) -> usize {
        self.writer.len()
    }

    pub fn into_vec(self) -> Vec<u8> {
        let mut bytes = self.writer.into_vec();
        let mut end = bytes.len();
        for &start in self.starts.iter().rev() {
            let (header, payload) = bytes[start..end].split_at_mut(HEADER_BYTES);
            assert!(payload.len() <= MAX_FRAME_BYTES, "a message of {} bytes", payload.len());
            let length = (payload.len() as u32).to_le_bytes();
            header[..4].copy_from_slice(&length);
            header[4..].copy_from_slice(&base::checksum_append(base::checksum(&length), payload).to_le_bytes());
            end = start;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut frames = Frames::default();
        for payload in payloads {
            frames.push(|w| w.raw(payload));
        }
        frames.into_vec()
    }

    proptest! {
        #[test]
        fn what_is_framed_comes_out_whole_however_it_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10),
            piece in 1usize..300,
        ) {
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for bytes in framed(&payloads).chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some(payload) = take(&mut buffer, 1000).unwrap() {
                    got.push(payload.to_vec());
                }
            }
            prop_assert_eq!(got, payloads);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn a_flipped_bit_never_goes_unnoticed(
            payload in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), bit in 0..8u32,
        ) {
            let mut bytes = framed(&[payload]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let taken = take(&mut BytesMut::from(&bytes[..]), 1000);
            // A length that grew waits for bytes that never come.
            prop_assert!(matches!(taken, Err(_) | Ok(None)), "{:?}", taken);
        }

        #[test]
        fn any_bytes_are_an_error_or_wait_for_more(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(payload)) = take(&mut buffer, MAX_FRAME_BYTES) {
                prop_assert!(payload.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_from_the_header_alone() {
        let mut header = BytesMut::from(&1001u32.to_le_bytes()[..]);
        header.extend_from_slice(&[0; 4]);
        assert_eq!(take(&mut header, 1000), Err(Malformed("frame: too long")));
    }
}
