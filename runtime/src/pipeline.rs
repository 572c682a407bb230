//! What is asked of plugins, and what their answers mean. Knows no WebAssembly and no sockets: a plugin is a
//! [`Filter`], a mail a value, and [`judge`] runs the chains and combines the verdicts.

pub mod chain;
pub mod edit;
pub mod facts;
pub mod filter;
pub mod hearing;
pub mod stage;
pub mod verdict;

pub use chain::{Chain, Chains, Direction, Directions, Entry, OnFailure, Scope, Series};
pub use edit::{Edit, Position};
pub use facts::{ClientName, Helo, RecordedSession, Role, SessionFacts, SessionId, TlsFacts};
pub use filter::{
    Answer, Call, Capability, Cause, Event, EventKind, Exemption, Failure, Filter, HostCalls, Judged, Notes, Usage,
};
pub use hearing::{Clerk, Hearing, SessionStanding, TransactionStanding};
pub use stage::{Interest, Stage, StageSet};
pub use verdict::Verdict;
