//! Which keys a table can't have: a Bloom filter whose bits for one key lie in one cache line (Putze, Sanders, Singler:
//! *Cache-, Hash- and Space-Efficient Bloom Filters*, 2007), so that to be told "no" costs one look at memory.

use xxhash_rust::xxh3::xxh3_64;

const LINE_BYTES: usize = 64;
/// Ten bits a key in lines of their own: about one wrong "perhaps" in a hundred.
const BITS_A_KEY: usize = 10;
const PROBES: u32 = 6;

/// What filters know of a key.
pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

pub(super) struct Filter {
    bits: Box<[u8]>,
}

impl Filter {
    /// Of keys by their hashes.
    pub(super) fn of(hashes: &[u64]) -> Filter {
        let lines = (hashes.len() * BITS_A_KEY).div_ceil(8 * LINE_BYTES).max(1);
        let mut bits = vec![0; lines * LINE_BYTES].into_boxed_slice();
        for &hash in hashes {
            let line = line_of(hash, lines);
            for bit in probes(hash) {
                bits[line + bit / 8] |= 1 << (bit % 8);
            }
        }
        Filter { bits }
    }

    /// What [`Filter::as_bytes`] gave; `None` if it never can have.
    pub(super) fn open(bytes: Vec<u8>) -> Option<Filter> {
        let whole = !bytes.is_empty() && bytes.len().is_multiple_of(LINE_BYTES);
        whole.then(|| Filter { bits: bytes.into_boxed_slice() })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    pub(super) fn may_have(&self, hash: u64) -> bool {
        let line = line_of(hash, self.bits.len() / LINE_BYTES);
        let line = &self.bits[line..line + LINE_BYTES];
        probes(hash).all(|bit| line[bit / 8] & 1 << (bit % 8) != 0)
    }
}

/// Where the line of a hash begins. By its upper half; the lower one picks the bits.
fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize * LINE_BYTES
}

fn probes(hash: u64) -> impl Iterator<Item = usize> {
    let (mut bit, step) = (hash as u32, (hash as u32).rotate_left(15) | 1);
    (0..PROBES).map(move |_| {
        bit = bit.wrapping_mul(0x9e37_79b1).wrapping_add(step);
        (bit >> 23) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_yes_to_all_that_are_there_and_no_to_nearly_all_others() {
        let hashes: Vec<u64> = (0..50_000u64).map(|key| hash(&key.to_le_bytes())).collect();
        let filter = Filter::open(Filter::of(&hashes).as_bytes().to_vec()).unwrap();
        assert!(hashes.iter().all(|&hash| filter.may_have(hash)));
        let wrong = (50_000..150_000u64).filter(|key| filter.may_have(hash(&key.to_le_bytes()))).count();
        assert!(wrong < 2_000, "{wrong} of 100,000");
        assert!(!Filter::of(&[]).may_have(7));
        assert!(Filter::open(Vec::new()).is_none() && Filter::open(vec![0; 65]).is_none());
    }
}
