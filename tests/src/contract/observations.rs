//! Executions as the reconciler uses them: claims and records.

use std::time::Duration;

use renga_shared::domain::{ClientState, Facts, Phase, Status, Timestamp, Wanted, Why};
use renga_shared::sql::executions::{ExecutionRow, get};
use renga_shared::sql::observations::{
    CLAIMED_FOR, Observation, Work, claim, claim_due, count_by_phase, defer, held, load, next_due, record, release_all,
    release_dead, wake_engine, with_object,
};
use renga_shared::sql::{Database, Visible, reconcilers};

use super::{Ticker, context, docker, execution, wish};

const SPEC: &str = r#"{"image":"busybox"}"#;
const LEASE: Duration = Duration::from_secs(15);

async fn new_execution(db: &impl Database, time: &mut Ticker) -> ExecutionRow {
    let context = context(db, time.now(), "alice", SPEC).await;
    execution(db, context.id, time.now()).await
}

/// Claims what earlier parts of the suite left due, so that this part sees its own rows alone.
async fn clear(db: &impl Database, now: Timestamp) {
    reconcilers::renew(db, "cleaner", now.plus(LEASE * 10_000)).await.unwrap();
    while !claim_due(db, "cleaner", now, 1_000).await.unwrap().is_empty() {}
}

async fn claimed(db: &impl Database, holder: &str, row: &ExecutionRow, now: Timestamp) -> Work {
    assert_eq!(claim(db, holder, now, &[row.id]).await.unwrap(), [row.id]);
    load(db, holder, row.id).await.unwrap().unwrap()
}

fn seen(status: Status) -> Observation {
    Observation::of(status)
}

pub(super) async fn are_claimed_by_one_at_a_time(db: &impl Database) {
    let mut time = Ticker::new(20);
    clear(db, time.now()).await;
    let mut rows = Vec::new();
    for _ in 0..5 {
        rows.push(new_execution(db, &mut time).await);
    }
    let early = rows[0].created.minus(Duration::from_micros(1));
    assert_eq!(claim_due(db, "one", early, 10).await.unwrap(), [], "none is due yet");
    assert_eq!(next_due(db, "one", early).await.unwrap(), Some(rows[0].created));
    let now = time.now();
    reconcilers::renew(db, "one", now.plus(LEASE)).await.unwrap();
    reconcilers::renew(db, "two", now.plus(LEASE)).await.unwrap();
    let first = claim_due(db, "one", now, 3).await.unwrap();
    assert_eq!(first.len(), 3);
    assert!(rows[..3].iter().all(|row| first.contains(&row.id)), "the longest due first");
    let second = claim_due(db, "two", now, 10).await.unwrap();
    assert_eq!(second.len(), 2);
    assert!(first.iter().all(|id| !second.contains(id)));
    assert_eq!(next_due(db, "one", now).await.unwrap(), Some(now.plus(CLAIMED_FOR)), "in case nothing comes of it");
    assert!(claim(db, "two", now, &[first[0]]).await.unwrap().is_empty(), "it is somebody else's");
    assert_eq!(claim(db, "one", now, &[first[0]]).await.unwrap(), [first[0]], "one may claim one's own again");
    let work = load(db, "one", first[0]).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&work.spec).unwrap(), serde_json::json!({"image": "busybox"}));
    assert_eq!(work.owner, "alice");
    assert_eq!(work.due, Some(now.plus(CLAIMED_FOR)));
    assert_eq!(load(db, "two", first[0]).await.unwrap(), None);

    let due = now.plus(LEASE);
    let put_off = async |holder, id, revision, due| defer(db, holder, id, revision, due).await.unwrap();
    assert!(put_off("one", first[1], 1, Some(due)).await);
    assert_eq!(next_due(db, "one", now).await.unwrap(), Some(due));
    assert_eq!(next_due(db, "two", now).await.unwrap(), Some(now.plus(CLAIMED_FOR)), "what others hold is not for me");
    assert!(!put_off("two", first[1], 1, None).await, "it is somebody else's");
    assert!(!put_off("one", first[1], 0, None).await, "it has changed");
    assert!(put_off("one", first[1], 1, None).await);
    assert_eq!(load(db, "one", first[1]).await.unwrap().unwrap().due, None);
    assert_eq!(release_all(db, "one", now).await.unwrap().len(), 3);
    assert_eq!(claim_due(db, "two", now, 10).await.unwrap().len(), 3);
}

