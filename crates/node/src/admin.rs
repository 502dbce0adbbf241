//! Requests about members: joining, promotion, removal, handing leadership over.
//!
//! They are carried out by the leader, one at a time; another node forwards them there and waits for the answer. A job
//! looks at the configuration as it is applied and does the next thing that is missing (level-triggered), so it does
//! not matter what happened in between, and asking again for what is already so is answered at once.
//!
//! A join: the leader greets the node at the address to learn whose folder it is; adds it as a learner under a fresh
//! id; once it has caught up, makes it a voter, and removes the member whose name or address it took over in the same
//! joint change. An address where nobody answers costs nothing, and a learner that makes no progress is removed again.
//!
//! A learner that is to stay one says so in the configuration, so that no leader promotes it or gives it up unasked,
//! however long it is away. A promotion that does not succeed in time leaves it as it was.
//!
//! Not handled: making a voter a learner. It is removed, and joins again with an empty folder.

use crate::event::{Effect, Failure, Greeting, Outcome, Ticket};
use crate::first_number;
use crate::membership::{Configuration, MAX_MEMBERS, Member, MemberChange, check_member};
use crate::message::{Admin, Message};
use base::{ClusterId, Incarnation, Index, NodeId};
use consensus::Group;
use std::collections::{BTreeMap, VecDeque};

const MAX_JOBS: usize = 64;
/// A forwarded request is sent again after this long.
const RESEND_TICKS: u64 = 20;
/// A learner that makes no progress for this long is removed again.
const STALLED_TICKS: u64 = 200;
/// Before a member is called silent, it has had this long to be heard.
const SILENT_TICKS: u64 = 24;
/// A learner this close to the commit index is caught up: the rest arrives while it becomes a voter.
const CAUGHT_UP_ENTRIES: u64 = 256;

pub(crate) struct AdminDesk {
    me: NodeId,
    name: String,
    cluster: ClusterId,
    counter: u64,
    /// As leader: the first is being worked on.
    jobs: VecDeque<Job>,
    /// Requests of our clients, until their answer comes.
    ours: BTreeMap<u64, Ours>,
}

struct Ours {
    ticket: Ticket,
    request: Admin,
    deadline: u64,
    /// `None`: it is to be sent in the next turn.
    sent: Option<u64>,
    sent_to: Option<NodeId>,
    /// How often it was sent, or begun here. Each time it may have been carried out.
    times_sent: u32,
}

struct Job {
    origin: Origin,
    request: Admin,
    deadline: u64,
    /// Joining: the answer of the node at the address.
    greeting: Greeted,
    /// Joining, promotion: how far the learner is, and when it last moved.
    matched: Index,
    moved: u64,
    /// Something was done for it, so that a removal that finds nothing is one that happened.
    acted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Peer {
        node: NodeId,
        id: u64,
    },
    /// One of `ours`, and we are the leader.
    Here {
        id: u64,
    },
    /// Nobody waits for it any more.
    Nobody,
}

/// Who wants to be a member, and as what.
#[derive(Clone, Copy)]
struct Wish<'a> {
    name: &'a str,
    address: &'a str,
    learner: bool,
}

/// How a learner gets on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    CaughtUp,
    Behind,
    Stalled,
}

enum Greeted {
    NotYet,
    Asked { id: u64 },
    Answered(Greeting),
}

/// What a job needs next.
enum Step {
    Wait,
    Finish(Outcome),
    Greet,
    Change(MemberChange),
    /// It concerns the leader itself, so another one has to do it.
    HandOver(Option<NodeId>),
}

impl AdminDesk {
    pub(crate) fn new(me: NodeId, name: String, cluster: ClusterId, boot: u64) -> AdminDesk {
        AdminDesk { me, name, cluster, counter: first_number(boot), jobs: VecDeque::new(), ours: BTreeMap::new() }
    }

    pub(crate) fn request(&mut self, ticket: Ticket, request: Admin, deadline: u64) -> Result<(), Failure> {
        check(&request)?;
        if self.ours.len() >= MAX_JOBS {
            return Err(Failure::Overloaded("too many membership requests wait on this node: try again later".into()));
        }
        self.counter += 1;
        let ours = Ours { ticket, request, deadline, sent: None, sent_to: None, times_sent: 0 };
        self.ours.insert(self.counter, ours);
        Ok(())
    }

