//! What a container needs and may use, in Kubernetes' form.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Quantity;
use super::field::{Problems, child, dns_subdomain, kind};

/// Amounts by resource: `cpu`, `memory`, `ephemeral-storage`, or an extended one such as `nvidia.com/gpu`.
pub type Amounts = BTreeMap<String, Quantity>;

/// The most processors, or pieces of an extended resource, that one container may ask for.
const MAX_PIECES: i64 = 1_000_000;

/// What a container needs and may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// The most that it may use.
    pub limits: Amounts,
    /// What it needs to be given.
    pub requests: Amounts,
}

impl Resources {
    pub(super) fn read(pointer: &str, value: Option<&Value>, problems: &mut Problems) -> Self {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Self::default();
        };
        let Some(object) = problems.object(pointer, value, &["limits", "requests"]) else {
            return Self::default();
        };
        let resources = Self {
            limits: amounts(object, pointer, "limits", problems),
            requests: amounts(object, pointer, "requests", problems),
        };
        for (name, request) in &resources.requests {
            let Some(limit) = resources.limits.get(name) else {
                continue;
            };
            let pointer = child(&child(pointer, "requests"), name);
            if request.exceeds(limit) {
                problems.add(pointer, format!("is {request}, more than the limit of {limit}"));
            } else if is_extended(name) && limit.exceeds(request) {
                problems.add(pointer, format!("is {request}, and must be the limit of {limit}: it cannot be shared"));
            }
        }
        resources
    }
}

fn amounts(object: &Map<String, Value>, pointer: &str, name: &str, problems: &mut Problems) -> Amounts {
    let pointer = child(pointer, name);
    let given = match object.get(name) {
        None | Some(Value::Null) => return Amounts::new(),
        Some(Value::Object(given)) => given,
        Some(other) => {
            problems.add(pointer, format!("must be an object of quantities, not {}", kind(other)));
            return Amounts::new();
        }
    };
    let mut amounts = Amounts::new();
    for (resource, value) in given {
        let pointer = child(&pointer, resource);
        if !is_known(resource) {
            problems.add(
                &pointer,
                "is no resource: cpu, memory, ephemeral-storage, or an extended one such as nvidia.com/gpu",
            );
            continue;
        }
        let quantity = match value {
            Value::String(text) => Quantity::parse(text),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            other => Err(format!("must be a quantity such as 2 or 128Mi, not {}", kind(other))),
        };
        let quantity = quantity.and_then(|quantity| {
            if is_extended(resource) && !quantity.is_whole() {
                Err("must be a whole number".into())
            } else if !is_bytes(resource) && quantity.as_whole() > MAX_PIECES {
                Err(format!("must be at most {MAX_PIECES}"))
            } else {
                Ok(quantity)
            }
        });
        if let Some(quantity) = problems.check(&pointer, quantity) {
            amounts.insert(resource.clone(), quantity);
        }
    }
    amounts
}

/// The ones every engine knows, and any with a domain before a slash.
fn is_known(resource: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    match resource.split_once('/') {
        None => matches!(resource, "cpu" | "memory" | "ephemeral-storage"),
        Some((domain, name)) => {
            dns_subdomain(domain).is_ok()
                && name.len() <= 63
                && name.starts_with(ends)
                && name.ends_with(ends)
                && name.chars().all(|c| ends(c) || matches!(c, '-' | '_' | '.'))
        }
    }
}

/// Whether it is counted in bytes, whose limit is that of every quantity.
fn is_bytes(resource: &str) -> bool {
    matches!(resource, "memory" | "ephemeral-storage")
}

/// Whether it is counted in whole pieces, none of which two containers share.
fn is_extended(resource: &str) -> bool {
    resource.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Resources, Vec<String>> {
        let mut problems = Problems::default();
        let resources = Resources::read("/r", Some(value), &mut problems);
        problems.into_result(Some(resources)).map_err(|errors| errors.into_iter().map(|error| error.pointer).collect())
    }

    #[test]
    fn amounts_are_by_resource() {
        for nothing in [json!(null), json!({}), json!({"limits": null, "requests": {}})] {
            assert_eq!(read(&nothing), Ok(Resources::default()));
        }
        let all = json!({
            "limits": {"cpu": "1500m", "memory": "1Gi", "ephemeral-storage": "1G", "nvidia.com/gpu": "1", "a/B_c.d": 2},
            "requests": {"cpu": 1.5, "memory": 1_073_741_824, "nvidia.com/gpu": 1}
        });
        let resources = read(&all).unwrap();
        assert_eq!(resources.limits["cpu"].as_nanos(), 1_500_000_000);
        assert_eq!(resources.requests["memory"].as_whole(), 1 << 30);
        assert_eq!(resources.limits.len(), 5);
        let most = json!({"requests": {"cpu": "1e6", "memory": "1Pi", "ephemeral-storage": "1Pi", "x/y": 1_000_000}});
        assert_eq!(read(&most).unwrap().requests.len(), 4);
    }

    #[test]
    fn every_bad_amount_is_told() {
        for (bad, pointers) in [
            (json!([]), vec!["/r"]),
            (json!({"limits": 1}), vec!["/r/limits"]),
            (json!({"limit": {}, "claims": []}), vec!["/r/claims", "/r/limit"]),
            (json!({"limits": {"CPU": 1, "gpu": 1, "": 1}}), vec!["/r/limits/", "/r/limits/CPU", "/r/limits/gpu"]),
            (
                json!({"limits": {"a/": 1, "/b": 1, "-a/b": 1, "a_b/c": 1, "a/b/c": 1, "a/-b": 1}}),
                vec![
                    "/r/limits/-a~1b",
                    "/r/limits/a_b~1c",
                    "/r/limits/a~1",
                    "/r/limits/a~1-b",
                    "/r/limits/a~1b~1c",
                    "/r/limits/~1b",
                ],
            ),
            (
                json!({"limits": {"cpu": true, "memory": "lots", "x/y": "500m"}}),
                vec!["/r/limits/cpu", "/r/limits/memory", "/r/limits/x~1y"],
            ),
            (json!({"limits": {"cpu": -1, "memory": 1e300}}), vec!["/r/limits/cpu", "/r/limits/memory"]),
            (json!({"requests": {"memory": "7Ei", "cpu": "1000001"}}), vec!["/r/requests/cpu", "/r/requests/memory"]),
            (
                json!({"limits": {"x/y": 1_000_001, "ephemeral-storage": "2Pi"}}),
                vec!["/r/limits/ephemeral-storage", "/r/limits/x~1y"],
            ),
            (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1001m"}}), vec!["/r/requests/cpu"]),
            (json!({"limits": {"x/y": 2}, "requests": {"x/y": 1}}), vec!["/r/requests/x~1y"]),
        ] {
            let mut told = read(&bad).unwrap_err();
            told.sort();
            assert_eq!(told, pointers, "{bad}");
        }
    }
}
