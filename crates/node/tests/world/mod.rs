//! A cluster in a perfect world, for scripts.

use base::{ClusterId, FIRST_GROUP, Incarnation, NodeId};
use bytes::Bytes;
use kv::{Home, Store};
use node::membership::Member;
use node::{
    Effect, Event, Greeting, Message, Node, Notice, Outcome, ReadLevel, Request, Settings, Status, TICKS_PER_SECOND,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage::checkpoint::CheckpointInfo;
use storage::engine::disk::{DiskOptions, Fill, Job};
use storage::files::{Files, MemFiles};
use storage::log::{GroupWrite, RecoveredGroup};

const CLUSTER: ClusterId = ClusterId(7);
const LIMIT_TICKS: u64 = 10 * TICKS_PER_SECOND;

pub struct World {
    hosts: BTreeMap<String, Host>,
    events: VecDeque<(String, Event)>,
    replies: BTreeMap<u64, Outcome>,
    tickets: u64,
    incarnations: u64,
    /// Messages of that kind get lost, on their way to that node or to all.
    lost: Option<(&'static str, Option<NodeId>)>,
    /// How nodes keep their state in tables; `None`: in memory.
    tables: Option<DiskOptions>,
    /// Of every node that starts from now on.
    pub settings: Settings,
    pub ticks: u64,
    /// Checkpoints that arrived are loaded only later.
    loading_waits: bool,
    /// Checkpoints are written only later.
    writing_waits: bool,
    held: Vec<(String, Event)>,
    /// There is no room for checkpoints.
    pub checkpoints_fail: bool,
    pub checkpoints_begun: usize,
    /// How many messages with entries a node sent to one other in one turn.
    pub most_appends: usize,
    micros: u64,
}

struct Host {
    node: Option<Node>,
    id: Option<NodeId>,
    boot: u64,
    incarnation: Incarnation,
    alive: bool,
    log: RecoveredGroup,
    /// Oldest first.
    checkpoints: Vec<(CheckpointInfo, Bytes)>,
    incoming: Vec<u8>,
    view: Option<kv::View>,
    known_commit: u64,
    status: Arc<Status>,
    notices: Vec<Notice>,
    drained: bool,
    disk_hangs: bool,
    files: Arc<dyn Files>,
    /// Flushes and merges wait until they are let go.
    upkeep_waits: bool,
    upkeep: Vec<Job>,
}

impl World {
    pub fn bootstrap(name: &str) -> World {
        World::founded_by(name, None, 10_000)
    }

    /// Nodes keep their state in tables, and so much log in memory that nobody needs a snapshot to catch up.
    pub fn with_tables(name: &str, tables: DiskOptions) -> World {
        World::founded_by(name, Some(tables), 1 << 20)
    }

    fn founded_by(name: &str, tables: Option<DiskOptions>, log_cache_bytes: usize) -> World {
        let mut world = World {
            hosts: BTreeMap::new(),
            events: VecDeque::new(),
            replies: BTreeMap::new(),
            tickets: 0,
            incarnations: 0,
            lost: None,
            tables,
            settings: Settings {
                cluster: CLUSTER,
                seed: 1,
                checkpoint_after_bytes: 20_000,
                log_cache_bytes,
                ..Settings::default()
            },
            ticks: 0,
            loading_waits: false,
            writing_waits: false,
            held: Vec::new(),
            checkpoints_fail: false,
            checkpoints_begun: 0,
            most_appends: 0,
            micros: 0,
        };
        world.start_empty(name);
        let host = world.hosts.get_mut(name).unwrap();
        let founder = Member { name: name.into(), address: format!("{name}:1"), incarnation: host.incarnation };
        let store = node::bootstrap(founder);
        host.checkpoints = vec![dump(&store.frozen(), store.applied())];
        host.log.start = store.applied();
        host.id = Some(1);
        world.restart(name);
        world
    }

    /// A process on an empty folder that waits to be welcomed.
    pub fn start_empty(&mut self, name: &str) {
        self.incarnations += 1;
        let host = Host {
            node: None,
            id: None,
            boot: 0,
            incarnation: Incarnation(self.incarnations),
            alive: true,
            log: RecoveredGroup::default(),
            checkpoints: Vec::new(),
            incoming: Vec::new(),
            view: None,
            known_commit: 0,
            status: Arc::default(),
            notices: Vec::new(),
            drained: false,
            disk_hangs: false,
            files: Arc::new(MemFiles::new()),
            upkeep_waits: false,
            upkeep: Vec::new(),
        };
        self.hosts.insert(name.into(), host);
    }

    pub fn restart(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        host.boot += 1;
        host.alive = true;
        let home = host.home(self.tables);
        let store = match (home.open().unwrap(), host.checkpoints.last()) {
            (Some(store), _) => store,
            (None, Some((_, bytes))) => load(&home, bytes),
            (None, None) => Store::new(home.engine().unwrap()),
        };
        let node = host.id.expect("it was welcomed");
        let settings = Settings { node, name: name.into(), boot: host.boot, ..self.settings.clone() };
        let infos = host.checkpoints.iter().map(|(info, _)| info.clone()).collect();
        host.node = Some(Node::new(settings, store, infos, Some(host.log.clone())).unwrap());
        let id = host.id.unwrap();
        for (other, host) in &self.hosts {
            if other != name && host.node.is_some() {
                self.events.push_back((other.clone(), Event::PeerUp { node: id }));
                self.events.push_back((name.into(), Event::PeerUp { node: host.id.unwrap() }));
            }
        }
        self.turn(name);
        self.settle();
    }

    pub fn kill(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        host.alive = false;
        host.node = None;
        let id = host.id.unwrap();
        self.events.retain(|(to, _)| to != name);
        for (other, host) in &self.hosts {
            if host.node.is_some() {
                self.events.push_back((other.clone(), Event::PeerDown { node: id }));
            }
        }
        self.settle();
    }

    pub fn tick(&mut self) {
        self.ticks += 1;
        let names: Vec<String> = self.hosts.keys().cloned().collect();
        for name in names {
            // Each has a wall clock of its own.
            let unix_ms = 1_000 * name.as_bytes()[0] as u64 + self.ticks;
            self.events.push_back((name, Event::Tick { unix_ms }));
        }
        self.settle();
    }

    pub fn run(&mut self, ticks: u64) {
        (0..ticks).for_each(|_| self.tick());
    }

    pub fn run_until(&mut self, ticks: u64, done: impl Fn(&World) -> bool) -> bool {
        (0..ticks).any(|_| {
            self.tick();
            done(self)
        })
    }

    /// Asks, and lets time pass until the answer is there.
    pub fn ask(&mut self, name: &str, request: Request) -> Outcome {
        let ticket = self.send(name, request);
        for _ in 0..LIMIT_TICKS + 50 {
            if let Some(outcome) = self.answer(ticket) {
                return outcome;
            }
            self.tick();
        }
        panic!("no answer from {name} within its limit and more");
    }

    /// Asks, and lets happen what takes no time.
    pub fn send(&mut self, name: &str, request: Request) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.events.push_back((name.into(), Event::Request { ticket, limit_ticks: LIMIT_TICKS, request }));
        self.settle();
        ticket
    }

    pub fn answer(&self, ticket: u64) -> Option<Outcome> {
        self.replies.get(&ticket).cloned()
    }

    pub fn read(&mut self, name: &str, key: &str) -> Option<String> {
        assert_eq!(self.ask(name, Request::Read(ReadLevel::Linearizable)), Outcome::Readable, "a read on {name}");
        self.peek(name, key)
    }

    /// What the node shows.
    pub fn peek(&self, name: &str, key: &str) -> Option<String> {
        let found = self.hosts[name].view.as_ref().unwrap().get(key.as_bytes()).unwrap();
        found.map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    pub fn drain(&mut self, name: &str) {
        self.events.push_back((name.into(), Event::Drain));
        self.settle();
    }

    pub fn drained(&self, name: &str) -> bool {
        self.hosts[name].drained
    }

    /// What the node shows: when its last write was accepted, what it has applied, and what it knows to be committed.
    pub fn shown(&self, name: &str) -> (u64, u64, u64) {
        let host = &self.hosts[name];
        let view = host.view.as_ref().unwrap();
        (view.accepted_ms(), view.applied().index, host.known_commit)
    }

    pub fn view(&self, name: &str) -> &kv::View {
        self.hosts[name].view.as_ref().unwrap()
    }

    pub fn applied(&self, name: &str) -> u64 {
        self.hosts[name].node.as_ref().unwrap().store(FIRST_GROUP).unwrap().applied().index
    }

    /// The last entry on the node's disk.
    pub fn logged(&self, name: &str) -> u64 {
        let log = &self.hosts[name].log;
        log.entries.last().map_or(log.start.index, |entry| entry.position.index)
    }

    /// From now on every message of that kind gets lost: one of Raft's, or `admin-reply`.
    pub fn lose(&mut self, kind: &'static str) {
        self.lost = Some((kind, None));
    }

    pub fn lose_to(&mut self, name: &str, kind: &'static str) {
        self.lost = Some((kind, self.hosts[name].id));
    }

    pub fn lose_nothing(&mut self) {
        self.lost = None;
    }

    pub fn hang_disk(&mut self, name: &str) {
        self.hosts.get_mut(name).unwrap().disk_hangs = true;
    }

    /// What it had in hand is lost; the node has to be started again.
    pub fn mend_disk(&mut self, name: &str) {
        self.hosts.get_mut(name).unwrap().disk_hangs = false;
    }

    /// From now on none of the node's flushes and merges is done.
    pub fn hold_upkeep(&mut self, name: &str) {
        self.hosts.get_mut(name).unwrap().upkeep_waits = true;
    }

    /// What was held up is done, and whatever comes after.
    pub fn go_on_with_upkeep(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        host.upkeep_waits = false;
        self.events.extend(host.upkeep.drain(..).map(|job| (name.to_owned(), done(job))));
        self.settle();
    }

    /// From now on checkpoints take long to load.
    pub fn hold_loading(&mut self) {
        self.loading_waits = true;
    }

    /// From now on checkpoints take long to write.
    pub fn hold_writing(&mut self) {
        self.writing_waits = true;
    }

    /// A checkpoint is being written or loaded.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    pub fn go_on(&mut self) {
        (self.loading_waits, self.writing_waits) = (false, false);
        self.events.extend(self.held.drain(..));
        self.settle();
    }

    /// How much memory the node's writes take.
    pub fn fill(&self, name: &str) -> Fill {
        self.hosts[name].node.as_ref().unwrap().store(FIRST_GROUP).unwrap().fill()
    }

    pub fn snapshots_installed(&self, name: &str) -> usize {
        self.hosts[name].notices.iter().filter(|n| matches!(n, Notice::SnapshotInstalled { .. })).count()
    }

    /// What the node told since this was last asked.
    pub fn take_notices(&mut self, name: &str) -> Vec<Notice> {
        std::mem::take(&mut self.hosts.get_mut(name).unwrap().notices)
    }

    pub fn status(&self, name: &str) -> Arc<Status> {
        self.hosts[name].status.clone()
    }

    /// The one that a majority of the living agrees on.
    pub fn try_leader(&self) -> Option<String> {
        let alive = |h: &&Host| h.alive && h.node.is_some();
        let leads = |(_, h): &(&String, &Host)| alive(h) && h.status.role == node::Role::Leader;
        let (name, host) = self.hosts.iter().filter(leads).max_by_key(|(_, h)| h.status.term)?;
        let followers = self.hosts.values().filter(alive).filter(|h| h.status.leader == host.id);
        (followers.count() * 2 > host.status.configuration.voters.voters.len()).then(|| name.clone())
    }

    pub fn leader(&self) -> String {
        self.try_leader().expect("somebody leads")
    }

    pub fn assert_equal_states(&self) {
        let states: Vec<_> = (self.hosts.iter())
            .filter_map(|(name, h)| Some((name, h.node.as_ref()?.store(FIRST_GROUP)?)))
            .map(|(name, store)| (name, store.applied(), store.state_hash(), store.content_hash().unwrap()))
            .collect();
        assert!(states.windows(2).all(|w| (w[0].1, w[0].2, w[0].3) == (w[1].1, w[1].2, w[1].3)), "{states:?}");
    }

    fn settle(&mut self) {
        let mut steps = 0;
        while let Some((name, event)) = self.events.pop_front() {
            steps += 1;
            assert!(steps < 1_000_000, "the cluster does not come to rest");
            if let Some(node) = self.hosts.get_mut(&name).and_then(|h| h.node.as_mut()) {
                node.handle(event);
                self.turn(&name);
            }
        }
    }

    fn turn(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        let me = host.id.unwrap();
        // Each turn comes so much later than the last one that no leader lingers.
        self.micros += 10_000;
        let effects = host.node.as_mut().unwrap().turn(self.micros);
        let mut appends: BTreeMap<NodeId, usize> = BTreeMap::new();
        for effect in &effects {
            if let Effect::Send { to, message: Message::Raft { message, .. } } = effect
                && message.has_entries()
            {
                *appends.entry(*to).or_default() += 1;
            }
        }
        self.most_appends = appends.values().copied().fold(self.most_appends, usize::max);
        for effect in effects {
            self.carry_out(name, me, effect);
        }
    }

    fn carry_out(&mut self, name: &str, me: NodeId, effect: Effect) {
        let host = self.hosts.get_mut(name).unwrap();
        let mut answer = None;
        match effect {
            Effect::Send { to, message } => self.deliver(name, me, to, message),
            Effect::WriteLog { id, write } => {
                if !host.disk_hangs {
                    write.groups.iter().for_each(|group| apply_to_log(&mut host.log, group));
                    answer = Some(Event::LogWritten { id });
                }
            }
            Effect::Reply { ticket, outcome } => {
                self.replies.insert(ticket, outcome);
            }
            Effect::PublishView { view, known_commit, .. } => {
                host.view = Some(view);
                host.known_commit = known_commit;
            }
            Effect::PublishStatus(status) => {
                host.status = status;
                self.welcome();
            }
            Effect::Greet { id, address } => {
                let result = self.greet(&address);
                answer = Some(Event::Greeted { id, result });
            }
            Effect::WriteCheckpoint { group, position, frozen } => {
                self.checkpoints_begun += 1;
                let result = if self.checkpoints_fail {
                    Err("no space left on the device".to_owned())
                } else {
                    let (info, bytes) = dump(&frozen, position);
                    host.keep((info.clone(), bytes));
                    Ok(info)
                };
                let written = Event::CheckpointWritten { group, result };
                if self.writing_waits {
                    self.held.push((name.to_owned(), written));
                } else {
                    answer = Some(written);
                }
            }
            Effect::DropCheckpoints { .. } => host.checkpoints.clear(),
            Effect::Upkeep { job, .. } if host.upkeep_waits => host.upkeep.push(job),
            Effect::Upkeep { job, .. } => answer = Some(done(job)),
            Effect::ReadChunk { to, info, offset, .. } => {
                let found = host.checkpoints.iter().find(|(i, _)| *i == info);
                let chunk = |bytes: &Bytes| bytes.slice(offset as usize..bytes.len().min(offset as usize + 1000));
                let result = found.map(|(_, bytes)| chunk(bytes)).ok_or("gone".to_owned());
                answer = Some(Event::ChunkRead { to, info, offset, result });
            }
            Effect::BeginIncoming { info, .. } => {
                host.incoming.clear();
                answer = Some(Event::Incoming { info, result: Ok(0) });
            }
            Effect::StoreChunk { info, offset, bytes } => {
                assert_eq!(offset, host.incoming.len() as u64);
                host.incoming.extend_from_slice(&bytes);
                answer = Some(Event::Incoming { info, result: Ok(host.incoming.len() as u64) });
            }
            Effect::FinishIncoming { info } => {
                let bytes = Bytes::from(std::mem::take(&mut host.incoming));
                let store = load(&host.home(self.tables), &bytes);
                host.keep((info.clone(), bytes));
                let installed = Event::Installed { info, result: Ok(Box::new(store)) };
                if self.loading_waits {
                    self.held.push((name.to_owned(), installed));
                } else {
                    answer = Some(installed);
                }
            }
            Effect::Notice(notice) => host.notices.push(notice),
            Effect::Removed { .. } => {}
            Effect::Drained => host.drained = true,
            Effect::Failed { reason } => panic!("{name}: {reason}"),
        }
        self.events.extend(answer.map(|event| (name.to_owned(), event)));
    }

    fn deliver(&mut self, sender: &str, from: NodeId, to: NodeId, message: Message) {
        let mut w = base::codec::Writer::new();
        message.encode(&mut w);
        let message = Message::decode(w.into_bytes()).unwrap();
        let kind = match &message {
            Message::Raft { message, .. } => message.kind(),
            Message::AdminReply { .. } => "admin-reply",
            _ => "another",
        };
        if self.lost.is_some_and(|(lost, receiver)| lost == kind && receiver.is_none_or(|receiver| receiver == to)) {
            return;
        }
        let Some((name, host)) = self.hosts.iter().find(|(_, h)| h.id == Some(to)) else { return };
        if host.status.configuration.was_removed(from) {
            self.events.push_back((sender.into(), Event::ToldRemoved { by: to }));
        } else {
            self.events.push_back((name.clone(), Event::Peer { from, message }));
        }
    }

    fn greet(&self, address: &str) -> Result<Greeting, String> {
        let host = self.hosts.get(address.trim_end_matches(":1")).filter(|h| h.alive);
        let host = host.ok_or("connection refused".to_owned())?;
        Ok(Greeting { incarnation: host.incarnation, cluster: host.id.map(|id| (CLUSTER, id)) })
    }

    /// Members that were admitted under the life of their folder learn their id and start.
    fn welcome(&mut self) {
        let mut welcomed = Vec::new();
        for status in self.hosts.values().map(|h| h.status.clone()).collect::<Vec<_>>() {
            for (&id, member) in &status.configuration.members {
                if let Some(host) = self.hosts.get_mut(&member.name)
                    && host.id.is_none()
                    && host.incarnation == member.incarnation
                {
                    host.id = Some(id);
                    welcomed.push(member.name.clone());
                }
            }
        }
        for name in welcomed {
            let host = self.hosts.get_mut(&name).unwrap();
            host.boot = 1;
            let node = host.id.unwrap();
            let settings = Settings { node, name: name.clone(), boot: 1, ..self.settings.clone() };
            let store = Store::new(host.home(self.tables).engine().unwrap());
            host.node = Some(Node::new(settings, store, Vec::new(), None).unwrap());
        }
    }
}

impl Host {
    fn home(&self, tables: Option<DiskOptions>) -> Home {
        match tables {
            Some(options) => Home::Disk { files: self.files.clone(), folder: "/state".into(), options },
            None => Home::Memory,
        }
    }

    fn keep(&mut self, checkpoint: (CheckpointInfo, Bytes)) {
        self.checkpoints.push(checkpoint);
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
        }
    }
}

