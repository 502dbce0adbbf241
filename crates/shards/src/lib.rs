//! Which shard a key belongs to.
//!
//! A key falls into one of 16,384 slots, and the slots are dealt out to the shards in contiguous, even ranges:
//!
//! ```text
//! slot  = XXH3_64(key, seed 0) mod 16384
//! shard = floor(slot × shards / 16384)
//! ```
//!
//! XXH3_64 is the 64-bit variant of XXH3 as <https://xxhash.com> specifies it, over the key's bytes (of a text, its
//! UTF-8). Both lines are fixed for good: data is where they said it would be when it was written. Whoever computes
//! them elsewhere can check against these, where the last columns are the shard of two, and of three:
//!
//! | key | XXH3_64 | slot | of 2 | of 3 |
//! |---|---|---|---|---|
//! | (empty) | `2d06800538d394c2` | 5314 | 0 | 0 |
//! | `a` | `e6c632b61e964e1f` | 3615 | 0 | 0 |
//! | `batman` | `8264c47b29db6082` | 8322 | 1 | 1 |
//! | `robin` | `f746337a217722cf` | 8911 | 1 | 1 |
//! | `user:1000` | `fb6841b2068c0c9f` | 3231 | 0 | 0 |
//! | `ñandú` | `8fbce37347985645` | 5701 | 0 | 1 |
//! | `0123456789abcdefg` | `d2e63ed5466f5c32` | 7218 | 0 | 1 |
//! | 241 times `k` | `26d43597c3347ba2` | 15266 | 1 | 2 |
//!
//! The way by the slots is there so that shards can later exchange slots, a few at a time, where `hash mod shards`
//! would move nearly every key at once.
//!
//! Not handled: shards of different sizes, and moving slots; the number of shards says all, and it stays as it is.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

pub const SLOTS: u16 = 16_384;

/// Where a key falls, however many shards there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    pub fn of(key: &[u8]) -> Slot {
        Slot((xxh3_64(key) % u64::from(SLOTS)) as u16)
    }

    /// From 0 to [`SLOTS`] - 1.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The shard that has this slot, from 0. With more shards than slots some have none.
    pub fn shard(self, shards: NonZeroU16) -> u16 {
        (u32::from(self.0) * u32::from(shards.get()) / u32::from(SLOTS)) as u16
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub fn shard_of(key: &[u8], shards: NonZeroU16) -> u16 {
    Slot::of(key).shard(shards)
}

/// The slots of one shard. A shard that does not exist has none.
pub fn slots_of(shard: u16, shards: NonZeroU16) -> Range<u16> {
    let start = |shard: u32| (shard * u32::from(SLOTS)).div_ceil(u32::from(shards.get())).min(u32::from(SLOTS)) as u16;
    start(u32::from(shard))..start(u32::from(shard) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: u16) -> NonZeroU16 {
        NonZeroU16::new(count).unwrap()
    }

    /// Computed by the reference implementation; a change here would lose everything that is stored.
    #[test]
    fn the_hash_is_fixed_for_good() {
        let long = "k".repeat(241);
        for (key, hash, slot, of_two, of_three) in [
            ("", 0x2d06_8005_38d3_94c2, 5314, 0, 0),
            ("a", 0xe6c6_32b6_1e96_4e1f, 3615, 0, 0),
            ("batman", 0x8264_c47b_29db_6082, 8322, 1, 1),
            ("robin", 0xf746_337a_2177_22cf, 8911, 1, 1),
            ("user:1000", 0xfb68_41b2_068c_0c9f, 3231, 0, 0),
            ("ñandú", 0x8fbc_e373_4798_5645_u64, 5701, 0, 1),
            ("0123456789abcdefg", 0xd2e6_3ed5_466f_5c32, 7218, 0, 1),
            (&long, 0x26d4_3597_c334_7ba2, 15266, 1, 2),
        ] {
            let key = key.as_bytes();
            assert_eq!(xxh3_64(key), hash);
            assert_eq!(Slot::of(key).number(), slot);
            assert_eq!((shard_of(key, shards(2)), shard_of(key, shards(3))), (of_two, of_three));
        }
    }

    #[test]
    fn the_shards_share_the_slots_in_even_ranges_without_a_gap() {
        for count in [1, 2, 3, 5, 7, 16, 1000, SLOTS - 1, SLOTS, SLOTS + 1, u16::MAX] {
            let count = shards(count);
            let mut next = 0;
            for shard in 0..count.get() {
                let slots = slots_of(shard, count);
                assert_eq!(slots.start, next);
                let even = SLOTS / count.get();
                assert!((even..=even + 1).contains(&(slots.len() as u16)), "{slots:?} of {count}");
                assert!(slots.clone().all(|slot| Slot(slot).shard(count) == shard), "{slots:?} of {count}");
                next = slots.end;
            }
            assert_eq!(next, SLOTS);
            assert!(slots_of(count.get(), count).is_empty());
        }
    }

    #[test]
    fn keys_of_every_kind_are_spread_evenly() {
        const KEYS: u64 = 100_000;
        type Key = fn(u64) -> String;
        let kinds: [(&str, Key); 4] = [
            ("key0", |number| format!("key{number}")),
            ("user:0", |number| format!("user:{number}")),
            ("0", |number| number.to_string()),
            ("a UUID", |number| {
                let scrambled = u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                let digits = format!("{scrambled:032x}");
                format!(
                    "{}-{}-4{}-a{}-{}",
                    &digits[..8],
                    &digits[8..12],
                    &digits[13..16],
                    &digits[17..20],
                    &digits[20..]
                )
            }),
        ];
        for (kind, key) in kinds {
            for (count, tolerance) in [(2, 0.01), (3, 0.02), (5, 0.03), (7, 0.03)] {
                let mut keys = vec![0; usize::from(count)];
                for number in 0..KEYS {
                    keys[usize::from(shard_of(key(number).as_bytes(), shards(count)))] += 1;
                }
                let even = KEYS as f64 / f64::from(count);
                for (shard, &found) in keys.iter().enumerate() {
                    let off = (f64::from(found) / even - 1.0).abs();
                    assert!(off <= tolerance, "shard {shard} of {count} has {found} keys like {kind}");
                }
            }
        }
    }
}
