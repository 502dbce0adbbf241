//! What monitoring reads.

use super::*;

/// Every line is one of Prometheus's text format; gives the samples.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut typed, mut name) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (named, text) = help.split_once(' ').unwrap();
            assert!(text.ends_with('.'), "{line}");
            name = named.to_string();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (named, kind) = kind.split_once(' ').unwrap();
            assert_eq!(named, name);
            typed = kind.to_string();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let base = sample.split('{').next().unwrap();
            let suffix = base.strip_prefix(&name).unwrap_or_else(|| panic!("{line} under {name}"));
            let suffixes: &[&str] = if typed == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(samples.insert(sample.to_string(), value.parse().unwrap()).is_none(), "{line} is there twice");
        }
    }
    samples
}

#[tokio::test]
async fn metrics_show_the_node_and_what_was_asked_of_it() {
    let server = Server::with(&[("a", "1"), ("b", "2"), ("b", "3")]);
    server.cluster().set_status(Status { role: node::Role::Follower, term: 3, ..led_by("node0") });
    server.call("PUT", "/v1/kv/c", "1").await;
    server.get("/v1/kv/c").await;
    server.get("/v1/kv/nothing").await;
    server.get("/key/a").await;
    server.cluster().metrics.traffic(1).sent_bytes.add(7);
    server.cluster().metrics.traffic(9).received_bytes.add(8);
    let answer = server.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let samples = samples(&answer.body);
    for (sample, value) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 0.0),
        ("etcd_server_proposals_applied_total", 5.0),
        ("etcd_debugging_mvcc_keys_total", 3.0),
        ("etcd_debugging_mvcc_current_revision", 4.0),
        ("etcd_debugging_mvcc_watcher_total", 0.0),
        ("quorate_term", 3.0),
        ("quorate_leases", 0.0),
        ("quorate_http_requests_total{handler=\"kv_write\",status=\"2xx\"}", 1.0),
        ("quorate_http_requests_total{handler=\"kv_read\",status=\"2xx\"}", 1.0),
        ("quorate_http_requests_total{handler=\"kv_read\",status=\"4xx\"}", 1.0),
        ("quorate_http_requests_total{handler=\"dialect\",status=\"2xx\"}", 1.0),
        ("quorate_http_request_duration_seconds_count{handler=\"kv_read\"}", 2.0),
        ("etcd_network_peer_sent_bytes_total{To=\"node0\"}", 7.0),
        ("etcd_network_peer_received_bytes_total{From=\"member 9\"}", 8.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}");
    }
    assert!(samples["process_resident_memory_bytes"] > 1e6 && samples["process_open_fds"] > 2.0);
    assert!(samples["process_start_time_seconds"] > 1.7e9 && samples["process_cpu_seconds_total"] >= 0.0);
    assert!(samples.contains_key("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"}"));
    let page = include_str!("../../../../../../docs/metrics.md");
    for sample in samples.keys() {
        let name = sample.split('{').next().unwrap();
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md does not explain {name}");
    }
    let listed = page.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| row.split('`').next().unwrap());
    for name in listed {
        assert!(
            samples.keys().any(|sample| sample.starts_with(name)),
            "docs/metrics.md lists {name}, which is not shown"
        );
    }
}
