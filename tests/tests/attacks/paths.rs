//! Paths and queries with encoded, malformed or misleading parts.

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::Deployment;
use renga_tests::on_each_database;
use serde_json::{Value, json};

use crate::wire::Wire;
use crate::{CONTEXTS, NOWHERE, Table, is_well};

on_each_database! {
    a_path_is_what_it_says,
    a_query_is_read_or_refused,
}

/// Sends a GET for `target`, byte for byte. Returns the status and the body of the response.
async fn get(deployment: &Deployment, target: &[u8]) -> Result<(u16, Value)> {
    let token = deployment.issuer.token("alice");
    let head = format!(" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let (mut replies, _) =
        Wire::connect(deployment).await?.exchange(&[b"GET ", target, head.as_bytes()].concat()).await?;
    let reply = replies.pop().filter(|_| replies.is_empty()).context("not one answer")?;
    // The HTTP library rejects malformed HTTP with an empty body, before the API could write a problem document.
    let body = if reply.body.is_empty() { Value::Null } else { serde_json::from_slice(&reply.body)? };
    Ok((reply.status, body))
}

async fn a_path_is_what_it_says(deployment: &Deployment) -> Result<()> {
    let mine = deployment.client.context(json!({"image": "busybox"})).await?;
    let mut table = Table::default();
    for (path, status) in [
        ("/v1/contexts/%2e%2e", 400),
        ("/v1/contexts/..", 400),
        ("/v1/contexts/.", 400),
        ("/v1/contexts/%00", 400),
        ("/v1/contexts/%2500", 400),
        ("/v1/contexts/%c0%ae%c0%ae", 400),
        ("/v1/contexts/%e0%80%ae", 400),
        ("/v1/contexts/%ff%fe", 400),
        ("/v1/contexts/%", 400),
        ("/v1/contexts/%zz", 400),
        ("/v1/contexts/%2F", 400),
        ("/v1/contexts/%252F", 400),
        ("/v1/contexts/{mine}%00", 400),
        ("/v1/contexts/{mine}%20", 400),
        ("/v1/contexts/{mine}%2f", 400),
        ("/v1/contexts/{mine};a=b", 400),
        ("/v1/contexts/{mine}.json", 400),
        ("/v1/contexts/{mine}%0d%0aX:y", 400),
        ("/v1/contexts/%7b{mine}%7d", 400),
        ("/v1/contexts/{{mine}}", 400),
        ("/v1/contexts/urn:uuid:{mine}", 400),
        ("/v1/contexts/'%20OR%20'1'='1", 400),
        ("/v1/contexts/*", 400),
        ("/v1/contexts/null", 400),
        ("/v1/contexts/-1", 400),
        ("/v1/contexts/../contexts", 404),
        ("/v1/../v1/contexts", 404),
        ("/v1/./contexts", 404),
        ("/v1/%63ontexts", 404),
        ("/v1%2Fcontexts", 404),
        ("/v1/contexts%3Flimit=1", 404),
        ("/v1/contexts%00", 404),
        ("/V1/contexts", 404),
        ("//v1/contexts", 404),
        ("/v1\\contexts", 404),
        ("/healthz/../v1/contexts", 404),
        ("/v1/contexts/{mine}/../../../healthz", 404),
        ("/v1/contexts/{mine}/executions/%2e%2e/logs", 400),
        ("/v1/contexts/%00/executions/%00/ports", 400),
        ("/v1/contexts/{mine}", 200),
        ("/v1/contexts/{mine}#x", 200),
    ] {
        let path = path.replace("{mine}", &mine);
        let result = async {
            let (seen, body) = get(deployment, path.as_bytes()).await?;
            ensure!(seen == status, "{seen} {body}");
            ensure!(status == 200 || body["status"] == status, "{body}");
            Ok(())
        };
        table.case(&path, result.await);
    }
    let upper = mine.to_uppercase();
    let (status, body) = get(deployment, format!("{CONTEXTS}/{upper}").as_bytes()).await?;
    table.case(
        "an id in upper case is the same id",
        (status == 200 && body["identifier"] == mine.as_str()).then_some(()).context("it is not"),
    );
    // Control characters and bytes beyond ASCII, as valid and as invalid UTF-8.
    for bytes in [&b"\xc3\xa4"[..], b"\xff", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\x7f", b"\x01", b"\x1b"] {
        for target in [
            [b"/v1/contexts/", bytes].concat(),
            [b"/v1/", bytes, b"/contexts"].concat(),
            [CONTEXTS.as_bytes(), b"?label=", bytes].concat(),
        ] {
            let result = async {
                let (status, body) = get(deployment, &target).await?;
                let query = target.contains(&b'?');
                ensure!(matches!(status, 400 | 404) || (query && status == 200), "{status} {body}");
                Ok(())
            };
            table.case(target.escape_ascii().to_string(), result.await);
        }
    }
    is_well(deployment).await?;
    table.end()
}

async fn a_query_is_read_or_refused(deployment: &Deployment) -> Result<()> {
    let execution = deployment.client.run(json!({"image": "busybox", "labels": ["a=b"]})).await?;
    let logs = format!("{}/logs", execution.path);
    let ten = "1".repeat(31);
    let (many, known) = ("a&".repeat(10_000), "limit=1&".repeat(5_000));
    let (long, deep) = ("x".repeat(40_000), "%25".repeat(10_000));
    let mut table = Table::default();
    for (path, query, status) in [
        (CONTEXTS, many.as_str(), 200),
        (CONTEXTS, &format!("{many}limit=1"), 200),
        (CONTEXTS, &known, 200),
        (CONTEXTS, &format!("{known}limit=x"), 400),
        (CONTEXTS, &format!("limit={ten}"), 400),
        (CONTEXTS, "limit=-1", 400),
        (CONTEXTS, "limit=1e3", 400),
        (CONTEXTS, "limit=%31", 200),
        (CONTEXTS, "limit=1%00", 400),
        (CONTEXTS, "limit=1;drop", 400),
        (CONTEXTS, "limit[]=1", 200),
        (CONTEXTS, "cursor=%00", 400),
        (CONTEXTS, "cursor=AAAAAAAAAAAAAAAAAAAAAA", 200),
        (CONTEXTS, "cursor=_____________________w", 200),
        (CONTEXTS, "cursor=AAAAAAAAAAAAAAAAAAAAAB", 400),
        (CONTEXTS, "cursor=AAAAAAAAAAAAAAAAAAAAAA==", 400),
        (CONTEXTS, &format!("cursor={long}"), 400),
        (CONTEXTS, &format!("label={long}"), 200),
        (CONTEXTS, &format!("label={deep}"), 200),
        (CONTEXTS, "label=%", 200),
        (CONTEXTS, "label=_", 200),
        (CONTEXTS, "label=%25", 200),
        (CONTEXTS, "label=%ff", 200),
        (CONTEXTS, "label=%5c", 200),
        (CONTEXTS, "label=%22%5d%7d", 200),
        (CONTEXTS, "label=$.a", 200),
        (CONTEXTS, "label='%20OR%201=1%20--", 200),
        (CONTEXTS, "label=a%00b", 400),
        (CONTEXTS, "label=%ed%a0%80", 200),
        ("/v1/executions", "state=running'--", 400),
        ("/v1/executions", "state=%00", 400),
        ("/v1/executions", &format!("state={long}"), 400),
        (&logs, &format!("tail={ten}"), 200),
        (&logs, "tail=-1", 400),
        (&logs, "since=9999-12-31T23:59:59Z", 200),
        (&logs, "since=0000-01-01T00:00:00Z", 200),
        (&logs, "since=10000-01-01T00:00:00Z", 400),
        (&logs, "since=2017-02-30T00:00:00Z", 400),
        (&logs, "since=now", 400),
        (&logs, &format!("since={long}"), 400),
    ] {
        let asked = deployment.client.ask(reqwest::Method::GET, &format!("{path}?{query}")).await?;
        let told = async {
            ensure!(asked.status == status, "{} {:.300}", asked.status, asked.body);
            if status == 400 {
                asked.problem(400)?;
            } else if query.contains("label=") {
                ensure!(asked.json(200)? == json!({"contexts": []}), "a label that nothing has finds something");
            }
            Ok(())
        };
        table.case(format!("{path}?{query}"), told.await);
    }
    // A query that is longer than a request head may be.
    let (status, _) = get(deployment, format!("{CONTEXTS}/{NOWHERE}?{}", "a&".repeat(100_000)).as_bytes()).await?;
    table.case("200,000 bytes", matches!(status, 414 | 431).then_some(()).with_context(|| status.to_string()));
    is_well(deployment).await?;
    table.end()
}
