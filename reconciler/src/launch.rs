//! From a row to what an engine is asked to launch.
//!
//! The environment is fixed when the engine makes the object. So that, and not the start, is the launch at which the token of
//! whoever asked is opened: after everything else is ready, in the moment before the call. `renga_shared::sql::executions`
//! says when the row forgets it.

use renga_shared::auth::{SealKeys, Unopened};
use renga_shared::domain::{Specification, StoredSpecificationError, Why, additions, launch_environment};
use renga_shared::environment::SEAL_KEY;
use renga_shared::sql::observations::Work;

use crate::engine::Launch;
use crate::engine::words::shown;

/// The variable in which a container finds the token of whoever asked for it.
pub const ACCESS_TOKEN: &str = "RENGA_ACCESS_TOKEN";

/// What the engine is asked to launch for this row, or why the row cannot be launched: somebody changed it by hand, a
/// newer version of this program wrote it, or an older one accepted what this one does not. So every rule of
/// specifications holds at the launch too, whenever the context was made.
pub fn of(work: &Work, default_base_url: &str) -> Result<Launch, Why> {
    let execution = &work.execution;
    let unreadable =
        |what: &str, error: String| Why::new("UnreadableRow", format!("Its stored {what} cannot be read: {error}"));
    let spec = Specification::from_stored(&work.spec).map_err(|error| match error {
        StoredSpecificationError::Unreadable(_) => unreadable("specification", error.to_string()),
        StoredSpecificationError::NotAccepted(_) => Why::new(
            "SpecificationNotAccepted",
            format!("Its context's specification is not accepted: {}.", shown(&error.to_string())),
        ),
    })?;
    let wished =
        serde_json::from_str(&execution.environment).map_err(|error| unreadable("environment", error.to_string()))?;
    let ours = additions(execution.context, default_base_url);
    Ok(Launch {
        id: execution.id,
        environment: launch_environment(&spec.env, &wished, &ours),
        access_token: None,
        namespace: execution.namespace.clone(),
        spec,
    })
}

/// Opens the token of whoever asked, if the row has one, and puts it in the place of a variable of that name that its user set. Otherwise why it cannot be opened: a container that went without what it was promised would
/// fail later, and nobody would know why.
pub fn hand_over_token(launch: &mut Launch, work: &Work, keys: Option<&SealKeys>) -> Result<(), Why> {
    let Some(sealed) = &work.sealed_token else { return Ok(()) };
    let opened = match keys {
        Some(keys) => keys.open(sealed, launch.id),
        None => Err(Unopened::UnknownKey),
    };
    launch.access_token = Some(opened.map_err(unreadable_token)?);
    launch.environment.remove(ACCESS_TOKEN);
    Ok(())
}

fn unreadable_token(error: Unopened) -> Why {
    let cure = match error {
        Unopened::UnknownKey => {
            format!("the reconciler's {SEAL_KEY} must hold the key that the API sealed it with")
        }
        Unopened::Damaged | Unopened::UnknownForm => "ask for the execution again".to_owned(),
    };
    Why::new("TokenUnreadable", format!("Its {ACCESS_TOKEN} cannot be given to it: {error}; {cure}."))
}

#[cfg(test)]
mod tests {
    use renga_shared::auth::{NONCE_BYTES, OpenedToken, SealedToken};
    use renga_shared::domain::{ContextId, ExecutionId, Status, Timestamp, Wanted};
    use renga_shared::sql::executions::ExecutionRow;

    use super::*;

    const KEYS: [&str; 2] =
        ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

    fn keys(text: &str) -> SealKeys {
        SealKeys::parse(text).unwrap()
    }

