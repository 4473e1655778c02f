//! `token check` with the real program.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the program with `input`, and returns its exit code and its whole output.
fn perform(folder: &Path, line: &[&str], variables: &[(&str, &str)], input: &str) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_renga-deployer"))
        .args(line)
        .current_dir(folder)
        .env_clear()
        .env("RENGA_DEPLOYER_STATE", folder)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// Returns the public key of the development issuer, as in a service's configuration.
fn public_key(folder: &Path) -> String {
    let pem = std::fs::read_to_string(folder.join("dev-key.pem")).unwrap();
    jwt_simple::prelude::Ed25519KeyPair::from_pem(&pem).map(|key| key.public_key().to_pem()).unwrap()
}

#[test]
fn a_token_is_explained_without_being_shown() {
    let temp = tempfile::tempdir().unwrap();
    let token = perform(temp.path(), &["token", "--sub", "ada"], &[], "").1.trim().to_owned();
    let key = public_key(temp.path());
    let service = [
        ("DEPLOYER_JWT_KEY", key.as_str()),
        ("DEPLOYER_JWT_ISSUER", "renga-deployer-development"),
        ("DEPLOYER_TOKEN_SCOPE_KEY", "scope"),
    ];
    let (code, told) = perform(temp.path(), &["token", "check"], &service, &token);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("the token is accepted") && told.contains("\"ada\"") && told.contains("EdDSA"), "{told}");

    let elsewhere = [service[0], ("DEPLOYER_JWT_ISSUER", "http://other"), ("DEPLOYER_JWT_AUDIENCE", "deployer")];
    let (code, told) = perform(temp.path(), &["token", "check"], &elsewhere, &token);
    assert_eq!(code, 1, "{told}");
    for part in ["not accepted", "expected \"http://other\"", "expected \"deployer\""] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for part in token.split('.') {
        assert!(!told.contains(part), "the token is shown: {told}");
    }
    // Without standard input, the token of the client commands is used.
    let with_variable: Vec<_> = service.into_iter().chain([("RENGA_DEPLOYER_TOKEN", token.as_str())]).collect();
    assert_eq!(perform(temp.path(), &["token", "check"], &with_variable, "").0, 0);
}

#[test]
fn an_invalid_key_and_an_unreachable_issuer_are_reported() {
    let temp = tempfile::tempdir().unwrap();
    let check = |variables: &[(&str, &str)]| perform(temp.path(), &["token", "check"], variables, "x.y.z");
    let (code, told) = check(&[("DEPLOYER_JWT_KEY", "hunter2")]);
    assert!(code == 2 && told.contains("DEPLOYER_JWT_KEY") && !told.contains("hunter2"), "{told}");
    let (code, told) = check(&[("DEPLOYER_JWT_ISSUER", "http://127.0.0.1:1/realm")]);
    assert!(code == 1 && told.contains("http://127.0.0.1:1/realm/.well-known"), "{told}");
}

#[test]
fn an_issuer_whose_answer_never_ends_is_given_up() {
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", endless.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in endless.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
            while client.write_all(&[b' '; 64 << 10]).is_ok() {}
        }
    });
    let temp = tempfile::tempdir().unwrap();
    let (code, told) = perform(temp.path(), &["token", "check"], &[("DEPLOYER_JWT_ISSUER", &issuer)], "x.y.z");
    assert!(code == 1 && told.contains("longer than"), "{told}");
}
