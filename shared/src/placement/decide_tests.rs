//! The table of `docs/placement.md`, and what must hold of every decision.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::{EngineName, Why};

fn amounts(given: &[(&str, i64)]) -> BTreeMap<String, Amount> {
    given.iter().map(|(name, amount)| ((*name).to_owned(), Amount(*amount))).collect()
}

fn labels(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// An engine with four processors and 8 GiB, all free, that takes everything.
fn engine(name: &str, kind: &str) -> Candidate {
    let all = amounts(&[("cpu", 4_000), ("memory", 8 << 30)]);
    Candidate {
        name: EngineName::parse(name).unwrap(),
        kind: kind.into(),
        away: None,
        offer: Offer {
            volumes: Volumes::ALL.into(),
            protocols: vec!["tcp".into(), "udp".into()],
            capacity: Capacity::Known(Room { total: all.clone(), free: all, ..Room::default() }),
            ..Offer::default()
        },
        queue: Queue::default(),
    }
}

fn with(mut engine: Candidate, change: impl FnOnce(&mut Candidate)) -> Candidate {
    change(&mut engine);
    engine
}

fn room(engine: &mut Candidate) -> &mut Room {
    match &mut engine.offer.capacity {
        Capacity::Known(room) => room,
        other => panic!("{other:?}"),
    }
}

struct Case {
    what: &'static str,
    engine: Option<&'static str>,
    namespace: &'static str,
    claims: &'static [&'static str],
    needs: Needs,
    engines: Vec<Candidate>,
    chosen: Option<&'static str>,
    /// The reasons, by the engines' names.
    reasons: &'static [&'static str],
}

impl Case {
    fn of(what: &'static str, engines: Vec<Candidate>) -> Self {
        let needs = Needs { resources: amounts(&[("cpu", 1_000)]), ..Needs::default() };
        Self { what, engine: None, namespace: "default", claims: &[], needs, engines, chosen: None, reasons: &[] }
    }
}

fn gpu(engine: &mut Candidate) {
    room(engine).total.insert("nvidia.com/gpu".into(), Amount(2));
    room(engine).free.insert("nvidia.com/gpu".into(), Amount(2));
}

fn needs_gpu() -> Needs {
    Needs { resources: amounts(&[("nvidia.com/gpu", 1)]), ..Needs::default() }
}

