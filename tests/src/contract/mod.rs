//! What every adapter of the database port must do: one suite, run against each of them.
//!
//! Each function takes a database that is migrated and otherwise empty, and panics where an obligation is not kept.

mod contexts;
mod executions;
mod issuer_keys;
mod logs;
mod observations;
mod placement;
mod sealed_tokens;
mod values;

use std::time::Duration;

use renga_shared::domain::{ContextId, EngineName, ExecutionId, Timestamp, Wanted};
use renga_shared::sql::contexts::{ContextRow, NewContext};
use renga_shared::sql::executions::{Asked, ExecutionRow, NewExecutionRow};
use renga_shared::sql::{Database, Inserted, Visible, engines, reconcilers};

/// Runs the whole suite.
pub async fn run(db: &impl Database) {
    values::round_trip(db).await;
    contexts::are_stored_once_and_seen_by_their_owner(db).await;
    contexts::are_listed_newest_first_by_page_and_label(db).await;
    executions::belong_to_their_context(db).await;
    executions::name_engines_that_are_served(db).await;
    executions::wishes_only_go_further(db).await;
    executions::are_listed_by_context_owner_label_and_state(db).await;
    observations::are_claimed_by_one_at_a_time(db).await;
    observations::are_guarded_by_revision_and_holder(db).await;
    observations::of_the_dead_are_taken_over(db).await;
    observations::show_the_state_that_the_domain_says(db).await;
    observations::keep_the_end_that_was_recorded(db).await;
    observations::tell_which_objects_are_owned(db).await;
    engines_are_confirmed_by_leases(db).await;
    engines_that_nobody_serves_are_forgotten(db).await;
    placement::keeps_the_limit_of_an_engine(db).await;
    placement::adds_up_amounts_that_no_sum_can_hold(db).await;
    placement::takes_turns_by_owner(db).await;
    placement::stays_in_the_namespaces_that_are_allowed(db).await;
    sealed_tokens::are_kept_until_the_launch(db).await;
    sealed_tokens::go_with_the_wish_that_it_never_starts(db).await;
    sealed_tokens::are_those_of_the_first_request(db).await;
    logs::are_kept_in_order_and_by_their_holder(db).await;
    logs::are_cut_and_removed_by_their_holder_alone(db).await;
    issuer_keys::are_fetched_by_one_at_a_time(db).await;
    engines_and_deployment(db).await;
}

/// Ids and times that no other part of the suite uses.
struct Ticker(i64);

impl Ticker {
    fn new(part: i64) -> Self {
        Self(1_700_000_000_000_000 + part * 1_000_000_000)
    }

    fn now(&mut self) -> Timestamp {
        self.0 += 1_001;
        Timestamp(self.0)
    }
}

async fn context(db: &impl Database, now: Timestamp, owner: &str, spec: &str) -> ContextRow {
    let id = ContextId::new(now, [1; 8]);
    let new = NewContext { id, owner, created: now, spec, project: None, idempotency: None };
    match renga_shared::sql::contexts::insert(db, &new).await.unwrap() {
        Inserted::New(row) => row,
        other => panic!("not new: {other:?}"),
    }
}

fn ask(context: ContextId, now: Timestamp) -> NewExecutionRow<'static> {
    NewExecutionRow {
        id: ExecutionId::new(now, [2; 8]),
        context,
        visible: Visible::All,
        requested_by: "somebody",
        created: now,
        engine: None,
        namespace: "default",
        environment: "{}",
        claims: "[]",
        sealed_token: None,
        idempotency: None,
    }
}

async fn execution(db: &impl Database, context: ContextId, now: Timestamp) -> ExecutionRow {
    inserted(renga_shared::sql::executions::insert(db, &ask(context, now)).await.unwrap())
}

fn inserted(asked: Asked) -> ExecutionRow {
    match asked {
        Asked::Inserted(inserted) => match *inserted {
            Inserted::New(row) => row,
            other => panic!("not new: {other:?}"),
        },
        other => panic!("not inserted: {other:?}"),
    }
}

async fn wish(db: &impl Database, row: &ExecutionRow, wanted: Wanted, now: Timestamp) -> ExecutionRow {
    renga_shared::sql::executions::wish(db, Visible::All, row.context, row.id, wanted, now).await.unwrap().unwrap()
}

fn docker() -> EngineName {
    EngineName::parse("docker").unwrap()
}

