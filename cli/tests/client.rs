//! The client commands as users and scripts call them: the real program against a service on a real socket.

mod service;

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use service::{Service, TOKEN};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Long enough for a slow machine, short enough that a hang is noticed.
const PATIENCE: Duration = Duration::from_secs(60);

fn program(service: &Service, line: &[&str]) -> Command {
    let mut command = bare(line);
    command.env("RENGA_DEPLOYER_URL", format!("http://{}", service.address)).env("RENGA_DEPLOYER_TOKEN", TOKEN);
    command
}

/// Returns a command without a service or a token.
fn bare(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_renga-deployer"));
    command
        .args(line)
        .env_clear()
        .env("RENGA_DEPLOYER_STATE", "/nonexistent/state")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn ended(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap()
}

async fn perform(service: &Service, line: &[&str]) -> (i32, String, String) {
    told(ended(program(service, line).spawn().unwrap()).await)
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
}

async fn interrupt(child: &Child) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
}

#[tokio::test]
async fn run_follows_the_logs_and_ends_with_the_containers_code() {
    let service = Service::start().await;
    let line =
        ["run", "-e", "A=1", "-p", "80", "--engine", "docker", "busybox", "--", "say=hello", "say=you", "exit=3"];
    let (code, out, err) = perform(&service, &line).await;
    assert_eq!((code, out.as_str()), (3, "hello\nyou\n"), "{err}");
    let expected = json!({
        "image": "busybox", "command": ["say=hello", "say=you", "exit=3"], "ports": ["80"],
        "env": [{"name": "A", "value": "1"}],
    });
    assert_eq!(service.last_specification(), expected);
    assert_eq!(service.last_wish(), json!({"engine": "docker"}));
    let (code, out, err) = perform(&service, &["run", "busybox", "--", "say=fine"]).await;
    assert_eq!((code, out.as_str()), (0, "fine\n"), "{err}");
}

#[tokio::test]
async fn an_execution_that_could_not_run_ends_with_125_and_a_reason() {
    let service = Service::start().await;
    let (code, out, err) = perform(&service, &["run", "missing"]).await;
    assert_eq!((code, out.as_str()), (125, ""));
    assert!(err.contains("There is no image missing:latest."), "{err}");
    let (code, out, err) = perform(&service, &["run", "-p", "80", "-p", "web", "busybox"]).await;
    assert_eq!((code, out.as_str()), (125, ""));
    assert!(err.contains("Invalid request") && err.contains("/ports/1: is no port"), "{err}");
    assert_eq!(service.execution_ids().len(), 1);
}

#[tokio::test]
async fn a_cut_connection_neither_loses_nor_doubles_output() {
    let service = Service::start().await;
    let line = ["run", "busybox", "--", "say=one", "cut", "say=two", "say=three", "cut", "cut", "say=four", "exit=7"];
    let (code, out, err) = perform(&service, &line).await;
    assert_eq!((code, out.as_str()), (7, "one\ntwo\nthree\nfour\n"), "{err}");
}

#[tokio::test]
async fn a_cut_connection_to_an_older_service_loses_and_doubles_nothing() {
    let service = Service::start().await;
    service.give_texts_only();
    let line = ["run", "busybox", "--", "say=one", "cut", "say=two", "say=three", "cut", "cut", "say=four", "exit=7"];
    let (code, out, err) = perform(&service, &line).await;
    assert_eq!((code, out.as_str()), (7, "one\ntwo\nthree\nfour\n"), "{err}");
}

#[tokio::test]
async fn a_log_whose_middle_is_gone_is_followed_where_the_connection_broke() {
    let service = Service::start().await;
    let line = ["run", "busybox", "--", "say=one", "say=two", "say=three", "cut=4-8", "say=four", "cut", "say=five"];
    let (code, out, err) = perform(&service, &line).await;
    assert_eq!((code, out.as_str()), (0, "one\ntwo\nthree\nfour\nfive\n"), "{err}");
}

