//! The tokens that wait for their launch: kept as they are until then, and gone from then on.

use std::time::Duration;

use renga_shared::auth::{NONCE_BYTES, SealKeys, SealedToken};
use renga_shared::domain::{ExecutionId, Phase, Status, Timestamp, Wanted, Why};
use renga_shared::sql::executions::{Asked, ExecutionRow, NewExecutionRow, insert};
use renga_shared::sql::observations::{Observation, Work, claim, load, record};
use renga_shared::sql::{Database, Idempotency, Inserted, reconcilers};

use super::{Ticker, ask, context, docker, inserted, wish};

const HOLDER: &str = "one";
const LEASE: Duration = Duration::from_secs(15);

fn sealed(id: ExecutionId, token: &str) -> SealedToken {
    let keys = SealKeys::parse("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
    keys.seal(token, id, [3; NONCE_BYTES]).unwrap()
}

/// A new execution with a token, and its row as it is held.
async fn with_token(db: &impl Database, time: &mut Ticker) -> (SealedToken, Work) {
    let context = context(db, time.now(), "alice", r#"{"image":"busybox"}"#).await;
    let new = ask(context.id, time.now());
    let token = sealed(new.id, "a-token");
    let row = inserted(insert(db, &NewExecutionRow { sealed_token: Some(&token), ..new }).await.unwrap());
    let work = held(db, &row, time.now()).await;
    (token, work)
}

async fn held(db: &impl Database, row: &ExecutionRow, now: Timestamp) -> Work {
    reconcilers::renew(db, HOLDER, now.plus(LEASE)).await.unwrap();
    assert_eq!(claim(db, HOLDER, now, &[row.id]).await.unwrap(), [row.id]);
    read(db, row.id).await
}

async fn read(db: &impl Database, id: ExecutionId) -> Work {
    load(db, HOLDER, id).await.unwrap().unwrap()
}

async fn recorded(db: &impl Database, work: &Work, status: Status) -> Work {
    let seen = Observation::of(status);
    let (id, revision) = (work.execution.id, work.execution.revision);
    record(db, HOLDER, id, revision, &seen).await.unwrap().unwrap();
    read(db, id).await
}

pub(super) async fn are_kept_until_the_launch(db: &impl Database) {
    let mut time = Ticker::new(50);
    let why = || Why::new("Test", "For a test.");
    let scheduled = || Status::pending().scheduled(docker()).unwrap();
    let starting = || scheduled().created("x".into()).unwrap();
    for phase in Phase::ALL {
        let (token, work) = with_token(db, &mut time).await;
        assert_eq!(work.sealed_token.as_ref(), Some(&token), "it is read as it was written");
        let now = time.now();
        let status = match phase {
            Phase::Pending => scheduled().unscheduled(why()).unwrap(),
            Phase::Scheduled => scheduled().waiting(Some(why())).unwrap(),
            Phase::Starting => starting(),
            Phase::Running => starting().running(now).unwrap(),
            Phase::Stopping => starting().stopping(why()).unwrap(),
            Phase::Exited => starting().exited(1, None, now, why()).unwrap(),
            Phase::Failed => scheduled().failed(why(), now).unwrap(),
            Phase::Lost => starting().lost(why(), now).unwrap(),
            Phase::Removed => Status::pending().removed(why(), now).unwrap(),
        };
        let kept = matches!(phase, Phase::Pending | Phase::Scheduled).then_some(token);
        let after = recorded(db, &work, status).await;
        assert_eq!(after.sealed_token, kept, "{phase}");
    }
}

pub(super) async fn go_with_the_wish_that_it_never_starts(db: &impl Database) {
    let mut time = Ticker::new(51);
    for wanted in [Wanted::Stopped, Wanted::Removed] {
        let (_, work) = with_token(db, &mut time).await;
        let scheduled = work.execution.status.scheduled(docker()).unwrap();
        let work = recorded(db, &work, scheduled).await;
        assert!(work.sealed_token.is_some());
        wish(db, &work.execution, wanted, time.now()).await;
        assert_eq!(read(db, work.execution.id).await.sealed_token, None, "{wanted}");
    }
}

pub(super) async fn are_those_of_the_first_request(db: &impl Database) {
    let mut time = Ticker::new(52);
    let context = context(db, time.now(), "alice", r#"{"image":"busybox"}"#).await;
    let now = time.now();
    let idempotency = Some(Idempotency { key: "sealed once", digest: "a" });
    let first = NewExecutionRow { id: ExecutionId::new(now, [1; 8]), idempotency, ..ask(context.id, now) };
    let token = sealed(first.id, "the first");
    let row = inserted(insert(db, &NewExecutionRow { sealed_token: Some(&token), ..first }).await.unwrap());
    let again = NewExecutionRow { id: ExecutionId::new(now, [2; 8]), ..first };
    let other = sealed(again.id, "the second");
    let again = insert(db, &NewExecutionRow { sealed_token: Some(&other), ..again }).await.unwrap();
    assert_eq!(again, Asked::Inserted(Box::new(Inserted::Again(row.clone()))));
    assert_eq!(held(db, &row, time.now()).await.sealed_token, Some(token));
}