fn dump(frozen: &kv::Frozen, position: base::Position) -> (CheckpointInfo, Bytes) {
    let mut bytes = Vec::new();
    frozen
        .write_to::<storage::StorageError>(&mut |block| {
            bytes.extend_from_slice(block);
            Ok(())
        })
        .unwrap();
    let info = CheckpointInfo {
        group: FIRST_GROUP,
        position,
        size_bytes: bytes.len() as u64,
        checksum: base::checksum(&bytes),
    };
    (info, bytes.into())
}

/// Does all of it at once.
fn done(mut job: Job) -> Event {
    let finished = std::iter::repeat_with(|| job.step().unwrap()).find_map(|finished| finished).unwrap();
    Event::UpkeepDone { group: FIRST_GROUP, finished }
}

fn load(home: &Home, bytes: &Bytes) -> Store {
    let mut blocks = vec![bytes.clone()];
    Store::load::<()>(home.engine().unwrap(), &mut || Ok(blocks.pop()))
        .unwrap_or_else(|_| panic!("a checkpoint that does not load"))
}

fn apply_to_log(log: &mut RecoveredGroup, write: &GroupWrite) {
    if let Some(hard_state) = write.hard_state {
        log.hard_state = hard_state;
    }
    if let Some(position) = write.reset {
        log.start = position;
        log.entries.clear();
    }
    if let Some(first) = write.entries.first() {
        log.entries.retain(|e| e.position.index < first.position.index);
        log.entries.extend(write.entries.iter().cloned());
    }
    if let Some(position) = write.purge_to
        && position.index > log.start.index
    {
        log.start = position;
        log.entries.retain(|e| e.position.index > position.index);
    }
}
