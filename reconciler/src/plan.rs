//! Decides, and does nothing: from what is wanted, what was recorded and what was seen, the one next step.
//!
//! The passes in [`crate::tasks::converge`] perform the step, record what came of it and ask again, until the answer is
//! [`Step::Rest`] or [`Step::Wait`]. Whatever happens between two steps, a kill included, the next one follows from
//! what is there.

use renga_shared::domain::{EngineName, Phase, Status, Timestamp, Wanted, Why};

use crate::engine::{Exit, Object, ObjectState};

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What its user wants.
    pub wanted: Wanted,
    /// What was recorded last.
    pub status: &'a Status,
    /// What its engine shows.
    pub seen: &'a Seen,
    /// The engine to use if none is chosen yet, or what stands in the way.
    pub choice: &'a Result<EngineName, Why>,
}

/// What the chosen engine shows of an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No engine is chosen.
    NoEngine,
    /// Its engine cannot be asked: why, for people.
    Unreachable(Why),
    /// Its engine answered.
    Object(Option<Object>),
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Record that this engine is chosen. Nothing is asked of it before that is durable.
    Choose(EngineName),
    /// Have the engine make the object, or complete the one that a cut-off pass began, then record its id.
    Create,
    /// Have the engine start the object.
    Start(String),
    /// Record that it runs.
    Running {
        /// Since when.
        started: Timestamp,
    },
    /// It runs as recorded: see that its logs are collected, and rest until an event.
    Attend,
    /// Record that it is being stopped, before the engine is told.
    BeginStop(Why),
    /// Have the engine stop the object.
    Stop(String),
    /// Store the rest of its logs, then record its end.
    End {
        /// How it ended.
        exit: Exit,
        /// Why, for its user.
        why: Why,
    },
    /// Have the engine remove the object.
    RemoveObject(String),
    /// Remove its logs, then record that it is removed.
    FinishRemoval,
    /// Record that it will never run.
    Fail(Why),
    /// Record that it is lost.
    Lose(Why),
    /// Look again later, or when an event says so, and record why; `None` leaves what was recorded.
    Wait(Option<Why>),
    /// Nothing is left to do.
    Rest,
}

/// The next step for an execution.
pub fn plan(situation: Situation<'_>) -> Step {
    let Situation { wanted, status, seen, choice } = situation;
    match seen {
        Seen::NoEngine => without_engine(wanted, status.phase(), choice),
        // What has ended needs no engine to be forgotten: if its object is still there, it is nobody's and swept away.
        Seen::Unreachable(_) if wanted == Wanted::Removed && status.phase().is_terminal() => {
            without_engine(wanted, status.phase(), choice)
        }
        // That an engine does not answer is a fact about the engine. It explains only what cannot go on without it.
        Seen::Unreachable(why) => Step::Wait(goes_on(wanted, status.phase()).then(|| why.clone())),
        Seen::Object(object) => {
            // An object with another id than the recorded one is not ours to judge by: ours is gone.
            let recorded = status.engine_id();
            let object = object.as_ref().filter(|object| recorded.is_none_or(|id| id == object.id));
            with_engine(wanted, status.phase(), object)
        }
    }
}

/// Whether there is something to do that its user waits for.
fn goes_on(wanted: Wanted, phase: Phase) -> bool {
    match phase {
        Phase::Running => wanted != Wanted::Running,
        Phase::Exited | Phase::Failed | Phase::Lost | Phase::Removed => false,
        Phase::Pending | Phase::Scheduled | Phase::Starting | Phase::Stopping => true,
    }
}

fn without_engine(wanted: Wanted, phase: Phase, choice: &Result<EngineName, Why>) -> Step {
    match (phase, wanted) {
        (Phase::Removed, _) => Step::Rest,
        (_, Wanted::Removed) => Step::FinishRemoval,
        (Phase::Pending, Wanted::Stopped) => Step::Fail(stopped_before_start()),
        (Phase::Pending, Wanted::Running) => match choice {
            Ok(engine) => Step::Choose(engine.clone()),
            Err(why) => Step::Wait(Some(why.clone())),
        },
        _ => Step::Rest,
    }
}

