//! `up` and `migrate` with common mistakes: each ends with one message that names the thing, the value and the cure.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Returns a command in a folder of its own. Only its state folder is configured.
fn program(folder: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_renga-deployer"));
    command
        .args(line)
        .current_dir(folder)
        .env_clear()
        .env("RENGA_DEPLOYER_STATE", folder.join("state"))
        .env("DEPLOYER_METRICS_ADDRESS", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn all_configuration_errors_are_reported_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let mut up = program(temp.path(), &["up"]);
    up.env("SQLALCHEMY_DATABASE_URI", "mysql://ada:hunter2@db/x").env("DEPLOYER_ACCESS", "everyone");
    let (code, told) = told(&up.output().unwrap());
    assert_eq!(code, Some(2), "{told}");
    for part in
        ["SQLALCHEMY_DATABASE_URI", "sqlite:///FILE", "DEPLOYER_ACCESS is \"everyone\"", "DEPLOYER_JWT_KEY", "--dev"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_missing_secret_file_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let mut up = program(temp.path(), &["up"]);
    up.env("DEPLOYER_JWT_KEY_FILE", "/nonexistent/key.pem");
    let (code, told) = told(&up.output().unwrap());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("DEPLOYER_JWT_KEY_FILE") && told.contains("/nonexistent/key.pem"), "{told}");
}

#[test]
fn a_port_in_use_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, told) = told(&program(temp.path(), &["up", "--dev", "--listen", &address]).output().unwrap());
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&address) && told.contains("--listen"), "{told}");
}

#[test]
fn the_development_issuer_does_not_serve_the_network() {
    let temp = tempfile::tempdir().unwrap();
    let (code, told) = told(&program(temp.path(), &["up", "--dev", "--listen", "0.0.0.0:0"]).output().unwrap());
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("0.0.0.0:0") && told.contains("--dev"), "{told}");
}

#[test]
fn a_database_that_cannot_be_opened_is_named() {
    let temp = tempfile::tempdir().unwrap();
    for line in [["migrate"].as_slice(), &["up", "--dev", "--listen", "127.0.0.1:0"]] {
        let mut command = program(temp.path(), line);
        command.env("SQLALCHEMY_DATABASE_URI", "sqlite:////nonexistent/folder/deployer.db");
        let (code, told) = told(&command.output().unwrap());
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("/nonexistent/folder") && told.contains("SQLALCHEMY_DATABASE_URI"), "{told}");
    }
}

#[test]
fn a_missing_manifest_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let line = ["up", "--dev", "--listen", "127.0.0.1:0", "--manifest", "elsewhere/spin.toml"];
    let (code, told) = told(&program(temp.path(), &line).output().unwrap());
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("elsewhere/spin.toml"), "{told}");
}

#[test]
fn migrate_may_run_twice() {
    let temp = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let migrated = program(temp.path(), &["migrate"]).output().unwrap();
        let (code, told) = told(&migrated);
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(String::from_utf8(migrated.stdout).unwrap(), "the schema of sqlite:///deployer.db is up to date\n");
    }
    assert!(temp.path().join("deployer.db").is_file(), "the usual database is here");
}
