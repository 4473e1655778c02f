//! The decision: every engine gets a verdict, and of those that fit the one with the best rank is chosen.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{Candidate, Capacity, Claim, Needs, Room};
use crate::domain::{EngineName, Why};

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The engine, or kind of engine, that was asked for. `None`: any.
    pub engine: Option<&'a str>,
    /// The namespace that was asked for.
    pub namespace: &'a str,
    /// What its user's token said.
    pub claims: &'a [Claim],
    /// What its specification needs.
    pub needs: &'a Needs,
    /// The engines that have refused it, each with its reason.
    pub refused: &'a [(EngineName, Why)],
}

/// How well an engine fits; the least is the best. The fields are compared in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank {
    /// How many of the preferred labels it has, the most first.
    preferred: Reverse<usize>,
    /// Whether the engine itself would let it wait for room.
    waits: bool,
    /// The share of what is scarcest there that would be taken, in thousandths.
    share: i64,
    /// Executions per processor, in thousandths.
    crowd: i64,
    /// The same input has the same answer.
    name: EngineName,
}

/// What is to be said of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would do.
    Fits(Rank),
    /// It has no room now, or others come first: it may do later, by itself.
    Later(Why),
    /// It does not answer, or has not told its capacity yet: it may do when it has.
    Away(Why),
    /// It does not do, as long as nobody changes something.
    No(Why),
    /// Another was asked for by name or kind.
    NotAsked(Why),
}

/// An engine with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The engine.
    pub engine: EngineName,
    /// What is said of it.
    pub verdict: Verdict,
}

/// Which engine was chosen, and why each other one was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The engine; `None`: none fits now.
    pub chosen: Option<EngineName>,
    /// All of them, by name.
    pub considered: Vec<Considered>,
}

/// Chooses among `engines`, in whatever order they come.
pub fn decide(asked: &Asked<'_>, engines: &[Candidate]) -> Decision {
    let mut considered: Vec<Considered> = engines
        .iter()
        .map(|engine| Considered { engine: engine.name.clone(), verdict: verdict(asked, engine) })
        .collect();
    considered.sort_by(|one, other| one.engine.cmp(&other.engine));
    let ranks = considered.iter().filter_map(|considered| match &considered.verdict {
        Verdict::Fits(rank) => Some(rank),
        _ => None,
    });
    let chosen = ranks.min().map(|best| best.name.clone());
    Decision { chosen, considered }
}

impl Decision {
    /// The engines that may do later, by themselves.
    pub fn later(&self) -> impl Iterator<Item = &EngineName> {
        self.considered
            .iter()
            .filter(|considered| matches!(considered.verdict, Verdict::Later(_)))
            .map(|considered| &considered.engine)
    }

    /// What stands in the way when none was chosen.
    pub fn obstacle(&self, asked: Option<&str>) -> Why {
        let mut obstacles = self.considered.iter().filter_map(|considered| match &considered.verdict {
            Verdict::Later(why) | Verdict::Away(why) | Verdict::No(why) => Some((&considered.engine, why)),
            Verdict::Fits(_) | Verdict::NotAsked(_) => None,
        });
        let Some((_, first)) = obstacles.next() else {
            return match asked {
                Some(asked) => Why::new("EngineNotServed", format!("No engine named or of kind {asked:?} is served.")),
                None => Why::new("NoEngine", "No engine is configured."),
            };
        };
        let others: Vec<&Why> = obstacles.map(|(_, why)| why).collect();
        if others.is_empty() {
            return first.clone();
        }
        let same = others.iter().all(|why| why.reason == first.reason);
        let reason = if same { first.reason.as_str() } else { "NoEngineFits" };
        let told: Vec<&str> = std::iter::once(first).chain(others).map(|why| why.message.as_str()).collect();
        Why::new(reason, format!("No engine takes it now. {}", told.join(" ")))
    }
}

