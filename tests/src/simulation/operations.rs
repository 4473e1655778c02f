//! What happens in a simulation, by the dice: what users want, what goes wrong, and how time goes by.

use std::time::Duration;

use futures::FutureExt as _;
use renga_reconciler::clock::Clock as _;
use renga_reconciler::engine::EngineError;
use renga_reconciler::engine::fake::{FakeWorld, Fault, Operation};
use renga_shared::auth::NONCE_BYTES;
use renga_shared::domain::{ContextId, ExecutionId, Wanted, Why};
use renga_shared::sql::contexts::{self, NewContext};
use renga_shared::sql::executions::{self, NewExecutionRow};
use renga_shared::sql::logs::LogStream;
use renga_shared::sql::{Inserted, Visible};
use serde_json::{Value, json};

use super::process::Process;
use super::rules::{Known, REFUSED, SHOWS_TOKEN, token_of};
use super::{Simulation, trace};

/// The most executions at a time, and reconcilers.
const MOST_ASKED: usize = 40;
const MOST_PROCESSES: usize = 3;
const OPERATIONS: [Operation; 10] = [
    Operation::Probe,
    Operation::Prepare,
    Operation::Create,
    Operation::Start,
    Operation::Inspect,
    Operation::Stop,
    Operation::Remove,
    Operation::List,
    Operation::Logs,
    Operation::Events,
];

/// An execution that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) id: ExecutionId,
    context: ContextId,
    /// Whether it waits for ever for what its engine will never have, unless it is stopped.
    waits_for_ever: bool,
}

impl Simulation {
    /// Does one thing that nobody expects, or lets time go by.
    pub(super) fn operate(&mut self) {
        if self.processes.is_empty() && self.dice.one_in(4) {
            self.start_process();
        }
        match self.dice.below(1_000) {
            0..600 => self.let_time_go_by(),
            600..680 => self.ask(),
            680..720 => self.wish(Wanted::Stopped),
            720..760 => self.wish(Wanted::Removed),
            760..830 => self.write(),
            830..860 => self.end(),
            860..866 => self.take_away(),
            866..880 => self.turn_engine(),
            880..898 => self.fail_next(),
            898..900 => self.be_busy(),
            900..910 => self.fail_randomly(),
            910..940 => self.kill(),
            940..955 => self.freeze(),
            955..960 => self.stop_process(),
            960..990 => self.start_process(),
            _ => self.jump(),
        }
    }

    fn let_time_go_by(&self) {
        match self.dice.below(8) {
            0 => {}
            1 => self.around.clock.advance(Duration::from_millis(self.dice.below(2_000))),
            _ => self.next_moment(),
        }
    }

    /// Nobody is woken in between: the machine was asleep.
    fn jump(&self) {
        let seconds = if self.dice.one_in(10) { 3_600 } else { 40 };
        let jump = Duration::from_millis(self.dice.below(seconds * 1_000));
        trace::say(format!("the clock jumps by {jump:?}"));
        self.around.clock.advance(jump);
    }

