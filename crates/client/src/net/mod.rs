//! Getting a request to the cluster: which endpoint is asked, what is asked again, and when it is given up.

mod call;
mod endpoint;
mod fleet;
mod keys;
mod pipe;

pub(crate) use call::{Ask, MIN_PAUSE, Opened, Reply, number};
pub(crate) use endpoint::{Endpoint, Message};
pub(crate) use fleet::Fleet;
pub(crate) use pipe::Pipe;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use pipe::read_all;