#[tokio::test]
async fn a_service_that_gives_logs_but_no_execution_is_given_up() {
    let service = Service::start().await;
    let (code, _, err) = perform(&service, &["run", "--detach", "busybox", "--", "say=one"]).await;
    assert_eq!(code, 0, "{err}");
    service.until_last_is("exited").await;
    service.fail_reads();
    let id = service.execution_ids().remove(0);
    let (code, out, err) = perform(&service, &["logs", "--follow", &id]).await;
    assert_eq!((code, out.as_str()), (1, "one\n"), "{err}");
    assert!(err.contains("Service Unavailable"), "{err}");
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_not_done_twice() {
    let service = Service::start().await;
    service.lose_answers(3);
    let (code, out, err) = perform(&service, &["run", "busybox", "--", "say=once"]).await;
    assert_eq!((code, out.as_str()), (0, "once\n"), "{err}");
    assert_eq!(service.execution_ids().len(), 1);
}

#[tokio::test]
async fn the_first_ctrl_c_stops_the_execution_and_its_end_is_followed() {
    let service = Service::start().await;
    let mut child = program(&service, &["run", "busybox", "--", "say=up", "forever"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("up"));
    interrupt(&child).await;
    let (code, _, err) = told(ended(child).await);
    assert_eq!(code, 143, "{err}");
    assert!(err.contains("Ctrl-C again"), "{err}");
}

#[tokio::test]
async fn the_second_ctrl_c_leaves_the_execution_running() {
    let service = Service::start().await;
    let mut child = program(&service, &["run", "busybox", "--", "deaf", "say=up", "forever"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("up"));
    interrupt(&child).await;
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    // Progress messages from before the signal may come first.
    while !told.next_line().await.unwrap().expect("it says what it does").contains("stopping it") {}
    interrupt(&child).await;
    let last = told.next_line().await.unwrap().unwrap();
    assert!(last.contains("logs -f 0190aaaa"), "{last}");
    assert_eq!(ended(child).await.status.code(), Some(130));
    service.until_last_is("running").await;
}

#[tokio::test]
async fn a_detached_execution_is_printed_and_found_by_parts_of_its_id() {
    let service = Service::start().await;
    let (code, id, err) = perform(&service, &["run", "--detach", "busybox", "--", "say=here", "forever"]).await;
    assert_eq!(code, 0, "{err}");
    let id = id.trim_end();
    assert_eq!(service.execution_ids(), [id]);
    service.until_last_is("running").await;

    let (_, out, _) = perform(&service, &["-o", "json", "run", "-d", "busybox", "--", "forever"]).await;
    let ids: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(ids["execution"], service.execution_ids()[1].as_str());
    assert!(ids["context"].as_str().unwrap().contains("c0000001"));

    let end = &id[id.len() - 6..];
    assert_eq!(perform(&service, &["logs", end]).await, (0, "here\n".into(), String::new()));
    let (code, out, _) = perform(&service, &["ports", end]).await;
    assert_eq!(code, 0);
    assert!(out.contains("8888/tcp   127.0.0.1:32768   http://127.0.0.1:32768"), "{out}");
    let (code, _, err) = perform(&service, &["stop", "0190aaaa"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("is 2 executions") && err.contains(id), "{err}");

    assert_eq!(perform(&service, &["stop", end]).await, (0, format!("{id}\n"), String::new()));
    assert_eq!(perform(&service, &["logs", "-f", end]).await, (0, "here\n".into(), String::new()));
    assert_eq!(perform(&service, &["rm", end, id]).await, (0, format!("{id}\n{id}\n"), String::new()));
    let (code, _, err) = perform(&service, &["logs", end]).await;
    assert_eq!(code, 1);
    assert!(err.contains("Not found"), "{err}");
}

#[tokio::test]
async fn ps_lists_running_executions_and_with_all_every_page() {
    let service = Service::start().await;
    for _ in 0..3 {
        perform(&service, &["run", "busybox", "--", "exit=1"]).await;
    }
    perform(&service, &["run", "-d", "alpine", "--", "forever"]).await;
    service.until_last_is("running").await;
    let (_, out, err) = perform(&service, &["ps"]).await;
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("ID "), "{out}{err}");
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[1].contains("alpine") && lines[1].contains("running for") && lines[1].contains("docker"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours where there is no terminal");

    let (_, out, _) = perform(&service, &["ps", "--all"]).await;
    assert_eq!(out.lines().count(), 5, "{out}");
    assert_eq!(out.matches("busybox").count(), 3, "{out}");
    assert_eq!(out.matches("exited (1)").count(), 3, "{out}");
    let (_, out, _) = perform(&service, &["ps", "--state", "exited", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    let newest_first: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["identifier"].clone()).collect();
    assert_eq!(newest_first, service.execution_ids()[..3].iter().rev().map(|id| json!(id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn engines_shows_why_an_engine_is_down() {
    let service = Service::start().await;
    let (code, out, err) = perform(&service, &["engines"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("up for") && out.contains("down for") && out.contains("connection refused"), "{out}");
}

#[tokio::test]
async fn a_closed_output_is_no_error() {
    let service = Service::start().await;
    let mut child =
        program(&service, &["run", "busybox", "--", "say=one", "cut", "say=two", "forever"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("one"));
    drop(lines);
    let (code, _, err) = told(ended(child).await);
    assert_eq!((code, err.contains("output")), (0, false), "{err}");
}

#[tokio::test]
async fn errors_name_the_cure() {
    let service = Service::start().await;
    let mut refused = program(&service, &["ps"]);
    refused.env("RENGA_DEPLOYER_TOKEN", "old-token");
    let (code, _, err) = told(ended(refused.spawn().unwrap()).await);
    assert_eq!(code, 1);
    assert!(err.contains("The token has expired.") && err.contains("RENGA_DEPLOYER_TOKEN"), "{err}");
    assert!(!err.contains("old-token"), "tokens are not shown: {err}");

    // A port that was bound and closed: no program listens on it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for (line, expected) in [(vec!["ps"], 1), (vec!["run", "busybox"], 125)] {
        let line: Vec<_> = line.into_iter().chain(["--url", &url, "--token", "x"]).collect();
        let (code, _, err) = told(ended(bare(&line).spawn().unwrap()).await);
        assert_eq!(code, expected, "{err}");
        assert!(
            err.contains("refused") && err.contains(&url) && err.contains("--url") && err.contains("up --dev"),
            "{err}"
        );
    }

    let (code, _, err) = told(ended(bare(&["ps"]).spawn().unwrap()).await);
    assert_eq!(code, 1);
    assert!(err.contains("there is no token") && err.contains("RENGA_DEPLOYER_TOKEN"), "{err}");
    let (code, _, err) = told(ended(bare(&["run", "-e", "NOWHERE", "busybox"]).spawn().unwrap()).await);
    assert_eq!(code, 2);
    assert!(err.contains("NOWHERE=VALUE"), "{err}");
    assert_eq!(ended(bare(&["run"]).spawn().unwrap()).await.status.code(), Some(2));
    let (code, _, err) = told(ended(program(&service, &["logs", "zzzz"]).spawn().unwrap()).await);
    assert_eq!(code, 1);
    assert!(err.contains("ps --all"), "{err}");
}

#[tokio::test]
async fn bash_completes_arguments_of_a_subcommand() {
    let completion = ended(bare(&["completion", "bash"]).spawn().unwrap()).await;
    assert!(completion.status.success());
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completion.bash");
    std::fs::write(&script, completion.stdout).unwrap();
    // The last two words of `complete -p` are the names of the function and the program.
    let ask = "source \"$0\"; set -- $(complete -p renga-deployer); COMP_WORDS=(renga-deployer run --de); COMP_CWORD=2; \
               \"${@: -2:1}\" renga-deployer --de run; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", ask]).arg(&script).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_eq!(told(ended(bash.spawn().unwrap()).await), (0, "--detach\n".into(), String::new()));
}

#[tokio::test]
async fn token_prints_only_a_token() {
    let state = tempfile::tempdir().unwrap();
    let mut token = bare(&["token", "--state-dir"]);
    token.arg(state.path());
    let (code, out, err) = told(ended(token.spawn().unwrap()).await);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!((out.lines().count(), out.trim_end().split('.').count()), (1, 3), "{out}");
}
