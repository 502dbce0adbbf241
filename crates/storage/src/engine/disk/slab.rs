//! A list that only grows, which one thread writes and all read. What is in it never moves, and is named by its number.
//!
//! It takes memory in pieces of one size: no entry has an allocation of its own, and when the list goes, so do these few pieces.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counted from 1.
pub(super) type Number = NonZeroU32;

/// A number, or none, that the writer changes while others read it. Whoever finds a number here finds all that was pushed
/// before it was put here.
#[derive(Default)]
pub(super) struct Link(AtomicU32);

impl Link {
    pub(super) fn to(number: Option<Number>) -> Link {
        Link(AtomicU32::new(number.map_or(0, Number::get)))
    }

    pub(super) fn get(&self) -> Option<Number> {
        Number::new(self.0.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, number: Number) {
        self.0.store(number.get(), Ordering::Release);
    }
}

pub(super) struct Slab<T> {
    /// Each group has twice as many pieces as the one before it, so that there are few of them however long the list becomes.
    groups: [OnceLock<Group<T>>; GROUPS],
    piece_bits: u32,
    len: AtomicU32,
}

type Group<T> = Box<[OnceLock<Piece<T>>]>;
type Piece<T> = Box<[OnceLock<T>]>;

const GROUPS: usize = 32;

impl<T> Slab<T> {
    /// `piece_bits`: a piece has room for two to the power of this.
    pub(super) fn new(piece_bits: u32) -> Slab<T> {
        Slab { groups: [const { OnceLock::new() }; GROUPS], piece_bits, len: AtomicU32::new(0) }
    }

    /// Gives the number of what it takes.
    pub(super) fn push(&self, value: T) -> Number {
        let number = self.len.load(Ordering::Relaxed).checked_add(1).and_then(Number::new);
        let number = number.expect("fewer than four billion");
        let (group, piece, at) = self.find(number);
        let group = self.groups[group].get_or_init(|| empty(1 << group));
        let piece = group[piece].get_or_init(|| empty(1 << self.piece_bits));
        assert!(piece[at].set(value).is_ok(), "only one thread writes");
        self.len.store(number.get(), Ordering::Relaxed);
        number
    }

    /// What was pushed under a number.
    pub(super) fn get(&self, number: Number) -> &T {
        let (group, piece, at) = self.find(number);
        let value = self.groups[group].get().and_then(|group| group[piece].get()).and_then(|piece| piece[at].get());
        value.expect("it was pushed")
    }

    fn find(&self, number: Number) -> (usize, usize, usize) {
        let number = number.get() - 1;
        let piece = (number >> self.piece_bits) as usize + 1;
        let group = piece.ilog2();
        (group as usize, piece - (1 << group), number as usize & ((1 << self.piece_bits) - 1))
    }
}

fn empty<T>(len: usize) -> Box<[OnceLock<T>]> {
    (0..len).map(|_| OnceLock::new()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_was_pushed_stays_where_it_is_under_its_number() {
        for piece_bits in [0, 1, 3, 10] {
            let slab = Slab::new(piece_bits);
            let first = slab.push(1);
            let place = slab.get(first) as *const u32;
            for value in 2..5_000 {
                assert_eq!(slab.push(value).get(), value);
                assert_eq!(*slab.get(Number::new(value / 2).unwrap()), value / 2);
            }
            assert_eq!(slab.get(first) as *const u32, place);
        }
    }

    #[test]
    #[should_panic(expected = "it was pushed")]
    fn a_number_that_was_not_given_names_nothing() {
        let slab = Slab::new(2);
        slab.push(());
        slab.get(Number::new(2).unwrap());
    }

    /// Also where pieces and groups are made while another thread reads.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "readers are on other threads")]
    fn another_thread_finds_all_that_it_was_told_of() {
        const LAST: u32 = 20_000;
        let (slab, newest) = (Arc::new(Slab::new(2)), Arc::new(Link::default()));
        let reader = std::thread::spawn({
            let (slab, newest) = (slab.clone(), newest.clone());
            move || {
                let mut seen = 0;
                while seen < LAST {
                    seen = newest.get().map_or(0, Number::get);
                    let numbers = (1..=seen).rev().take(50).filter_map(Number::new);
                    numbers.for_each(|number| assert_eq!(*slab.get(number), u64::from(number.get())));
                }
            }
        });
        for value in 1..=LAST {
            newest.set(slab.push(u64::from(value)));
        }
        reader.join().unwrap();
    }
}
