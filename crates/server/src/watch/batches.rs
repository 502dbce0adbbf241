//! What was encoded a moment ago, for whoever wants the same: usually many watch the same keys, and are at the same
//! revision.

use super::Wish;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Forgets the oldest.
#[derive(Default)]
pub struct Batches {
    batches: VecDeque<Batch>,
    bytes: usize,
}

struct Batch {
    wish: Arc<Wish>,
    from: u64,
    text: Bytes,
    next: u64,
}

const MAX_BATCHES: usize = 64;
const MAX_BYTES: usize = 4 << 20;

impl Batches {
    /// What is encoded from that revision on, and where it goes on.
    pub fn get(&self, wish: &Wish, from: u64) -> Option<(Bytes, u64)> {
        let found = self.batches.iter().rev().find(|batch| batch.from == from && *batch.wish == *wish)?;
        Some((found.text.clone(), found.next))
    }

    pub fn keep(&mut self, wish: &Arc<Wish>, from: u64, text: &Bytes, next: u64) {
        if text.len() > MAX_BYTES {
            return;
        }
        self.bytes += text.len();
        self.batches.push_back(Batch { wish: wish.clone(), from, text: text.clone(), next });
        while self.batches.len() > MAX_BATCHES || self.bytes > MAX_BYTES {
            self.bytes -= self.batches.pop_front().map_or(0, |oldest| oldest.text.len());
        }
    }
}
