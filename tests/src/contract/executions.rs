//! Executions as the API uses them: wishes and reads.

use renga_shared::domain::{ClientState, ContextId, EngineName, ExecutionId, Phase, Wanted};
use renga_shared::sql::executions::{Asked, ExecutionFilter, NewExecutionRow, get, insert, list};
use renga_shared::sql::{Database, Idempotency, Inserted, Page, Visible, engines};

use super::{Ticker, ask, context, docker, execution, inserted, wish};

const SPEC: &str = r#"{"image":"busybox"}"#;

pub(super) async fn belong_to_their_context(db: &impl Database) {
    let mut time = Ticker::new(10);
    let mine = context(db, time.now(), "alice", SPEC).await;
    let other = context(db, time.now(), "alice", SPEC).await;
    let new =
        NewExecutionRow { environment: r#"{"A":"1"}"#, visible: Visible::To("alice"), ..ask(mine.id, time.now()) };
    let row = inserted(insert(db, &new).await.unwrap());
    assert_eq!((row.status.phase(), row.wanted, row.revision), (Phase::Pending, Wanted::Running, 1));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&row.environment).unwrap(), serde_json::json!({"A": "1"}));
    assert_eq!(row.ports, "[]");
    assert_eq!(get(db, Visible::To("alice"), mine.id, row.id).await.unwrap().as_ref(), Some(&row));
    assert_eq!(get(db, Visible::To("bob"), mine.id, row.id).await.unwrap(), None);
    assert_eq!(get(db, Visible::To("alice"), other.id, row.id).await.unwrap(), None, "under another context");

    let of_bob = NewExecutionRow { visible: Visible::To("bob"), ..ask(mine.id, time.now()) };
    assert_eq!(insert(db, &of_bob).await.unwrap(), Asked::NoContext);
    let unknown = ContextId::new(time.now(), [7; 8]);
    assert_eq!(insert(db, &ask(unknown, time.now())).await.unwrap(), Asked::NoContext);

    let now = time.now();
    let again = |seed, digest| NewExecutionRow {
        id: ExecutionId::new(now, [seed; 8]),
        idempotency: Some(Idempotency { key: "once", digest }),
        ..ask(mine.id, now)
    };
    let first = inserted(insert(db, &again(1, "a")).await.unwrap());
    let repeated = insert(db, &again(2, "a")).await.unwrap();
    assert_eq!(repeated, Asked::Inserted(Box::new(Inserted::Again(first))));
    assert_eq!(insert(db, &again(3, "b")).await.unwrap(), Asked::Inserted(Box::new(Inserted::KeyReused)));
}

pub(super) async fn name_engines_that_are_served(db: &impl Database) {
    let mut time = Ticker::new(11);
    let mine = context(db, time.now(), "alice", SPEC).await;
    let named = |engine, now| NewExecutionRow { engine: Some(engine), ..ask(mine.id, now) };
    assert_eq!(insert(db, &named("warp", time.now())).await.unwrap(), Asked::NoEngine);
    engines::put(db, &docker(), "docker", Ok("1"), time.now()).await.unwrap();
    engines::put(db, &EngineName::parse("warp-1").unwrap(), "warp", Err("down"), time.now()).await.unwrap();
    for (engine, what) in [("docker", "by name"), ("warp", "by kind"), ("warp-1", "down is no reason")] {
        let row = inserted(insert(db, &named(engine, time.now())).await.unwrap());
        assert_eq!(row.wanted_engine.as_deref(), Some(engine), "{what}");
    }
    assert_eq!(insert(db, &named("dock", time.now())).await.unwrap(), Asked::NoEngine);
}

pub(super) async fn wishes_only_go_further(db: &impl Database) {
    let mut time = Ticker::new(12);
    let mine = context(db, time.now(), "alice", SPEC).await;
    let row = execution(db, mine.id, time.now()).await;
    let stopped = wish(db, &row, Wanted::Stopped, time.now()).await;
    assert_eq!((stopped.wanted, stopped.revision), (Wanted::Stopped, 2));
    let again = wish(db, &row, Wanted::Stopped, time.now()).await;
    assert_eq!(again, stopped, "repeating a wish changes nothing");
    let removed = wish(db, &row, Wanted::Removed, time.now()).await;
    assert_eq!((removed.wanted, removed.revision), (Wanted::Removed, 3));
    assert_eq!(removed.client_state(), ClientState::Unavailable);
    assert_eq!(wish(db, &row, Wanted::Stopped, time.now()).await, removed, "what is to be removed stays so");
    let nobody =
        renga_shared::sql::executions::wish(db, Visible::To("bob"), row.context, row.id, Wanted::Removed, time.now());
    assert_eq!(nobody.await.unwrap(), None);
}

pub(super) async fn are_listed_by_context_owner_label_and_state(db: &impl Database) {
    let mut time = Ticker::new(13);
    let labelled = context(db, time.now(), "erin", r#"{"image":"i","labels":["team=x"]}"#).await;
    let plain = context(db, time.now(), "erin", SPEC).await;
    let mut of_labelled = Vec::new();
    let mut all = Vec::new();
    for number in 0..6 {
        let of = if number % 2 == 0 { &labelled } else { &plain };
        let row = execution(db, of.id, time.now()).await;
        all.insert(0, row.id);
        if of.id == labelled.id {
            of_labelled.insert(0, row.id);
        }
    }
    let erin = ExecutionFilter { visible: Visible::To("erin"), context: None, label: None, state: None };
    let ids = async |filter: ExecutionFilter<'_>, before, limit| {
        let rows = list(db, &filter, Page { before, limit }).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(erin, None, 100).await, all);
    assert_eq!(ids(erin, Some(all[1]), 2).await, all[2..4]);
    let of_context = ExecutionFilter { context: Some(labelled.id), ..erin };
    assert_eq!(ids(of_context, None, 9).await, of_labelled);
    let by_label = ExecutionFilter { label: Some("team"), ..erin };
    assert_eq!(ids(by_label, Some(of_labelled[0]), 9).await, of_labelled[1..]);
    let both = ExecutionFilter { label: Some("team=x"), context: Some(plain.id), ..erin };
    assert_eq!(ids(both, None, 9).await, []);

    let row = get(db, Visible::All, labelled.id, of_labelled[0]).await.unwrap().unwrap();
    wish(db, &row, Wanted::Removed, time.now()).await;
    let unavailable = ExecutionFilter { state: Some(ClientState::Unavailable), ..erin };
    assert_eq!(ids(unavailable, None, 9).await, [row.id]);
    let pending = ExecutionFilter { state: Some(ClientState::Pending), ..by_label };
    assert_eq!(ids(pending, None, 9).await, of_labelled[1..]);
    assert_eq!(ids(ExecutionFilter { visible: Visible::To("nobody"), ..erin }, None, 9).await, []);
}
