//! The things that may happen to a service, as values.
//!
//! Numbers are taken modulo what there is when their turn comes, so that any list of steps means something, and so does
//! a list that lost some.

pub const REPLICAS: usize = 2;
/// The number of runs that can be held at once.
pub const SLOTS: usize = 2;

#[derive(Debug, Clone, Copy)]
pub enum Age {
    Old,
    Young,
    /// Old enough after this many milliseconds.
    Ripening(u16),
}

/// An event to be made.
#[derive(Debug, Clone)]
pub struct Draft {
    pub event_type: u8,
    pub stream: u8,
    pub age: Age,
    /// Two large events fill a member.
    pub is_large: bool,
    /// The person whose name the event bears, if that is personal.
    pub person: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
pub enum Patching {
    Replace,
    Erase,
    Nested,
    /// An edit of a field that is not there.
    Absent,
}

/// A run of a background job.
#[derive(Debug, Clone, Copy)]
pub enum Job {
    Archive,
    Rewrite,
    Sweep,
}

/// A fault that one request of a job meets.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    LoseRequest,
    LoseReply,
    Busy,
    /// The upload is said to be complete, and is not.
    Lie,
    Cut(u8),
}

/// The place at which a job stops: its n-th request, before that happens or before the answer arrives.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    pub request: usize,
    pub is_answer: bool,
}

/// An outage of the S3 server for everybody.
#[derive(Debug, Clone, Copy)]
pub enum Outage {
    Gone,
    /// The server does not take the credentials any more.
    Locked,
}

#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Handled,
    Again,
    Failed,
}

#[derive(Debug, Clone)]
pub enum Operation {
    /// Publishes all events or none, whatever the logs.
    Publish(Vec<(usize, Draft)>),
    Import(usize, usize, Vec<Draft>),
    /// Publishes an event that is there already, perhaps with other content, and a new one.
    Repeat(usize, usize, bool, Draft),
    Edit(usize, usize, Patching),
    Introduce(usize, usize),
    Invalidate(usize, usize),
    Rename(usize, u8, u8),
    Snapshot(usize, usize),
    Run(Job),
    RunWith(Job, usize, Fault),
    /// Starts a job in the background, up to its stop.
    Start(usize, Job, Stop),
    /// Lets the job of a slot go on to its next stop.
    Advance(usize, Stop),
    /// Lets the job of a slot go on to its end, or loses the request that was held.
    Finish(usize, bool),
    /// Kills the job of a slot; what it had sent is still on its way.
    Kill(usize),
    ExpireLeases,
    /// Ends a process, and starts another in its place that has nothing in memory.
    Restart,
    Outage(Outage),
    Heal,
    Subscribe,
    Consume(Vec<Answer>),
    Leave,
}

/// A question that the model can answer.
#[derive(Debug, Clone)]
pub enum Probe {
    Page { types: Vec<u8>, stream: Option<u8>, from: i64, skip: i64, limit: i64 },
    ById(usize),
    Last(Vec<u8>),
    Stream { stream: u8, from: i64, page: i64, per_page: i64, is_through_snapshot: bool },
}

/// An operation by a replica, and the questions that follow: the first one is about the log that was changed last, the
/// others are about `log` and the next.
#[derive(Debug, Clone)]
pub struct Step {
    pub replica: usize,
    pub operation: Operation,
    pub log: usize,
    pub probes: Vec<Probe>,
}