pub(super) async fn are_guarded_by_revision_and_holder(db: &impl Database) {
    let mut time = Ticker::new(21);
    let row = new_execution(db, &mut time).await;
    let now = time.now();
    reconcilers::renew(db, "one", now.plus(LEASE)).await.unwrap();
    let work = claimed(db, "one", &row, now).await;
    let scheduled = work.execution.status.scheduled(docker()).unwrap();
    let revision = record(db, "one", row.id, work.execution.revision, &seen(scheduled.clone())).await.unwrap().unwrap();
    assert_eq!(revision, 2);
    assert_eq!(
        record(db, "one", row.id, 1, &seen(scheduled.clone())).await.unwrap(),
        None,
        "an old revision writes nothing"
    );
    assert_eq!(
        record(db, "two", row.id, revision, &seen(scheduled.clone())).await.unwrap(),
        None,
        "another's row is not written"
    );

    // A wish during a pass makes the row due at once, and what the pass saw before is not recorded.
    let wished = time.now();
    let removed = wish(db, &row, Wanted::Removed, wished).await;
    assert_eq!(record(db, "one", row.id, revision, &seen(scheduled.clone())).await.unwrap(), None);
    assert_eq!(load(db, "one", row.id).await.unwrap().unwrap().due, Some(wished));
    let later = Observation { due: Some(wished.plus(LEASE)), attempts: 7, ..seen(scheduled) };
    let revision = record(db, "one", row.id, removed.revision, &later).await.unwrap().unwrap();
    let work = load(db, "one", row.id).await.unwrap().unwrap();
    assert_eq!(work.due, Some(wished.plus(LEASE)));
    assert_eq!((work.attempts, work.execution.wanted, work.execution.revision), (7, Wanted::Removed, revision));

    let started = time.now();
    let running = work
        .execution
        .status
        .created("abc".into())
        .and_then(|status| status.running(started))
        .and_then(|status| status.waiting(Some(Why::new("Because", "Of a test."))))
        .unwrap();
    let ports = r#"[{"specified":"80"}]"#;
    let with_ports = Observation { ports: Some(ports.into()), hold: false, ..seen(running.clone()) };
    record(db, "one", row.id, revision, &with_ports).await.unwrap().unwrap();
    let read = get(db, Visible::All, row.context, row.id).await.unwrap().unwrap();
    assert_eq!(read.status, running, "every fact is read back");
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(&read.ports), parse(ports));
    assert_eq!(load(db, "one", row.id).await.unwrap(), None, "it was let go");
}

pub(super) async fn of_the_dead_are_taken_over(db: &impl Database) {
    let mut time = Ticker::new(22);
    clear(db, time.now()).await;
    let row = new_execution(db, &mut time).await;
    let now = time.now();
    reconcilers::renew(db, "dying", now.plus(LEASE)).await.unwrap();
    reconcilers::renew(db, "heir", now.plus(LEASE)).await.unwrap();
    let work = claimed(db, "dying", &row, now).await;
    let scheduled = work.execution.status.scheduled(docker()).unwrap();
    record(db, "dying", row.id, work.execution.revision, &seen(scheduled.clone())).await.unwrap().unwrap();
    assert!(claim(db, "heir", now, &[row.id]).await.unwrap().is_empty());
    let after = now.plus(LEASE * 2);
    reconcilers::renew(db, "heir", after.plus(LEASE)).await.unwrap();
    assert!(release_dead(db, after).await.unwrap().contains(&row.id));
    assert!(claim_due(db, "heir", after, 100).await.unwrap().contains(&row.id));
    assert_eq!(record(db, "dying", row.id, 2, &seen(scheduled)).await.unwrap(), None, "the dead write nothing");
    reconcilers::renew(db, "heir", after.plus(LEASE)).await.unwrap();
    assert!(!release_dead(db, after).await.unwrap().contains(&row.id), "the living keep theirs");
    reconcilers::end(db, "heir").await.unwrap();
    assert!(release_dead(db, after).await.unwrap().contains(&row.id), "one that ended holds nothing");
    reconcilers::forget(db, now).await.unwrap();
}

