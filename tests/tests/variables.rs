//! Spin variables that cannot be read: the API does not take them for "not set".

use anyhow::Result;
use renga_tests::deployment::Deployment;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn while_a_variable_cannot_be_read_nothing_is_answered() -> Result<()> {
    let deployment = Deployment::without_reconciler(&[]).await?;
    let client = &deployment.client;
    for variable in [
        "access",
        "base_path",
        "database_uri",
        "default_base_url",
        "jwt_audience",
        "jwt_issuer",
        "jwt_key",
        "manager_url",
        "seal_key",
        "token_scope_key",
    ] {
        deployment.variable_faults.begin(variable);
        for path in ["/v1/contexts", "/v1/executions", "/healthz"] {
            let answer = client.ask(Method::GET, path).await?;
            let problem = answer.problem(503)?;
            assert_eq!(problem["title"], "Configuration unavailable", "{variable}");
            assert_eq!(answer.header("retry-after"), "5");
            assert!(!answer.body.contains("fault") && !answer.body.contains(variable), "{}", answer.body);
        }
        let posted = client.post("/v1/contexts", &json!({"image": "a"})).await?;
        posted.problem(503)?;
        deployment.variable_faults.end();
    }
    // Nothing of it was remembered.
    assert_eq!(client.get("/v1/contexts").await?, json!({"contexts": []}));
    Ok(())
}
