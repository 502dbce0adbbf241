//! Hosts, network and time.
//!
//! What happens is a queue of happenings, ordered by time and then by the order in which they were put there. Each host
//! carries out its node's effects as the server does: the log's writes queue up at the disk and share syncs; checkpoints
//! are a background matter; messages are encoded, travel, and are decoded.
//!
//! A connection is imitated by what it tells the node: a peer that is heard of first is up; that it is down is told at
//! crashes and cuts, sometimes, and late.

use crate::check::Checks;
use crate::disk::Disk;
use crate::host::{Host, Job, Letter, Process, Running, WallClock};
use crate::network::{Network, Weather};
use crate::totals::Totals;
use crate::trace::Trace;
use crate::{HostNumber, Micros, SECOND};
use base::codec::Writer;
use base::rng::{Rng, hash};
use base::{ClusterId, Incarnation, Index, NodeId};
use bytes::Bytes;
use kv::{Command, RequestId};
use node::{
    Effect, Event, Greeting, Message, Node, Notice, Outcome, ReadLevel, Request, Role, Status, TICKS_PER_SECOND,
    Verbosity, WriteId,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::engine::disk::DiskOptions;

pub const TICK: Micros = SECOND / TICKS_PER_SECOND;
/// Keeps the world's draws apart from those of others with the same seed.
const WORLD: u64 = 2;
/// What an error says that a disk was asked to make.
const TOLD_TO_FAIL: &str = "the disk was told to fail";
const SEAL_AFTER: Micros = SECOND / 2;

/// The world's constants.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    /// Keep lines for people.
    pub with_lines: bool,
    pub weather: Weather,
    /// How long a sync takes when the disk is well: from, to.
    pub sync_micros: (Micros, Micros),
    /// Crashes, cuts and returns are told to peers so often, out of a thousand.
    pub hints: u64,
    pub checkpoint_after_bytes: u64,
    pub log_cache_bytes: usize,
    pub far_behind_bytes: usize,
    pub segment_size_bytes: u64,
    /// How nodes keep their state in tables; `None`: in memory, with checkpoints.
    pub tables: Option<DiskOptions>,
    /// As in [`node::Settings`].
    pub compact_after_ticks: u64,
    pub compact_above_bytes: u64,
    /// Without, all nodes are told that there is none.
    pub wall_clocks: bool,
    pub sabotage: Option<Sabotage>,
}

impl Settings {
    /// A deterministic, quiet world, for scripts.
    pub fn quiet() -> Settings {
        Settings {
            seed: 1,
            with_lines: false,
            weather: Weather::quiet(),
            sync_micros: (1_000, 1_000),
            hints: 0,
            checkpoint_after_bytes: 1 << 20,
            log_cache_bytes: 1 << 20,
            far_behind_bytes: 256 * 1024,
            segment_size_bytes: 64 << 10,
            tables: None,
            compact_after_ticks: 0,
            compact_above_bytes: 0,
            wall_clocks: true,
            sabotage: None,
        }
    }
}

/// A bug put in on purpose, to see that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The log says "written" without a sync.
    AcknowledgeWithoutSync,
    /// Linearizable reads are served from the published view, with no question to a quorum.
    ReadWithoutRound,
    /// Weak reads are served from the published view, with no question to the leader.
    WeakReadFromAnyone,
    /// A forwarded write is proposed twice, as if it were two requests.
    ApplyTwice,
    /// A restart forgets term and vote.
    ForgetVote,
    /// A follower's acknowledgements leave before its disk has what they speak of.
    AcknowledgeBeforeDisk,
    /// All clocks run fast, and the checks do not know it.
    FastClocks,
    /// Clients are told the contrary of what became of a transaction's conditions.
    ContraryAnswers,
    /// A watch that goes on at another host leaves out a revision.
    ResumeTooLate,
}

/// What came of a step that the caller may want to know.
pub enum Notable {
    Nothing,
    /// [`World::alarm`] went off.
    Alarm(u64),
    /// The answer to the question of that number.
    Answered {
        question: u64,
        answer: Answer,
    },
}

/// What a client hears.
#[derive(Clone)]
pub enum Answer {
    /// With the view that the host published, at that moment.
    Outcome(Outcome, Option<kv::View>),
    /// Nobody listens there: nothing was sent.
    NobodyThere,
    /// The connection broke before an answer came.
    Lost,
}

enum Happening {
    Tick {
        host: HostNumber,
        life: u64,
    },
    Turn {
        host: HostNumber,
        life: u64,
    },
    Letter {
        to: HostNumber,
        letter: Letter,
    },
    Post {
        host: HostNumber,
        life: u64,
        event: Event,
    },
    Synced {
        host: HostNumber,
        life: u64,
        id: WriteId,
    },
    Seal {
        host: HostNumber,
        life: u64,
        after: WriteId,
    },
    Job {
        host: HostNumber,
        life: u64,
    },
    Upkeep {
        host: HostNumber,
        life: u64,
    },
    Question {
        host: HostNumber,
        question: u64,
        limit_ticks: u64,
        request: Request,
    },
    Answer {
        question: u64,
        answer: Answer,
    },
    /// An answer that whoever asked may look at the host's state with.
    Reply {
        host: HostNumber,
        life: u64,
        question: u64,
        answer: Answer,
    },
    Alarm(u64),
}

pub struct World {
    pub settings: Settings,
    pub network: Network,
    pub checks: Checks,
    pub totals: Totals,
    pub trace: Trace,
    cluster: ClusterId,
    now: Micros,
    sequence: u64,
    queue: BTreeMap<(Micros, u64), Happening>,
    hosts: BTreeMap<HostNumber, Host>,
    /// What the fastest clock there is would show, in nanoseconds, and when it was looked at last.
    fastest: (u64, Micros),
    rng: Rng,
    questions: u64,
}

