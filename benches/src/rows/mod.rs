//! What is measured: a file for each kind, a group of rows for each function.

mod cluster;
mod dispatch;
mod footprint;
mod rate;
mod reads;
mod writes;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::load;
use crate::process::workspace;
use crate::report::{Row, publish};

type Measuring = Pin<Box<dyn Future<Output = Result<Vec<Row>>>>>;
/// A name, and what measures the rows that go by it.
type Group = (&'static str, fn() -> Measuring);

/// The groups in the order in which they are measured: what must be idle comes before what leaves much to do.
const GROUPS: [Group; 15] = [
    ("start", || Box::pin(footprint::start())),
    ("memory", || Box::pin(footprint::memory())),
    ("instance", || Box::pin(footprint::instance())),
    ("constant", || Box::pin(reads::constant())),
    ("read", || Box::pin(reads::read())),
    ("list", || Box::pin(reads::list())),
    ("rate", || Box::pin(rate::bad_tokens())),
    ("create-sqlite", || Box::pin(writes::create_on_sqlite())),
    ("create-postgres", || Box::pin(writes::create_on_postgres())),
    ("pick-up", || Box::pin(dispatch::pick_up())),
    ("docker", || Box::pin(dispatch::docker())),
    ("cluster", || Box::pin(cluster::at_scale())),
    ("idle", || Box::pin(footprint::idle())),
    ("execute-sqlite", || Box::pin(writes::execute_on_sqlite())),
    ("execute-postgres", || Box::pin(writes::execute_on_postgres())),
];

/// Measures the groups whose names begin with one of `only`, or all. A group that fails does not keep the others from
/// being measured; it is reported, and makes the exit code 1. A bar that is missed does not.
pub(crate) async fn run(only: &[String]) -> Result<ExitCode> {
    load::check().await?;
    let asked = |name: &str| only.is_empty() || only.iter().any(|begin| name.starts_with(begin.as_str()));
    let groups: Vec<_> = GROUPS.iter().filter(|(name, _)| asked(name)).collect();
    let names = GROUPS.map(|(name, _)| name).join(", ");
    ensure!(!groups.is_empty(), "there is no group {}; there are: {names}", only.join(" or "));
    let (mut rows, mut failed) = (Vec::new(), false);
    for (name, measure) in groups {
        eprint!("measuring {name} … ");
        let begin = Instant::now();
        match measure().await {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                failed = true;
                rows.push(Row::failed(name, &error));
            }
        }
        eprintln!("{:.0} s", begin.elapsed().as_secs_f64());
    }
    publish(&rows, &workspace().join("target/bench"))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A specification of the size that users send, without a port, that runs until it is stopped.
fn specification() -> serde_json::Value {
    serde_json::json!({
        "image": "renga-test/busybox:1",
        "command": "sleep 3600",
        "labels": ["purpose=bench", "team=measuring"],
        "env": [{"name": "LANG", "value": "C.UTF-8"}, {"name": "STEPS", "value": "1000"}],
    })
}