/// The same rows as in `docs/placement.md`.
fn table() -> Vec<Case> {
    let (a, b) = (|| engine("a", "docker"), || engine("b", "k8s"));
    let away = Why::new("EngineUnavailable", "The engine a does not answer: connection refused");
    let busy = |cpu: i64| move |engine: &mut Candidate| _ = room(engine).free.insert("cpu".into(), Amount(cpu));
    vec![
        Case {
            chosen: Some("a"),
            reasons: &["Chosen", "RankedLower"],
            ..Case::of("Both are idle: the first by name", vec![a(), b()])
        },
        Case {
            chosen: Some("b"),
            reasons: &["RankedLower", "Chosen"],
            ..Case::of("One has more left after requests", vec![with(a(), busy(1_000)), b()])
        },
        Case {
            chosen: Some("b"),
            reasons: &["RankedLower", "Chosen"],
            needs: Needs::default(),
            ..Case::of(
                "Nothing is requested: fewer executions per processor",
                vec![with(a(), |a| a.queue.placed = 3), b()],
            )
        },
        Case {
            engine: Some("k8s"),
            chosen: Some("b"),
            reasons: &["NotAskedFor", "Chosen"],
            ..Case::of("A kind is asked for", vec![a(), b()])
        },
        Case {
            engine: Some("a"),
            chosen: Some("a"),
            reasons: &["Chosen", "NotAskedFor"],
            ..Case::of("A name is asked for", vec![with(a(), busy(1_000)), b()])
        },
        Case {
            chosen: Some("b"),
            reasons: &["EngineUnavailable", "Chosen"],
            ..Case::of("One does not answer", vec![with(a(), |a| a.away = Some(away)), b()])
        },
        Case {
            chosen: Some("b"),
            reasons: &["EngineNotReady", "Chosen"],
            ..Case::of(
                "One has not told its capacity yet",
                vec![with(a(), |a| a.offer.capacity = Capacity::Unknown), b()],
            )
        },
        Case {
            needs: Needs { resources: amounts(&[("memory", 1 << 40)]), ..Needs::default() },
            chosen: Some("a"),
            reasons: &["Chosen", "TooLarge"],
            ..Case::of(
                "One does not tell its capacity at all",
                vec![with(a(), |a| a.offer.capacity = Capacity::NotReported), b()],
            )
        },
        Case {
            chosen: Some("b"),
            reasons: &["AccessDenied", "Chosen"],
            claims: &["role:students"],
            ..Case::of(
                "One is for others",
                vec![with(a(), |a| a.offer.claims = vec![Claim::parse("role:staff").unwrap()]), b()],
            )
        },
        Case {
            namespace: "team",
            chosen: Some("a"),
            reasons: &["Chosen", "NamespaceNotAllowed"],
            ..Case::of(
                "A namespace that one does not run in",
                vec![a(), with(b(), |b| b.offer.namespaces = Namespaces::Only(vec!["other".into()]))],
            )
        },
        Case {
            needs: needs_gpu(),
            chosen: Some("b"),
            reasons: &["NoSuchResource", "Chosen"],
            ..Case::of("One has graphics processors", vec![a(), with(b(), gpu)])
        },
        Case {
            needs: Needs { resources: amounts(&[("cpu", 6_000)]), ..Needs::default() },
            reasons: &["TooLarge", "TooLarge"],
            ..Case::of("More than any has", vec![a(), b()])
        },
        Case {
            needs: Needs { volumes: [Volumes::Secret].into(), ..Needs::default() },
            chosen: Some("b"),
            reasons: &["VolumeNotSupported", "Chosen"],
            ..Case::of("A Secret is mounted", vec![with(a(), |a| a.offer.volumes = vec![Volumes::EmptyDir]), b()])
        },
        Case {
            needs: Needs { requires: labels(&[("arch", "arm64")]), ..Needs::default() },
            chosen: Some("b"),
            reasons: &["LabelMissing", "Chosen"],
            ..Case::of(
                "The context requires a label",
                vec![a(), with(b(), |b| b.offer.labels = labels(&[("arch", "arm64")]))],
            )
        },
        Case {
            needs: Needs { prefers: labels(&[("disk", "ssd")]), ..Needs::default() },
            chosen: Some("b"),
            reasons: &["RankedLower", "Chosen"],
            ..Case::of(
                "The context prefers a label",
                vec![
                    a(),
                    with(b(), |b| {
                        b.queue.placed = 9;
                        b.offer.labels = labels(&[("disk", "ssd")]);
                    }),
                ],
            )
        },
        Case {
            chosen: Some("b"),
            reasons: &["NoRoom", "Chosen"],
            ..Case::of(
                "One is full, the other would let it wait",
                vec![
                    with(a(), busy(500)),
                    with(b(), |b| {
                        room(b).queues = true;
                        busy(500)(b);
                    }),
                ],
            )
        },
        Case {
            reasons: &["EngineFull", "Queued"],
            ..Case::of(
                "One runs as many as it may, others wait for the other",
                vec![
                    with(a(), |a| (a.offer.max, a.queue.placed) = (Some(2), 2)),
                    with(b(), |b| (b.offer.max, b.queue) = (Some(2), Queue { placed: 1, ahead: 1 })),
                ],
            )
        },
    ]
}

fn asked<'a>(case: &'a Case, claims: &'a [Claim]) -> Asked<'a> {
    Asked { engine: case.engine, namespace: case.namespace, claims, needs: &case.needs, refused: &[] }
}

#[test]
fn the_table_of_examples_holds() {
    for case in table() {
        let claims: Vec<Claim> = case.claims.iter().map(|claim| Claim::parse(claim).unwrap()).collect();
        let decision = decide(&asked(&case, &claims), &case.engines);
        assert_eq!(decision.chosen.as_ref().map(EngineName::as_str), case.chosen, "{}", case.what);
        let reasons: Vec<String> = decision
            .considered
            .iter()
            .map(|considered| considered.verdict.why(decision.chosen.as_ref() == Some(&considered.engine)).reason)
            .collect();
        assert_eq!(reasons, case.reasons, "{}", case.what);
    }
}

