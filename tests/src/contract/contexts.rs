//! Contexts: stored once, seen by their owner, listed by page.

use renga_shared::domain::ContextId;
use renga_shared::sql::contexts::{ContextFilter, NewContext, get, insert, list};
use renga_shared::sql::{Database, Idempotency, Inserted, Page, Visible};

use super::{Ticker, context};

pub(super) async fn are_stored_once_and_seen_by_their_owner(db: &impl Database) {
    let mut time = Ticker::new(1);
    let spec = r#"{"image":"busybox","env":[{"name":"Ä","value":"\"quoted\""}]}"#;
    let stored = context(db, time.now(), "alice", spec).await;
    let read = get(db, Visible::To("alice"), stored.id).await.unwrap().unwrap();
    assert_eq!(read, stored);
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(&read.spec), parse(spec));
    assert_eq!(get(db, Visible::To("bob"), stored.id).await.unwrap(), None);
    assert!(get(db, Visible::All, stored.id).await.unwrap().is_some());
    let unknown = ContextId::new(time.now(), [9; 8]);
    assert_eq!(get(db, Visible::All, unknown).await.unwrap(), None);

    let now = time.now();
    let new = |seed, owner, digest| NewContext {
        id: ContextId::new(now, [seed; 8]),
        owner,
        created: now,
        spec,
        project: Some(i64::MAX),
        idempotency: Some(Idempotency { key: "retry", digest }),
    };
    let Inserted::New(first) = insert(db, &new(1, "alice", "a")).await.unwrap() else { panic!("not new") };
    assert_eq!(insert(db, &new(2, "alice", "a")).await.unwrap(), Inserted::Again(first.clone()));
    assert_eq!(insert(db, &new(3, "alice", "b")).await.unwrap(), Inserted::KeyReused);
    let Inserted::New(other) = insert(db, &new(4, "bob", "a")).await.unwrap() else { panic!("keys are per owner") };
    assert_ne!(first.id, other.id);
    assert!(insert(db, &NewContext { idempotency: None, ..new(1, "alice", "a") }).await.is_err(), "the id is taken");
}

pub(super) async fn are_listed_newest_first_by_page_and_label(db: &impl Database) {
    let mut time = Ticker::new(2);
    let mut made = Vec::new();
    for number in 0..7 {
        let label = if number % 2 == 0 { "stage=even" } else { "odd" };
        let spec = format!(r#"{{"image":"i","labels":["{label}","all"]}}"#);
        made.push(context(db, time.now(), "carol", &spec).await.id);
    }
    context(db, time.now(), "dave", r#"{"image":"i","labels":["odd"]}"#).await;
    made.reverse();
    let ids = async |visible, label, before, limit| {
        let rows = list(db, &ContextFilter { visible, label }, Page { before, limit }).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let carol = Visible::To("carol");
    assert_eq!(ids(carol, None, None, 100).await, made);
    assert_eq!(ids(carol, None, None, 3).await, made[..3]);
    assert_eq!(ids(carol, None, Some(made[2]), 3).await, made[3..6]);
    assert_eq!(ids(carol, None, Some(made[6]), 3).await, []);
    assert_eq!(ids(carol, Some("all"), Some(made[2]), 2).await, made[3..5]);
    let even = [made[0], made[2], made[4], made[6]];
    assert_eq!(ids(carol, Some("stage=even"), None, 9).await, even);
    assert_eq!(ids(carol, Some("stage"), None, 9).await, even, "by key alone");
    assert_eq!(ids(carol, Some("even"), None, 9).await, []);
    assert_eq!(ids(Visible::All, Some("odd"), None, 9).await.len(), 4);
    assert_eq!(ids(Visible::To("nobody"), None, None, 9).await, []);
}