    pub(crate) fn request_from_peer(
        &mut self,
        node: NodeId,
        id: u64,
        request: Admin,
        deadline: u64,
        now: u64,
    ) -> Option<Failure> {
        let origin = Origin::Peer { node, id };
        if self.jobs.iter().any(|job| job.origin == origin) {
            return None;
        }
        if let Err(failure) = check(&request) {
            return Some(failure);
        }
        if self.jobs.len() >= MAX_JOBS {
            return Some(Failure::Overloaded(
                "too many membership requests wait on the leader: try again later".into(),
            ));
        }
        self.jobs.push_back(Job::new(origin, request, deadline, now));
        None
    }

    pub(crate) fn reply_from_peer(
        &mut self,
        from: NodeId,
        id: u64,
        outcome: Outcome,
        replies: &mut Vec<(Ticket, Outcome)>,
    ) {
        if self.ours.get(&id).is_some_and(|ours| ours.sent_to == Some(from)) {
            // The leader changed while it was at it: the next one goes on.
            if outcome == Outcome::Failed(leader_changed()) {
                self.ours.entry(id).and_modify(|ours| ours.sent = None);
            } else {
                self.answer(id, outcome, replies);
            }
        }
    }

    pub(crate) fn greeted(
        &mut self,
        id: u64,
        result: Result<Greeting, String>,
        effects: &mut Vec<Effect>,
        replies: &mut Vec<(Ticket, Outcome)>,
    ) {
        let Some(at) = self.jobs.iter().position(|j| matches!(j.greeting, Greeted::Asked { id: asked } if asked == id))
        else {
            return;
        };
        match result {
            Ok(greeting) => self.jobs[at].greeting = Greeted::Answered(greeting),
            Err(error) => {
                let Some(job) = self.jobs.remove(at) else { return };
                let address = match &job.request {
                    Admin::Join { address, .. } => address.clone(),
                    _ => String::new(),
                };
                let failure = Failure::Unavailable(format!(
                    "the node at {address} could not be reached ({error}); the members are as before: start it, check \
                     its address, and ask again"
                ));
                self.finish(job.origin, Outcome::Failed(failure), effects, replies);
            }
        }
    }

    /// Once a turn: sends ours to the leader, or works on the jobs if that is us.
    pub(crate) fn turn(
        &mut self,
        group: &mut Group,
        configuration: &Configuration,
        now: u64,
        effects: &mut Vec<Effect>,
        replies: &mut Vec<(Ticket, Outcome)>,
    ) {
        if !group.is_leader() {
            for job in std::mem::take(&mut self.jobs) {
                match job.origin {
                    Origin::Here { id } => {
                        self.ours.entry(id).and_modify(|ours| ours.sent = None);
                    }
                    origin => self.finish(origin, Outcome::Failed(leader_changed()), effects, replies),
                }
            }
            self.answer_settled_transfers(group, configuration, replies);
            if let Some(leader) = group.leader() {
                self.forward(leader, now, effects);
            }
            return;
        }
        for (&id, ours) in &mut self.ours {
            if ours.sent.is_none() || ours.sent_to != Some(self.me) {
                ours.sent_now(now, self.me);
                self.jobs.push_back(Job::new(Origin::Here { id }, ours.request.clone(), ours.deadline, now));
            }
        }
        if configuration.voters.is_joint() {
            group.leave_joint();
            return;
        }
        // What nobody asks for waits until everything is done that somebody asks for.
        if self.jobs.len() > 1 {
            self.jobs.retain(|job| job.origin != Origin::Nobody);
        }
        while let Some(mut job) = self.jobs.pop_front() {
            match self.step(&mut job, group, configuration, now) {
                Step::Finish(outcome) => self.finish(job.origin, outcome, effects, replies),
                step => {
                    self.carry_out(step, &mut job, group, configuration, effects);
                    self.jobs.push_front(job);
                    break;
                }
            }
        }
        if self.jobs.is_empty() {
            self.adopt_a_learner(configuration, now);
        }
    }

