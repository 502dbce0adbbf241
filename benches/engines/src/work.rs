//! The work that is measured.

use crate::engines::Engine;
use crate::measure::{Meter, rounded};
use serde_json::{Value, json};
use std::time::Instant;

/// So many puts are one turn of a node: they become visible together.
const TURN: usize = 64;
pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 100;
const GETS: u64 = 500_000;
const SCANS: u64 = 5_000;
const SCAN_KEYS: usize = 100;

pub type Key = [u8; KEY_BYTES];

pub struct Work {
    engine: Box<dyn Engine>,
    keys: u64,
}

impl Work {
    pub fn new(engine: Box<dyn Engine>, keys: u64) -> Work {
        Work { engine, keys }
    }

    /// Each key once, in an order that has nothing to do with theirs.
    pub fn puts(&mut self) -> Result<Value, String> {
        self.write(self.keys, 0..self.keys)
    }

    pub fn overwrites(&mut self) -> Result<Value, String> {
        let mut random = Random::new(1);
        let (keys, count) = (self.keys, self.keys / 10);
        self.write(count, (0..count).map(|_| random.below(keys)))
    }

    pub fn reads(&mut self) -> Result<Value, String> {
        let mut random = Random::new(2);
        let gets = GETS.min(self.keys);
        let get_us = self.timed(gets, |engine, keys| {
            let key = key(random.below(keys));
            if engine.get(&key)? { Ok(()) } else { Err("a key is gone".to_string()) }
        })?;
        let missing_us = self.timed(gets, |engine, keys| {
            let key = key(keys + random.below(keys));
            if engine.get(&key)? { Err("a key is there that was never put".to_string()) } else { Ok(()) }
        })?;
        let mut rows = 0;
        let scan_us = self.timed(SCANS, |engine, keys| {
            rows += engine.scan(&key(random.below(keys)), SCAN_KEYS)?;
            Ok(())
        })?;
        // Only those that begin near the end are shorter.
        if rows < SCANS as usize * SCAN_KEYS * 9 / 10 {
            return Err(format!("{SCANS} scans gave {rows} rows"));
        }
        Ok(json!({ "get_us": get_us, "missing_us": missing_us, "scan_us": scan_us }))
    }

    fn write(&mut self, count: u64, mut places: impl Iterator<Item = u64>) -> Result<Value, String> {
        let meter = Meter::start()?;
        let began = Instant::now();
        let mut turns_us = Vec::with_capacity(count as usize / TURN + 1);
        loop {
            let turn = Instant::now();
            let mut puts = 0;
            for place in places.by_ref().take(TURN) {
                self.engine.put(&key(place), &value(place))?;
                puts += 1;
            }
            if puts == 0 {
                break;
            }
            self.engine.end_turn()?;
            turns_us.push(turn.elapsed().as_secs_f64() * 1e6);
        }
        let busy_us = began.elapsed().as_secs_f64() * 1e6 / count as f64;
        self.engine.settle()?;
        let mut line = meter.stop(count)?;
        turns_us.sort_by(f64::total_cmp);
        let turn_us = |share: f64| rounded(turns_us[((turns_us.len() - 1) as f64 * share) as usize]);
        // Of the wall's time, what passed until the last put was taken; the rest is waiting for the merges.
        line["busy_us"] = json!(rounded(busy_us));
        line["turn_p50_us"] = json!(turn_us(0.5));
        line["turn_p999_us"] = json!(turn_us(0.999));
        line["turn_max_ms"] = json!(rounded(turn_us(1.0) / 1000.0));
        Ok(line)
    }

    fn timed(
        &mut self,
        count: u64,
        mut operation: impl FnMut(&dyn Engine, u64) -> Result<(), String>,
    ) -> Result<f64, String> {
        let began = Instant::now();
        for _ in 0..count {
            operation(self.engine.as_ref(), self.keys)?;
        }
        Ok(rounded(began.elapsed().as_secs_f64() * 1e6 / count as f64))
    }
}

/// Different for different places, and scattered.
pub fn key(place: u64) -> Key {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut scattered = scatter(place);
    let mut key = [0; KEY_BYTES];
    for digit in &mut key {
        *digit = DIGITS[(scattered >> 60) as usize];
        scattered <<= 4;
    }
    key
}

/// Nothing that compresses.
fn value(place: u64) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    let mut random = Random::new(place);
    for piece in value.chunks_mut(8) {
        piece.copy_from_slice(&random.next().to_le_bytes()[..piece.len()]);
    }
    value
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(scatter(seed ^ 0x5eed))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        scatter(self.0)
    }
}

/// One to one.
fn scatter(place: u64) -> u64 {
    let mut bits = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
