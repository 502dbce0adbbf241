//! What a key and a value may be, as an answer in words.

use super::answer::Refusal;
use kv::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

pub fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::invalid("a key must not be empty, it could never be read back; nothing was changed"));
    }
    if key.len() > MAX_KEY_BYTES {
        let bytes = key.len();
        return Err(Refusal::too_large(format!("a key of {bytes} bytes is over the limit of {MAX_KEY_BYTES} bytes")));
    }
    Ok(())
}

pub fn check_value(value: &[u8]) -> Result<(), Refusal> {
    if value.len() > MAX_VALUE_BYTES {
        let bytes = value.len();
        return Err(Refusal::too_large(format!(
            "a value of {bytes} bytes is over the limit of {MAX_VALUE_BYTES} bytes; nothing was changed"
        )));
    }
    Ok(())
}