fn with_engine(wanted: Wanted, phase: Phase, object: Option<&Object>) -> Step {
    use ObjectState::{Created, Exited, Failed, Lost, Running, Starting};

    let state = object.map(|object| (&object.state, object.id.clone()));
    match (phase, state) {
        (Phase::Pending, None) => without_engine(wanted, phase, &Err(stopped_before_start())),
        (Phase::Pending, Some((_, id))) => Step::RemoveObject(id),

        (Phase::Scheduled, _) if wanted == Wanted::Running => Step::Create,
        (Phase::Scheduled, Some((_, id))) => Step::RemoveObject(id),
        (Phase::Scheduled, None) if wanted == Wanted::Stopped => Step::Fail(stopped_before_start()),
        (Phase::Scheduled, None) => Step::FinishRemoval,

        (Phase::Starting, Some((Created, id))) => match wanted {
            Wanted::Running => Step::Start(id),
            Wanted::Stopped => Step::Fail(stopped_before_start()),
            Wanted::Removed => Step::BeginStop(deleted()),
        },
        (Phase::Starting, Some((Starting(_) | Running { .. }, _))) if wanted != Wanted::Running => begin_stop(wanted),
        (Phase::Starting, Some((Starting(why), _))) => {
            let starting = || Why::new("Starting", "The engine is starting it.");
            Step::Wait(Some(why.clone().unwrap_or_else(starting)))
        }
        (Phase::Starting, Some((Running { started }, _))) => Step::Running { started: *started },

        (Phase::Running, Some((Running { .. } | Starting(_), _))) => match wanted {
            Wanted::Running => Step::Attend,
            Wanted::Stopped | Wanted::Removed => begin_stop(wanted),
        },

        (Phase::Starting | Phase::Running, Some((Exited(exit), _))) => {
            // An end that was seen is recorded before anything is deleted: a wish does not make it untrue.
            Step::End { exit: exit.clone(), why: ended(exit) }
        }
        (Phase::Starting, Some((Failed(why), _))) => Step::Fail(why.clone()),
        (Phase::Starting | Phase::Running, Some((Lost(why), _))) | (Phase::Running, Some((Failed(why), _))) => {
            Step::Lose(why.clone())
        }
        (Phase::Starting | Phase::Running, None) if wanted == Wanted::Removed => Step::BeginStop(deleted()),
        (Phase::Starting | Phase::Running, None) => Step::Lose(gone()),
        (Phase::Running, Some((Created, _))) => Step::Lose(gone()),

        (Phase::Stopping, Some((Running { .. } | Starting(_), id))) => Step::Stop(id),
        (Phase::Stopping, Some((Exited(exit), id))) => match wanted {
            Wanted::Removed => Step::RemoveObject(id),
            _ => Step::End { exit: exit.clone(), why: stopped(exit) },
        },
        (Phase::Stopping, Some((Lost(why) | Failed(why), _))) if wanted != Wanted::Removed => Step::Lose(why.clone()),
        (Phase::Stopping, Some((Created | Lost(_) | Failed(_), id))) => Step::RemoveObject(id),
        (Phase::Stopping, None) => match wanted {
            Wanted::Removed => Step::FinishRemoval,
            _ => Step::Lose(gone()),
        },

        (Phase::Exited | Phase::Failed | Phase::Lost | Phase::Removed, Some((_, id))) => Step::RemoveObject(id),
        (Phase::Removed, None) => Step::Rest,
        (Phase::Exited | Phase::Failed | Phase::Lost, None) => match wanted {
            Wanted::Removed => Step::FinishRemoval,
            _ => Step::Rest,
        },
    }
}

fn begin_stop(wanted: Wanted) -> Step {
    Step::BeginStop(match wanted {
        Wanted::Removed => deleted(),
        _ => Why::new("Stopping", "It is being stopped, as its user asked."),
    })
}

fn deleted() -> Why {
    Why::new("Deleting", "It is being deleted, as its user asked.")
}

fn stopped_before_start() -> Why {
    Why::new("StoppedBeforeStart", "It was stopped before it started.")
}

fn gone() -> Why {
    Why::new(
        "ObjectGone",
        "The engine no longer has it: it was removed there by somebody else, and how it ended is not known.",
    )
}

