//! The rights of the reconciler's service account: those that it needs, and no others.

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use renga_tests::require;
use renga_tests::servers::Cluster;

use super::{DEPLOYER, EXECUTIONS, apply, make_namespaces, manifests};

const ACCOUNT: &str = "--as=system:serviceaccount:renga:renga-deployer";
/// Maximum number of questions that are asked at the same time.
const AT_ONCE: usize = 4;

/// Rights that are needed where executions run.
const NEEDED: [&str; 22] = [
    "create jobs.batch",
    "get jobs.batch",
    "list jobs.batch",
    "watch jobs.batch",
    "patch jobs.batch",
    "delete jobs.batch",
    "update jobs.batch --subresource=finalizers",
    "list pods",
    "watch pods",
    "patch pods",
    "delete pods",
    "get pods --subresource=log",
    "create services",
    "patch services",
    "list services",
    "watch services",
    "create secrets",
    "patch secrets",
    "list events",
    "watch events",
    "create ingresses.networking.k8s.io",
    "patch ingresses.networking.k8s.io",
];

/// Rights that are needed in all namespaces, to know the free capacity.
const NEEDED_EVERYWHERE: [&str; 4] = ["list nodes", "watch nodes", "list pods", "watch pods"];

/// Rights that are refused even where executions run.
const REFUSED: [&str; 28] = [
    "get secrets",
    "list secrets",
    "watch secrets",
    "update secrets",
    "delete secrets",
    "get pods",
    "create pods",
    "update pods",
    "create pods --subresource=exec",
    "create pods --subresource=attach",
    "create pods --subresource=portforward",
    "create pods --subresource=eviction",
    "patch pods --subresource=ephemeralcontainers",
    "deletecollection pods",
    "deletecollection jobs.batch",
    "create serviceaccounts",
    "create serviceaccounts --subresource=token",
    "impersonate serviceaccounts",
    "get configmaps",
    "delete services",
    "delete ingresses.networking.k8s.io",
    "create deployments.apps",
    "create cronjobs.batch",
    "create networkpolicies.networking.k8s.io",
    "patch resourcequotas",
    "create rolebindings.rbac.authorization.k8s.io",
    "patch roles.rbac.authorization.k8s.io",
    "bind roles.rbac.authorization.k8s.io",
];

/// Rights that are refused in every other namespace, including the deployer's own.
const REFUSED_ELSEWHERE: [&str; 12] = [
    "create jobs.batch",
    "get jobs.batch",
    "delete jobs.batch",
    "patch pods",
    "delete pods",
    "get pods --subresource=log",
    "create pods --subresource=exec",
    "get secrets",
    "list secrets",
    "create secrets",
    "get configmaps",
    "create services",
];

/// Rights that are refused on resources without a namespace.
const REFUSED_EVERYWHERE: [&str; 13] = [
    "get nodes",
    "delete nodes",
    "patch nodes",
    "get nodes --subresource=proxy",
    "create namespaces",
    "delete namespaces",
    "patch namespaces",
    "list namespaces",
    "get clusterroles.rbac.authorization.k8s.io",
    "create clusterroles.rbac.authorization.k8s.io",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "list persistentvolumes",
    "impersonate users",
];

#[tokio::test]
async fn the_reconciler_may_do_what_it_needs_and_nothing_else() -> Result<()> {
    let cluster = require!(kubernetes);
    make_namespaces(cluster).await?;
    apply(cluster, &manifests().join("rbac"), &[]).await?;

    let everywhere = "--all-namespaces";
    let in_executions = format!("--namespace={EXECUTIONS}");
    may(cluster, &NEEDED, &in_executions, "yes").await?;
    may(cluster, &NEEDED_EVERYWHERE, everywhere, "yes").await?;
    may(cluster, &["get namespaces/any"], "", "yes").await?;
    may(cluster, &REFUSED, &in_executions, "no").await?;
    for namespace in [DEPLOYER, "default", "kube-system"] {
        may(cluster, &REFUSED_ELSEWHERE, &format!("--namespace={namespace}"), "no").await?;
    }
    may(cluster, &REFUSED_EVERYWHERE, "", "no").await?;
    may(cluster, &["* *", "create jobs.batch", "list secrets"], everywhere, "no").await
}

/// Fails unless the API server answers `expected` to each of `questions`, with the namespace option `place`.
async fn may(cluster: &Cluster, questions: &[&str], place: &str, expected: &str) -> Result<()> {
    let answers: Vec<Result<(String, String)>> = futures::stream::iter(questions.iter().map(|question| async move {
        let words: Vec<&str> = question.split(' ').chain(Some(place)).filter(|word| !word.is_empty()).collect();
        let arguments = [&["auth", "can-i", ACCOUNT], words.as_slice()].concat();
        // kubectl also has an error status if the answer is "no", but then it writes no error message.
        let answer = match cluster.kubectl(&arguments).await.map_err(|error| error.to_string()) {
            Ok(answer) => answer.trim_end().to_owned(),
            Err(told) if told.contains("rror") => told,
            Err(_) => "no".to_owned(),
        };
        Ok(((*question).to_owned(), answer))
    }))
    .buffer_unordered(AT_ONCE)
    .collect()
    .await;
    for answer in answers {
        let (question, answer) = answer?;
        ensure!(answer == expected, "{question} {place}: {answer:?} instead of {expected:?}");
    }
    Ok(())
}
