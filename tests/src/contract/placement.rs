//! Placing: the limit of an engine, whose turn it is, what is used, and namespaces.

use std::time::Duration;

use renga_shared::domain::{EngineName, ExecutionId, Timestamp, Why};
use renga_shared::placement::{Amount, Capacity, Namespaces, Needs, Offer, Room};
use renga_shared::sql::executions::{Asked, NewExecutionRow, insert};
use renga_shared::sql::observations::{
    Observation, Placing, all_served, claim, forget_turns, load, place, queue, record, served, wake,
};
use renga_shared::sql::{Database, Visible, engines, reconcilers};

use super::{Ticker, ask, context, execution, inserted};

const HOLDER: &str = "placer";
const SPEC: &str = r#"{"image":"busybox"}"#;

fn named(name: &str) -> EngineName {
    EngineName::parse(name).unwrap()
}

/// An execution of `owner`'s that the placer holds.
async fn waiting(db: &impl Database, time: &mut Ticker, owner: &str) -> ExecutionId {
    let context = context(db, time.now(), owner, SPEC).await;
    let row = execution(db, context.id, time.now()).await;
    let now = time.now();
    reconcilers::renew(db, HOLDER, now.plus(Duration::from_secs(1_000))).await.unwrap();
    assert_eq!(claim(db, HOLDER, now, &[row.id]).await.unwrap(), [row.id]);
    row.id
}

async fn revision(db: &impl Database, id: ExecutionId) -> i64 {
    load(db, HOLDER, id).await.unwrap().unwrap().execution.revision
}

