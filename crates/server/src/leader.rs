//! What this node knows of the leader besides its name: when it was last heard, and where clients reach it.
//!
//! The connections of peers note when a message came that only a leader sends, and it came from the one that this node
//! follows; that is the contact whose age bounds how old the node's data can be. The nodes tell each other their URLs
//! when they introduce themselves. Who leads is then a published value that is ready to be read, and made anew only
//! when the status or a URL changes.
//!
//! Not handled: how long a message lay in the socket before it was read, so after a pause of the whole process the
//! contact seems younger than it is until the node has caught up with what waited for it.

use crate::handle::Identity;
use arc_swap::ArcSwapOption;
use base::NodeId;
use node::{Message, Role, Status};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who leads, as far as the node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// Where its clients reach it, if it told.
    pub url: Option<String>,
}

pub(crate) struct Leadership {
    /// Whom this node follows; 0 for nobody.
    followed: AtomicU64,
    /// Nanoseconds from `born` to the last contact, plus one; 0 for none.
    contact: AtomicU64,
    born: Instant,
    book: Mutex<Book>,
    leader: ArcSwapOption<Leader>,
}

#[derive(Default)]
struct Book {
    status: Arc<Status>,
    /// Where clients reach the other nodes.
    urls: BTreeMap<NodeId, String>,
    /// Where they reach this one.
    own_url: String,
}

impl Default for Leadership {
    fn default() -> Leadership {
        Leadership {
            followed: AtomicU64::new(0),
            contact: AtomicU64::new(0),
            born: Instant::now(),
            book: Mutex::default(),
            leader: ArcSwapOption::empty(),
        }
    }
}

impl Leadership {
    /// The node sees its cluster so from now on.
    pub fn set_status(&self, status: &Arc<Status>, me: &Identity) {
        let mut book = self.book();
        let followed = status.leader.filter(|&leader| leader != status.node);
        // It is known from a message of its own. And who led until now had contact with the leader until now.
        if (followed.is_some() && followed != book.status.leader) || book.status.role == Role::Leader {
            self.note_contact();
        }
        self.followed.store(followed.unwrap_or(0), Ordering::Relaxed);
        book.urls.retain(|&id, _| !status.configuration.was_removed(id));
        (book.status, book.own_url) = (status.clone(), me.url.clone());
        self.publish(&book);
    }

    /// A peer told where its clients reach it.
    pub fn set_url(&self, id: NodeId, url: &str) {
        let mut book = self.book();
        let Book { status, urls, .. } = &mut *book;
        let members = &status.configuration.members;
        if urls.len() >= members.len() + MAX_STRANGERS {
            urls.retain(|id, _| members.contains_key(id));
        }
        if !is_url(url) {
            urls.remove(&id);
        } else if urls.get(&id).is_none_or(|known| known != url) {
            urls.insert(id, url.to_string());
        }
        self.publish(&book);
    }

    /// These messages have just come from that peer.
    pub fn heard(&self, from: NodeId, messages: &[Message]) {
        let from_leader =
            |message: &Message| matches!(message, Message::Raft { message, .. } if message.is_from_leader());
        if self.followed.load(Ordering::Relaxed) == from && messages.iter().any(from_leader) {
            self.note_contact();
        }
    }

    pub fn leader(&self) -> Option<Arc<Leader>> {
        self.leader.load_full()
    }

    /// Where the clients of a member reach it.
    pub fn url(&self, member: NodeId) -> Option<String> {
        let book = self.book();
        if member == book.status.node { Some(book.own_url.clone()) } else { book.urls.get(&member).cloned() }
    }