    /// The row of an execution whose user set the variable too.
    fn work(number: u8, sealed_token: Option<SealedToken>) -> Work {
        let execution = ExecutionRow {
            id: ExecutionId::new(Timestamp(1), [number; 8]),
            context: ContextId::new(Timestamp(1), [9; 8]),
            created: Timestamp(1),
            wanted_engine: None,
            namespace: "default".into(),
            environment: r#"{"RENGA_ACCESS_TOKEN":"the user's own"}"#.into(),
            wanted: Wanted::Running,
            status: Status::pending(),
            ports: "[]".into(),
            placement: None,
            revision: 1,
        };
        let (owner, spec) = ("alice".into(), r#"{"image":"busybox"}"#.into());
        Work { execution, attempts: 0, owner, spec, due: None, sealed_token, claims: "[]".into(), queued_on: None }
    }

    fn sealed(number: u8) -> SealedToken {
        keys(KEYS[0]).seal("the-token", work(number, None).execution.id, [5; NONCE_BYTES]).unwrap()
    }

    fn given(work: &Work, keys: Option<&SealKeys>) -> Result<String, Why> {
        let mut launch = of(work, "/")?;
        hand_over_token(&mut launch, work, keys)?;
        assert_eq!(launch.names().filter(|name| *name == ACCESS_TOKEN).count(), 1, "once");
        Ok(launch.variable(ACCESS_TOKEN).unwrap().to_owned())
    }

    /// Whether a type has a trait, by the constant that is found first.
    macro_rules! has {
        ($type:ty: $trait:path) => {{
            #[allow(dead_code, reason = "only one of the two constants is found")]
            trait Otherwise {
                const HAS: bool = false;
            }
            impl<T> Otherwise for T {}
            struct Of<T>(std::marker::PhantomData<T>);
            #[allow(dead_code, reason = "only one of the two constants is found")]
            impl<T: $trait> Of<T> {
                const HAS: bool = true;
            }
            <Of<$type>>::HAS
        }};
    }

    #[test]
    fn a_launch_can_be_neither_shown_nor_cloned_and_its_token_is_no_plain_string() {
        assert!(has!(Work: Clone) && has!(Work: std::fmt::Debug), "the test tells");
        assert!(!has!(Launch: Clone) && !has!(Launch: std::fmt::Debug));
        assert!(!has!(OpenedToken: Clone) && !has!(OpenedToken: std::fmt::Display));
        let mut launch = of(&work(1, None), "/").unwrap();
        hand_over_token(&mut launch, &work(1, Some(sealed(1))), Some(&keys(KEYS[0]))).unwrap();
        assert!(launch.environment.values().all(|value| !value.contains("the-token")));
        assert!(!format!("{:?}", launch.access_token).contains("the-token"));
    }

    #[test]
    fn a_context_of_before_a_rule_is_held_to_it_when_it_is_launched() {
        let secret = r#"{"image":"a","volumes":[{"name":"v","secret":{"secretName":"renga-x"}}]}"#;
        let huge = r#"{"image":"a","resources":{"requests":{"memory":"7Ei"}}}"#;
        for (spec, named) in [(secret, "/volumes/0/secret/secretName"), (huge, "/resources/requests/memory")] {
            let why = of(&Work { spec: spec.into(), ..work(1, None) }, "/").map(drop).unwrap_err();
            assert_eq!(why.reason, "SpecificationNotAccepted");
            assert!(why.message.contains(named), "{why:?}");
        }
        let why = of(&Work { spec: "{".into(), ..work(1, None) }, "/").map(drop).unwrap_err();
        assert_eq!(why.reason, "UnreadableRow");
    }

    #[test]
    fn a_token_that_was_kept_stands_over_the_users_own_variable() {
        let told = given(&work(1, Some(sealed(1))), Some(&keys(KEYS[0])));
        assert_eq!(told.unwrap(), "the-token");
        let rotated = format!("{},{}", KEYS[1], KEYS[0]);
        assert_eq!(given(&work(1, Some(sealed(1))), Some(&keys(&rotated))).unwrap(), "the-token");
    }

    #[test]
    fn where_no_token_was_kept_the_users_own_variable_stands() {
        assert_eq!(given(&work(1, None), Some(&keys(KEYS[0]))).unwrap(), "the user's own");
        assert_eq!(given(&work(1, None), None).unwrap(), "the user's own");
    }

    #[test]
    fn one_that_cannot_be_opened_is_told_with_its_cure_and_never_shown() {
        let cure = "DEPLOYER_SEAL_KEY must hold the key";
        for (row, keys, named) in [
            (work(1, Some(sealed(1))), None, cure),
            (work(1, Some(sealed(1))), Some(keys(KEYS[1])), cure),
            (work(1, Some(sealed(2))), Some(keys(KEYS[0])), "sealed for another execution"),
        ] {
            let why = given(&row, keys.as_ref()).unwrap_err();
            assert_eq!(why.reason, "TokenUnreadable");
            assert!(why.message.contains(named) && !why.message.contains("the-token"), "{why:?}");
        }
    }
}