#[test]
fn the_documentation_shows_this_table() {
    let documented = include_str!("../../../docs/placement.md");
    for case in table() {
        let chosen = case.chosen.unwrap_or("none");
        let row = format!("| {} | {chosen} | {} |", case.what, case.reasons.join(", "));
        assert!(documented.contains(&row), "docs/placement.md has no row\n{row}");
    }
}

#[test]
fn who_refused_it_is_not_asked_again_and_an_engine_on_its_way_out_takes_nothing() {
    let case = Case::of("", vec![engine("a", "docker"), with(engine("b", "docker"), |b| b.offer.retired = true)]);
    let why = Why::new("ImageNotFound", "There is no image x.");
    let refused = [(EngineName::parse("a").unwrap(), why.clone())];
    let decision = decide(&Asked { refused: &refused, ..asked(&case, &[]) }, &case.engines);
    assert_eq!(decision.chosen, None);
    assert_eq!(decision.considered[0].verdict, Verdict::No(why));
    assert_eq!(decision.obstacle(None).reason, "NoEngineFits");
}

#[test]
fn what_stands_in_the_way_is_told_as_it_is() {
    let nobody = Decision { chosen: None, considered: vec![] };
    assert_eq!(nobody.obstacle(None).reason, "NoEngine");
    assert_eq!(nobody.obstacle(Some("x")).message, "No engine named or of kind \"x\" is served.");
    let full = |name: &str| with(engine(name, "docker"), |engine| engine.offer.max = Some(0));
    let case = Case::of("", vec![full("a")]);
    let one = decide(&asked(&case, &[]), &case.engines);
    assert_eq!(one.obstacle(None), Why::new("EngineFull", "The engine a runs 0 executions; it may run 0."));
    assert_eq!(one.later().map(EngineName::as_str).collect::<Vec<_>>(), ["a"]);
    let case = Case::of("", vec![full("a"), full("b")]);
    assert_eq!(decide(&asked(&case, &[]), &case.engines).obstacle(None).reason, "EngineFull");
}

prop_compose! {
    fn any_engine()(
        name in "[ab][0-9]", kind in prop::sample::select(vec!["docker", "k8s"]), away: bool, retired: bool,
        max in prop::option::of(0_u32..5), placed in 0_u32..5, ahead in 0_u32..3, staff: bool,
        total in 0_i64..8, free in 0_i64..8, queues: bool, told in 0_u8..3, zone in prop::option::of("[xy]"),
        secrets: bool, gpus in prop::option::of(0_i64..3), namespaces: bool,
    ) -> Candidate {
        let mut candidate = engine(&name, kind);
        candidate.away = away.then(|| Why::new("EngineUnavailable", "It does not answer."));
        candidate.queue = Queue { placed, ahead };
        let mut room = Room { total: amounts(&[("cpu", total)]), free: amounts(&[("cpu", free.min(total))]), queues, ..Room::default() };
        if let Some(gpus) = gpus {
            room.total.insert("nvidia.com/gpu".into(), Amount(gpus));
            room.free.insert("nvidia.com/gpu".into(), Amount(gpus));
        }
        candidate.offer = Offer {
            retired, max,
            claims: if staff { vec![Claim::parse("role:staff").unwrap()] } else { vec![] },
            labels: zone.map(|zone| ("zone".to_owned(), zone)).into_iter().collect(),
            namespaces: if namespaces { Namespaces::Only(vec!["team".into()]) } else { Namespaces::Any },
            volumes: if secrets { Volumes::ALL.into() } else { vec![Volumes::EmptyDir] },
            protocols: vec!["tcp".into()],
            capacity: match told {
                0 => Capacity::Unknown,
                1 => Capacity::NotReported,
                _ => Capacity::Known(room),
            },
        };
        candidate
    }
}

