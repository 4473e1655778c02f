//! The obligations of the engine port (`reconciler/src/engine/mod.rs`), in one suite for all engines.
//!
//! `bed.rs` connects each engine and makes it unreachable; `tests/src/scripts.rs` has what runs differently on each.
//! See `docs/adding-an-engine.md`.

mod absence;
mod bed;
mod cluster;
mod endings;
mod flaws;
mod logs;
mod objects;
mod volumes;

use std::panic::AssertUnwindSafe;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use renga_tests::require;

use crate::bed::{Bed, PATIENCE};
use crate::flaws::Flaw;

/// Defines each test once per engine. Reports loudly each engine that the machine does not have.
macro_rules! on_each_engine {
    ($($module:ident::$test:ident),+ $(,)?) => {
        mod fake { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            super::run(super::Bed::fake()?, super::$module::$test).await
        })+ }
        mod docker { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            let docker = super::require!(docker);
            super::run(super::Bed::docker(docker).await?, super::$module::$test).await
        })+ }
        mod kubernetes { $(#[tokio::test] async fn $test() -> anyhow::Result<()> {
            let cluster = super::require!(kubernetes);
            super::run(super::Bed::kubernetes(cluster).await?, super::$module::$test).await
        })+ }
    };
}

on_each_engine! {
    objects::created_twice_is_adopted_and_does_not_run,
    objects::created_again_when_it_has_run_is_adopted_as_it_is,
    objects::started_twice_runs_once,
    objects::started_again_after_its_end_does_not_run_again,
    objects::what_is_gone_is_stopped_and_removed,
    objects::what_runs_is_removed,
    objects::an_old_id_never_touches_a_later_object,
    objects::what_was_removed_by_others_is_gone,
    objects::the_list_shows_what_this_deployment_has,
    objects::a_name_that_another_deployment_has_is_taken,
    objects::ports_can_be_reached_while_it_runs,
    objects::the_environment_is_given,
    endings::the_exit_code_is_told,
    endings::running_out_of_memory_is_told,
    endings::a_signal_is_told,
    endings::a_missing_command_is_refused,
    endings::a_missing_image_is_told,
    endings::stop_waits_for_one_that_handles_term,
    endings::stop_kills_one_that_ignores_term,
    logs::both_streams_are_told_in_order,
    logs::bytes_are_told_as_they_are,
    logs::are_resumed_without_loss,
    logs::are_resumed_while_it_runs,
    logs::follow_until_the_end,
    volumes::an_empty_folder_lives_as_long_as_its_object,
    volumes::a_named_volume_outlives_its_objects,
    volumes::host_paths_only_where_they_are_allowed,
    volumes::config_maps_and_secrets_are_given_or_refused,
    absence::events_tell_of_this_deployments_changes,
    absence::an_engine_that_is_away_is_down,
    absence::an_engine_that_does_not_answer_is_down,
}

/// Runs a test, then removes what it left, whatever its result.
async fn run(bed: Bed, test: impl AsyncFnOnce(&Bed) -> Result<()>) -> Result<()> {
    let test = AssertUnwindSafe(test(&bed)).catch_unwind();
    let tested = tokio::time::timeout(2 * PATIENCE, test).await.context("the test does not end");
    let cleaned = bed.clean().await;
    match tested? {
        Ok(tested) => tested.and(cleaned),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The suite must reject an engine that violates a single obligation.
#[tokio::test]
async fn an_engine_with_a_flaw_does_not_pass() -> Result<()> {
    /// Runs tests on the fake engine with a flaw. Each test must fail.
    macro_rules! fails {
        ($flaw:ident: $($module:ident::$test:ident),+) => {$(
            let passed = run(Bed::flawed(Flaw::$flaw)?, $module::$test).await.is_ok();
            ensure!(!passed, "{} passes with {:?}", stringify!($test), Flaw::$flaw);
        )+};
    }
    fails!(MakesAnew: objects::created_twice_is_adopted_and_does_not_run);
    fails!(RunsAgain: objects::started_again_after_its_end_does_not_run_again);
    fails!(RunsWhenMade: objects::created_twice_is_adopted_and_does_not_run);
    fails!(KnowsNamesOnly: objects::an_old_id_never_touches_a_later_object);
    fails!(FailsForWhatIsGone: objects::what_is_gone_is_stopped_and_removed);
    fails!(KillsAtOnce: endings::stop_kills_one_that_ignores_term);
    fails!(AnswersBeforeTheEnd: endings::stop_kills_one_that_ignores_term);
    fails!(ResumesAfter: logs::are_resumed_without_loss, logs::bytes_are_told_as_they_are);
    fails!(BeginsAnew: logs::are_resumed_without_loss, logs::are_resumed_while_it_runs);
    fails!(DoesNotFollow: logs::follow_until_the_end);
    Ok(())
}