impl Verdict {
    /// What is told of it, and of whether it was chosen.
    pub fn why(&self, chosen: bool) -> Why {
        match self {
            Self::Fits(rank) if chosen => Why::new("Chosen", format!("It fits best: {}.", rank.told())),
            Self::Fits(rank) => Why::new("RankedLower", format!("Another fits better: {}.", rank.told())),
            Self::Later(why) | Self::Away(why) | Self::No(why) | Self::NotAsked(why) => why.clone(),
        }
    }
}

impl Rank {
    fn told(&self) -> String {
        let percent = |thousandths: i64| format!("{}.{} %", thousandths / 10, thousandths % 10);
        let mut told = format!("with it, {} of what is scarcest there would be taken", percent(self.share));
        if self.preferred.0 > 0 {
            told.push_str(&format!(", it has {} of the preferred labels", self.preferred.0));
        }
        if self.waits {
            told.push_str(", and the engine would let it wait for room");
        }
        told
    }
}

fn verdict(asked: &Asked<'_>, engine: &Candidate) -> Verdict {
    let name = &engine.name;
    if let Some(wanted) = asked.engine
        && !engine.is_meant_by(asked.engine)
    {
        return Verdict::NotAsked(Why::new(
            "NotAskedFor",
            format!("The engine {name} is not what was asked for: {wanted}."),
        ));
    }
    let no = [access, namespace, requirements, refused, retired].iter().find_map(|filter| filter(asked, engine));
    if let Some(why) = no {
        return Verdict::No(why);
    }
    if let Some(why) = &engine.away {
        return Verdict::Away(why.clone());
    }
    if engine.offer.capacity == Capacity::Unknown {
        let message = format!("The engine {name} has not told its capacity yet.");
        return Verdict::Away(Why::new("EngineNotReady", message));
    }
    match load(asked, engine) {
        Ok(waits) => Verdict::Fits(rank(asked, engine, waits)),
        Err(why) => Verdict::Later(why),
    }
}

/// User access: its operator lets them use it.
fn access(asked: &Asked<'_>, engine: &Candidate) -> Option<Why> {
    let (name, claims) = (&engine.name, &engine.offer.claims);
    if claims.is_empty() || claims.iter().any(|claim| asked.claims.contains(claim)) {
        return None;
    }
    let claims: Vec<&str> = claims.iter().map(Claim::as_str).collect();
    Some(Why::new("AccessDenied", format!("The engine {name} is for users with {}.", claims.join(" or "))))
}

fn namespace(asked: &Asked<'_>, engine: &Candidate) -> Option<Why> {
    let (name, namespace) = (&engine.name, asked.namespace);
    let denied =
        || Why::new("NamespaceNotAllowed", format!("The engine {name} does not run in the namespace {namespace}."));
    (!engine.offer.namespaces.allow(namespace)).then(denied)
}

/// Requirements that no waiting fulfils.
fn requirements(asked: &Asked<'_>, engine: &Candidate) -> Option<Why> {
    let (name, offer, needs) = (&engine.name, &engine.offer, asked.needs);
    for (key, value) in &needs.requires {
        if offer.labels.get(key) != Some(value) {
            return Some(Why::new("LabelMissing", format!("The engine {name} does not have the label {key}={value}.")));
        }
    }
    if let Some(kind) = needs.volumes.iter().find(|kind| !offer.volumes.contains(kind)) {
        return Some(Why::new(
            "VolumeNotSupported",
            format!("The engine {name} has no volumes of kind {}.", kind.as_str()),
        ));
    }
    if let Some(protocol) = needs.protocols.iter().find(|protocol| !offer.publishes(**protocol)) {
        let message = format!("The engine {name} does not publish {} ports.", protocol.as_str().to_uppercase());
        return Some(Why::new("ProtocolNotSupported", message));
    }
    let room = offer.capacity.room()?;
    needs.resources.iter().filter(|(_, amount)| amount.0 > 0).find_map(|(resource, amount)| {
        let shown = amount.show(resource);
        match room.most(resource) {
            None if matches!(resource.as_str(), "ephemeral-storage") => None,
            None => Some(Why::new("NoSuchResource", format!("The engine {name} has no {resource}."))),
            Some(most) if *amount > most => {
                let most = most.show(resource);
                Some(Why::new(
                    "TooLarge",
                    format!("It needs {shown} of {resource}; the engine {name} has {most} at most."),
                ))
            }
            Some(_) => None,
        }
    })
}

