//! The route table: every path with its methods. `405`, `Allow` and `OPTIONS` follow from it.

use http::Method;
use renga_shared::api::Problem;
use renga_shared::config::BASE_PATH;

/// What a request asks for. The ids are as they were sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Health,
    Version,
    Engines,
    ListContexts,
    CreateContext,
    GetContext { context: String },
    ListAllExecutions,
    ListExecutions { context: String },
    CreateExecution { context: String },
    Placement { context: String },
    GetExecution(ExecutionPath),
    DeleteExecution(ExecutionPath),
    StopExecution(ExecutionPath),
    GetPorts(ExecutionPath),
    GetLogs(ExecutionPath),
}

/// An execution under its context, as they were sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExecutionPath {
    pub(crate) context: String,
    pub(crate) execution: String,
}

/// The names of the parameters in paths, as the resource manager knows them.
pub(crate) const CONTEXT_ID: &str = "context_id";
const EXECUTION_ID: &str = "execution_id";

impl Endpoint {
    /// What stands in the path, by name.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Health
            | Self::Version
            | Self::Engines
            | Self::ListContexts
            | Self::CreateContext
            | Self::ListAllExecutions => vec![],
            Self::GetContext { context }
            | Self::ListExecutions { context }
            | Self::CreateExecution { context }
            | Self::Placement { context } => vec![(CONTEXT_ID, context)],
            Self::GetExecution(path)
            | Self::DeleteExecution(path)
            | Self::StopExecution(path)
            | Self::GetPorts(path)
            | Self::GetLogs(path) => vec![(CONTEXT_ID, &path.context), (EXECUTION_ID, &path.execution)],
        }
    }
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Found {
    /// What to do, and the base path that was used.
    Endpoint { endpoint: Endpoint, base: String },
    /// The methods that there are.
    Options { allowed: String },
}

/// What is at each path, by method.
fn table(parts: &[&str]) -> Vec<(Method, Endpoint)> {
    let execution =
        |context: &str, execution: &str| ExecutionPath { context: context.to_owned(), execution: execution.to_owned() };
    match *parts {
        ["healthz"] => vec![(Method::GET, Endpoint::Health)],
        ["version"] => vec![(Method::GET, Endpoint::Version)],
        ["engines"] => vec![(Method::GET, Endpoint::Engines)],
        ["executions"] => vec![(Method::GET, Endpoint::ListAllExecutions)],
        ["contexts"] => vec![(Method::GET, Endpoint::ListContexts), (Method::POST, Endpoint::CreateContext)],
        ["contexts", c] => vec![(Method::GET, Endpoint::GetContext { context: c.to_owned() })],
        ["contexts", c, "executions"] => vec![
            (Method::GET, Endpoint::ListExecutions { context: c.to_owned() }),
            (Method::POST, Endpoint::CreateExecution { context: c.to_owned() }),
        ],
        ["contexts", c, "placement"] => vec![(Method::POST, Endpoint::Placement { context: c.to_owned() })],
        ["contexts", c, "executions", e] => vec![
            (Method::GET, Endpoint::GetExecution(execution(c, e))),
            (Method::DELETE, Endpoint::DeleteExecution(execution(c, e))),
        ],
        ["contexts", c, "executions", e, "stop"] => {
            vec![(Method::POST, Endpoint::StopExecution(execution(c, e)))]
        }
        ["contexts", c, "executions", e, "ports"] => vec![(Method::GET, Endpoint::GetPorts(execution(c, e)))],
        ["contexts", c, "executions", e, "logs"] => vec![(Method::GET, Endpoint::GetLogs(execution(c, e)))],
        _ => vec![],
    }
}

/// What `method` means at `path`, under the base path that there always is or the configured one.
pub(crate) fn find(method: &Method, path: &str, configured: Option<&str>) -> Result<Found, Problem> {
    let (base, mut endpoints) = at(path, configured).ok_or_else(Problem::not_found)?;
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    if let Some(index) = endpoints.iter().position(|(method, _)| method == wanted) {
        let (_, endpoint) = endpoints.swap_remove(index);
        return Ok(Found::Endpoint { endpoint, base: base.to_owned() });
    }
    let mut allowed = Vec::new();
    for (method, _) in &endpoints {
        allowed.push(method.as_str());
        if method == Method::GET {
            allowed.push("HEAD");
        }
    }
    allowed.push("OPTIONS");
    let allowed = allowed.join(", ");
    if method == Method::OPTIONS { Ok(Found::Options { allowed }) } else { Err(Problem::method_not_allowed(&allowed)) }
}

/// What is at a path, under the first base path where there is something. `/healthz` and `/version` are at the root too.
fn at<'a>(path: &'a str, configured: Option<&'a str>) -> Option<(&'a str, Vec<(Method, Endpoint)>)> {
    let under = |base: &'a str| {
        let rest = path.strip_prefix(base)?.strip_prefix('/')?;
        // One slash at the end is none.
        let parts: Vec<&str> = rest.strip_suffix('/').unwrap_or(rest).split('/').collect();
        let at_root = matches!(*parts, ["healthz" | "version"]);
        let endpoints = if parts.contains(&"") { vec![] } else { table(&parts) };
        let there = !endpoints.is_empty() && (at_root || base == BASE_PATH || configured == Some(base));
        there.then_some((base, endpoints))
    };
    [Some(BASE_PATH), configured, Some("")].into_iter().flatten().find_map(under)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(method: Method, path: &str) -> Option<Endpoint> {
        match find(&method, path, Some("/api/deployer")) {
            Ok(Found::Endpoint { endpoint, .. }) => Some(endpoint),
            _ => None,
        }
    }

    #[test]
    fn both_bases_with_and_without_a_slash_at_the_end() {
        for path in ["/v1/contexts", "/v1/contexts/", "/api/deployer/contexts", "/api/deployer/contexts/"] {
            assert_eq!(endpoint(Method::GET, path), Some(Endpoint::ListContexts), "{path}");
            assert_eq!(endpoint(Method::HEAD, path), Some(Endpoint::ListContexts), "{path}");
        }
        for path in ["/healthz", "/healthz/", "/v1/healthz", "/api/deployer/healthz"] {
            assert_eq!(endpoint(Method::GET, path), Some(Endpoint::Health), "{path}");
        }
        for path in
            ["/contexts", "/v2/contexts", "/v1", "/v1/", "/v1/contexts//", "/v1//contexts", "/v1/contexts/a/b", ""]
        {
            assert_eq!(endpoint(Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn the_configured_base_may_be_the_root_or_lie_under_the_other() {
        for (configured, path) in [("", "/contexts"), ("", "/v1/contexts"), ("/v1/deployer", "/v1/deployer/contexts")] {
            let Ok(Found::Endpoint { endpoint, base }) = find(&Method::GET, path, Some(configured)) else {
                panic!("nothing at {path}");
            };
            assert_eq!(endpoint, Endpoint::ListContexts);
            assert_eq!(format!("{base}/contexts"), path);
        }
    }

    #[test]
    fn other_methods_are_told_which_there_are() {
        let problem = find(&Method::PUT, "/v1/contexts", None).unwrap_err();
        assert_eq!(problem.status, 405);
        assert_eq!(problem.headers, [("allow", "GET, HEAD, POST, OPTIONS".to_owned())]);
        assert!(
            matches!(find(&Method::OPTIONS, "/v1/engines", None), Ok(Found::Options { allowed }) if allowed == "GET, HEAD, OPTIONS")
        );
        assert_eq!(find(&Method::PUT, "/v1/nothing", None).unwrap_err().status, 404);
    }
}