    /// Since the last contact of a node that does not lead itself. `None`: there was none in this life.
    pub fn contact_age(&self) -> Option<Duration> {
        let contact = self.contact.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.born.elapsed().saturating_sub(Duration::from_nanos(contact)))
    }

    fn note_contact(&self) {
        let now = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.contact.store(now + 1, Ordering::Relaxed);
    }

    fn publish(&self, book: &Book) {
        let status = &book.status;
        let leader = status.leader.and_then(|id| Some((id, status.configuration.members.get(&id)?)));
        let leader = leader.map(|(id, member)| Leader {
            name: member.name.clone(),
            address: member.address.clone(),
            url: if id == status.node { Some(book.own_url.clone()) } else { book.urls.get(&id).cloned() },
        });
        self.leader.store(leader.map(Arc::new));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change to it is whole before anything can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that can stand in a header, and that a client can use.
fn is_url(text: &str) -> bool {
    text.starts_with("http://") && text.len() <= MAX_URL_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

const MAX_URL_BYTES: usize = 300;
/// Nodes that were let in a moment ago may have told their URL already. More are not the cluster's.
const MAX_STRANGERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use base::Incarnation;
    use node::membership::{Configuration, Member};
    use std::thread::sleep;

    fn me() -> Identity {
        Identity {
            name: "b".into(),
            address: "b:2".into(),
            url: "http://b:1".into(),
            incarnation: Incarnation(1),
            cluster: None,
        }
    }

    /// Of node 2, in a cluster of a, b and c.
    fn status(leader: Option<NodeId>) -> Arc<Status> {
        let member =
            |name: &str| Member { name: name.into(), address: format!("{name}:2"), incarnation: Incarnation(1) };
        let mut configuration = Configuration::bootstrap(member("a"));
        configuration.members.insert(2, member("b"));
        configuration.members.insert(3, member("c"));
        configuration.next_id = 4;
        let role = if leader == Some(2) { Role::Leader } else { Role::Follower };
        Arc::new(Status { node: 2, role, leader, configuration: Arc::new(configuration), ..Status::default() })
    }

    fn url_of_leader(leadership: &Leadership) -> Option<String> {
        leadership.leader().and_then(|leader| leader.url.clone())
    }

    /// Of node 1, by its tag on the wire.
    fn message(tag: u8) -> Message {
        let (group, from, to, term) = (0, 1, 2, 1);
        let mut bytes = vec![1, group, tag, from, to, term];
        bytes.resize(15, 0);
        let message = Message::decode(bytes.into()).unwrap();
        assert!(matches!(message, Message::Raft { .. }));
        message
    }

    const HEARTBEAT: u8 = 7;
    const HEARTBEAT_RESPONSE: u8 = 8;

    #[test]
    fn only_what_a_leader_sends_is_contact_and_only_from_the_one_that_leads() {
        let leadership = Leadership::default();
        leadership.heard(1, &[message(HEARTBEAT)]);
        assert_eq!(leadership.contact_age(), None);
        leadership.set_status(&status(Some(1)), &me());
        let is_contact = |from, messages: &[Message]| {
            sleep(Duration::from_millis(1));
            let began = Instant::now();
            leadership.heard(from, messages);
            leadership.contact_age().unwrap() <= began.elapsed()
        };
        assert!(is_contact(1, &[message(HEARTBEAT_RESPONSE), message(HEARTBEAT)]));
        assert!(!is_contact(1, &[message(HEARTBEAT_RESPONSE), Message::ReadIndexReply { group: 0, id: 1, index: 1 }]));
        assert!(!is_contact(3, &[message(HEARTBEAT)]));
        leadership.set_status(&status(None), &me());
        assert!(!is_contact(1, &[message(HEARTBEAT)]));
    }

    #[test]
    fn to_learn_of_a_leader_is_contact_and_so_is_having_led() {
        for (before, after) in [(None, Some(1)), (Some(1), Some(3)), (Some(2), None), (Some(2), Some(1))] {
            let leadership = Leadership::default();
            leadership.set_status(&status(before), &me());
            sleep(Duration::from_millis(1));
            let began = Instant::now();
            leadership.set_status(&status(after), &me());
            assert!(leadership.contact_age().unwrap() <= began.elapsed(), "{before:?} {after:?}");
        }
        let leadership = Leadership::default();
        leadership.set_status(&status(None), &me());
        assert_eq!(leadership.contact_age(), None);
    }

    #[test]
    fn the_leader_is_shown_with_the_url_that_it_told() {
        let leadership = Leadership::default();
        assert_eq!(leadership.leader(), None);
        leadership.set_url(1, "http://a:1");
        assert_eq!(leadership.leader(), None);
        leadership.set_status(&status(Some(1)), &me());
        let expected = Leader { name: "a".into(), address: "a:2".into(), url: Some("http://a:1".into()) };
        assert_eq!(leadership.leader().as_deref(), Some(&expected));
        leadership.set_url(1, "http://a:9");
        assert_eq!(url_of_leader(&leadership).as_deref(), Some("http://a:9"));
        leadership.set_status(&status(Some(2)), &me());
        assert_eq!(url_of_leader(&leadership).as_deref(), Some("http://b:1"));
        leadership.set_status(&status(Some(3)), &me());
        assert_eq!(url_of_leader(&leadership), None);
        leadership.set_status(&status(None), &me());
        assert_eq!(leadership.leader(), None);
    }

    #[test]
    fn what_is_no_url_is_not_shown_and_strangers_are_not_remembered_without_end() {
        let leadership = Leadership::default();
        leadership.set_status(&status(Some(1)), &me());
        let long = format!("http://{}", "a".repeat(300));
        for wrong in ["", "ftp://a", "http://a b", "http://a\r\nx: y", "http://\u{e9}", &long] {
            leadership.set_url(1, "http://a:1");
            leadership.set_url(1, wrong);
            assert_eq!(url_of_leader(&leadership), None, "{wrong}");
        }
        leadership.set_url(1, "http://a:1");
        for stranger in 4..1000 {
            leadership.set_url(stranger, "http://x:1");
        }
        assert!(leadership.book().urls.len() <= 3 + MAX_STRANGERS);
        assert_eq!(url_of_leader(&leadership).as_deref(), Some("http://a:1"));
    }
}
