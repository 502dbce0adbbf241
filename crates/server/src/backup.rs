//! Sending a node's whole state as a backup, while the node goes on.
//!
//! The state is written as it is sent, on a thread that may wait, and never more of it is in memory than a few blocks.
//! As long as it is under way nothing goes of what it has to write, so a receiver that takes nothing for a while loses it.

use base::ClusterId;
use bytes::Bytes;
use kv::Frozen;
use std::sync::Arc;
use std::time::Duration;
use storage::StorageError;
use storage::backup::{BackupHead, BackupWriter, MAX_BLOCK_BYTES};
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A backup, piece by piece. If it ends without [`Piece::End`], it is not whole.
pub type Pieces = mpsc::Receiver<Piece>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    More(Bytes),
    End,
}

/// Writes it for whoever takes the pieces. Called within a runtime.
pub fn send(frozen: Arc<Frozen>, cluster: ClusterId) -> Pieces {
    send_unless_stalled(frozen, cluster, STALLED)
}

fn send_unless_stalled(frozen: Arc<Frozen>, cluster: ClusterId, stalled: Duration) -> Pieces {
    let (pieces, taken) = mpsc::channel(PIECES);
    let runtime = Runtime::current();
    tokio::task::spawn_blocking(move || {
        let put = |piece| match runtime.block_on(timeout(stalled, pieces.send(piece))) {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotSent::NobodyTakesIt),
        };
        match write(&frozen, cluster, |bytes| put(Piece::More(bytes))).and_then(|()| put(Piece::End)) {
            Ok(()) | Err(NotSent::NobodyTakesIt) => {}
            Err(NotSent::Unreadable(error)) => tracing::error!("a backup was given up: {error}"),
        }
    });
    taken
}

enum NotSent {
    NobodyTakesIt,
    Unreadable(StorageError),
}

impl From<StorageError> for NotSent {
    fn from(error: StorageError) -> NotSent {
        NotSent::Unreadable(error)
    }
}

fn write<E: From<StorageError>>(
    frozen: &Frozen,
    cluster: ClusterId,
    mut put: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let head = BackupHead { cluster, position: frozen.applied(), revision: frozen.revision() };
    let (mut writer, first) = BackupWriter::begin(&head);
    put(first)?;
    frozen
        .write_to(&mut |bytes: &[u8]| bytes.chunks(MAX_BLOCK_BYTES).try_for_each(|block| put(writer.block(block))))?;
    put(writer.end())
}

/// Most of them of tens of kilobytes.
const PIECES: usize = 4;
/// A receiver that takes nothing for so long gets no more.
const STALLED: Duration = Duration::from_secs(30);

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::Weak;

    /// The whole file.
    pub fn file(frozen: &Frozen, cluster: ClusterId) -> Vec<u8> {
        let mut file = Vec::new();
        let written = write(frozen, cluster, |piece| {
            file.extend_from_slice(&piece);
            Ok::<(), StorageError>(())
        });
        written.unwrap();
        file
    }

    fn frozen() -> Arc<Frozen> {
        let mut store = kv::Store::in_memory();
        store.set_configuration(base::Position { index: 1, term: 1 }, Bytes::from(vec![7; 1 << 20]), &[1]);
        Arc::new(store.frozen())
    }

    #[tokio::test]
    async fn what_is_sent_is_the_file() {
        let mut pieces = send(frozen(), ClusterId(5));
        let mut sent = Vec::new();
        while let Some(Piece::More(piece)) = pieces.recv().await {
            sent.extend_from_slice(&piece);
        }
        assert!(sent.len() > 1 << 20);
        assert_eq!(sent, file(&frozen(), ClusterId(5)));
        assert_eq!(pieces.recv().await, None);
    }

    #[tokio::test]
    async fn whoever_goes_or_takes_nothing_lets_go_of_the_state() {
        let cluster = ClusterId(5);
        let gone = |frozen: Weak<Frozen>| async move {
            while frozen.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let small = frozen();
        let kept = Arc::downgrade(&small);
        let mut pieces = send(small, cluster);
        assert!(matches!(pieces.recv().await, Some(Piece::More(_))));
        drop(pieces);
        gone(kept).await;

        let mut many = kv::Store::in_memory();
        many.set_configuration(base::Position { index: 1, term: 1 }, Bytes::new(), &[1]);
        let session = kv::SessionId { node: 1, boot: 1 };
        many.apply(base::Position { index: 2, term: 1 }, &kv::Command::Register { session }).unwrap();
        for number in 1..=20 {
            let put = kv::Operation::Put { key: format!("{number}").into(), value: vec![0; 100_000].into() };
            let request = kv::RequestId { session, number, low_water: number };
            let write = kv::Command::Write { request, accepted_ms: 0, idempotency: None, operations: vec![put] };
            many.apply(base::Position { index: 2 + number, term: 1 }, &write).unwrap();
        }
        let large = Arc::new(many.frozen());
        let kept = Arc::downgrade(&large);
        let mut stuck = send_unless_stalled(large, cluster, Duration::from_millis(50));
        gone(kept).await;
        let mut taken = Vec::new();
        while let Some(piece) = stuck.recv().await {
            taken.push(piece);
        }
        assert!(taken.len() == PIECES && !taken.contains(&Piece::End), "it was given up");
    }
}