    fn forward(&mut self, leader: NodeId, now: u64, effects: &mut Vec<Effect>) {
        for (&id, ours) in &mut self.ours {
            let overdue = ours.sent.is_none_or(|sent| sent + RESEND_TICKS <= now);
            if overdue || ours.sent_to != Some(leader) {
                ours.sent_now(now, leader);
                let limit_ticks = ours.deadline.saturating_sub(now).max(1);
                let message = Message::Admin { id, limit_ticks, request: ours.request.clone() };
                effects.push(Effect::Send { to: leader, message });
            }
        }
    }

    /// A transfer that we were asked for as leader is done when the other one leads.
    fn answer_settled_transfers(
        &mut self,
        group: &Group,
        configuration: &Configuration,
        replies: &mut Vec<(Ticket, Outcome)>,
    ) {
        let Some(leader) = group.leader() else { return };
        let leads = |name: &Option<String>| match name {
            Some(name) => configuration.by_name(name).is_some_and(|(id, _)| id == leader),
            None => true,
        };
        let me = self.me;
        self.ours.retain(|_, ours| {
            let settled = ours.sent_to == Some(me) && matches!(&ours.request, Admin::Transfer { name } if leads(name));
            if settled {
                replies.push((ours.ticket, Outcome::Done));
            }
            !settled
        });
    }

    fn carry_out(
        &mut self,
        step: Step,
        job: &mut Job,
        group: &mut Group,
        configuration: &Configuration,
        effects: &mut Vec<Effect>,
    ) {
        match step {
            Step::Wait | Step::Finish(_) => {}
            Step::Greet => {
                self.counter += 1;
                job.greeting = Greeted::Asked { id: self.counter };
                if let Admin::Join { address, .. } = &job.request {
                    effects.push(Effect::Greet { id: self.counter, address: address.clone() });
                }
            }
            Step::Change(change) => {
                if configuration.admits(&change) {
                    job.acted |= group.propose_change(&change.voter_change(), change.encode()).is_some();
                }
            }
            Step::HandOver(to) => {
                if let Some(to) = to.or_else(|| best_successor(group, configuration, self.me))
                    && !group.is_transferring()
                {
                    group.transfer_leadership(to);
                }
            }
        }
    }

    fn step(&self, job: &mut Job, group: &Group, configuration: &Configuration, now: u64) -> Step {
        let late = job.deadline <= now;
        match &job.request {
            Admin::Transfer { name } => {
                let to = match name {
                    None => None,
                    Some(name) => match configuration.by_name(name) {
                        Some((id, _)) if id == self.me => return Step::Finish(Outcome::Done),
                        Some((id, _)) if configuration.voters.voters.contains(&id) => Some(id),
                        _ => return invalid(format!("{name} is no voter of this cluster; `status` lists them")),
                    },
                };
                if configuration.voters.voters.len() < 2 {
                    return invalid("there is no other voter to hand leadership to".into());
                }
                if late {
                    return unavailable(
                        "leadership could not be handed over in time; it stays where it is: try again".into(),
                    );
                }
                Step::HandOver(to)
            }
            Admin::Remove { name } => match configuration.by_name(name) {
                None if job.acted => Step::Finish(Outcome::Done),
                None => Step::Finish(Outcome::Failed(no_such_member(name))),
                Some(_) if late => unknown(format!(
                    "the removal of {name} was not confirmed in time; look at `status` before trying again"
                )),
                Some((id, _)) if configuration.voters.voters == [id] => {
                    invalid(format!("{name} is the only voter; a cluster can't do without one"))
                }
                Some((id, _)) if id == self.me => Step::HandOver(None),
                Some((id, _)) => self.remove(job, id, group, configuration, now),
            },
            Admin::Join { name, address, learner } => {
                let (name, address, learner) = (name.clone(), address.clone(), *learner);
                self.step_join(job, Wish { name: &name, address: &address, learner }, group, configuration, now)
            }
            Admin::Promote { name } => {
                // A learner may be about to take the place of a voter of its name.
                let learner = configuration.learner_by_name(name);
                match (learner, configuration.by_name(name)) {
                    (Some(id), _) => self.step_promote(job, id, group, configuration, now),
                    (None, Some(_)) => Step::Finish(Outcome::Done),
                    (None, None) => {
                        let text = format!("no member is called {name}; `status` lists them");
                        Step::Finish(Outcome::Failed(Failure::NotFound(text)))
                    }
                }
            }
        }
    }