fn refused(asked: &Asked<'_>, engine: &Candidate) -> Option<Why> {
    let (_, why) = asked.refused.iter().find(|(refused, _)| *refused == engine.name)?;
    Some(why.clone())
}

fn retired(_: &Asked<'_>, engine: &Candidate) -> Option<Why> {
    let message = || format!("The engine {} was taken out of the configuration.", engine.name);
    engine.offer.retired.then(|| Why::new("EngineRetired", message()))
}

/// Whether there is room now, and whether the engine itself would let it wait for that.
fn load(asked: &Asked<'_>, engine: &Candidate) -> Result<bool, Why> {
    let (name, offer, queue) = (&engine.name, &engine.offer, engine.queue);
    let short = offer.capacity.room().and_then(|room| {
        let free = |resource: &str| room.free.get(resource).copied().unwrap_or_default();
        let short = |(resource, amount): &(&String, &super::Amount)| {
            amount.0 > 0 && room.total.contains_key(*resource) && free(resource) < **amount
        };
        let (resource, amount) = asked.needs.resources.iter().find(short)?;
        let (amount, free) = (amount.show(resource), free(resource).show(resource));
        let message = format!("It needs {amount} of {resource}; the engine {name} has {free} free now.");
        Some((Why::new("NoRoom", message), room.queues))
    });
    let waits = match short {
        Some((why, false)) => return Err(why),
        Some((_, true)) => true,
        None => false,
    };
    match offer.max.map(|max| max.saturating_sub(queue.placed)) {
        Some(0) => {
            let max = offer.max.unwrap_or_default();
            Err(Why::new(
                "EngineFull",
                format!("The engine {name} runs {} executions; it may run {max}.", queue.placed),
            ))
        }
        // Without a limit of its own there is room for one at a time: who waits for resources must not be overtaken.
        open if queue.ahead >= open.unwrap_or(1) => {
            Err(Why::new("Queued", format!("{} executions come before it on the engine {name}.", queue.ahead)))
        }
        _ => Ok(waits),
    }
}

fn rank(asked: &Asked<'_>, engine: &Candidate, waits: bool) -> Rank {
    let (offer, needs) = (&engine.offer, asked.needs);
    let preferred = needs.prefers.iter().filter(|(key, value)| offer.labels.get(*key) == Some(value)).count();
    let placed = i64::from(engine.queue.placed);
    let slots = offer.max.map(|max| share(placed + 1, i64::from(max)));
    let used = offer
        .capacity
        .room()
        .into_iter()
        .flat_map(|room| needs.resources.iter().filter_map(|(resource, amount)| used(room, resource, amount.0)));
    let processors =
        offer.capacity.room().and_then(|room| room.total.get("cpu")).map_or(1, |cpu| (cpu.0 / 1000).max(1));
    Rank {
        preferred: Reverse(preferred),
        waits,
        share: slots.into_iter().chain(used).max().unwrap_or_default(),
        crowd: (placed + 1).saturating_mul(1000) / processors,
        name: engine.name.clone(),
    }
}

/// The share of a resource that would be taken.
fn used(room: &Room, resource: &str, amount: i64) -> Option<i64> {
    let total = room.total.get(resource)?.0;
    let free = room.free.get(resource).map_or(0, |free| free.0);
    Some(share(total.saturating_sub(free).saturating_add(amount), total))
}

fn share(part: i64, whole: i64) -> i64 {
    part.saturating_mul(1000) / whole.max(1)
}
