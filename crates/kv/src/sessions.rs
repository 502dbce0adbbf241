//! What makes a write safe to send again: who asked for it, and what it was answered.
//!
//! A session holds the answers of the numbers in `low water .. low water + WINDOW`, in a row that begins at the
//! low-water mark. The mark only rises, and takes the answers below it along; that and the window bound the table.
//!
//! An idempotency entry outlives sessions: a client's key, what its request said, and the first answer. Entries are
//! numbered in the order of their arrival, and the oldest goes when there are too many.

use crate::command::Answer;
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use std::collections::VecDeque;

/// How far a session's numbers may run ahead of its low-water mark.
pub const WINDOW: u64 = 16_384;

#[derive(Clone, Debug)]
pub struct Session {
    pub boot: u64,
    low_water: u64,
    /// The answer of `low_water`, of the number after it, and so on.
    answers: VecDeque<Option<Answer>>,
}

/// What a session knows of a number.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Never,
    Answered(Answer),
    /// Below the low-water mark.
    Forgotten,
    /// Beyond the window.
    TooFar,
}

impl Session {
    pub fn new(boot: u64) -> Session {
        Session { boot, low_water: 1, answers: VecDeque::new() }
    }

    pub fn look(&self, number: u64) -> Seen {
        let Some(place) = number.checked_sub(self.low_water) else { return Seen::Forgotten };
        if place >= WINDOW {
            return Seen::TooFar;
        }
        match self.answers.get(place as usize) {
            Some(Some(answer)) => Seen::Answered(*answer),
            Some(None) | None => Seen::Never,
        }
    }

    pub fn raise(&mut self, low_water: u64) {
        let Some(gone) = low_water.checked_sub(self.low_water) else { return };
        let gone = gone.min(self.answers.len() as u64) as usize;
        self.answers.drain(..gone);
        self.low_water = low_water;
    }

    /// The number must have been [`Seen::Never`].
    pub fn record(&mut self, number: u64, answer: Answer) {
        assert_eq!(self.look(number), Seen::Never, "number {number}");
        let place = (number - self.low_water) as usize;
        if place >= self.answers.len() {
            self.answers.resize(place + 1, None);
        }
        self.answers[place] = Some(answer);
    }

    pub fn encode(&self, writer: &mut Writer) {
        writer.varint(self.boot);
        writer.varint(self.low_water);
        let given = || self.answers.iter().enumerate().filter_map(|(place, answer)| Some((place, answer.as_ref()?)));
        writer.varint(given().count() as u64);
        for (place, answer) in given() {
            writer.varint(place as u64);
            answer.encode(writer);
        }
    }

    pub fn decode(reader: &mut Reader) -> Result<Session, Malformed> {
        let mut session = Session { boot: reader.varint()?, low_water: reader.varint()?, answers: VecDeque::new() };
        for _ in 0..reader.count()? {
            let place = reader.varint()?;
            if place >= WINDOW || place < session.answers.len() as u64 {
                return Err(Malformed("place of an answer"));
            }
            session.answers.resize(place as usize, None);
            session.answers.push_back(Some(Answer::decode(reader)?));
        }
        Ok(session)
    }

    /// The highest revision in any answer.
    pub fn newest_revision(&self) -> u64 {
        self.answers.iter().flatten().map(answered_revision).max().unwrap_or(0)
    }
}

/// The value of an idempotency key in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstUse {
    /// Entries are numbered from 0 in the order of their arrival.
    pub order: u64,
    pub fingerprint: u64,
    pub answer: Answer,
}

impl FirstUse {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(34);
        writer.varint(self.order);
        writer.u64(self.fingerprint);
        self.answer.encode(&mut writer);
        Bytes::copy_from_slice(writer.as_slice())
    }

    pub fn decode(bytes: Bytes) -> Result<FirstUse, Malformed> {
        let mut reader = Reader::new(bytes);
        let first =
            FirstUse { order: reader.varint()?, fingerprint: reader.u64()?, answer: Answer::decode(&mut reader)? };
        reader.finish()?;
        Ok(first)
    }
}

pub fn answered_revision(answer: &Answer) -> u64 {
    match answer {
        Answer::Done { revision, .. } | Answer::Decided { revision, .. } => *revision,
        Answer::Registered | Answer::Granted { .. } | Answer::Refused(_) => 0,
    }
}
