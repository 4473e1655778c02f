//! A cluster at scale: the API server, its store, the controllers and the scheduler are real, the nodes are simulated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use renga_tests::servers::Cluster;
use serde_json::json;

use super::specification;
use crate::database::Database;
use crate::process::Surroundings;
use crate::report::{Bar, Row, short};
use crate::simulated_nodes::SimulatedNodes;

const EXECUTIONS: usize = 5_000;
const LIVE: i64 = 10_000;
const CONNECTIONS: usize = 16;
const WITHIN: Duration = Duration::from_secs(600);
const WATCHED: Duration = Duration::from_secs(20);
const OURS: &str = "executions";
const RAW: &str = "raw";
const RAW_SUSPENDED: &str = "raw-suspended";
/// Number of Jobs that are created suspended and then resumed. It is enough for a stable rate.
const SUSPENDED: usize = 2_000;

/// Measures 5,000 executions, the same Jobs sent raw, and 10,000 executions without any changes.
pub(super) async fn at_scale() -> Result<Vec<Row>> {
    let cluster = Cluster::start_without_node().await?;
    let client = connect(&cluster).await?;
    for namespace in [OURS, RAW, RAW_SUSPENDED] {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
    }
    let nodes = SimulatedNodes::start(&cluster, client.clone()).await?;
    let surroundings = Surroundings::sqlite()?.on_kubernetes(&cluster.kubeconfig(), OURS);
    let deployer = surroundings.deployer().await?;
    let ours = deployer.ready().await?;
    let database = Database::open(&surroundings.database).await?;
    let context = ours.context(specification()).await?;

    let before = Calls::of(&client).await?;
    let post = async |count: usize| -> Result<()> {
        let asked = stream::iter(0..count).map(|_| ours.execute(&context, json!({})));
        asked.buffer_unordered(CONNECTIONS).try_for_each(|_| async { Ok(()) }).await
    };
    let begin = Instant::now();
    post(EXECUTIONS).await?;
    let posted = begin.elapsed();
    until(&database, &["pending", "scheduled"]).await?;
    let dispatched = begin.elapsed();
    until(&database, &["starting"]).await?;
    let ran = begin.elapsed();
    let calls = Calls::of(&client).await?.since(&before);
    let memory = deployer.resident_mib()?;

    let logs_asked = nodes.logs_asked();
    let at_once = raw(&client, RAW, EXECUTIONS).await?;
    let in_two_calls = raw(&client, RAW_SUSPENDED, SUSPENDED).await?;
    let rate = |count: usize, taken: Duration| count as f64 / taken.as_secs_f64();
    let each = |count: u64| short(count as f64 / EXECUTIONS as f64);
    let mut rows = vec![
        Row::new(
            "executions dispatched to Kubernetes, per second",
            rate(EXECUTIONS, dispatched),
            Some(rate(EXECUTIONS, at_once)),
            Bar::AtLeastTimes(0.7),
            format!(
                "{EXECUTIONS}, from the first POST (all posted after {} s) until the last Job was made; all ran after {} s; \
                 yardstick: the same Jobs, sent raw on {CONNECTIONS} connections to the same API server",
                short(posted.as_secs_f64()),
                short(ran.as_secs_f64()),
            ),
        ),
        Row::new(
            "the same beside the same two calls",
            rate(EXECUTIONS, dispatched),
            Some(rate(SUSPENDED, in_two_calls)),
            Bar::None,
            format!("yardstick: {SUSPENDED} of these Jobs made suspended and then let run, raw"),
        ),
        Row::new(
            "API calls per execution, until it runs",
            (calls.written() + calls.read() + logs_asked) as f64 / EXECUTIONS as f64,
            None,
            Bar::None,
            format!(
                "Jobs made {}, Jobs let run {}, logs asked for {}, everything else read {}",
                each(calls.count("POST", "jobs")),
                each(calls.count("PATCH", "jobs")),
                each(logs_asked),
                each(calls.read()),
            ),
        ),
        Row::new(
            "memory with 5,000 executions on a cluster, MiB",
            memory,
            None,
            Bar::None,
            "resident set of `renga-deployer up`",
        ),
    ];

    post(usize::try_from(LIVE)? - EXECUTIONS).await?;
    until(&database, &["pending", "scheduled", "starting"]).await?;
    let live = database.in_phase("running").await?;
    ensure!(live == LIVE, "{live} executions run");
    tokio::time::sleep(WATCHED).await;
    let before = Calls::of(&client).await?;
    let percent = deployer.percent_of_core(WATCHED).await?;
    let calls = Calls::of(&client).await?.since(&before);
    rows.push(Row::new(
        "idle processor time, 10,000 Jobs run, % of a core",
        percent,
        None,
        Bar::Below(1.0),
        format!(
            "{} calls but watches in {} s; {} MiB",
            calls.read() + calls.written(),
            WATCHED.as_secs(),
            short(deployer.resident_mib()?)
        ),
    ));
    deployer.stop().await?;
    Ok(rows)
}