impl World {
    pub fn new(settings: Settings) -> World {
        let mut rng = Rng::new(hash(&[settings.seed, WORLD]));
        let mut checks = Checks::new(settings.sabotage.is_some());
        // What is compacted for its size may be of any age.
        if settings.compact_above_bytes == 0 {
            checks.chores.compact_after = settings.compact_after_ticks * TICK;
        }
        World {
            network: Network::new(settings.weather.clone(), rng.fork()),
            checks,
            totals: Totals::default(),
            trace: Trace::new(settings.with_lines),
            cluster: ClusterId(u128::from(rng.next_u64())),
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            hosts: BTreeMap::new(),
            fastest: (0, 0),
            rng,
            questions: 0,
            settings,
        }
    }

    pub fn now(&self) -> Micros {
        self.now
    }

    pub fn hosts(&self) -> Vec<HostNumber> {
        self.hosts.keys().copied().collect()
    }

    pub fn name(&self, host: HostNumber) -> String {
        format!("n{host}")
    }

    pub fn address(&self, host: HostNumber) -> String {
        self.hosts.get(&host).map_or_else(|| format!("h{host}:7000"), |host| host.address.clone())
    }

    /// The process ends, and the next one is found elsewhere: under another address, with the same folder.
    pub fn relocate(&mut self, host: HostNumber) {
        self.crash(host);
        if let Some(h) = self.hosts.get_mut(&host) {
            h.moves += 1;
            h.address = format!("h{host}-{}:7000", h.moves);
        }
        self.totals.moves += 1;
        self.trace.note(self.now, Some(host), &[24], || "moves to another address".into());
    }

    /// The process is asked to end in good order.
    pub fn drain(&mut self, host: HostNumber) {
        self.trace.note(self.now, Some(host), &[25], || "is asked to end".into());
        self.post(host, 0, Event::Drain);
    }

    /// A new machine with an empty disk, switched off.
    pub fn add_host(&mut self) -> HostNumber {
        let number = self.hosts.keys().last().map_or(1, |last| last + 1);
        let host = Host {
            number,
            name: self.name(number),
            address: self.address(number),
            disk: Disk::new(self.settings.segment_size_bytes, self.settings.tables),
            process: None,
            life: 0,
            paused_until: 0,
            tick_micros: self.right_tick(),
            wall_clock: self.odd_wall_clock(),
            disk_slow_until: 0,
            moves: 0,
        };
        self.hosts.insert(number, host);
        number
    }

    // Processes.

    /// Starts a process on the host's folder. `founds`: if the folder belongs to no cluster, it founds one.
    pub fn start(&mut self, host: HostNumber, founds: bool) {
        if self.hosts[&host].process.is_some() {
            return;
        }
        let incarnation = Incarnation(self.rng.next_u64());
        let cluster = self.cluster;
        let h = self.hosts.get_mut(&host).expect("a host keeps its number");
        h.life += 1;
        let life = h.life;
        let taken = h.disk.take(&h.name, &h.address, || incarnation).and_then(|mut folder| {
            if founds && folder.identity.cluster.is_none() {
                folder.found(cluster)?;
            }
            Ok(folder)
        });
        let folder = match taken {
            Ok(folder) => folder,
            Err(error) => return self.failed_to_start(host, &error.to_string()),
        };
        let what = match (&folder.identity.removed, folder.identity.cluster) {
            (Some(_), _) => "starts, and says that it was removed".to_owned(),
            (None, None) => format!("starts on an empty folder {}", folder.identity.incarnation),
            (None, Some((_, id))) => format!("starts as node {id}"),
        };
        let is_member = folder.identity.removed.is_none() && folder.identity.cluster.is_some();
        h.process = Some(Process::new(folder));
        self.trace.note(self.now, Some(host), &[1, life], || what);
        if is_member {
            self.start_node(host);
        }
    }

