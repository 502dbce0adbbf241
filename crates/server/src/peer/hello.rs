//! The first words between two nodes: who I am, whom I look for, and the answer.
//!
//! A caller either asks who is there ([`Call::WhoIsThere`], before a join) or names the cluster, itself and whom it
//! wants to reach ([`Hello`]). The one who was called judges ([`judge`]): it welcomes the caller or refuses it with a
//! reason in words. Nothing but this exchange reaches a node from a caller that it did not welcome.
//!
//! Not handled: proof. Whoever knows the cluster's id is believed.

use crate::handle::{Identity, Phase};
use base::codec::{Malformed, Reader, Writer};
use base::{ClusterId, Incarnation, NodeId};
use bytes::Bytes;
use node::Greeting;
use node::membership::Configuration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    WhoIsThere,
    Hello(Hello),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub cluster: ClusterId,
    pub from: NodeId,
    pub from_incarnation: Incarnation,
    /// What its user calls it.
    pub from_name: String,
    /// Where the caller can be called back: a new node knows nobody's address.
    pub from_address: String,
    /// Where its clients reach it.
    pub from_url: String,
    pub to: NodeId,
    pub to_incarnation: Incarnation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Greeting(Greeting),
    /// By a node that its clients reach at this URL.
    Welcome(String),
    /// The caller is no member any more.
    Removed(String),
    Refused(String),
}

/// What to do with a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answer(Answer),
    /// We belong to no cluster, and this one lets us in: remember that, then welcome the caller.
    Admit {
        cluster: ClusterId,
        id: NodeId,
    },
}

pub fn judge(call: &Call, me: &Identity, phase: &Phase, configuration: &Configuration) -> Verdict {
    let hello = match call {
        Call::WhoIsThere => {
            let greeting = Greeting { incarnation: me.incarnation, cluster: me.cluster };
            return Verdict::Answer(Answer::Greeting(greeting));
        }
        Call::Hello(hello) => hello,
    };
    let refuse = |reason: String| Verdict::Answer(Answer::Refused(reason));
    let Some((cluster, id)) = me.cluster else {
        if hello.to_incarnation != me.incarnation {
            return refuse(format!(
                "the data folder of {} is not the one that was member {}; let the node join again",
                me.name, hello.to
            ));
        }
        return Verdict::Admit { cluster: hello.cluster, id: hello.to };
    };
    if hello.cluster != cluster {
        return refuse(format!("{} belongs to another cluster ({cluster}, not {})", me.name, hello.cluster));
    }
    if hello.to != id {
        return refuse(format!("the node at this address is member {id} ({}), not {}", me.name, hello.to));
    }
    if hello.from == id || hello.from == 0 {
        return refuse(format!("member {id} is {} itself", me.name));
    }
    if let Phase::Removed(reason) = phase {
        return refuse(format!("{} is no member any more: {reason}", me.name));
    }
    if configuration.was_removed(hello.from) {
        return Verdict::Answer(Answer::Removed(format!("member {} was removed from the cluster", hello.from)));
    }
    Verdict::Answer(Answer::Welcome(me.url.clone()))
}

impl Call {
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Call::WhoIsThere => w.u8(WHO_IS_THERE),
            Call::Hello(hello) => {
                w.u8(HELLO);
                w.u128(hello.cluster.0);
                w.u64(hello.from);
                w.u64(hello.from_incarnation.0);
                w.text(&hello.from_name);
                w.text(&hello.from_address);
                w.text(&hello.from_url);
                w.u64(hello.to);
                w.u64(hello.to_incarnation.0);
            }
        }
    }

    pub fn decode(bytes: Bytes) -> Result<Call, Malformed> {
        let mut r = Reader::new(bytes);
        let call = match r.u8()? {
            WHO_IS_THERE => Call::WhoIsThere,
            HELLO => Call::Hello(Hello {
                cluster: ClusterId(r.u128()?),
                from: r.u64()?,
                from_incarnation: Incarnation(r.u64()?),
                from_name: r.text()?,
                from_address: r.text()?,
                from_url: r.text()?,
                to: r.u64()?,
                to_incarnation: Incarnation(r.u64()?),
            }),
            _ => return Err(Malformed("call")),
        };
        r.finish()?;
        Ok(call)
    }
}

impl Answer {
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Answer::Greeting(Greeting { incarnation, cluster }) => {
                w.u8(GREETING);
                w.u64(incarnation.0);
                w.bool(cluster.is_some());
                if let Some((cluster, node)) = cluster {
                    w.u128(cluster.0);
                    w.u64(*node);
                }
            }
            Answer::Welcome(url) => {
                w.u8(WELCOME);
                w.text(url);
            }
            Answer::Removed(reason) => {
                w.u8(REMOVED);
                w.text(reason);
            }
            Answer::Refused(reason) => {
                w.u8(REFUSED);
                w.text(reason);
            }
        }
    }

    pub fn decode(bytes: Bytes) -> Result<Answer, Malformed> {
        let mut r = Reader::new(bytes);
        let answer = match r.u8()? {
            GREETING => {
                let incarnation = Incarnation(r.u64()?);
                let cluster = if r.bool()? { Some((ClusterId(r.u128()?), r.u64()?)) } else { None };
                Answer::Greeting(Greeting { incarnation, cluster })
            }
            WELCOME => Answer::Welcome(r.text()?),
            REMOVED => Answer::Removed(r.text()?),
            REFUSED => Answer::Refused(r.text()?),
            _ => return Err(Malformed("answer to a call")),
        };
        r.finish()?;
        Ok(answer)
    }
}

