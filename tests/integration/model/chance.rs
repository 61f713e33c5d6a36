//! Strategies that make up steps: some at random, and some in the order in which things go wrong.

use proptest::prelude::*;

use super::operations::{
    Age, Answer, Draft, Fault, Job, Operation, Outage, Patching, Probe, REPLICAS, SLOTS, Step, Stop,
};

fn number() -> impl Strategy<Value = usize> {
    0usize..1000
}

/// Makes up an age; `young` is the weight of each age that is not old.
fn age(young: u32) -> impl Strategy<Value = Age> {
    // Many events ripen soon, some late: how long jobs are held depends on the machine.
    prop_oneof![
        100 - young => Just(Age::Old),
        young => Just(Age::Young),
        young => (0u16..60).prop_map(|root| Age::Ripening(root * root)),
    ]
}

fn draft(young: u32) -> impl Strategy<Value = Draft> {
    let person = prop::option::weighted(0.3, 0u8..3);
    (0u8..3, 0u8..3, age(young), prop::bool::weighted(0.06), person)
        .prop_map(|(event_type, stream, age, is_large, person)| Draft { event_type, stream, age, is_large, person })
}

fn job() -> impl Strategy<Value = Job> {
    prop_oneof![3 => Just(Job::Archive), 2 => Just(Job::Rewrite), 1 => Just(Job::Sweep)]
}

fn stop() -> impl Strategy<Value = Stop> {
    (1usize..9, any::<bool>()).prop_map(|(request, is_answer)| Stop { request, is_answer })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::LoseRequest),
        Just(Fault::LoseReply),
        Just(Fault::Busy),
        Just(Fault::Lie),
        any::<u8>().prop_map(Fault::Cut),
    ]
}

fn publish() -> impl Strategy<Value = Operation> {
    prop_oneof![
        1 => prop::collection::vec((number(), draft(15)), 1..4).prop_map(Operation::Publish),
        2 => (number(), prop::collection::vec(draft(12), 1..7)).prop_map(|(log, drafts)| {
            Operation::Publish(drafts.into_iter().map(|draft| (log, draft)).collect())
        }),
    ]
}

fn edit() -> impl Strategy<Value = Operation> {
    let patching = prop_oneof![
        4 => Just(Patching::Replace),
        1 => Just(Patching::Erase),
        1 => Just(Patching::Nested),
        1 => Just(Patching::Absent),
    ];
    prop_oneof![
        4 => (number(), number(), patching).prop_map(|(log, event, patching)| Operation::Edit(log, event, patching)),
        1 => (number(), number()).prop_map(|(log, event)| Operation::Introduce(log, event)),
        1 => (number(), number()).prop_map(|(log, event)| Operation::Invalidate(log, event)),
        1 => (number(), 0u8..4, 0u8..4).prop_map(|(log, old, new)| Operation::Rename(log, old, new)),
    ]
}

/// Makes up an operation that needs no preparation.
fn operation() -> impl Strategy<Value = Operation> {
    let answer = prop_oneof![12 => Just(Answer::Handled), 1 => Just(Answer::Again), 2 => Just(Answer::Failed)];
    prop_oneof![
        10 => publish(),
        8 => edit(),
        1 => (number(), number(), prop::collection::vec(draft(8), 1..4))
            .prop_map(|(log, event, drafts)| Operation::Import(log, event, drafts)),
        3 => (number(), number(), any::<bool>(), draft(8))
            .prop_map(|(log, event, differs, draft)| Operation::Repeat(log, event, differs, draft)),
        1 => (number(), number()).prop_map(|(log, event)| Operation::Snapshot(log, event)),
        7 => job().prop_map(Operation::Run),
        2 => (job(), 1usize..7, fault()).prop_map(|(job, request, fault)| Operation::RunWith(job, request, fault)),
        3 => (0..SLOTS, job(), stop()).prop_map(|(slot, job, stop)| Operation::Start(slot, job, stop)),
        2 => (0..SLOTS, stop()).prop_map(|(slot, stop)| Operation::Advance(slot, stop)),
        3 => (0..SLOTS, prop::bool::weighted(0.2)).prop_map(|(slot, is_lost)| Operation::Finish(slot, is_lost)),
        1 => (0..SLOTS).prop_map(Operation::Kill),
        2 => Just(Operation::ExpireLeases),
        1 => Just(Operation::Restart),
        2 => prop::collection::vec(answer, 1..6).prop_map(Operation::Consume),
    ]
}

fn probe() -> impl Strategy<Value = Probe> {
    let (from, skip, limit) =
        (prop_oneof![Just(1i64), 1i64..30], prop_oneof![Just(0i64), 0i64..20], prop_oneof![0i64..20, Just(i64::MAX)]);
    let types = || prop::collection::vec(0u8..4, 0..4);
    prop_oneof![
        4 => (types(), prop::option::weighted(0.2, 0u8..4), from, skip, limit).prop_map(
            |(types, stream, from, skip, limit)| Probe::Page { types, stream, from, skip, limit }
        ),
        2 => number().prop_map(Probe::ById),
        1 => types().prop_map(Probe::Last),
        1 => (0u8..4, 1i64..20, 0i64..3, 0i64..6, any::<bool>()).prop_map(
            |(stream, from, page, per_page, is_through_snapshot)| {
                Probe::Stream { stream, from, page, per_page, is_through_snapshot }
            }
        ),
    ]
}

