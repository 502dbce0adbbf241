//! What the steps of a transaction gave, as JSON.

use super::super::list::{PAGE_BYTES, write_rows};
use super::super::wire::{self, array, key_size_bytes, write_key};
use super::{Shape, StepShape};
use bytes::Bytes;
use kv::{Decided, KeyValue, StepResult};

/// The array of results. Together the rows of its ranges end at the size of a page.
pub fn write(into: &mut Vec<u8>, decided: &Decided, shape: &Shape) {
    Results { room: PAGE_BYTES }.write(into, decided, shape);
}

/// About how many bytes that takes.
pub fn size_bytes(decided: &Decided, shape: &Shape) -> usize {
    let mut ranges = 0;
    let rest = sizes(decided, shape, &mut ranges);
    rest.saturating_add(ranges.min(PAGE_BYTES))
}

fn sizes(decided: &Decided, shape: &Shape, ranges: &mut usize) -> usize {
    let rows = |rows: &[(Bytes, KeyValue)]| rows.iter().map(|(key, row)| key_size_bytes(key, row)).sum::<usize>();
    let steps = decided.results.iter().zip(shape.branch(decided.succeeded));
    let sizes = steps.map(|(result, shape)| match (result, shape) {
        (StepResult::Put { previous }, _) => previous.iter().map(|row| key_size_bytes(b"", row)).sum(),
        (StepResult::Delete { previous, .. }, _) => rows(previous),
        (StepResult::Range(page), StepShape::Range { .. }) => {
            *ranges = ranges.saturating_add(rows(&page.rows));
            0
        }
        (StepResult::Range(page), _) => rows(&page.rows),
        (StepResult::Transaction(decided), StepShape::Transaction(shape)) => sizes(decided, shape, ranges),
        (StepResult::Transaction(_), _) => 0,
    });
    sizes.map(|size: usize| size + 48).sum()
}

struct Results {
    /// For the rows of ranges.
    room: usize,
}

impl Results {
    fn write(&mut self, into: &mut Vec<u8>, decided: &Decided, shape: &Shape) {
        let steps = decided.results.iter().zip(shape.branch(decided.succeeded));
        array(into, steps, |into, (result, shape)| {
            let mut object = wire::Writer::new(into);
            self.result(&mut object, result, shape);
            object.end();
        });
    }

    fn result(&mut self, object: &mut wire::Writer, result: &StepResult, shape: &StepShape) {
        match (result, shape) {
            (StepResult::Put { previous }, StepShape::Put { previous: told }) => {
                let mut put = wire::Writer::new(object.field("put"));
                match (told, previous) {
                    (None, _) => {}
                    (Some(key), Some(was)) => write_key(put.field("previous"), key, was, true),
                    (Some(_), None) => put.null("previous"),
                }
                put.end();
            }
            (StepResult::Range(page), StepShape::Get) => {
                let mut get = wire::Writer::new(object.field("get"));
                match page.rows.first() {
                    Some((key, found)) => write_key(get.field("kv"), key, found, true),
                    None => get.null("kv"),
                }
                get.end();
            }
            (StepResult::Range(page), StepShape::Range { keys_only, count_only }) => {
                let mut range = wire::Writer::new(object.field("range"));
                let (_, is_whole) = write_rows(range.field("kvs"), &page.rows, !keys_only, &mut self.room);
                range.flag("more", !count_only && (page.more || !is_whole));
                if let Some(count) = page.count {
                    range.number("count", count);
                }
                range.end();
            }
            (StepResult::Delete { deleted, previous }, StepShape::Delete { previous: told }) => {
                let mut delete = wire::Writer::new(object.field("delete"));
                delete.number("deleted", *deleted);
                if *told {
                    delete.array("previous", previous, |into, (key, was)| write_key(into, key, was, true));
                }
                delete.end();
            }
            (StepResult::Transaction(decided), StepShape::Transaction(shape)) => {
                let mut nested = wire::Writer::new(object.field("txn"));
                nested.flag("succeeded", decided.succeeded);
                self.write(nested.field("results"), decided, shape);
                nested.end();
            }
            // A result is one of its step.
            _ => {}
        }
    }
}
