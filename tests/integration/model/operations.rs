//! What may happen to a service, as values.
//!
//! Numbers are taken modulo what there is when their turn comes, so that any list of steps means something, and a list
//! that lost some still does.

pub const REPLICAS: usize = 2;
/// Runs that can be held at once.
pub const SLOTS: usize = 2;

#[derive(Debug, Clone, Copy)]
pub enum Age {
    Old,
    Young,
    /// Old enough after so many milliseconds.
    Ripening(u16),
}

/// An event to be made.
#[derive(Debug, Clone)]
pub struct Draft {
    pub event_type: u8,
    pub stream: u8,
    pub age: Age,
    /// Two of them fill a member.
    pub is_large: bool,
    /// Whose name it bears, if that is personal.
    pub person: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
pub enum Patching {
    Replace,
    Erase,
    Nested,
    /// Of a field that is not there.
    Absent,
}

/// What a background job does.
#[derive(Debug, Clone, Copy)]
pub enum Job {
    Archive,
    Rewrite,
    Sweep,
}

/// What becomes of one request of a job.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    LoseRequest,
    LoseReply,
    Busy,
    /// The upload is said to be complete, and is not.
    Lie,
    Cut(u8),
}

/// Where a job stops: at its n-th request, before it happens or before its answer arrives.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    pub request: usize,
    pub is_answer: bool,
}

/// What an S3 server does to everybody.
#[derive(Debug, Clone, Copy)]
pub enum Outage {
    Gone,
    /// The credentials are not what they were.
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
    /// All or nothing, whatever the logs.
    Publish(Vec<(usize, Draft)>),
    Import(usize, usize, Vec<Draft>),
    /// An event that is there already, perhaps with other content, and a new one.
    Repeat(usize, usize, bool, Draft),
    Edit(usize, usize, Patching),
    Introduce(usize, usize),
    Invalidate(usize, usize),
    Rename(usize, u8, u8),
    Snapshot(usize, usize),
    Run(Job),
    RunWith(Job, usize, Fault),
    /// In the background, up to where it stops.
    Start(usize, Job, Stop),
    /// It goes on, up to where it stops next.
    Advance(usize, Stop),
    /// It goes on to its end; or the request that was held is lost.
    Finish(usize, bool),
    /// It dies; what it had sent is still on its way.
    Kill(usize),
    ExpireLeases,
    /// A process ends, and another takes its place that has nothing in memory.
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

/// By which replica, what, and which questions follow: the first about the log that was changed last, the others about
/// this one and the next.
#[derive(Debug, Clone)]
pub struct Step {
    pub replica: usize,
    pub operation: Operation,
    pub log: usize,
    pub probes: Vec<Probe>,
}
