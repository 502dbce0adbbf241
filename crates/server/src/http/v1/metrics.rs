//! What monitoring reads: `/metrics`.
//!
//! Names are etcd's where the meaning is the same, so that its dashboards and alerts work; the others begin with
//! `quorate_`. `docs/metrics.md` explains them.

use super::super::answer::{self, Answer};
use super::super::cluster::Cluster;
use super::super::member::Member;
use crate::metrics::text::{Text, labels};
use crate::metrics::{Counter, Traffic, process};
use hyper::header::HeaderValue;
use node::Role;
use std::sync::Arc;

pub fn get<C: Cluster>(member: &Member<C>) -> Answer {
    let mut text = Text::default();
    of_the_cluster(&mut text, member);
    of_the_store(&mut text, member);
    of_the_process(&mut text, member);
    answer::full(HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"), text.finish())
}

fn of_the_cluster<C: Cluster>(text: &mut Text, member: &Member<C>) {
    let (status, metrics) = (member.cluster.status(), member.cluster.metrics());
    let applied = member.cluster.view().map_or(0, |view| view.applied().index);
    let committed = member.cluster.known_commit().max(status.commit);
    text.gauge("etcd_server_has_leader", "Whether a leader is known.", status.leader.is_some());
    text.gauge("etcd_server_is_leader", "Whether this node leads.", status.role == Role::Leader);
    text.gauge("etcd_server_is_learner", "Whether this node has no vote.", status.role == Role::Learner);
    text.counter("etcd_server_leader_changes_seen_total", "New leaders seen.", metrics.leader_changes.get());
    text.number("etcd_server_proposals_committed_total", "The newest log entry known to be committed.", committed);
    text.number("etcd_server_proposals_applied_total", "The newest log entry that is applied here.", applied);
    text.number(
        "etcd_server_proposals_pending",
        "Changes that were asked for at this node and are not answered yet.",
        metrics.proposals_pending.get(),
    );
    text.counter(
        "etcd_server_proposals_failed_total",
        "Changes that were asked for at this node and failed, or whose outcome is unknown.",
        metrics.proposals_failed.get(),
    );
    text.counter("etcd_server_read_indexes_failed_total", "Reads that no leader allowed.", metrics.reads_failed.get());
    text.histogram(
        "quorate_read_index_duration_seconds",
        "Time until a read that asks the leader may read.",
        &metrics.read_index,
    );
    text.number("quorate_term", "The term of Raft.", status.term);
    let members = &status.configuration.members;
    text.number("quorate_members", "Members that this node knows.", members.len() as u64);
    let traffic = metrics.each_traffic();
    let by_peer = |label: &str, bytes: fn(&Traffic) -> &Counter| -> Vec<(String, u64)> {
        let name = |id| members.get(&id).map_or_else(|| format!("member {id}"), |known| known.name.clone());
        let row = |(id, found): &(_, Arc<Traffic>)| (labels(&[(label, &name(*id))]), bytes(found).get());
        traffic.iter().map(row).collect()
    };
    let sent = by_peer("To", |traffic| &traffic.sent_bytes);
    text.counters("etcd_network_peer_sent_bytes_total", "Bytes sent to other members.", sent);
    let received = by_peer("From", |traffic| &traffic.received_bytes);
    text.counters("etcd_network_peer_received_bytes_total", "Bytes received from other members.", received);
}

fn of_the_store<C: Cluster>(text: &mut Text, member: &Member<C>) {
    let metrics = member.cluster.metrics();
    text.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "Time that the log takes to be written to the disk.",
        &metrics.log_sync,
    );
    text.number("quorate_log_bytes", "Size of the log's files.", metrics.log_bytes.get());
    text.histogram(
        "quorate_turn_duration_seconds",
        "Time that the node's thread takes for one turn: what follows from what came in, and applying what was committed.",
        &metrics.turn,
    );
    let (flushes, merges) = (&metrics.flushes, &metrics.merges);
    text.counter("quorate_flushes_total", "Flushes of the engine that are done.", flushes.done.get());
    text.number("quorate_flushes_running", "Flushes of the engine under way.", flushes.running.get());
    text.counter("quorate_flushed_bytes_total", "Size of the tables that flushes wrote.", flushes.written_bytes.get());
    text.counter("quorate_merges_total", "Merges of the engine's tables that are done.", merges.done.get());
    text.number("quorate_merges_running", "Merges of the engine's tables under way.", merges.running.get());
    text.counter("quorate_merged_bytes_total", "Size of the tables that merges wrote.", merges.written_bytes.get());
    if let Ok(view) = member.cluster.view() {
        text.number("etcd_debugging_mvcc_keys_total", "Keys.", view.len());
        text.number("etcd_debugging_mvcc_current_revision", "The store's revision.", view.revision());
        text.number("etcd_debugging_mvcc_compact_revision", "The oldest revision that can be read.", view.compacted());
        text.number("quorate_past_bytes", "What earlier versions take that compaction could free.", view.past_bytes());
        text.number("quorate_leases", "Leases.", view.lease_count());
    }
    let watches = member.cluster.hub().counts();
    text.number("etcd_debugging_mvcc_watcher_total", "Watches at this node.", watches.watchers as u64);
    text.number(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watches at this node that fell behind and read history.",
        watches.slow as u64,
    );
    text.number(
        "quorate_watch_ring_bytes",
        "Memory of the newest changes, kept for watches.",
        watches.ring_bytes as u64,
    );
    text.number("quorate_watch_ring_revisions", "Revisions kept for watches.", watches.ring_revisions as u64);
}

fn of_the_process<C: Cluster>(text: &mut Text, member: &Member<C>) {
    let http = &member.cluster.metrics().http;
    let requests = http.each().flat_map(|(class, handler)| {
        let row = move |(status, count)| (labels(&[("handler", class.name()), ("status", status)]), count);
        handler.answers().map(row)
    });
    text.counters("quorate_http_requests_total", "Requests of clients, by what they are about and status.", requests);
    let durations = http.each().map(|(class, handler)| (labels(&[("handler", class.name())]), &handler.duration));
    text.histograms("quorate_http_request_duration_seconds", "Time until the answer to a request begins.", durations);
    process::write(text);
}