async fn connect(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Waits until no execution is in any of these phases.
async fn until(database: &Database, phases: &[&str]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut left = 0;
        for phase in phases {
            left += database.in_phase(phase).await?;
        }
        if left == 0 {
            return Ok(());
        }
        ensure!(begin.elapsed() < WITHIN, "{left} executions are still {}", phases.join(" or "));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Sends `count` Jobs like the deployer's to `namespace`, under other names, and returns the time it took. For
/// [`RAW_SUSPENDED`], each Job takes two calls, as in the deployer. Returns only when the pods run, so that they do not
/// disturb the next measurement.
async fn raw(client: &Client, namespace: &str, count: usize) -> Result<Duration> {
    let ours: Api<Job> = Api::namespaced(client.clone(), OURS);
    let found = ours.list(&ListParams::default().limit(1)).await?;
    let mut like = found.items.into_iter().next().context("there is no Job of ours")?;
    // The Job as it was sent: without the fields that the server and its controllers added.
    like.status = None;
    like.metadata = ObjectMeta { labels: like.metadata.labels, ..ObjectMeta::default() };
    let suspended = namespace == RAW_SUSPENDED;
    let spec = like.spec.as_mut().context("a Job has a specification")?;
    (spec.selector, spec.suspend) = (None, Some(suspended));
    let sent_by_us = |name: &String| {
        !name.contains("batch.kubernetes.io/") && !matches!(name.as_str(), "controller-uid" | "job-name")
    };
    if let Some(labels) = spec.template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.retain(|name, _| sent_by_us(name));
    }
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let begin = Instant::now();
    let sent = stream::iter(0..count).map(|number| {
        let (jobs, mut job) = (jobs.clone(), like.clone());
        let name = format!("raw-{number}");
        job.metadata.name = Some(name.clone());
        async move {
            jobs.create(&PostParams::default(), &job).await?;
            if suspended {
                let run = json!({ "spec": { "suspend": false } });
                jobs.patch(&name, &PatchParams::default(), &Patch::Merge(&run)).await?;
            }
            Ok::<_, kube::Error>(())
        }
    });
    sent.buffer_unordered(CONNECTIONS).try_for_each(|()| async { Ok(()) }).await?;
    let took = begin.elapsed();

    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let running = ListParams::default().fields("status.phase=Running");
    while pods.list_metadata(&running).await?.items.len() < count {
        ensure!(begin.elapsed() < WITHIN, "not all pods in {namespace} run");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(took)
}

/// Numbers of requests to the API server that only the deployer makes: the controllers change statuses and create pods.
struct Calls(BTreeMap<(String, String), u64>);

impl Calls {
    async fn of(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await?;
        let mut calls = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label = |name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\""))?;
                Some(rest.split_once('"')?.0.to_owned())
            };
            let (Some(verb), Some(resource), Some(part)) = (label("verb"), label("resource"), label("subresource"))
            else {
                continue;
            };
            let what = if part.is_empty() { resource } else { format!("{resource}/{part}") };
            let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<f64>().ok()).unwrap_or_default();
            // The counter counts whole calls.
            *calls.entry((verb, what)).or_default() += count as u64;
        }
        Ok(Self(calls))
    }

    fn since(self, before: &Self) -> Self {
        let less = |(what, count): ((String, String), u64)| {
            let before = before.0.get(&what).copied().unwrap_or_default();
            (what, count - before)
        };
        Self(self.0.into_iter().map(less).collect())
    }

    fn count(&self, verb: &str, what: &str) -> u64 {
        self.0.get(&(verb.to_owned(), what.to_owned())).copied().unwrap_or_default()
    }

    /// Returns the number of Jobs created, changed and deleted. No controller does any of these.
    fn written(&self) -> u64 {
        self.count("POST", "jobs") + self.count("PATCH", "jobs") + self.count("DELETE", "jobs")
    }

    /// Returns the number of reads of Jobs, pods, services, secrets and events, without watches.
    fn read(&self) -> u64 {
        let read = |(verb, what): &(String, String)| {
            matches!(verb.as_str(), "GET" | "LIST")
                && matches!(what.as_str(), "jobs" | "pods" | "services" | "secrets" | "events")
        };
        self.0.iter().filter(|(what, _)| read(what)).map(|(_, count)| count).sum()
    }
}