async fn engines_are_confirmed_by_leases(db: &impl Database) {
    let mut time = Ticker::new(91);
    let name = EngineName::parse("rack-2").unwrap();
    let at = async |now| engines::list(db, now).await.unwrap().into_iter().find(|row| row.name == name).unwrap();
    let (served, now) = (time.now(), time.now());
    let until = now.plus(Duration::from_secs(15));
    engines::put(db, &name, "docker", Ok("29.1"), served).await.unwrap();
    let row = at(now).await;
    assert_eq!((row.up, row.since), (false, served), "nobody has said that it serves it");
    for (reconciler, until) in [("first", now.plus(Duration::from_secs(5))), ("second", until)] {
        reconcilers::renew(db, reconciler, until).await.unwrap();
        engines::serve(db, &name, reconciler).await.unwrap();
    }
    assert!(at(now.plus(Duration::from_secs(14))).await.up, "the second one still serves it");
    let row = at(until).await;
    assert_eq!((row.up, row.since, row.confirmed), (false, until, false), "since the last lease ended");
    let away = row.candidate().away.unwrap();
    assert_eq!(away.message, "No reconciler that serves the engine rack-2 is alive.");
    reconcilers::renew(db, "first", until.plus(Duration::from_secs(1))).await.unwrap();
    let row = at(until).await;
    assert_eq!((row.up, row.since, row.reason), (true, served, None), "one renewal confirms it again");
}

async fn engines_that_nobody_serves_are_forgotten(db: &impl Database) {
    let mut time = Ticker::new(92);
    let [removed, kept, unmarked] = ["removed", "kept", "unmarked"].map(|name| EngineName::parse(name).unwrap());
    let (served, now) = (time.now(), time.now());
    for (reconciler, until) in [("ended", now), ("alive", now.plus(Duration::from_secs(7_200)))] {
        reconcilers::renew(db, reconciler, until).await.unwrap();
    }
    for name in [&removed, &kept, &unmarked] {
        engines::put(db, name, "docker", Ok("29.1"), served).await.unwrap();
    }
    engines::serve(db, &removed, "ended").await.unwrap();
    engines::serve(db, &kept, "ended").await.unwrap();
    engines::serve(db, &kept, "alive").await.unwrap();
    let names = async || {
        let rows = engines::list(db, now).await.unwrap().into_iter().map(|row| row.name);
        rows.filter(|name| [&removed, &kept, &unmarked].contains(&name)).collect::<Vec<_>>()
    };
    let forget = async |before, now| engines::forget(db, before, now).await.unwrap().contains(&"removed".to_owned());
    assert!(!forget(served, now).await, "it was served since");
    assert!(forget(now, now).await);
    assert_eq!(names().await, [kept.clone(), unmarked.clone()]);
    let later = now.plus(Duration::from_secs(3_600));
    engines::forget(db, later, later).await.unwrap();
    assert_eq!(names().await, std::slice::from_ref(&kept), "one that a version before served is kept for an hour");

    // One that is retired goes with the last reconciler that has served it.
    engines::serve(db, &kept, "another").await.unwrap();
    reconcilers::renew(db, "another", later).await.unwrap();
    assert!(engines::retire(db, &kept, "alive", now).await.unwrap());
    assert_eq!(names().await, std::slice::from_ref(&kept));
    assert!(engines::retire(db, &kept, "another", now).await.unwrap());
    assert_eq!(names().await, []);
}

async fn engines_and_deployment(db: &impl Database) {
    let mut time = Ticker::new(90);
    let name = EngineName::parse("rack-1").unwrap();
    let (first, second, third) = (time.now(), time.now(), time.now());
    let row = async || {
        let rows = engines::list(db, third).await.unwrap();
        rows.into_iter().find(|row| row.name == name)
    };
    reconcilers::renew(db, "server", third.plus(Duration::from_secs(1))).await.unwrap();
    engines::serve(db, &name, "server").await.unwrap();
    engines::serve(db, &name, "server").await.unwrap();
    engines::put(db, &name, "docker", Ok("29.1"), first).await.unwrap();
    engines::put(db, &name, "docker", Ok("29.2"), second).await.unwrap();
    let up = row().await.unwrap();
    assert_eq!((up.up, up.since, up.version.as_deref()), (true, first, Some("29.2")), "since is when it came up");
    engines::put(db, &name, "docker", Err("gone"), third).await.unwrap();
    let down = row().await.unwrap();
    assert_eq!((down.up, down.since, down.reason.as_deref()), (false, third, Some("gone")));
    assert_eq!(down.version.as_deref(), Some("29.2"), "the version is what was last told");

    let id = renga_shared::sql::deployment::id(db, "one").await.unwrap();
    assert_eq!(renga_shared::sql::deployment::id(db, "another").await.unwrap(), id, "a deployment has one id for ever");
    renga_shared::sql::deployment::set_audit(db, true).await.unwrap();
    renga_shared::sql::deployment::set_audit(db, false).await.unwrap();
    renga_shared::sql::deployment::ping(db).await.unwrap();
}
