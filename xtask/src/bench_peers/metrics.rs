//! What a node of ours tells at `/metrics`: figures by name, without those that have labels.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub type Figures = BTreeMap<String, f64>;

/// How many flushes, and merges, have ended, …
pub const FLUSHES: &str = "quorate_flushes_total";
pub const MERGES: &str = "quorate_merges_total";
/// … how many are under way, …
pub const FLUSHING: &str = "quorate_flushes_running";
pub const MERGING: &str = "quorate_merges_running";
/// … and how many bytes they wrote.
pub const FLUSHED_BYTES: &str = "quorate_flushed_bytes_total";
pub const MERGED_BYTES: &str = "quorate_merged_bytes_total";

const TIME_LIMIT: Duration = Duration::from_secs(2);

pub async fn of(address: &str) -> Result<Figures, String> {
    let asked = timeout(TIME_LIMIT, async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    });
    let answer = asked.await.map_err(|_| "timeout")?.map_err(|error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200") { Ok(parse(&answer)) } else { Err(format!("{address} tells no metrics")) }
}

fn parse(text: &str) -> Figures {
    let figure = |line: &str| {
        let (name, value) = line.split_once(' ').filter(|(name, _)| !name.starts_with('#') && !name.contains('{'))?;
        Some((name.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_names_and_no_labels() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP a What.\n# TYPE a counter\na 7\nb{To=\"1\"} 8\nc 0.5\n";
        assert_eq!(parse(text), Figures::from([("a".to_string(), 7.0), ("c".to_string(), 0.5)]));
    }
}
