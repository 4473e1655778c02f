//! What may follow what, and what stays.

use super::*;

fn why(reason: &str) -> Why {
    Why::new(reason, "A sentence.")
}

fn docker() -> EngineName {
    EngineName::parse("docker").unwrap()
}

/// One status of each phase.
pub(super) fn each() -> Vec<Status> {
    let scheduled = Status::pending().scheduled(docker()).unwrap();
    let starting = scheduled.created("one".into()).unwrap();
    let running = starting.running(Timestamp(5)).unwrap();
    let exited = running.exited(3, None, Timestamp(9), why("ExitedWithError")).unwrap();
    vec![
        Status::pending(),
        scheduled,
        running.stopping(why("Stopping")).unwrap(),
        starting.failed(why("CommandNotFound"), Timestamp(9)).unwrap(),
        running.lost(why("ObjectGone"), Timestamp(9)).unwrap(),
        exited.removed(why("Deleted"), Timestamp(10)).unwrap(),
        exited,
        running,
        starting,
    ]
}

#[test]
fn the_transitions_are_those_that_the_phases_allow() {
    for from in each() {
        let why = || why("Test");
        let results = [
            (Phase::Pending, from.unscheduled(why())),
            (Phase::Scheduled, from.scheduled(docker())),
            (Phase::Starting, from.created("one".into())),
            (Phase::Running, from.running(Timestamp(5))),
            (Phase::Stopping, from.stopping(why())),
            (Phase::Exited, from.exited(0, None, Timestamp(9), why())),
            (Phase::Failed, from.failed(why(), Timestamp(9))),
            (Phase::Lost, from.lost(why(), Timestamp(9))),
            (Phase::Removed, from.removed(why(), Timestamp(9))),
        ];
        for (to, result) in results {
            let from = from.phase();
            let expected = if from.may_become(to) { Ok(to) } else { Err(InvalidTransition::Phase { from, to }) };
            assert_eq!(result.map(|next| next.phase()), expected);
        }
    }
    let exited = Status::pending().exited(0, None, Timestamp(1), why("Test")).unwrap_err();
    assert_eq!(exited.to_string(), "an execution that is pending cannot become exited");
}

#[test]
fn an_end_is_not_explained_anew_and_a_removed_execution_keeps_it() {
    for status in each() {
        let waiting = status.waiting(Some(why("EngineBusy")));
        if !status.phase().is_terminal() {
            assert_eq!(waiting.unwrap().why(), Some(&why("EngineBusy")));
            continue;
        }
        assert_eq!(waiting, Err(InvalidTransition::Ended(status.phase())));
        if let Ok(removed) = status.removed(why("Deleted"), Timestamp(20)) {
            assert_eq!(removed.facts(), Facts { phase: Phase::Removed, ..status.facts() });
        }
    }
}

#[test]
fn what_is_deleted_before_it_ended_ends_by_that() {
    let removed = Status::pending().removed(why("Deleted"), Timestamp(20)).unwrap();
    assert_eq!((removed.why(), removed.facts().finished), (Some(&why("Deleted")), Some(Timestamp(20))));
}

#[test]
fn nothing_ends_before_it_starts_by_whatever_clock() {
    for status in each().into_iter().filter(|status| status.phase() == Phase::Running) {
        let early = Timestamp(2);
        let ends = [status.exited(0, None, early, why("Completed")), status.lost(why("ObjectGone"), early)];
        for end in ends {
            assert_eq!(end.unwrap().facts().finished, Some(Timestamp(5)));
        }
    }
    let starting = each().pop().unwrap();
    let unseen = starting.exited(0, Some(Timestamp(7)), Timestamp(6), why("Completed")).unwrap();
    assert_eq!((unseen.started(), unseen.facts().finished), (Some(Timestamp(7)), Some(Timestamp(7))));
}