pub(super) async fn show_the_state_that_the_domain_says(db: &impl Database) {
    let mut time = Ticker::new(23);
    let why = || Why::new("Test", "For a test.");
    for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Removed] {
        for phase in Phase::ALL {
            let row = new_execution(db, &mut time).await;
            let now = time.now();
            reconcilers::renew(db, "one", now.plus(LEASE)).await.unwrap();
            let row = if wanted == Wanted::Running { row } else { wish(db, &row, wanted, now).await };
            let work = claimed(db, "one", &row, now).await;
            let scheduled = Status::pending().scheduled(docker()).unwrap();
            let starting = scheduled.created("x".into()).unwrap();
            let running = starting.running(now).unwrap();
            let status = match phase {
                Phase::Pending => Status::pending(),
                Phase::Scheduled => scheduled,
                Phase::Starting => starting,
                Phase::Running => running,
                Phase::Stopping => running.stopping(why()).unwrap(),
                Phase::Exited => running.exited(137, None, now, why()).unwrap(),
                Phase::Failed => starting.failed(why(), now).unwrap(),
                Phase::Lost => running.lost(why(), now).unwrap(),
                Phase::Removed => Status::pending().removed(why(), now).unwrap(),
            };
            record(db, "one", row.id, work.execution.revision, &seen(status.clone())).await.unwrap().unwrap();
            let expected = ClientState::of(wanted, *phase);
            let filter = renga_shared::sql::executions::ExecutionFilter {
                visible: Visible::All,
                context: Some(row.context),
                label: None,
                state: Some(expected),
            };
            let page = renga_shared::sql::Page { before: None, limit: 2 };
            let listed = renga_shared::sql::executions::list(db, &filter, page).await.unwrap();
            assert_eq!(listed.len(), 1, "{phase} with {wanted} wanted is {expected}");
            assert_eq!(listed[0].status, status);
            if phase.is_terminal() && wanted == Wanted::Running {
                let row = wish(db, &row, Wanted::Stopped, time.now()).await;
                assert_eq!(row.wanted, Wanted::Running, "what has ended cannot be stopped");
            }
        }
    }
    assert!(!count_by_phase(db).await.unwrap().is_empty());
}

pub(super) async fn keep_the_end_that_was_recorded(db: &impl Database) {
    let mut time = Ticker::new(28);
    let why = || Why::new("Test", "For a test.");
    let running = Status::pending()
        .scheduled(docker())
        .and_then(|status| status.created("x".into()))
        .and_then(|status| status.running(time.now()))
        .unwrap();
    let now = time.now();
    let ends = [running.exited(3, None, now, why()), running.lost(why(), now), Status::pending().failed(why(), now)];
    for end in ends {
        let end = end.unwrap().facts();
        let row = new_execution(db, &mut time).await;
        let now = time.now();
        reconcilers::renew(db, "one", now.plus(LEASE)).await.unwrap();
        let mut revision = claimed(db, "one", &row, now).await.execution.revision;
        // No version can tell of another end: one that is faulty, or older, may try.
        let other = Facts {
            reason: Some("EngineBusy".into()),
            message: None,
            exit_code: Some(99),
            started: Some(time.now()),
            finished: Some(time.now()),
            ..end.clone()
        };
        let removed = Facts { phase: Phase::Removed, ..other.clone() };
        for (facts, phase) in [(end.clone(), end.phase), (other, end.phase), (removed, Phase::Removed)] {
            let status = Status::restore(facts).unwrap();
            revision = record(db, "one", row.id, revision, &seen(status)).await.unwrap().unwrap();
            let read = get(db, Visible::All, row.context, row.id).await.unwrap().unwrap();
            assert_eq!(read.status.facts(), Facts { phase, ..end.clone() });
        }
    }
}

pub(super) async fn tell_which_objects_are_owned(db: &impl Database) {
    let mut time = Ticker::new(24);
    let live = new_execution(db, &mut time).await;
    let ended = new_execution(db, &mut time).await;
    let now = time.now();
    reconcilers::renew(db, "one", now.plus(LEASE)).await.unwrap();
    for (row, end) in [(&live, false), (&ended, true)] {
        let work = claimed(db, "one", row, now).await;
        let running = work
            .execution
            .status
            .scheduled(docker())
            .and_then(|status| status.created("x".into()))
            .and_then(|status| status.running(now))
            .unwrap();
        let status = if end { running.lost(Why::new("Test", "For a test."), now).unwrap() } else { running };
        record(db, "one", row.id, 1, &seen(status)).await.unwrap().unwrap();
    }
    let unknown = renga_shared::domain::ExecutionId::new(time.now(), [8; 8]);
    assert_eq!(with_object(db, &[live.id, ended.id, unknown]).await.unwrap(), [live.id]);
    assert_eq!(with_object(db, &[]).await.unwrap(), []);
    assert!(held(db, "one", &docker()).await.unwrap().contains(&live.id));
    assert!(!held(db, "one", &docker()).await.unwrap().contains(&ended.id));
    assert!(!held(db, "two", &docker()).await.unwrap().contains(&live.id));

    let waiting = new_execution(db, &mut time).await;
    let now = time.now();
    let work = claimed(db, "one", &waiting, now).await;
    assert!(defer(db, "one", waiting.id, work.execution.revision, Some(now.plus(LEASE))).await.unwrap());
    wake_engine(db, &docker(), now).await.unwrap();
    assert!(
        claim_due(db, "one", now, 1_000).await.unwrap().contains(&waiting.id),
        "what waits for any engine is woken"
    );
}
