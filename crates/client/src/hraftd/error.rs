//! What can go wrong, by what it means for the caller.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request makes no sense, and was not sent.
    #[error("{0}")]
    BadRequest(&'static str),

    #[error("no endpoint is known: name at least one address of a member, such as localhost:11000")]
    NoEndpoints,

    /// Nothing was sent, so nothing happened.
    #[error("can't reach {address} ({reason}): check that a node listens there, or use the address of another member")]
    Unreachable { address: String, reason: String },

    /// It was sent, and no answer came.
    #[error(
        "outcome unknown: {address} took the request but did not answer ({reason}). A write may have happened, or may \
         yet happen: read the key to find out before you write again"
    )]
    Unknown { address: String, reason: String },

    /// The server answered with an error; `message` is in its words.
    #[error("{address} refused with status {status}: {message}")]
    Refused { address: String, status: u16, message: String },

    #[error("{address} answered with something that is not hraftd's dialect ({what}): is that the right port?")]
    Unintelligible { address: String, what: String },
}

impl Error {
    /// A short name of its kind, to count by.
    pub fn kind(&self) -> String {
        match self {
            Error::BadRequest(_) => "bad request".to_string(),
            Error::NoEndpoints => "no endpoint".to_string(),
            Error::Unreachable { .. } => "unreachable".to_string(),
            Error::Unknown { .. } => "outcome unknown".to_string(),
            Error::Refused { status, .. } => format!("status {status}"),
            Error::Unintelligible { .. } => "unintelligible answer".to_string(),
        }
    }
}