    /// A cluster whose last healthy voters are removed before its dead ones can't change anything any more, not even that.
    fn remove(&self, job: &Job, id: NodeId, group: &Group, configuration: &Configuration, now: u64) -> Step {
        let stay = || configuration.voters.voters.iter().filter(|&&voter| voter != id);
        let silent: Vec<NodeId> = stay().copied().filter(|&v| v != self.me && !is_active(group, v)).collect();
        // While a change is under way, it may be this removal.
        if configuration.is_voter(id) && !group.has_pending_change() && silent.len() * 2 >= stay().count() {
            // A new leader has not heard everybody yet.
            if now < job.moved + SILENT_TICKS {
                return Step::Wait;
            }
            let name = &configuration.members[&id].name;
            let silent: Vec<String> = silent.iter().map(|id| configuration.members[id].to_string()).collect();
            return unavailable(format!(
                "without {name}, no majority of the voters would answer, for nothing is heard of {}; the members are as \
                 before: bring it back, replace it, or remove it first",
                silent.join(" and ")
            ));
        }
        Step::Change(MemberChange::Remove { id })
    }

    fn step_join(&self, job: &mut Job, wish: Wish<'_>, group: &Group, configuration: &Configuration, now: u64) -> Step {
        let Wish { name, address, learner } = wish;
        let greeting = match &job.greeting {
            Greeted::NotYet => return Step::Greet,
            // A leader before this one may have proposed it.
            Greeted::Asked { .. } if job.deadline <= now && group.has_pending_change() => {
                return addition_unconfirmed(name);
            }
            Greeted::Asked { .. } if job.deadline <= now => {
                return unavailable(format!("the node at {address} did not answer in time; the members are as before"));
            }
            Greeted::Asked { .. } => return Step::Wait,
            Greeted::Answered(greeting) => greeting.clone(),
        };
        if let Some((cluster, id)) = greeting.cluster {
            if cluster != self.cluster {
                return invalid(format!(
                    "the node at {address} belongs to another cluster ({cluster}); to let it join this one, stop it \
                     and start it with an empty data folder"
                ));
            }
            if configuration.was_removed(id) {
                return invalid(format!(
                    "the node at {address} was removed from this cluster; to let it join as a new member, stop it and \
                     start it with an empty data folder"
                ));
            }
        }
        let known = configuration.members.iter().find(|(_, m)| m.incarnation == greeting.incarnation);
        let Some((&id, member)) = known else {
            // A learner that nobody asks for any more is not let in again once it is gone.
            if job.origin == Origin::Nobody {
                return Step::Finish(Outcome::Done);
            }
            if job.deadline <= now && (job.acted || group.has_pending_change()) {
                return addition_unconfirmed(name);
            }
            if job.deadline <= now {
                return unavailable(format!("{name} could not be added in time; the members are as before: try again"));
            }
            return self.add(wish, greeting.incarnation, configuration, group);
        };
        if configuration.voters.voters.contains(&id) {
            if learner {
                return invalid(format!(
                    "{} votes already; to make it a learner, remove it, and let it join with an empty data folder",
                    member.name
                ));
            }
            if member.name == name && member.address == address {
                return Step::Finish(Outcome::Done);
            }
            if let Some(other) = displaced(configuration, id, name, address) {
                return taken(configuration, other);
            }
            if job.deadline <= now {
                return unknown(format!("the new address of {name} was not confirmed in time: ask again"));
            }
            let member = Member { name: name.into(), address: address.into(), incarnation: greeting.incarnation };
            return Step::Change(MemberChange::Update { id, member });
        }
        if learner {
            return self.step_stay(job, id, wish, group, configuration, now);
        }
        // Meanwhile somebody wanted it to stay what it is.
        if job.origin == Origin::Nobody && configuration.stays(id) {
            return Step::Finish(Outcome::Done);
        }
        self.step_promote(job, id, group, configuration, now)
    }