async fn try_to_place(db: &impl Database, id: ExecutionId, engine: &EngineName, max: Option<u32>) -> bool {
    let needs = Needs {
        resources: [("cpu", 500), ("memory", 1_000), ("nvidia.com/gpu", 1)]
            .map(|(name, amount)| (name.to_owned(), Amount(amount)))
            .into(),
        ..Needs::default()
    };
    let placing = Placing { engine, placement: r#"{"engine":"x"}"#, max, needs: &needs };
    place(db, HOLDER, id, revision(db, id).await, &placing).await.unwrap().is_some()
}

async fn end(db: &impl Database, id: ExecutionId, now: Timestamp) {
    let work = load(db, HOLDER, id).await.unwrap().unwrap();
    let failed = work.execution.status.failed(Why::new("Test", "For a test."), now).unwrap();
    record(db, HOLDER, id, work.execution.revision, &Observation::of(failed)).await.unwrap().unwrap();
}

async fn join(db: &impl Database, id: ExecutionId, engines: &str) {
    let work = load(db, HOLDER, id).await.unwrap().unwrap();
    let waits = Observation { queued_on: Some(engines.into()), ..Observation::of(work.execution.status) };
    record(db, HOLDER, id, work.execution.revision, &waits).await.unwrap().unwrap();
    assert_eq!(load(db, HOLDER, id).await.unwrap().unwrap().queued_on.as_deref(), Some(engines));
}

pub(super) async fn keeps_the_limit_of_an_engine(db: &impl Database) {
    let mut time = Ticker::new(30);
    let engine = named("narrow");
    engines::put(db, &engine, "fake", Ok("1"), time.now()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(waiting(db, &mut time, "alice").await);
    }
    assert!(try_to_place(db, ids[0], &engine, None).await, "placed before there was a limit");
    assert!(try_to_place(db, ids[1], &engine, Some(2)).await, "the second of two places");
    assert!(!try_to_place(db, ids[2], &engine, Some(2)).await, "there is no third");
    let work = load(db, HOLDER, ids[1]).await.unwrap().unwrap();
    assert_eq!(work.execution.status.engine(), Some(&engine));
    let stored: serde_json::Value = serde_json::from_str(work.execution.placement.as_deref().unwrap()).unwrap();
    assert_eq!(stored["engine"], "x");
    end(db, ids[0], time.now()).await;
    assert!(try_to_place(db, ids[2], &engine, Some(2)).await, "its end makes room");
    assert!(!try_to_place(db, ids[3], &engine, Some(2)).await);
    end(db, ids[1], time.now()).await;
    assert!(try_to_place(db, ids[3], &engine, Some(2)).await, "the place of one in the middle is used again");
    assert!(!try_to_place(db, ids[3], &engine, None).await, "what is placed is not placed again");

    let now = time.now();
    let row = async || engines::list(db, now).await.unwrap().into_iter().find(|row| row.name == engine).unwrap();
    let usage = row().await.usage;
    assert_eq!((usage.placed, usage.running, usage.waiting), (2, 0, 0));
    assert_eq!((usage.cpu_millis, usage.memory_bytes), (1_000, 2_000));
    assert_eq!(usage.extended, [("nvidia.com/gpu".to_owned(), 2)].into());
    let total = [("cpu", 4_000), ("memory", 1_500), ("nvidia.com/gpu", 4), ("example.com/fpga", 2)];
    let total = total.map(|(name, amount)| (name.to_owned(), Amount(amount)));
    let room = Room { total: total.into(), ..Room::default() };
    let offer = Offer { max: Some(2), capacity: Capacity::Known(room), ..Offer::default() };
    engines::describe(db, &engine, &offer, "fake://?max=2").await.unwrap();
    let row = row().await;
    assert_eq!((&row.offer, row.url.as_deref()), (&offer, Some("fake://?max=2")));
    let candidate = row.candidate();
    let free = &candidate.offer.capacity.room().unwrap().free;
    assert_eq!(
        (free["cpu"], free["memory"], free["nvidia.com/gpu"], free["example.com/fpga"]),
        (Amount(3_000), Amount(0), Amount(2), Amount(2)),
        "less what is requested, and never below nothing"
    );
}

/// A version that did not bound quantities stored such amounts.
pub(super) async fn adds_up_amounts_that_no_sum_can_hold(db: &impl Database) {
    let mut time = Ticker::new(33);
    let engine = named("hoard");
    engines::put(db, &engine, "fake", Ok("1"), time.now()).await.unwrap();
    let most = |name: &str| (name.to_owned(), Amount(i64::MAX));
    let needs = Needs { resources: ["cpu", "memory", "nvidia.com/gpu"].map(most).into(), ..Needs::default() };
    for _ in 0..3 {
        let id = waiting(db, &mut time, "alice").await;
        let placing = Placing { engine: &engine, placement: r#"{"engine":"x"}"#, max: None, needs: &needs };
        place(db, HOLDER, id, revision(db, id).await, &placing).await.unwrap().unwrap();
    }
    let usage = engines::list(db, time.now()).await.unwrap().into_iter().find(|row| row.name == engine).unwrap().usage;
    assert_eq!((usage.placed, usage.cpu_millis, usage.memory_bytes), (3, i64::MAX, i64::MAX));
    assert_eq!(usage.extended, [("nvidia.com/gpu".to_owned(), i64::MAX)].into());
    let total = [most("cpu"), most("memory")].into();
    let free = Room { total, ..Room::default() }.less(&usage).free;
    assert_eq!((free["cpu"], free["memory"]), (Amount(0), Amount(0)));
}

pub(super) async fn takes_turns_by_owner(db: &impl Database) {
    let mut time = Ticker::new(31);
    let (engine, other) = (named("popular"), named("other"));
    engines::put(db, &engine, "fake", Ok("1"), time.now()).await.unwrap();
    let placed = waiting(db, &mut time, "greedy").await;
    assert!(try_to_place(db, placed, &engine, Some(1)).await);
    let mut greedy = Vec::new();
    for _ in 0..3 {
        greedy.push(waiting(db, &mut time, "greedy").await);
    }
    let modest = waiting(db, &mut time, "modest").await;
    let elsewhere = waiting(db, &mut time, "modest").await;
    for id in greedy.iter().chain([&modest]) {
        join(db, *id, ",other,popular,").await;
    }
    join(db, elsewhere, ",other,").await;
    assert_eq!(queue(db, &engine, 10).await.unwrap(), [modest, greedy[0], greedy[1], greedy[2]]);
    assert_eq!(queue(db, &engine, 2).await.unwrap(), [modest, greedy[0]]);
    let of_other = queue(db, &other, 10).await.unwrap();
    assert_eq!(
        of_other,
        [greedy[0], modest, greedy[1], elsewhere, greedy[2]],
        "nobody has any there: one after the other"
    );
    assert_eq!(queue(db, &named("opul"), 10).await.unwrap(), [], "a part of a name is no name");
    let waits =
        engines::list(db, time.now()).await.unwrap().into_iter().find(|row| row.name == engine).unwrap().usage.waiting;
    assert_eq!(waits, 4);

    // Of two who have as many there, it is the turn of who was served longer ago.
    all_served(db, &engine, time.now()).await.unwrap();
    end(db, placed, time.now()).await;
    assert_eq!(queue(db, &engine, 2).await.unwrap(), [modest, greedy[0]], "greedy had one when others began to wait");
    forget_turns(db, time.now()).await.unwrap();
    assert_eq!(queue(db, &engine, 2).await.unwrap(), [greedy[0], modest], "neither was ever served: the older one");
    served(db, &engine, "modest", time.now()).await.unwrap();
    served(db, &engine, "greedy", time.now()).await.unwrap();
    assert_eq!(queue(db, &engine, 2).await.unwrap(), [modest, greedy[0]]);
    forget_turns(db, time.now()).await.unwrap();
    assert_eq!(queue(db, &engine, 2).await.unwrap(), [greedy[0], modest]);

    let now = time.now();
    wake(db, &[modest, placed], now).await.unwrap();
    assert_eq!(load(db, HOLDER, modest).await.unwrap().unwrap().due, Some(now));
    assert_ne!(load(db, HOLDER, placed).await.unwrap().unwrap().due, Some(now), "what is placed waits for no place");
    assert!(try_to_place(db, modest, &engine, Some(2)).await);
    assert_eq!(queue(db, &engine, 10).await.unwrap(), greedy, "who is placed waits no longer");
    end(db, greedy[0], now).await;
    assert_eq!(queue(db, &engine, 10).await.unwrap(), greedy[1..]);
}

pub(super) async fn stays_in_the_namespaces_that_are_allowed(db: &impl Database) {
    let mut time = Ticker::new(32);
    let engine = named("fenced");
    engines::put(db, &engine, "fence", Ok("1"), time.now()).await.unwrap();
    let fenced = Offer { namespaces: Namespaces::Only(vec!["team-a".into(), "team-b".into()]), ..Offer::default() };
    engines::describe(db, &engine, &fenced, "fake://").await.unwrap();
    let mine = context(db, time.now(), "alice", SPEC).await;
    let asked = async |engine, namespace, now| {
        let new = NewExecutionRow { engine, namespace, visible: Visible::To("alice"), ..ask(mine.id, now) };
        insert(db, &new).await.unwrap()
    };
    for allowed in ["default", "team-a", "team-b"] {
        inserted(asked(Some("fenced"), allowed, time.now()).await);
    }
    for denied in ["team", "team-a-b", "kube-system"] {
        assert_eq!(asked(Some("fence"), denied, time.now()).await, Asked::NamespaceNotAllowed, "{denied}");
    }
    // Another engine has no namespaces, or takes any.
    engines::put(db, &named("open"), "fake", Ok("1"), time.now()).await.unwrap();
    inserted(asked(None, "kube-system", time.now()).await);
}