fn ended(exit: &Exit) -> Why {
    if exit.out_of_memory {
        return Why::new("OutOfMemory", "It was killed because it used more memory than its limit.");
    }
    match (exit.code, &exit.error) {
        (code, Some(error)) => Why::new("EngineError", format!("It ended with code {code}: {error}")),
        (0, None) => Why::new("Completed", "It ended with code 0."),
        (code @ 129..=192, None) => {
            Why::new("Signalled", format!("It was ended by signal {} (code {code}).", code - 128))
        }
        (code, None) => Why::new("ExitedWithError", format!("It ended with code {code}.")),
    }
}

fn stopped(exit: &Exit) -> Why {
    // The stop was not what ended it.
    if exit.out_of_memory {
        return ended(exit);
    }
    Why::new("Stopped", format!("It was stopped, as its user asked, and ended with code {}.", exit.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: [Wanted; 3] = [Wanted::Running, Wanted::Stopped, Wanted::Removed];

    fn status(phase: Phase) -> Status {
        let docker = || EngineName::parse("docker").unwrap();
        let why = || Why::new("Test", "For a test.");
        let scheduled = Status::pending().scheduled(docker()).unwrap();
        let starting = scheduled.created("one".into()).unwrap();
        let running = starting.running(Timestamp(1)).unwrap();
        match phase {
            Phase::Pending => Status::pending(),
            Phase::Scheduled => scheduled,
            Phase::Starting => starting,
            Phase::Running => running,
            Phase::Stopping => running.stopping(why()).unwrap(),
            Phase::Exited => running.exited(0, None, Timestamp(2), why()).unwrap(),
            Phase::Failed => starting.failed(why(), Timestamp(2)).unwrap(),
            Phase::Lost => running.lost(why(), Timestamp(2)).unwrap(),
            Phase::Removed => running.lost(why(), Timestamp(2)).unwrap().removed(why(), Timestamp(3)).unwrap(),
        }
    }

    fn exit() -> Exit {
        Exit { code: 3, out_of_memory: false, started: None, finished: Timestamp(9), error: None }
    }

    fn objects() -> Vec<Option<Object>> {
        let states = [
            ObjectState::Created,
            ObjectState::Starting(None),
            ObjectState::Running { started: Timestamp(5) },
            ObjectState::Exited(exit()),
            ObjectState::Failed(stopped_before_start()),
            ObjectState::Lost(gone()),
        ];
        let object = |id: &str, state| Some(Object { id: id.into(), state, ports: vec![] });
        let mut objects = vec![None];
        for state in states {
            objects.push(object("one", state.clone()));
            objects.push(object("another", state));
        }
        objects
    }

    fn next(wanted: Wanted, phase: Phase, seen: Seen) -> Step {
        let choice = EngineName::parse("docker").map_err(|_| stopped_before_start());
        plan(Situation { wanted, status: &status(phase), seen: &seen, choice: &choice })
    }

    #[test]
    fn nothing_is_created_or_started_against_the_wish_or_twice() {
        for wanted in WISHES {
            for phase in Phase::ALL {
                for object in objects() {
                    let step = next(wanted, *phase, Seen::Object(object.clone()));
                    if matches!(step, Step::Create) {
                        // It finds what is there, so it makes nothing twice.
                        assert_eq!((wanted, *phase), (Wanted::Running, Phase::Scheduled));
                    }
                    if matches!(step, Step::Start(_)) {
                        assert_eq!((wanted, *phase), (Wanted::Running, Phase::Starting));
                        assert_eq!(object.map(|object| object.state), Some(ObjectState::Created));
                    }
                }
            }
        }
    }

    #[test]
    fn an_engine_that_does_not_answer_changes_no_phase() {
        let why = Why::new("EngineUnavailable", "The engine does not answer.");
        for wanted in WISHES {
            for phase in Phase::ALL {
                let told = match next(wanted, *phase, Seen::Unreachable(why.clone())) {
                    Step::Wait(told) => told,
                    // What has ended is forgotten all the same.
                    Step::FinishRemoval if wanted == Wanted::Removed && phase.is_terminal() => continue,
                    Step::Rest if *phase == Phase::Removed => continue,
                    other => panic!("{phase}, {wanted}: {other:?}"),
                };
                let waits = !phase.is_terminal() && (*phase != Phase::Running || wanted != Wanted::Running);
                assert_eq!(told.is_some(), waits, "{phase}, {wanted}");
            }
        }
    }

    /// Carries the steps out on paper, with an engine that does what it is told.
    fn carry_out(wanted: Wanted, phase: Phase, mut object: Option<Object>) -> Vec<Step> {
        let docker = EngineName::parse("docker").unwrap();
        let mut status = status(phase);
        let mut steps = Vec::new();
        while steps.len() < 12 {
            let seen = if status.engine().is_some() { Seen::Object(object.clone()) } else { Seen::NoEngine };
            let step = plan(Situation { wanted, status: &status, seen: &seen, choice: &Ok(docker.clone()) });
            steps.push(step.clone());
            status = match step {
                Step::Choose(engine) => status.scheduled(engine).unwrap(),
                Step::Create => {
                    object = Some(Object { id: "one".into(), state: ObjectState::Created, ports: vec![] });
                    status.created("one".into()).unwrap()
                }
                Step::Start(_) => {
                    object.as_mut().unwrap().state = ObjectState::Running { started: Timestamp(5) };
                    status
                }
                Step::Running { started } => status.running(started).unwrap(),
                Step::BeginStop(why) => status.stopping(why).unwrap(),
                Step::Stop(_) => {
                    object.as_mut().unwrap().state = ObjectState::Exited(exit());
                    status
                }
                Step::End { exit, why } => status.exited(exit.code, exit.started, exit.finished, why).unwrap(),
                Step::RemoveObject(_) => {
                    object = None;
                    status
                }
                Step::FinishRemoval => status.removed(deleted(), Timestamp(9)).unwrap(),
                Step::Fail(why) => status.failed(why, Timestamp(9)).unwrap(),
                Step::Lose(why) => status.lost(why, Timestamp(9)).unwrap(),
                Step::Attend | Step::Wait(_) | Step::Rest => return steps,
            };
        }
        panic!("{phase} with {wanted} wanted never comes to rest: {steps:?}");
    }

    #[test]
    fn every_situation_comes_to_rest_by_allowed_transitions() {
        for wanted in WISHES {
            for phase in Phase::ALL {
                for object in objects() {
                    let steps = carry_out(wanted, *phase, object);
                    let last = steps.last().unwrap();
                    let waits = matches!(last, Step::Wait(Some(why)) if why.reason == "Starting");
                    assert!(matches!(last, Step::Attend | Step::Rest) || waits, "{phase}, {wanted}: {steps:?}");
                    assert!(wanted == Wanted::Running || !matches!(last, Step::Attend), "{phase}, {wanted}: {steps:?}");
                }
            }
        }
    }

    #[test]
    fn a_launch_takes_these_steps() {
        let steps = carry_out(Wanted::Running, Phase::Pending, None);
        let docker = EngineName::parse("docker").unwrap();
        assert_eq!(
            steps,
            [
                Step::Choose(docker),
                Step::Create,
                Step::Start("one".into()),
                Step::Running { started: Timestamp(5) },
                Step::Attend
            ]
        );
    }

    #[test]
    fn an_object_gone_before_it_was_recorded_is_made_again_and_one_gone_after_is_lost() {
        assert_eq!(next(Wanted::Running, Phase::Scheduled, Seen::Object(None)), Step::Create);
        assert_eq!(next(Wanted::Running, Phase::Starting, Seen::Object(None)), Step::Lose(gone()));
    }

    #[test]
    fn ends_are_told_apart() {
        let end = |code, out_of_memory| ended(&Exit { code, out_of_memory, ..exit() }).reason;
        assert_eq!(end(0, false), "Completed");
        assert_eq!(end(3, false), "ExitedWithError");
        assert_eq!(end(143, false), "Signalled");
        assert_eq!(end(137, true), "OutOfMemory");
        let stop = |code, out_of_memory| stopped(&Exit { code, out_of_memory, ..exit() }).reason;
        assert_eq!(stop(143, false), "Stopped");
        assert_eq!(stop(137, true), "OutOfMemory");
    }
}