    /// A learner that shall stay one.
    fn step_stay(
        &self,
        job: &mut Job,
        id: NodeId,
        Wish { name, address, .. }: Wish<'_>,
        group: &Group,
        configuration: &Configuration,
        now: u64,
    ) -> Step {
        let known = &configuration.members[&id];
        if !configuration.stays(id) || known.name != name || known.address != address {
            if let Some(other) = displaced(configuration, id, name, address) {
                return taken(configuration, other);
            }
            if job.deadline <= now {
                return unknown(format!("that {name} stays a learner was not confirmed in time: ask again"));
            }
            let member = Member { name: name.into(), address: address.into(), incarnation: known.incarnation };
            return Step::Change(MemberChange::Stay { id, member });
        }
        match job.pace_of(id, group, now) {
            Pace::CaughtUp => Step::Finish(Outcome::Done),
            Pace::Behind if job.deadline > now => Step::Wait,
            Pace::Behind | Pace::Stalled => {
                unavailable(format!("{name} is a learner now, but has not caught up in time: ask again to see"))
            }
        }
    }

    /// A learner that shall vote, in the place of the member whose name or address it took over.
    fn step_promote(&self, job: &mut Job, id: NodeId, group: &Group, configuration: &Configuration, now: u64) -> Step {
        let (name, address) = match &job.request {
            Admin::Join { name, address, .. } => (name.clone(), address.clone()),
            _ => (configuration.members[&id].name.clone(), configuration.members[&id].address.clone()),
        };
        let stays = configuration.stays(id);
        let is_late = job.deadline <= now && job.origin != Origin::Nobody;
        let may_be_done = job.acted || group.has_pending_change();
        if is_late && stays && may_be_done {
            return unknown(format!(
                "the promotion of {name} was not confirmed in time; look at `status` before trying again"
            ));
        }
        let pace = job.pace_of(id, group, now);
        if stays && !may_be_done && !is_active(group, id) && job.moved + SILENT_TICKS <= now {
            return unavailable(format!(
                "nothing is heard of {name}, so it can't catch up; it stays a learner: bring it back, and ask again"
            ));
        }
        if pace == Pace::Stalled {
            return if job.origin == Origin::Nobody {
                Step::Change(MemberChange::Remove { id })
            } else {
                unavailable(format!(
                    "{name} does not catch up: no progress within the time limit; it is not made a voter, the quorum is as before"
                ))
            };
        }
        if is_late && stays {
            return unavailable(format!("{name} has not caught up in time; it stays a learner: ask again when it has"));
        }
        if is_late {
            return unavailable(format!("{name} is still catching up and will vote when it has: ask again to see"));
        }
        match displaced(configuration, id, &name, &address) {
            _ if pace != Pace::CaughtUp => Step::Wait,
            Some(old) if old == self.me => Step::HandOver(None),
            Some(old)
                if configuration.is_voter(old) && configuration.voters.voters.len() == 2 && !is_active(group, old) =>
            {
                invalid(format!(
                    "{} is one of only two voters and does not answer; replacing it would need its vote, so the \
                     cluster must get it back, or be restored",
                    configuration.members[&old].name
                ))
            }
            replaces => Step::Change(MemberChange::Promote { id, replaces }),
        }
    }