    fn start_node(&mut self, host: HostNumber) {
        let seed = self.rng.next_u64();
        let tick_in = self.rng.below(TICK);
        let h = self.hosts.get_mut(&host).expect("a host keeps its number");
        let Some(process) = &mut h.process else { return };
        let Some((cluster, id)) = process.folder.identity.cluster else { return };
        let opened = process.folder.next_boot().and_then(|boot| Ok((boot, process.folder.open_state()?)));
        let (boot, mut opened) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.failed_to_start(host, &error.to_string()),
        };
        if self.settings.sabotage == Some(Sabotage::ForgetVote)
            && let Some(group) = &mut opened.group
        {
            group.hard_state.vote = 0;
            group.hard_state.term = group.entries.last().map_or(0, |last| last.position.term);
        }
        let settings = node::Settings {
            cluster,
            node: id,
            name: h.name.clone(),
            boot,
            seed,
            checkpoint_after_bytes: self.settings.checkpoint_after_bytes,
            log_cache_bytes: self.settings.log_cache_bytes,
            far_behind_bytes: self.settings.far_behind_bytes,
            compact_after_ticks: self.settings.compact_after_ticks,
            compact_above_bytes: self.settings.compact_above_bytes,
            verbosity: if self.settings.with_lines { Verbosity::Steps } else { Verbosity::Silent },
            ..node::Settings::default()
        };
        self.checks.recovered(host, opened.store.applied(), opened.group.as_ref());
        match Node::new(settings, opened.store, opened.checkpoints, opened.group) {
            Ok(node) => {
                process.node = Some(Running {
                    node,
                    cluster,
                    id,
                    log: opened.log,
                    unwritten: Default::default(),
                    syncing: None,
                    last_synced: 0,
                    view: None,
                    known_commit: 0,
                    status: Arc::new(Status::default()),
                });
                let life = h.life;
                self.at(tick_in, Happening::Tick { host, life });
                self.wants_turn(host);
            }
            Err(error) => self.failed_to_start(host, &error),
        }
    }

    fn failed_to_start(&mut self, host: HostNumber, error: &str) {
        if error.contains(TOLD_TO_FAIL) {
            return self.died_of_its_disk(host, error);
        }
        self.checks.must("a node starts from what its disk kept", Err(format!("h{host}: {error}")));
        self.trace.note(self.now, Some(host), &[2], || format!("can't start: {error}"));
    }

    /// The process dies. Unsynced data is lost or not, as for a power cut: a page cache may show bytes for a while that
    /// the disk never gets.
    pub fn crash(&mut self, host: HostNumber) {
        let Some(h) = self.hosts.get_mut(&host) else { return };
        let Some(mut process) = h.process.take() else { return };
        self.totals.crashes += 1;
        // What the background thread was in the middle of is half done.
        if let Some(job) = process.jobs.pop_front()
            && self.rng.chance(500)
        {
            match self.rng.below(2) {
                0 => h.disk.memory.fail_write_after(self.rng.between(1, 4)),
                _ => h.disk.memory.fail_sync_after(self.rng.between(1, 3)),
            }
            process.perform(job);
            h.mend_disk();
        }
        let asked: Vec<u64> = process.asked.values().copied().collect();
        let id = process.node.as_ref().map(|running| running.id);
        drop(process);
        h.disk.memory.crash(&mut self.rng);
        h.paused_until = 0;
        self.trace.note(self.now, Some(host), &[3], || "crashes".into());
        for question in asked {
            let delay = self.network.delay();
            self.at(delay, Happening::Answer { question, answer: Answer::Lost });
        }
        if let Some(id) = id {
            self.hint_down(id, host);
        }
    }

    /// Peers of that node may notice that a connection broke.
    fn hint_down(&mut self, id: NodeId, host: HostNumber) {
        for other in self.hosts() {
            if other != host && self.rng.chance(self.settings.hints) {
                let delay = self.rng.between(100, SECOND / 10);
                self.post(other, delay, Event::PeerDown { node: id });
            }
        }
    }

    /// The machine of that host is replaced by one with an empty disk, switched off.
    pub fn wipe(&mut self, host: HostNumber) {
        self.crash(host);
        self.totals.wipes += 1;
        if let Some(h) = self.hosts.get_mut(&host) {
            h.disk = Disk::new(self.settings.segment_size_bytes, self.settings.tables);
        }
        self.checks.wiped(host);
        self.trace.note(self.now, Some(host), &[4], || "its folder is wiped".into());
    }

    pub fn pause(&mut self, host: HostNumber, micros: Micros) {
        self.totals.pauses += 1;
        let until = self.now + micros;
        if let Some(h) = self.hosts.get_mut(&host) {
            h.paused_until = until;
        }
        self.trace.note(self.now, Some(host), &[5, micros], || {
            format!("is paused for {}.{:01} s", micros / SECOND, micros % SECOND / (SECOND / 10))
        });
    }

    /// Syncs that begin before that time has passed take until then, or most of it.
    pub fn slow_disk(&mut self, host: HostNumber, micros: Micros) {
        self.totals.slow_disks += 1;
        let until = self.now + micros;
        if let Some(h) = self.hosts.get_mut(&host) {
            h.disk_slow_until = until;
        }
        self.trace.note(self.now, Some(host), &[6, micros], || {
            format!("its disk hangs for {}.{:01} s", micros / SECOND, micros % SECOND / (SECOND / 10))
        });
    }

    /// One of the next few syncs or writes fails. If it is the log's, or at a start, the process ends of it.
    pub fn fail_the_disk(&mut self, host: HostNumber, within: u64) {
        let n = self.rng.between(1, within);
        let sync = self.rng.chance(700);
        if let Some(h) = self.hosts.get(&host) {
            match sync {
                true => h.disk.memory.fail_sync_after(n),
                false => h.disk.memory.fail_write_after(n),
            }
        }
    }

    /// Somebody sets the host's wall clock, to anything.
    pub fn jump_wall_clock(&mut self, host: HostNumber) {
        self.totals.clock_jumps += 1;
        let clock = self.odd_wall_clock();
        let ms = clock.set_to_ms;
        if let Some(h) = self.hosts.get_mut(&host) {
            h.wall_clock = clock;
        }
        self.trace.note(self.now, Some(host), &[26], || format!("its wall clock is set to {ms} ms"));
    }

    fn odd_wall_clock(&mut self) -> WallClock {
        let (day, offset) = (24 * 3_600_000, self.rng.below(1_000));
        let set_to_ms = match self.rng.below(10) {
            0 => 0,
            1 => 30 * 365 * day + offset,
            2..=4 => 20_000 * day + 3_600_000 * offset,
            _ => 20_000 * day + self.now / 1_000 + offset,
        };
        WallClock { set_at: self.now, set_to_ms, per_cent: *self.rng.pick(&[0, 90, 100, 100, 100, 110, 300]) }
    }

    pub fn set_clock(&mut self, host: HostNumber, per_cent: u64) {
        self.clock_changes();
        let right = self.right_tick();
        if let Some(h) = self.hosts.get_mut(&host) {
            h.tick_micros = right * 100 / per_cent.max(1);
        }
        self.trace.note(self.now, Some(host), &[7, per_cent], || format!("its clock runs at {per_cent} %"));
    }

    fn right_tick(&self) -> Micros {
        if self.settings.sabotage == Some(Sabotage::FastClocks) { TICK / 3 } else { TICK }
    }

    /// Time goes on for the fastest clock.
    fn look_at_the_clocks(&mut self) -> Micros {
        let (shown_nanos, at) = self.fastest;
        let right = self.right_tick();
        let tick = self.hosts.values().map(|host| host.tick_micros).min().unwrap_or(right);
        self.fastest = (shown_nanos + (self.now - at) * 1_000 * right / tick, self.now);
        self.fastest.0 / 1_000
    }

    /// A clock will go at another pace. A tick that has begun still ends as it would have.
    fn clock_changes(&mut self) {
        self.look_at_the_clocks();
        self.fastest.0 += 1_000 * TICK;
    }

    // The network.

    pub fn cut(&mut self, from: HostNumber, to: HostNumber) {
        self.network.cut(from, to);
        self.trace.note(self.now, None, &[8, from as u64, to as u64], || format!("cut: h{from} -> h{to}"));
        if self.rng.chance(self.settings.hints) {
            let delay = self.rng.between(100, 2 * SECOND);
            self.broken_connection(from, to, delay);
        }
    }

    /// Both ends notice that their connection broke.
    pub fn broken_connection(&mut self, a: HostNumber, b: HostNumber, delay: Micros) {
        for (here, there) in [(a, b), (b, a)] {
            if let Some(id) = self.node_id(there) {
                self.post(here, delay, Event::PeerDown { node: id });
            }
        }
    }

    /// No cuts, no pauses, disks and clocks as they should be.
    pub fn heal(&mut self) {
        self.network.heal();
        self.network.weather = Weather { lost: 0, doubled: 0, late: 0, ..self.network.weather.clone() };
        self.clock_changes();
        let (now, right) = (self.now, self.right_tick());
        for host in self.hosts.values_mut() {
            host.paused_until = host.paused_until.min(now);
            host.disk_slow_until = host.disk_slow_until.min(now);
            host.tick_micros = right;
            host.mend_disk();
        }
        self.trace.note(self.now, None, &[9], || "everything heals".into());
    }

    // Asking and looking.

    /// Sends a request to a host. Its answer comes from [`World::step`].
    pub fn ask(&mut self, host: HostNumber, limit_ticks: u64, request: Request) -> u64 {
        self.questions += 1;
        let question = self.questions;
        let delay = self.network.delay();
        self.at(delay, Happening::Question { host, question, limit_ticks, request });
        question
    }

    /// Has [`World::step`] say so when that time has passed.
    pub fn alarm(&mut self, delay: Micros, alarm: u64) {
        self.at(delay, Happening::Alarm(alarm));
    }

    pub fn is_up(&self, host: HostNumber) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.process.is_some())
    }

    pub fn is_paused(&self, host: HostNumber) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.paused_until > self.now)
    }

    /// The node on that host; its published status and view are what a client of it sees.
    pub fn node(&self, host: HostNumber) -> Option<&Node> {
        Some(&self.hosts.get(&host)?.running()?.node)
    }

    pub fn node_id(&self, host: HostNumber) -> Option<NodeId> {
        Some(self.hosts.get(&host)?.running()?.id)
    }

    pub fn status(&self, host: HostNumber) -> Option<&Arc<Status>> {
        Some(&self.hosts.get(&host)?.running()?.status)
    }

    pub fn view(&self, host: HostNumber) -> Option<&kv::View> {
        self.hosts.get(&host)?.running()?.view.as_ref()
    }

    pub fn life(&self, host: HostNumber) -> u64 {
        self.hosts.get(&host).map_or(0, |host| host.life)
    }

    /// Whether what a host showed in that life can be read: with its host dies what is in tables.
    pub fn still_shows(&self, host: HostNumber, life: u64) -> bool {
        self.settings.tables.is_none() || self.lives(host, life)
    }

    /// The process waits to be let into a cluster.
    pub fn waits_to_join(&self, host: HostNumber) -> bool {
        let process = self.hosts.get(&host).and_then(|host| host.process.as_ref());
        process.is_some_and(|process| process.node.is_none() && process.folder.identity.removed.is_none())
    }

    /// Its node was removed from the cluster, and knows it.
    pub fn is_removed(&self, host: HostNumber) -> bool {
        let process = self.hosts.get(&host).and_then(|host| host.process.as_ref());
        let knows = |process: &Process| {
            let running = process.node.as_ref();
            process.folder.identity.removed.is_some() || running.is_some_and(|r| r.node.status().removed.is_some())
        };
        process.is_some_and(knows)
    }

    /// The host of the node that believes to lead in the highest term.
    pub fn leader(&self) -> Option<HostNumber> {
        let leaders = self.hosts.values().filter_map(|host| {
            let status = host.running()?.node.status();
            (status.role == Role::Leader).then_some((status.term, host.number))
        });
        leaders.max().map(|(_, host)| host)
    }

    /// What every leader that is asked from now on has: the leaders of today, among them one that was deposed and does not
    /// know it yet, and those that are elected later.
    pub fn any_leader_has(&self) -> Index {
        let leaders = self
            .hosts
            .values()
            .filter(|host| host.running().is_some_and(|running| running.node.status().role == Role::Leader));
        let has = |host: &Host| {
            let known = host.running().map_or(0, |running| running.known_commit);
            known.max(self.checks.committed_at_election(host.number))
        };
        leaders.map(has).min().unwrap_or(self.checks.committed_to())
    }

    pub fn host_of(&self, id: NodeId) -> Option<HostNumber> {
        self.hosts.values().find(|host| host.running().is_some_and(|running| running.id == id)).map(|host| host.number)
    }

    // Time.

    fn at(&mut self, delay: Micros, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), happening);
    }

    /// The next thing happens. `None`: nothing does before `until`.
    pub fn step(&mut self, until: Micros) -> Option<Notable> {
        let next = self.queue.first_entry()?;
        if next.key().0 > until {
            self.now = self.now.max(until);
            return None;
        }
        let ((at, _), happening) = next.remove_entry();
        self.now = at;
        Some(self.happen(happening))
    }

    fn happen(&mut self, happening: Happening) -> Notable {
        match happening {
            Happening::Tick { host, life } => self.tick(host, life),
            Happening::Turn { host, life } => self.turn(host, life),
            Happening::Letter { to, letter } => self.arrive(to, letter),
            Happening::Post { host, life, event } => {
                if self.lives(host, life) {
                    self.take_in(host, event);
                }
            }
            Happening::Synced { host, life, id } => self.synced(host, life, id),
            Happening::Seal { host, life, after } => self.seal(host, life, after),
            Happening::Job { host, life } => self.job_ends(host, life),
            Happening::Upkeep { host, life } => self.upkeep_step(host, life),
            Happening::Question { host, question, limit_ticks, request } => {
                self.question(host, question, limit_ticks, request);
            }
            Happening::Answer { question, answer } => return Notable::Answered { question, answer },
            Happening::Reply { host, life, question, answer } => {
                let answer = if self.still_shows(host, life) { answer } else { Answer::Lost };
                return Notable::Answered { question, answer };
            }
            Happening::Alarm(alarm) => return Notable::Alarm(alarm),
        }
        Notable::Nothing
    }

    fn lives(&self, host: HostNumber, life: u64) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.life == life && host.process.is_some())
    }

    /// If the host is paused: when to look again.
    fn pause_left(&self, host: HostNumber) -> Option<Micros> {
        let until = self.hosts.get(&host)?.paused_until;
        // Looked at now and then, for it may end before its time.
        (until > self.now).then(|| (until - self.now).min(SECOND / 10))
    }

    fn tick(&mut self, host: HostNumber, life: u64) {
        if !self.lives(host, life) {
            return;
        }
        let tick_micros = self.hosts[&host].tick_micros;
        self.at(tick_micros, Happening::Tick { host, life });
        let paused = self.pause_left(host).is_some();
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        // A tick that the process was too late for is left out.
        if !paused && !process.tick_is_due {
            process.tick_is_due = true;
            let unix_ms = if self.settings.wall_clocks { self.hosts[&host].wall_clock.unix_ms(self.now) } else { 0 };
            self.take_in(host, Event::Tick { unix_ms });
        }
    }

    fn post(&mut self, host: HostNumber, delay: Micros, event: Event) {
        let life = self.hosts.get(&host).map_or(0, |host| host.life);
        self.at(delay, Happening::Post { host, life, event });
    }

    fn take_in(&mut self, host: HostNumber, event: Event) {
        if let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) {
            match event {
                Event::PeerUp { node } => _ = process.connected.insert(node),
                Event::PeerDown { node } => _ = process.connected.remove(&node),
                _ => {}
            }
            process.inbox.push(event);
            self.wants_turn(host);
        }
    }

    fn wants_turn(&mut self, host: HostNumber) {
        let soon = self.rng.between(5, 100);
        let Some(h) = self.hosts.get_mut(&host) else { return };
        let life = h.life;
        if let Some(process) = h.process.as_mut().filter(|process| !process.turn_is_due) {
            process.turn_is_due = true;
            self.at(soon, Happening::Turn { host, life });
        }
    }

    // The node's turn.

    fn turn(&mut self, host: HostNumber, life: u64) {
        if !self.lives(host, life) {
            return;
        }
        if let Some(left) = self.pause_left(host) {
            return self.at(left, Happening::Turn { host, life });
        }
        self.checks.time = self.look_at_the_clocks();
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        (process.turn_is_due, process.tick_is_due) = (false, false);
        let events = std::mem::take(&mut process.inbox);
        let Some(running) = &mut process.node else { return };
        for event in events {
            running.node.handle(event);
        }
        let effects = running.node.turn(self.now);
        let gathers_until = running.node.gathers_until_micros();
        for effect in &effects {
            if let Effect::WriteLog { id, write } = effect {
                self.checks.asked_to_write(host, *id, write);
            }
        }
        self.checks.turned(host, &running.node);
        for effect in effects {
            // A process that ends of one carries out no other.
            if !self.lives(host, life) {
                break;
            }
            self.carry_out(host, effect);
        }
        if let Some(until) = gathers_until {
            self.at(until.saturating_sub(self.now), Happening::Turn { host, life });
        }
    }

    fn carry_out(&mut self, host: HostNumber, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Send { to, message } => self.send(host, to, message),
            Effect::WriteLog { id, write } => {
                self.totals.log_writes += 1;
                if let Some(running) = self.hosts.get_mut(&host).and_then(Host::running_mut) {
                    running.unwritten.push_back((id, write));
                }
                if self.settings.sabotage == Some(Sabotage::AcknowledgeBeforeDisk) {
                    self.take_in(host, Event::LogWritten { id });
                }
                self.write_log(host);
            }
            Effect::Reply { ticket, outcome } => self.reply(host, ticket, outcome),
            Effect::PublishView { view, known_commit, .. } => {
                let term = self.node(host).map_or(0, |node| node.status().term);
                self.checks.published(host, &view, known_commit, term);
                self.trace.note(now, Some(host), &[10, view.applied().index, view.state_hash()], || {
                    format!("applied up to {} (revision {})", view.applied().index, view.revision())
                });
                if let Some(running) = self.hosts.get_mut(&host).and_then(Host::running_mut) {
                    (running.view, running.known_commit) = (Some(view), known_commit);
                }
            }
            Effect::PublishStatus(status) => {
                self.trace.note(now, Some(host), &[11, status.term, status.leader.unwrap_or(0)], || {
                    let leader = status.leader.map_or("nobody".to_owned(), |id| format!("node {id}"));
                    let v = &status.configuration.voters;
                    let voters = format!("{:?} {:?} {:?}", v.voters, v.voters_outgoing, v.learners);
                    format!("{:?} in term {}, led by {leader}; members {voters}", status.role, status.term)
                });
                if let Some(running) = self.hosts.get_mut(&host).and_then(Host::running_mut) {
                    running.status = status;
                }
                self.call_members(host);
            }
            Effect::Greet { id, address } => self.greet(host, id, &address),
            Effect::WriteCheckpoint { group, position, frozen } => {
                self.job(host, Job::WriteCheckpoint { group, position, frozen });
            }
            Effect::DropCheckpoints { group } => self.job(host, Job::DropCheckpoints { group }),
            Effect::Upkeep { group, job } => {
                let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
                process.upkeep.push((group, job));
                if process.upkeep.len() == 1 {
                    self.go_on_with_upkeep(host);
                }
            }
            Effect::ReadChunk { to, info, offset, max_bytes } => {
                self.job(host, Job::ReadChunk { to, info, offset, max_bytes });
            }
            Effect::BeginIncoming { from, info } => self.job(host, Job::BeginIncoming { from, info }),
            Effect::StoreChunk { info, offset, bytes } => self.job(host, Job::StoreChunk { info, offset, bytes }),
            Effect::FinishIncoming { info } => self.job(host, Job::FinishIncoming { info }),
            Effect::Notice(Notice::Step { step, .. }) => {
                self.trace.line(now, Some(host), || format!("raft: {}", step.text));
            }
            Effect::Notice(notice) => {
                if let Notice::SnapshotInstalled { position, .. } = notice {
                    self.totals.snapshots_installed += 1;
                    // It was when it arrived; but what arrives for a leader that fell meanwhile is given up again.
                    self.checks.checkpoint_is_durable(host, position);
                }
                self.trace.note(now, Some(host), &[12], || format!("says: {}", describe(&notice)));
            }
            Effect::Removed { reason } => {
                self.totals.removals += 1;
                self.trace.note(now, Some(host), &[13], || format!("ends: {reason}"));
                self.job(host, Job::RememberRemoval(reason));
            }
            Effect::Drained => self.drained(host),
            Effect::Failed { reason } => self.failed(host, &reason),
        }
    }

    fn reply(&mut self, host: HostNumber, ticket: u64, mut outcome: Outcome) {
        if self.settings.sabotage == Some(Sabotage::ContraryAnswers)
            && let Outcome::Decided { succeeded, .. } = &mut outcome
        {
            *succeeded = !*succeeded;
        }
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        let Some(question) = process.asked.remove(&ticket) else {
            let what = format!("h{host} answered ticket {ticket}, which nobody waits for, with {outcome:?}");
            return self.checks.must("every request is answered once", Err(what));
        };
        let view = process.node.as_ref().and_then(|running| running.view.clone());
        let delay = self.network.delay();
        let life = self.hosts[&host].life;
        self.at(delay, Happening::Reply { host, life, question, answer: Answer::Outcome(outcome, view) });
    }

    fn question(&mut self, host: HostNumber, question: u64, limit_ticks: u64, request: Request) {
        let delay = self.network.delay();
        let process = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut());
        let Some(process) = process.filter(|process| process.node.is_some()) else {
            return self.at(delay, Happening::Answer { question, answer: Answer::NobodyThere });
        };
        let asks_nobody = match (self.settings.sabotage, &request) {
            (Some(Sabotage::ReadWithoutRound), Request::Read(level)) => *level == ReadLevel::Linearizable,
            (Some(Sabotage::WeakReadFromAnyone), Request::Read(level)) => *level == ReadLevel::Weak,
            _ => false,
        };
        if asks_nobody {
            let view = process.node.as_ref().and_then(|running| running.view.clone());
            let answer = match view {
                Some(view) => Answer::Outcome(Outcome::Readable, Some(view)),
                None => Answer::NobodyThere,
            };
            let life = self.hosts[&host].life;
            return self.at(delay, Happening::Reply { host, life, question, answer });
        }
        let ticket = process.next_ticket;
        process.next_ticket += 1;
        process.asked.insert(ticket, question);
        self.take_in(host, Event::Request { ticket, limit_ticks, request });
    }

    // The disk.

    /// Appends everything that waits, to be synced together.
    fn write_log(&mut self, host: HostNumber) {
        let Some(h) = self.hosts.get_mut(&host) else { return };
        let (life, slow_until) = (h.life, h.disk_slow_until);
        let Some(running) = h.running_mut().filter(|running| running.syncing.is_none()) else { return };
        let mut failed = None;
        while let Some((id, write)) = running.unwritten.pop_front() {
            running.syncing = Some(id);
            failed = failed.or(running.log.append(&write).err());
        }
        let Some(id) = running.syncing else { return };
        if let Some(error) = failed {
            return self.died_of_its_disk(host, &error.to_string());
        }
        let (from, to) = self.settings.sync_micros;
        let hangs = slow_until.saturating_sub(self.now);
        let delay = self.rng.between(from, to) + if hangs > 0 { self.rng.between(hangs / 8, hangs) } else { 0 };
        self.at(delay, Happening::Synced { host, life, id });
    }

    fn synced(&mut self, host: HostNumber, life: u64, id: WriteId) {
        if !self.lives(host, life) {
            return;
        }
        if let Some(left) = self.pause_left(host) {
            return self.at(left, Happening::Synced { host, life, id });
        }
        let skip = self.settings.sabotage == Some(Sabotage::AcknowledgeWithoutSync);
        let Some(running) = self.hosts.get_mut(&host).and_then(Host::running_mut) else { return };
        if !skip && let Err(error) = running.log.sync() {
            return self.died_of_its_disk(host, &error.to_string());
        }
        self.totals.log_syncs += 1;
        (running.syncing, running.last_synced) = (None, id);
        let spare = running.log.spare_job();
        self.checks.synced(host, id);
        self.trace.note(self.now, Some(host), &[15, id], String::new);
        if self.settings.sabotage != Some(Sabotage::AcknowledgeBeforeDisk) {
            self.take_in(host, Event::LogWritten { id });
        }
        if let Some(job) = spare {
            self.job(host, Job::PrepareSpare(job));
        }
        self.write_log(host);
        self.at(SEAL_AFTER, Happening::Seal { host, life, after: id });
    }

    /// The log fell idle.
    fn seal(&mut self, host: HostNumber, life: u64, after: WriteId) {
        if !self.lives(host, life) || self.pause_left(host).is_some() {
            return;
        }
        let Some(running) = self.hosts.get_mut(&host).and_then(Host::running_mut) else { return };
        if running.syncing.is_none()
            && running.last_synced == after
            && let Err(error) = running.log.seal()
        {
            self.died_of_its_disk(host, &error.to_string());
        }
    }

    /// A failed write or sync of the log ends the process.
    fn died_of_its_disk(&mut self, host: HostNumber, error: &str) {
        self.totals.failed_syncs += 1;
        self.trace.note(self.now, Some(host), &[16], || format!("its disk refused: {error}"));
        self.crash(host);
        if let Some(h) = self.hosts.get(&host) {
            h.mend_disk();
            h.disk.memory.crash(&mut self.rng);
        }
        // Somebody has to start it again.
        self.at(0, Happening::Alarm(DISK_ALARM + host as u64));
    }

    /// What a node reads of its state is not there or damaged, which ends the process too. Nothing damages what was
    /// synced, so that is for whoever looks for bugs, unless the disk was told to fail.
    fn failed(&mut self, host: HostNumber, reason: &str) {
        if !reason.contains(TOLD_TO_FAIL) {
            self.checks.must("a node reads the state that it wrote", Err(format!("h{host}: {reason}")));
        }
        self.died_of_its_disk(host, reason);
    }

    /// The process ends in good order, and will be started again.
    fn drained(&mut self, host: HostNumber) {
        self.trace.note(self.now, Some(host), &[14], || "is drained".into());
        self.totals.drained += 1;
        if let Some(running) = self.hosts.get_mut(&host).and_then(Host::running_mut)
            && let Err(error) = running.log.seal()
        {
            return self.died_of_its_disk(host, &error.to_string());
        }
        self.crash(host);
        self.at(0, Happening::Alarm(DISK_ALARM + host as u64));
    }

    fn job(&mut self, host: HostNumber, job: Job) {
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        process.jobs.push_back(job);
        if process.jobs.len() == 1 {
            self.begin_job(host);
        }
    }

    fn begin_job(&mut self, host: HostNumber) {
        let Some(h) = self.hosts.get(&host) else { return };
        let (life, hangs) = (h.life, h.disk_slow_until.saturating_sub(self.now));
        let (from, to) = self.settings.sync_micros;
        let delay = self.rng.between(from, 10 * to) + if hangs > 0 { self.rng.below(hangs) } else { 0 };
        self.at(delay, Happening::Job { host, life });
    }

    fn job_ends(&mut self, host: HostNumber, life: u64) {
        if !self.lives(host, life) {
            return;
        }
        if let Some(left) = self.pause_left(host) {
            return self.at(left, Happening::Job { host, life });
        }
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        let Some(job) = process.jobs.pop_front() else { return };
        let event = process.perform(job);
        let more = !process.jobs.is_empty();
        if let Some(Event::CheckpointWritten { result: Ok(info), .. }) = &event {
            self.totals.checkpoints += 1;
            // Beside tables, checkpoints are only sent.
            if self.settings.tables.is_none() {
                self.checks.checkpoint_is_durable(host, info.position);
            }
        }
        if let Some(event) = event {
            self.take_in(host, event);
        }
        if more {
            self.begin_job(host);
        }
    }

    fn go_on_with_upkeep(&mut self, host: HostNumber) {
        let Some(h) = self.hosts.get(&host) else { return };
        let (life, hangs) = (h.life, h.disk_slow_until.saturating_sub(self.now));
        let (from, to) = self.settings.sync_micros;
        let delay = self.rng.between(from, 4 * to) + if hangs > 0 { self.rng.below(hangs) } else { 0 };
        self.at(delay, Happening::Upkeep { host, life });
    }

    /// One step of the smallest job.
    fn upkeep_step(&mut self, host: HostNumber, life: u64) {
        if !self.lives(host, life) {
            return;
        }
        if let Some(left) = self.pause_left(host) {
            return self.at(left, Happening::Upkeep { host, life });
        }
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        let Some(at) = (0..process.upkeep.len()).min_by_key(|&at| process.upkeep[at].1.size_bytes()) else { return };
        let group = process.upkeep[at].0;
        match process.upkeep[at].1.step() {
            Ok(None) => {}
            Ok(Some(finished)) => {
                drop(process.upkeep.remove(at));
                if finished.is_flush() {
                    self.totals.flushes += 1;
                } else {
                    self.totals.merges += 1;
                }
                let sealed =
                    process.node.as_ref().and_then(|running| running.node.store(group)?.made_durable(&finished));
                if let Some(position) = sealed {
                    self.checks.checkpoint_is_durable(host, position);
                }
                self.take_in(host, Event::UpkeepDone { group, finished });
            }
            Err(error) => return self.failed(host, &error.to_string()),
        }
        let more = self.hosts.get(&host).and_then(|h| h.process.as_ref()).is_some_and(|p| !p.upkeep.is_empty());
        if more {
            self.go_on_with_upkeep(host);
        }
    }

    // Messages.

    fn send(&mut self, host: HostNumber, to: NodeId, message: Message) {
        if let Message::SnapshotOffer { .. } = message {
            self.totals.snapshots_sent += 1;
        }
        let mut w = Writer::new();
        message.encode(&mut w);
        self.deliver(host, to, w.into_bytes());
    }

    /// Every member is called once, that there is a connection before anybody has anything to say.
    fn call_members(&mut self, host: HostNumber) {
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        let Some(running) = &process.node else { return };
        let others = running.status.configuration.members.keys().filter(|&&id| id != running.id);
        let new: Vec<NodeId> = others.copied().filter(|&id| process.called.insert(id)).collect();
        for id in new {
            self.deliver(host, id, Bytes::new());
        }
    }

    fn deliver(&mut self, host: HostNumber, to: NodeId, bytes: Bytes) {
        let Some(h) = self.hosts.get(&host) else { return };
        let (Some(process), Some(running)) = (&h.process, h.running()) else { return };
        let member = running.status.configuration.members.get(&to);
        // Whoever called can be called back where it said it is: a new node knows nobody else, and a member may have moved.
        let at = |address: &String| self.hosts.values().find(|host| host.address == *address).map(|host| host.number);
        let there = member.and_then(|member| at(&member.address)).or_else(|| process.callers.get(&to).copied());
        let Some(there) = there else { return };
        let letter = Letter {
            from_host: host,
            from_life: h.life,
            cluster: running.cluster,
            from: running.id,
            to,
            to_incarnation: member.map(|member| member.incarnation),
            bytes,
        };
        let copies = self.network.send(host, there);
        if copies.is_empty() {
            self.totals.messages_lost += 1;
        }
        for delay in copies {
            self.at(delay, Happening::Letter { to: there, letter: letter.clone() });
        }
    }

    fn arrive(&mut self, host: HostNumber, letter: Letter) {
        // A link that was cut meanwhile loses what was under way.
        if self.network.is_cut(letter.from_host, host) {
            self.totals.messages_lost += 1;
            return;
        }
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        let identity = &process.folder.identity;
        match identity.cluster {
            None if letter.to_incarnation == Some(identity.incarnation) => {
                if let Err(error) = process.folder.welcome(letter.cluster, letter.to) {
                    return self.failed_to_start(host, &error.to_string());
                }
                let id = letter.to;
                self.trace.note(self.now, Some(host), &[17, id], || format!("is welcomed as node {id}"));
                self.totals.joins += 1;
                self.start_node(host);
            }
            Some(me) if me == (letter.cluster, letter.to) => {}
            _ => return,
        }
        let Some(process) = self.hosts.get_mut(&host).and_then(|h| h.process.as_mut()) else { return };
        let Some(running) = &process.node else { return };
        if running.status.configuration.was_removed(letter.from) {
            let by = running.id;
            for delay in self.network.send(host, letter.from_host).into_iter().take(1) {
                let (host, life) = (letter.from_host, letter.from_life);
                self.at(delay, Happening::Post { host, life, event: Event::ToldRemoved { by } });
            }
            return;
        }
        process.callers.insert(letter.from, letter.from_host);
        let is_call = letter.bytes.is_empty();
        if process.connected.insert(letter.from) || is_call {
            process.inbox.push(Event::PeerUp { node: letter.from });
        }
        if is_call {
            self.wants_turn(host);
            for delay in self.network.send(host, letter.from_host).into_iter().take(1) {
                let (host, life) = (letter.from_host, letter.from_life);
                self.at(delay, Happening::Post { host, life, event: Event::PeerUp { node: letter.to } });
            }
            return;
        }
        let digest = u64::from(base::checksum(&letter.bytes));
        match Message::decode(letter.bytes) {
            Ok(message) => {
                self.totals.messages += 1;
                self.trace.note(self.now, Some(host), &[18, letter.from, digest], || told(letter.from, &message));
                if let (Some(Sabotage::ApplyTwice), Message::Forward { group, commands }) =
                    (self.settings.sabotage, &message)
                {
                    let commands = commands.iter().filter_map(renumbered).collect();
                    let twin = Message::Forward { group: *group, commands };
                    self.take_in(host, Event::Peer { from: letter.from, message: twin });
                }
                self.take_in(host, Event::Peer { from: letter.from, message });
            }
            Err(error) => {
                self.checks.must("what a node encodes, another decodes", Err(format!("h{host}: {error}")));
            }
        }
    }

    fn greet(&mut self, host: HostNumber, id: u64, address: &str) {
        let there = self.hosts.values().find(|host| host.address == address);
        let answer = there.and_then(|there| {
            let reachable = !self.network.is_cut(host, there.number) && !self.network.is_cut(there.number, host);
            let identity = &there.process.as_ref().filter(|_| reachable)?.folder.identity;
            Some(Greeting { incarnation: identity.incarnation, cluster: identity.cluster })
        });
        let result = answer.ok_or_else(|| "connection refused".to_owned());
        let delay = self.network.delay() * 2;
        self.post(host, delay, Event::Greeted { id, result });
    }
}