prop_compose! {
    fn any_needs()(
        cpu in 0_i64..8, gpus in 0_i64..3, zone in prop::option::of("[xy]"), disk in prop::option::of("[xy]"), secret: bool,
    ) -> Needs {
        let label = |value: Option<String>| value.map(|value| ("zone".to_owned(), value)).into_iter().collect();
        Needs {
            resources: amounts(&[("cpu", cpu), ("nvidia.com/gpu", gpus)]),
            volumes: if secret { [Volumes::Secret].into() } else { [].into() },
            requires: label(zone),
            prefers: label(disk),
            ..Needs::default()
        }
    }
}

fn any_engines() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::btree_map("[ab][0-9]", any_engine(), 0..6).prop_map(|engines| {
        let named = |(name, mut engine): (String, Candidate)| {
            engine.name = EngineName::parse(&name).unwrap();
            engine
        };
        engines.into_iter().map(named).collect()
    })
}

/// What stands in the way of an engine, said anew and more plainly than by the filters.
fn unfit(asked: &Asked<'_>, engine: &Candidate) -> bool {
    let offer = &engine.offer;
    let open = offer.max.map_or(1, |max| max.saturating_sub(engine.queue.placed));
    let short = |(name, amount): (&String, &Amount)| {
        amount.0 > 0
            && offer.capacity.room().is_some_and(|room| {
                let total = room.total.get(name).map_or(-1, |total| total.0);
                amount.0 > total || (!room.queues && amount.0 > room.free[name].0)
            })
    };
    asked.engine.is_some_and(|wanted| wanted != engine.name.as_str() && wanted != engine.kind)
        || engine.away.is_some()
        || offer.capacity == Capacity::Unknown
        || offer.retired
        || asked.refused.iter().any(|(name, _)| *name == engine.name)
        || !(offer.claims.is_empty() || offer.claims.iter().any(|claim| asked.claims.contains(claim)))
        || !offer.namespaces.allow(asked.namespace)
        || asked.needs.requires.iter().any(|(name, value)| offer.labels.get(name) != Some(value))
        || asked.needs.volumes.iter().any(|kind| !offer.volumes.contains(kind))
        || asked.needs.resources.iter().any(short)
        || engine.queue.ahead >= open
}

proptest! {
    #[test]
    fn what_is_chosen_fits_and_what_fits_is_chosen(
        engines in any_engines(), needs in any_needs(), staff: bool, team: bool,
        wanted in prop::option::of(prop::sample::select(vec!["docker", "k8s", "a1"])), refused in prop::option::of("[ab][0-9]"),
    ) {
        let claims = if staff { vec![Claim::parse("role:staff").unwrap()] } else { vec![] };
        let refused: Vec<_> = refused.iter().map(|name| (EngineName::parse(name).unwrap(), Why::new("No", "No."))).collect();
        let namespace = if team { "team" } else { "default" };
        let asked = Asked { engine: wanted, namespace, claims: &claims, needs: &needs, refused: &refused };
        let decision = decide(&asked, &engines);
        prop_assert_eq!(decision.considered.len(), engines.len());
        let fit: Vec<&Candidate> = engines.iter().filter(|engine| !unfit(&asked, engine)).collect();
        match &decision.chosen {
            Some(chosen) => prop_assert!(fit.iter().any(|engine| engine.name == *chosen)),
            None => prop_assert!(fit.is_empty(), "{:?} would do", fit[0].name),
        }
        // The same input, in whatever order, has the same answer.
        let mut reversed = engines.clone();
        reversed.reverse();
        prop_assert_eq!(decide(&asked, &reversed), decision);
    }

    #[test]
    fn more_room_never_makes_it_unplaceable(engines in any_engines(), needs in any_needs(), more in 0_i64..4, which in 0_usize..6) {
        let asked = Asked { engine: None, namespace: "default", claims: &[], needs: &needs, refused: &[] };
        let mut larger = engines.clone();
        if let Some(engine) = larger.get_mut(which) {
            engine.offer.max = engine.offer.max.map(|max| max + u32::try_from(more).unwrap());
            if let Capacity::Known(room) = &mut engine.offer.capacity {
                for amounts in [&mut room.total, &mut room.free] {
                    amounts.values_mut().for_each(|amount| amount.0 += more * 1_000);
                }
            }
        }
        if decide(&asked, &engines).chosen.is_some() {
            prop_assert!(decide(&asked, &larger).chosen.is_some());
        }
    }
}
