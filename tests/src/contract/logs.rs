//! Logs: in order, and written by whoever looks after the execution.

use std::time::Duration;

use renga_shared::domain::Wanted;
use renga_shared::sql::logs::{Chunk, Size, after, append, before, cut, remove, sizes};
use renga_shared::sql::observations::claim;
use renga_shared::sql::{Database, reconcilers};

use super::{Ticker, context, execution, wish};

pub(super) async fn are_kept_in_order_and_by_their_holder(db: &impl Database) {
    let mut time = Ticker::new(30);
    let of = context(db, time.now(), "alice", r#"{"image":"busybox"}"#).await;
    let row = execution(db, of.id, time.now()).await;
    let now = time.now();
    reconcilers::renew(db, "one", now.plus(Duration::from_secs(15))).await.unwrap();
    assert_eq!(claim(db, "one", now, &[row.id]).await.unwrap(), [row.id]);
    let chunk = |sequence: i64| Chunk {
        sequence,
        start: (sequence - 1) * 10,
        length: 10,
        last_nanos: i64::MAX - 10 + sequence,
        frames: vec![0, 255, u8::try_from(sequence).unwrap(), b'\n'],
    };
    for sequence in 1..=6 {
        assert!(append(db, "one", row.id, chunk(sequence)).await.unwrap());
    }
    assert!(!append(db, "one", row.id, chunk(6)).await.unwrap(), "a sequence is written once");
    assert!(!append(db, "two", row.id, chunk(7)).await.unwrap(), "by its holder alone");
    assert_eq!(after(db, row.id, 0, 100).await.unwrap(), (1..=6).map(chunk).collect::<Vec<_>>());
    assert_eq!(after(db, row.id, 2, 2).await.unwrap(), [chunk(3), chunk(4)]);
    assert_eq!(before(db, row.id, i64::MAX, 2).await.unwrap(), [chunk(6), chunk(5)]);
    assert_eq!(before(db, row.id, 2, 9).await.unwrap(), [chunk(1)]);
    cut(db, "one", row.id, 2, 4).await.unwrap();
    let size = |sequence| Size { sequence, length: 10, last_nanos: chunk(sequence).last_nanos };
    assert_eq!(sizes(db, row.id).await.unwrap(), [1, 2, 5, 6].map(size));
    wish(db, &row, Wanted::Removed, time.now()).await;
    assert!(!append(db, "one", row.id, chunk(7)).await.unwrap(), "nothing is added to what is to be removed");
    remove(db, "one", row.id).await.unwrap();
    assert_eq!(after(db, row.id, 0, 100).await.unwrap(), []);
}

pub(super) async fn are_cut_and_removed_by_their_holder_alone(db: &impl Database) {
    let mut time = Ticker::new(31);
    let of = context(db, time.now(), "alice", r#"{"image":"busybox"}"#).await;
    let row = execution(db, of.id, time.now()).await;
    let now = time.now();
    let lease = Duration::from_secs(15);
    reconcilers::renew(db, "late", now.plus(lease)).await.unwrap();
    assert_eq!(claim(db, "late", now, &[row.id]).await.unwrap(), [row.id]);
    let chunk =
        |sequence: i64| Chunk { sequence, start: sequence - 1, length: 1, last_nanos: sequence, frames: vec![0] };
    for sequence in 1..=3 {
        assert!(append(db, "late", row.id, chunk(sequence)).await.unwrap());
    }
    // Its lease ends while it does something else, and another goes on with the logs.
    let later = now.plus(lease * 2);
    reconcilers::renew(db, "heir", later.plus(lease)).await.unwrap();
    assert_eq!(claim(db, "heir", later, &[row.id]).await.unwrap(), [row.id]);
    assert!(append(db, "heir", row.id, chunk(4)).await.unwrap());
    cut(db, "late", row.id, 1, 3).await.unwrap();
    remove(db, "late", row.id).await.unwrap();
    let all: Vec<_> = (1..=4).map(chunk).collect();
    assert_eq!(after(db, row.id, 0, 100).await.unwrap(), all, "nothing of what another writes is taken away");
    cut(db, "heir", row.id, 1, 2).await.unwrap();
    assert_eq!(after(db, row.id, 0, 100).await.unwrap(), [chunk(1), chunk(3), chunk(4)]);
}