    fn ask(&mut self) {
        if self.asked.len() >= MOST_ASKED {
            return;
        }
        let now = self.around.clock.now();
        let (spec, hopeless, waits_for_ever) = self.specification();
        let context = ContextId::new(now, self.dice.number().to_be_bytes());
        let text = spec.to_string();
        let owner = self.dice.pick(&["alice", "bob", "carol"]).copied().unwrap_or_default();
        let new = NewContext { id: context, owner, created: now, spec: &text, project: None, idempotency: None };
        let store = &self.around.store;
        let stored = contexts::insert(store, &new).now_or_never();
        assert!(matches!(stored, Some(Ok(Inserted::New(_)))), "{stored:?}");
        let engine = [None, None, Some("fake"), Some("one"), Some("two")];
        let id = ExecutionId::new(now, self.dice.number().to_be_bytes());
        let keys = self.around.settings.seal_keys.as_ref();
        // One nonce for all: nobody is here to profit from it.
        let token = keys.and_then(|keys| keys.seal(&token_of(id), id, [1; NONCE_BYTES]).ok());
        let new = NewExecutionRow {
            id,
            context,
            visible: Visible::All,
            requested_by: "alice",
            created: now,
            engine: self.dice.pick(&engine).copied().flatten(),
            namespace: "default",
            environment: "{}",
            claims: "[]",
            sealed_token: token.as_ref(),
            idempotency: None,
        };
        store.rules().known.insert(new.id, Known { hopeless, taken_away: None });
        match executions::insert(store, &new).now_or_never() {
            Some(Ok(executions::Asked::Inserted(_))) => {
                trace::say(format!("asked for {}: {spec}", new.id));
                self.asked.push(Asked { id: new.id, context, waits_for_ever });
                self.summary.executions += 1;
            }
            // No reconciler has begun yet.
            Some(Ok(executions::Asked::NoEngine)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Something to run, whether it cannot be started, and whether it waits for ever.
    fn specification(&self) -> (Value, bool, bool) {
        let steps = |steps: &[&str]| (json!({ "image": "fake/steps", "command": steps }), false, false);
        let text = "0123456789abcdef".repeat(64);
        match self.dice.below(16) {
            0 => steps(&["out:hello", "err:oops", "out:wörld", "exit:3"]),
            1 => steps(&[&format!("out:{SHOWS_TOKEN}"), "env:RENGA_ACCESS_TOKEN", "exit:0"]),
            2 => steps(&["lines:40", "exit:1"]),
            3 => steps(&["sleep:2", "out:late", "sleep:30", "raw:00ff00c3", "sleep:1", "raw:b6"]),
            4 | 5 => steps(&["out:started", "wait"]),
            6 => steps(&["ignore-term", "out:started", "wait"]),
            7 => steps(&["out:before", "sleep:0.1", "oom"]),
            8 => {
                // More than is kept.
                let line = format!("out:{text}");
                let mut long: Vec<&str> = vec![&line; 300];
                for at in (20..300).step_by(40) {
                    long[at] = "sleep:0.3";
                }
                steps(&long)
            }
            9 => (json!({ "image": "fake/steps", "command": ["out:never", "no-such-command"] }), true, false),
            10 => (json!({ "image": "fake/missing" }), true, false),
            11 => (json!({ "image": format!("fake/slow-pull:{}", 1 + self.dice.below(90)) }), false, false),
            12 => (json!({ "image": "fake/unreachable" }), false, true),
            _ => steps(&["out:a", "sleep:0.5", "err:b", "sleep:5", "out:c", "exit:7"]),
        }
    }

    pub(super) fn wish_for(&self, asked: Asked, wanted: Wanted) {
        trace::say(format!("{} is wanted {wanted}", asked.id));
        let (store, now) = (&self.around.store, self.around.clock.now());
        let wished = executions::wish(store, Visible::All, asked.context, asked.id, wanted, now).now_or_never();
        assert!(matches!(wished, Some(Ok(Some(_)))), "{wished:?}");
    }

    fn wish(&self, wanted: Wanted) {
        if let Some(asked) = self.dice.pick(&self.asked) {
            self.wish_for(*asked, wanted);
        }
    }

    /// Has one that may run write something, or end.
    fn poke(&self, poke: impl Fn(&FakeWorld, ExecutionId) -> bool) {
        if let Some(asked) = self.dice.pick(&self.asked) {
            for (_, world) in &self.around.worlds {
                if poke(world, asked.id) {
                    break;
                }
            }
        }
    }

    fn write(&self) {
        let number = self.dice.number();
        let stream = if number.is_multiple_of(2) { LogStream::Stdout } else { LogStream::Stderr };
        self.poke(|world, id| world.write(id, stream, format!("said {number}\n")));
    }

    fn end(&self) {
        let code = i64::try_from(self.dice.below(200)).unwrap_or_default();
        self.poke(|world, id| world.end(id, code));
    }

    /// Somebody removes an object by hand.
    fn take_away(&self) {
        let Some(Asked { id, .. }) = self.dice.pick(&self.asked).copied() else { return };
        for (_, world) in &self.around.worlds {
            if let Some((_, written)) = world.object(id) {
                trace::say(format!("the object of {id} is taken away"));
                if let Some(known) = self.around.store.rules().known.get_mut(&id) {
                    // One that was created on another engine has written nothing.
                    known.taken_away.get_or_insert_default().extend(written);
                }
                world.lose(id);
            }
        }
    }

    fn turn_engine(&self) {
        let Some((name, world)) = self.dice.pick(&self.around.worlds) else { return };
        let down = self.dice.one_in(2);
        trace::say(format!("engine {name} is {}", if down { "away" } else { "there" }));
        world.set_down(down);
    }

    fn fail_next(&self) {
        let (Some(operation), Some((name, world))) = (self.dice.pick(&OPERATIONS), self.dice.pick(&self.around.worlds))
        else {
            return;
        };
        let fault = match self.dice.below(6) {
            0 => Fault::Fails(EngineError::Retry(Why::new("EngineError", "The engine could not do it."))),
            1 => Fault::Fails(EngineError::Down("it went away".into())),
            2 => Fault::Hangs,
            3 => Fault::Fails(EngineError::Unreached("nobody listens".into())),
            4 if *operation == Operation::Create => {
                Fault::Halfway(EngineError::Refused(Why::new(REFUSED, "The engine takes no more of it.")))
            }
            _ => Fault::AnswerLost,
        };
        trace::say(format!("engine {name} is to fail at {operation:?}: {fault:?}"));
        world.fail_next(*operation, fault);
    }

    /// The engine is busy with what it is to remove, as Docker is while its disk is slow, and a cluster with finalizers.
    fn be_busy(&self) {
        let Some((name, world)) = self.dice.pick(&self.around.worlds) else { return };
        let times = 1 + self.dice.below(6);
        trace::say(format!("engine {name} is busy at the next {times} removals"));
        for _ in 0..times {
            let why = Why::new("EngineBusy", "The engine is still removing its container.");
            world.fail_next(Operation::Remove, Fault::Fails(EngineError::Retry(why)));
        }
    }

    fn fail_randomly(&self) {
        let one_in = [0, 0, 200, 50, 10][usize::try_from(self.dice.below(5)).unwrap_or_default()];
        match self.dice.pick(&self.around.worlds) {
            Some((name, world)) if self.dice.one_in(2) => {
                trace::say(format!("engine {name} fails at one call in {one_in}"));
                world.fail_randomly(one_in, self.dice.random());
            }
            _ => {
                trace::say(format!("the database fails at one statement in {one_in}"));
                self.statements_fail(one_in);
            }
        }
    }

    fn kill(&self) {
        if let Some(process) = self.dice.pick(&self.processes) {
            trace::say(format!("process {} is to be killed", process.id));
            process.life.kill_after(self.dice.below(40));
        }
    }

    fn freeze(&self) {
        if let Some(process) = self.dice.pick(&self.processes) {
            let span = Duration::from_millis(self.dice.below(60_000));
            trace::say(format!("process {} is frozen for {span:?}", process.id));
            process.life.freeze(self.around.clock.now().plus(span));
        }
    }

    fn stop_process(&mut self) {
        let at = usize::try_from(self.dice.below(self.processes.len() as u64)).unwrap_or_default();
        if let Some(process) = self.processes.get_mut(at)
            && process.stop()
        {
            trace::say(format!("process {} is asked to stop", process.id));
        }
    }

    fn start_process(&mut self) {
        if self.processes.len() < MOST_PROCESSES {
            let slow = !self.dice.one_in(3);
            let process = Process::start(&self.around, &self.dice, slow);
            trace::say(format!("process {} begins", process.id));
            self.processes.push(process);
        }
    }

    /// From here on nothing goes wrong.
    pub(super) fn end_all_trouble(&mut self) {
        trace::say("all trouble ends".into());
        self.statements_fail(0);
        for (_, world) in &self.around.worlds {
            world.forget_faults();
            world.set_down(false);
        }
        if self.processes.iter().all(Process::is_stopping) {
            self.processes.drain(..).for_each(Process::bury);
            self.start_process();
        }
        for process in &self.processes {
            process.life.calm_down();
        }
        for asked in self.asked.iter().filter(|asked| asked.waits_for_ever) {
            self.wish_for(*asked, Wanted::Stopped);
        }
    }
}
