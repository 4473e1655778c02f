//! The keys of token issuers, which one caller at a time fetches for all.

use renga_shared::sql::Database;
use renga_shared::sql::issuer_keys::{IssuerKeysRow, StoredKeys, claim, fail, get, store};

use super::Ticker;

const ISSUER: &str = "https://issuer.test/realms/Renga";

pub(super) async fn are_fetched_by_one_at_a_time(db: &impl Database) {
    let mut ticker = Ticker::new(60);
    assert_eq!(get(db, ISSUER).await.unwrap(), IssuerKeysRow::default());

    let first = ticker.now();
    assert!(claim(db, ISSUER, first, None, false).await.unwrap());
    assert!(!claim(db, ISSUER, ticker.now(), None, false).await.unwrap(), "somebody was sooner");
    let row = get(db, ISSUER).await.unwrap();
    assert_eq!(row, IssuerKeysRow { tried: Some(first), ..IssuerKeysRow::default() });

    let expires = ticker.now();
    store(db, ISSUER, first, "{\"keys\":[]}", expires).await.unwrap();
    let set = Some(StoredKeys { keys: "{\"keys\":[]}".into(), fetched: first, expires });
    let stored = IssuerKeysRow { set: set.clone(), tried: Some(first), settled: true, ..IssuerKeysRow::default() };
    assert_eq!(get(db, ISSUER).await.unwrap(), stored);

    let second = ticker.now();
    assert!(claim(db, ISSUER, second, Some(first), true).await.unwrap());
    assert!(!claim(db, ISSUER, ticker.now(), Some(first), true).await.unwrap(), "there has been another attempt since");
    // Whoever was too slow changes nothing.
    store(db, ISSUER, first, "late", expires).await.unwrap();
    fail(db, ISSUER, first, "late").await.unwrap();
    assert_eq!(
        get(db, ISSUER).await.unwrap(),
        IssuerKeysRow { set: set.clone(), tried: Some(second), missed: Some(second), ..IssuerKeysRow::default() }
    );

    let third = ticker.now();
    assert!(claim(db, ISSUER, third, Some(second), false).await.unwrap());
    assert_eq!(get(db, ISSUER).await.unwrap().missed, Some(second), "nothing was missed this time");
    fail(db, ISSUER, third, "it does not answer").await.unwrap();
    let failed = get(db, ISSUER).await.unwrap();
    assert_eq!((failed.set, failed.settled, failed.failure.as_deref()), (set, true, Some("it does not answer")));
    assert_eq!(get(db, "https://another.test").await.unwrap(), IssuerKeysRow::default());
}