const WHO_IS_THERE: u8 = 0;
const HELLO: u8 = 1;

const WELCOME: u8 = 0;
const GREETING: u8 = 1;
const REMOVED: u8 = 2;
const REFUSED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use node::membership::Member;
    use proptest::prelude::*;

    const OURS: ClusterId = ClusterId(7);
    const MY_LIFE: Incarnation = Incarnation(20);
    const URL: &str = "http://localhost:4";

    fn me(cluster: Option<(ClusterId, NodeId)>) -> Identity {
        Identity { name: "b".into(), address: "localhost:2".into(), url: URL.into(), incarnation: MY_LIFE, cluster }
    }

    fn hello() -> Hello {
        Hello {
            cluster: OURS,
            from: 1,
            from_incarnation: Incarnation(10),
            from_name: "a".into(),
            from_address: "localhost:1".into(),
            from_url: "http://localhost:3".into(),
            to: 2,
            to_incarnation: MY_LIFE,
        }
    }

    /// Members 1 and 2; 3 was removed.
    fn configuration() -> Configuration {
        let member = |name: &str| Member { name: name.into(), address: name.into(), incarnation: Incarnation(1) };
        let mut configuration = Configuration::bootstrap(member("a"));
        configuration.members.insert(2, member("b"));
        configuration.next_id = 4;
        configuration
    }

    fn judged(hello: Hello) -> Verdict {
        judge(&Call::Hello(hello), &me(Some((OURS, 2))), &Phase::Running, &configuration())
    }

    fn refused(verdict: Verdict) -> String {
        match verdict {
            Verdict::Answer(Answer::Refused(reason)) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_member_and_one_that_is_not_known_yet_are_welcome() {
        let welcome = Verdict::Answer(Answer::Welcome(URL.into()));
        assert_eq!(judged(hello()), welcome);
        assert_eq!(judged(Hello { from: 4, ..hello() }), welcome);
    }

    #[test]
    fn refusals_say_why() {
        let reason = refused(judged(Hello { cluster: ClusterId(8), ..hello() }));
        assert!(reason.contains("another cluster"), "{reason}");
        let reason = refused(judged(Hello { to: 3, ..hello() }));
        assert!(reason.contains("is member 2 (b), not 3"), "{reason}");
        let reason = refused(judged(Hello { from: 2, ..hello() }));
        assert!(reason.contains("itself"), "{reason}");
        let removed = Phase::Removed("b was removed".into());
        let reason = refused(judge(&Call::Hello(hello()), &me(Some((OURS, 2))), &removed, &configuration()));
        assert!(reason.contains("no member any more"), "{reason}");
    }

    #[test]
    fn a_removed_member_is_told_so() {
        let verdict = judged(Hello { from: 3, ..hello() });
        assert!(matches!(verdict, Verdict::Answer(Answer::Removed(_))), "{verdict:?}");
    }

    #[test]
    fn an_empty_folder_is_admitted_only_in_the_life_that_was_let_in() {
        let judged = |hello| judge(&Call::Hello(hello), &me(None), &Phase::Joining, &Configuration::default());
        assert_eq!(judged(hello()), Verdict::Admit { cluster: OURS, id: 2 });
        let reason = refused(judged(Hello { to_incarnation: Incarnation(19), ..hello() }));
        assert!(reason.contains("data folder"), "{reason}");
    }

    #[test]
    fn who_is_there_is_answered_by_everyone() {
        for cluster in [None, Some((OURS, 2))] {
            let verdict = judge(&Call::WhoIsThere, &me(cluster), &Phase::Joining, &Configuration::default());
            let greeting = Greeting { incarnation: MY_LIFE, cluster };
            assert_eq!(verdict, Verdict::Answer(Answer::Greeting(greeting)));
        }
    }

    #[test]
    fn calls_and_answers_are_read_as_they_were_written() {
        for call in [Call::WhoIsThere, Call::Hello(hello())] {
            let mut w = Writer::new();
            call.encode(&mut w);
            assert_eq!(Call::decode(w.into_bytes()), Ok(call));
        }
        let greeting = |cluster| Answer::Greeting(Greeting { incarnation: MY_LIFE, cluster });
        let no = |text: &str| text.to_string();
        for answer in [
            Answer::Welcome(no(URL)),
            greeting(None),
            greeting(Some((OURS, 2))),
            Answer::Removed(no("gone")),
            Answer::Refused(no("é")),
        ] {
            let mut w = Writer::new();
            answer.encode(&mut w);
            assert_eq!(Answer::decode(w.into_bytes()), Ok(answer));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let again = |encode: &dyn Fn(&mut Writer)| {
                let mut w = Writer::new();
                encode(&mut w);
                w.into_vec()
            };
            if let Ok(call) = Call::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(again(&|w| call.encode(w)).len(), bytes.len());
            }
            if let Ok(answer) = Answer::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(again(&|w| answer.encode(w)).len(), bytes.len());
            }
        }
    }
}