    fn add(
        &self,
        Wish { name, address, learner }: Wish<'_>,
        incarnation: Incarnation,
        configuration: &Configuration,
        group: &Group,
    ) -> Step {
        let by_name = configuration.by_name(name).map(|(id, _)| id);
        let by_address = configuration.by_address(address).map(|(id, _)| id);
        if let (Some(a), Some(b)) = (by_name, by_address)
            && a != b
        {
            return invalid(format!(
                "the name {name} and the address {address} belong to two different members; remove one of them first"
            ));
        }
        let old = by_name.or(by_address);
        // Nobody could say which of the two is meant, and a learner takes no voter's place.
        if let Some(old) = old
            && learner
            && configuration.is_voter(old)
        {
            return taken(configuration, old);
        }
        if let Some(old) = old
            && configuration.voters.voters.len() == 2
            && configuration.is_voter(old)
            && old != self.me
            && !is_active(group, old)
        {
            return invalid(format!(
                "{} is one of only two voters and does not answer; replacing it would need its vote",
                configuration.members[&old].name
            ));
        }
        // A learner under that name never voted: its folder is gone, so is it.
        if let Some(old) = old
            && configuration.voters.learners.contains(&old)
        {
            return Step::Change(MemberChange::Remove { id: old });
        }
        if configuration.is_full() {
            return invalid(format!(
                "this cluster has {MAX_MEMBERS} members, which is as many as it takes: remove one first"
            ));
        }
        let member = Member { name: name.into(), address: address.into(), incarnation };
        Step::Change(MemberChange::AddLearner { id: configuration.next_id, member, stays: learner })
    }

    /// A learner without a job that is not to stay one: its join timed out, or its leader was lost. It becomes a voter or
    /// goes.
    fn adopt_a_learner(&mut self, configuration: &Configuration, now: u64) {
        let on_its_way = configuration.voters.learners.iter().find(|&&id| !configuration.stays(id));
        let Some(member) = on_its_way.and_then(|id| configuration.members.get(id)) else { return };
        let request = Admin::Join { name: member.name.clone(), address: member.address.clone(), learner: false };
        let mut job = Job::new(Origin::Nobody, request, u64::MAX, now);
        job.greeting = Greeted::Answered(Greeting { incarnation: member.incarnation, cluster: None });
        self.jobs.push_back(job);
    }

    fn finish(
        &mut self,
        origin: Origin,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
        replies: &mut Vec<(Ticket, Outcome)>,
    ) {
        match origin {
            Origin::Nobody => {}
            Origin::Peer { node, id } => {
                effects.push(Effect::Send { to: node, message: Message::AdminReply { id, outcome } });
            }
            Origin::Here { id } => self.answer(id, outcome, replies),
        }
    }

    fn answer(&mut self, id: u64, outcome: Outcome, replies: &mut Vec<(Ticket, Outcome)>) {
        let Some(ours) = self.ours.remove(&id) else { return };
        let outcome = match &ours.request {
            // Removed when it was sent before, perhaps. If it never was there, it is as the request wants it all the same.
            Admin::Remove { name } if ours.times_sent > 1 && outcome == Outcome::Failed(no_such_member(name)) => {
                Outcome::Done
            }
            _ => outcome,
        };
        replies.push((ours.ticket, outcome));
    }

    pub(crate) fn expire(&mut self, now: u64, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        let jobs = &self.jobs;
        self.ours.retain(|id, ours| {
            // The leader's own answer is better than ours; it gets a moment more.
            let grace = if jobs.iter().any(|job| job.origin == Origin::Here { id: *id }) { 2 } else { 0 };
            let keep = ours.deadline + grace > now;
            if !keep {
                let failure = if ours.times_sent > 0 {
                    Failure::Unknown(format!(
                        "the request was not answered within its time limit ({why}); look at `status` before trying again"
                    ))
                } else {
                    Failure::Unavailable(format!("no leader within the time limit ({why}); nothing was changed: try again"))
                };
                replies.push((ours.ticket, Outcome::Failed(failure)));
            }
            keep
        });
    }

