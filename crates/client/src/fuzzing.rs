//! What reading a server's answers holds to, whatever comes: it never panics, always comes to an end, and is an answer
//! or an error in words.
//!
//! A fuzz target (`fuzz/`); the tests replay what is kept of its corpus.

use crate::Level;
use crate::hraftd::{Connection, Error};
use base::codec::Reader;
use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime;

/// What a server sends when it is asked for a key, behind its length, and what it then sends when it is asked for its
/// status.
pub fn answers(bytes: &[u8]) {
    let mut r = Reader::new(Bytes::copy_from_slice(bytes));
    let answers = [r.blob().unwrap_or_default(), r.rest()];
    // Its clock goes on by itself when nothing else does: whoever waits for nothing waits no longer than that.
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime of one thread").block_on(async {
        let (ours, theirs) = duplex(bytes.len() + 1024);
        let server = tokio::spawn(serve(theirs, answers));
        let mut connection =
            Connection::over(ours, ADDRESS, HeaderValue::from_static(ADDRESS)).await.expect("it is open");
        check(connection.get("key", Level::None).await);
        check(connection.status().await);
        drop(connection);
        server.await.expect("the server does not panic");
    });
}

/// Lines that a server answers a pipeline with.
pub fn pipeline_answers(bytes: &[u8]) {
    crate::net::read_all(bytes);
}

/// Until it has given its answers, or the client goes.
async fn serve(mut stream: DuplexStream, answers: [Bytes; 2]) {
    for answer in answers {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn check<T>(answer: Result<T, Error>) {
    if let Err(error) = answer {
        assert!(error.to_string().contains(ADDRESS), "{error}");
    }
}

const ADDRESS: &str = "localhost:11000";

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_answers() {
        replay::corpus("client_answers", answers);
    }

    #[test]
    fn the_corpus_of_answers_in_lines() {
        replay::corpus("client_pipeline_answers", pipeline_answers);
    }
}