fn step(operation: impl Strategy<Value = Operation>) -> impl Strategy<Value = Step> {
    (0..REPLICAS, operation, number(), prop::collection::vec(probe(), 1..3))
        .prop_map(|(replica, operation, log, probes)| Step { replica, operation, log, probes })
}

fn at_random() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(operation()), 3..10)
}

/// A job stops while others go on, and goes on itself when its lease may be over.
fn held_job() -> impl Strategy<Value = Vec<Step>> {
    let start = (0..SLOTS, job(), stop()).prop_map(|(slot, job, stop)| Operation::Start(slot, job, stop));
    let expire = prop::option::of(step(Just(Operation::ExpireLeases)));
    let meanwhile = prop::collection::vec(step(prop_oneof![2 => publish(), 3 => edit(), 2 => operation()]), 0..4);
    let finish = (0..SLOTS, prop::bool::weighted(0.2)).prop_map(|(slot, is_lost)| Operation::Finish(slot, is_lost));
    (step(publish()), step(start), expire, meanwhile, step(finish)).prop_map(
        |(publish, start, expire, meanwhile, finish)| {
            [publish, start].into_iter().chain(expire).chain(meanwhile).chain([finish]).collect()
        },
    )
}

/// Two writers of the same archives are both stopped; the second one runs because the lease of the first has expired.
fn duel() -> impl Strategy<Value = Vec<Step>> {
    let start = |slot, job: BoxedStrategy<Job>| {
        let stop = (1usize..6, any::<bool>()).prop_map(|(request, is_answer)| Stop { request, is_answer });
        step((job, stop).prop_map(move |(job, stop)| Operation::Start(slot, job, stop)))
    };
    let batch = || {
        let drafts = prop::collection::vec(draft(8), 4..7);
        step(
            (number(), drafts)
                .prop_map(|(log, drafts)| Operation::Publish(drafts.into_iter().map(|draft| (log, draft)).collect())),
        )
    };
    let archive_now = || step(Just(Operation::Run(Job::Archive)));
    let first = prop_oneof![
        3 => (batch(), start(0, Just(Job::Archive).boxed())).prop_map(|(batch, start)| vec![batch, start]),
        2 => (batch(), archive_now(), step(edit()), step(edit()), start(0, Just(Job::Rewrite).boxed()))
            .prop_map(|(batch, archive, one, two, start)| vec![batch, archive, one, two, start]),
    ];
    let second = prop_oneof![2 => Just(Job::Sweep), 1 => Just(Job::Archive), 1 => Just(Job::Rewrite)];
    let go_on = (0..SLOTS, stop()).prop_map(|(slot, stop)| Operation::Advance(slot, stop));
    let any_end = prop_oneof![
        2 => go_on,
        2 => (0..SLOTS).prop_map(|slot| Operation::Finish(slot, false)),
        1 => (0..SLOTS).prop_map(Operation::Kill),
        1 => edit(),
    ];
    let finish = |slot| step(Just(Operation::Finish(slot, false)));
    let end = prop_oneof![
        (finish(0), finish(1)).prop_map(|(first, second)| vec![first, second]),
        prop::collection::vec(step(any_end), 1..4),
    ];
    let expire = step(Just(Operation::ExpireLeases));
    (first, prop::option::of(step(edit())), expire, start(1, second.boxed()), end).prop_map(
        |(first, edit, expire, second, end)| first.into_iter().chain(edit).chain([expire, second]).chain(end).collect(),
    )
}

fn outage() -> impl Strategy<Value = Vec<Step>> {
    let outage = prop_oneof![1 => Just(Outage::Gone), 4 => Just(Outage::Locked)];
    let meanwhile = prop::collection::vec(step(operation()), 1..4);
    (step(outage.prop_map(Operation::Outage)), meanwhile, step(Just(Operation::Heal)))
        .prop_map(|(begin, meanwhile, end)| [begin].into_iter().chain(meanwhile).chain([end]).collect())
}

fn subscription() -> impl Strategy<Value = Vec<Step>> {
    let meanwhile = prop::collection::vec(step(operation()), 2..10);
    let end = prop::option::of(step(Just(Operation::Leave)));
    (step(Just(Operation::Subscribe)), meanwhile, end)
        .prop_map(|(begin, meanwhile, end)| [begin].into_iter().chain(meanwhile).chain(end).collect())
}

/// Makes up a case: parts that each have something in mind, one after the other.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let part = prop_oneof![
        5 => at_random().boxed(),
        3 => held_job().boxed(),
        3 => duel().boxed(),
        1 => outage().boxed(),
        1 => subscription().boxed(),
    ];
    let begin = prop::collection::vec(step(publish()), 1..3);
    (begin, prop::collection::vec(part, 3..9))
        .prop_map(|(begin, parts)| begin.into_iter().chain(parts.into_iter().flatten()).collect())
}