    /// This node was removed, and can't learn any more what becomes of its requests.
    pub(crate) fn fail_all(&mut self, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        self.jobs.clear();
        for (_, ours) in std::mem::take(&mut self.ours) {
            let outcome = match ours.request {
                _ if ours.times_sent == 0 => Outcome::Failed(Failure::Removed(why.to_owned())),
                Admin::Remove { name } if name == self.name => Outcome::Done,
                _ => Outcome::Failed(Failure::Unknown(format!(
                    "{why}; what became of the request is unknown: look at `status` of another member"
                ))),
            };
            replies.push((ours.ticket, outcome));
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.ours.is_empty()
    }
}

impl Ours {
    fn sent_now(&mut self, now: u64, to: NodeId) {
        (self.sent, self.sent_to) = (Some(now), Some(to));
        self.times_sent += 1;
    }
}

impl Job {
    fn new(origin: Origin, request: Admin, deadline: u64, now: u64) -> Job {
        Job { origin, request, deadline, greeting: Greeted::NotYet, matched: 0, moved: now, acted: false }
    }

    /// A learner that is not heard has not caught up, however little it lacks: it would be a voter that is down.
    fn pace_of(&mut self, id: NodeId, group: &Group, now: u64) -> Pace {
        let progress = group.progress(id);
        let (matched, in_snapshot) = progress.map_or((0, false), |p| (p.matched, p.in_snapshot && p.recently_active));
        if matched > self.matched || in_snapshot {
            self.matched = self.matched.max(matched);
            self.moved = now;
        }
        if self.moved + STALLED_TICKS <= now {
            Pace::Stalled
        } else if matched > 0 && matched + CAUGHT_UP_ENTRIES >= group.commit() && is_active(group, id) {
            Pace::CaughtUp
        } else {
            Pace::Behind
        }
    }
}

/// What can't succeed is refused before anything is done for it.
fn check(request: &Admin) -> Result<(), Failure> {
    match request {
        Admin::Join { name, address, .. } => {
            check_member(name, address).map_err(|why| Failure::Invalid(format!("{why}; nothing was changed")))
        }
        Admin::Promote { .. } | Admin::Remove { .. } | Admin::Transfer { .. } => Ok(()),
    }
}

/// The voter to lead next: the one that is furthest among those that answer.
pub(crate) fn best_successor(group: &Group, configuration: &Configuration, me: NodeId) -> Option<NodeId> {
    let others = configuration.voters.voters.iter().filter(|&&id| id != me && is_active(group, id));
    others.max_by_key(|&&id| (group.progress(id).map_or(0, |p| p.matched), std::cmp::Reverse(id))).copied()
}

/// The member whose name or address `id` has taken over.
fn displaced(configuration: &Configuration, id: NodeId, name: &str, address: &str) -> Option<NodeId> {
    let mut others = configuration.members.iter().filter(|&(&other, _)| other != id);
    others.find(|(_, m)| m.name == name || m.address == address).map(|(&other, _)| other)
}

fn is_active(group: &Group, id: NodeId) -> bool {
    group.progress(id).is_some_and(|p| p.recently_active)
}

fn taken(configuration: &Configuration, by: NodeId) -> Step {
    invalid(format!("{} has that name or address already: remove it first", configuration.members[&by].name))
}

fn no_such_member(name: &str) -> Failure {
    Failure::Invalid(format!("no member is called {name}; `status` lists them"))
}

fn addition_unconfirmed(name: &str) -> Step {
    unknown(format!("the addition of {name} was not confirmed in time; look at `status` before trying again"))
}

fn leader_changed() -> Failure {
    Failure::Unavailable("the leader changed while it worked on the request: try again".into())
}

fn invalid(text: String) -> Step {
    Step::Finish(Outcome::Failed(Failure::Invalid(text)))
}

fn unavailable(text: String) -> Step {
    Step::Finish(Outcome::Failed(Failure::Unavailable(text)))
}

fn unknown(text: String) -> Step {
    Step::Finish(Outcome::Failed(Failure::Unknown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another node may let it pass.
    #[test]
    fn the_leader_judges_what_others_ask_of_it() {
        let mut desk = AdminDesk::new(1, "a".into(), ClusterId(7), 1);
        let join = |name: &str| Admin::Join { name: name.into(), address: "c:1".into(), learner: false };
        let refused = desk.request_from_peer(2, 1, join(&"x".repeat(256)), 100, 0);
        assert!(matches!(refused, Some(Failure::Invalid(_))), "{refused:?}");
        assert_eq!(desk.request_from_peer(2, 2, join("c"), 100, 0), None);
    }
}
