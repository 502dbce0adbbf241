//! Answers to a node that asks to be let in.

use crate::config::Words;
use crate::join::ask::{Candidate, post_over};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime;

/// What a member sends when it is asked.
pub fn answer(bytes: &[u8]) {
    // Its clock goes on by itself when nothing else does: whoever waits for nothing waits no longer than that.
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (ours, mut theirs) = duplex(bytes.len() + 1024);
    let answered = runtime.expect("a runtime of one thread").block_on(async {
        let member = tokio::spawn({
            let answer = bytes.to_vec();
            async move {
                // The question comes before the answer.
                let _ = theirs.read_u8().await;
                let _ = theirs.write_all(&answer).await;
            }
        });
        let candidate = Candidate { name: "b", address: "localhost:2", learner: false };
        let answered = post_over(ours, "localhost:11000", Words::Hraftd, candidate).await;
        member.await.expect("the member does not panic");
        answered
    });
    if let Err(why) = answered {
        assert!(!why.is_empty());
    }
}
