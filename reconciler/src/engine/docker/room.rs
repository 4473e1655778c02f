//! The capacity of an engine, from the facts about its machine. The engine cannot report its free capacity, because its
//! containers do not record their requests.

use std::collections::BTreeMap;

use bollard::models::SystemInfo;
use renga_shared::placement::{Amount, Room};

use super::body::GPU;

/// The runtime that gives NVIDIA GPUs to containers. The engine does not report the number of GPUs.
const GPU_RUNTIME: &str = "nvidia";

/// Returns the architecture, as images name it, and the capacity.
pub(super) fn of(told: &SystemInfo) -> (Option<String>, Room) {
    let architecture = told.architecture.as_deref().map(|name| match name {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    });
    let mut total = BTreeMap::new();
    total.extend(told.ncpu.map(|processors| ("cpu".to_owned(), Amount(processors.saturating_mul(1000)))));
    total.extend(told.mem_total.map(|bytes| ("memory".to_owned(), Amount(bytes))));
    if told.runtimes.as_ref().is_some_and(|runtimes| runtimes.contains_key(GPU_RUNTIME)) {
        total.insert(GPU.to_owned(), Amount(i64::from(u32::MAX)));
    }
    (architecture, Room { total, ..Room::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_has_processors_and_memory() {
        let told = SystemInfo {
            architecture: Some("x86_64".into()),
            ncpu: Some(4),
            mem_total: Some(8 << 30),
            ..SystemInfo::default()
        };
        let (architecture, room) = of(&told);
        assert_eq!(architecture.as_deref(), Some("amd64"));
        assert_eq!(room.most("cpu"), Some(Amount(4_000)));
        assert_eq!((room.most("memory"), room.most(GPU)), (Some(Amount(8 << 30)), None));
    }
}
