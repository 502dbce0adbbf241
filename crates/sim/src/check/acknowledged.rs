//! What clients were told is so: an acknowledged write took effect, at the revision that it was told; a write that was
//! said to have changed nothing never does. (That it takes effect only once is for the model to see.)

use super::Model;
use bytes::Bytes;

#[derive(Default)]
pub struct Acknowledged {
    refused: Vec<Bytes>,
}

impl Acknowledged {
    /// A client was told that these values were written together.
    pub fn written(&self, model: &Model, values: &[Bytes], revision: u64) -> Result<(), String> {
        for value in values {
            match model.effect(value) {
                Some(effect) if effect == revision => {}
                Some(effect) => {
                    return Err(format!("{value:?} was written at revision {effect}, its client was told {revision}"));
                }
                None => return Err(format!("{value:?} was acknowledged at revision {revision}, but never applied")),
            }
        }
        Ok(())
    }

    /// A client was told that none of these values was written.
    pub fn refused(&mut self, values: Vec<Bytes>) {
        self.refused.extend(values);
    }

    /// At the end of a life.
    pub fn none_of_the_refused(&self, model: &Model) -> Result<(), String> {
        match self.refused.iter().find(|value| model.effect(value).is_some()) {
            Some(value) => Err(format!("{value:?} was written, though its client was told that nothing was changed")),
            None => Ok(()),
        }
    }
}