/// [`World::step`] says this alarm plus the host's number when a process ended of its disk.
pub const DISK_ALARM: u64 = 1 << 40;

fn told(from: NodeId, message: &Message) -> String {
    match message {
        Message::Raft { message, .. } if message.kind().starts_with("heartbeat") => String::new(),
        Message::Raft { message, .. } => format!(
            "hears from node {from}: {} at index {} in term {}, {} entries",
            message.kind(),
            message.index(),
            message.term(),
            message.entries()
        ),
        Message::Forward { commands, .. } => format!("hears from node {from}: forwards {} commands", commands.len()),
        Message::ReadIndex { id, .. } => format!("hears from node {from}: read round {id}?"),
        Message::ReadIndexReply { id, index, .. } => format!("hears from node {from}: read round {id} at {index}"),
        Message::Admin { request, .. } => format!("hears from node {from}: {request:?}"),
        Message::AdminReply { outcome, .. } => format!("hears from node {from}: {outcome:?}"),
        Message::SnapshotOffer { info, .. } => format!("hears from node {from}: checkpoint {} ?", info.position.index),
        Message::SnapshotWant { info, offset } => {
            format!("hears from node {from}: wants checkpoint {} from byte {offset}", info.position.index)
        }
        Message::SnapshotChunk { info, offset, bytes } => {
            format!("hears from node {from}: checkpoint {} bytes {offset}+{}", info.position.index, bytes.len())
        }
        Message::SnapshotFailed { info } => format!("hears from node {from}: no checkpoint {}", info.position.index),
    }
}

fn describe(notice: &Notice) -> String {
    match notice {
        Notice::LeaderChanged { term, leader, .. } => format!("{leader} leads in term {term}"),
        Notice::MemberChanged(what) | Notice::Trouble(what) | Notice::Mended(what) => what.clone(),
        Notice::Step { step, .. } => step.text.clone(),
        Notice::SnapshotInstalled { position, .. } => format!("installed the snapshot at {}", position.index),
    }
}

/// The same write under another number.
fn renumbered(command: &bytes::Bytes) -> Option<bytes::Bytes> {
    match Command::decode(command.clone()).ok()? {
        Command::Write { request, accepted_ms, idempotency, operations } => {
            let RequestId { session, number, low_water } = request;
            let request = RequestId { session, number: number + kv::WINDOW / 2, low_water };
            Some(Command::Write { request, accepted_ms, idempotency, operations }.encode())
        }
        Command::Act { request: Some(request), accepted_ms, idempotency, action } => {
            let request = RequestId { number: request.number + kv::WINDOW / 2, ..request };
            Some(Command::Act { request: Some(request), accepted_ms, idempotency, action }.encode())
        }
        Command::Register { .. } | Command::Act { request: None, .. } => None,
    }
}
