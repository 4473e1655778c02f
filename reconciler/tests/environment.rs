//! The program in an environment that is not all text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

#[test]
fn a_variable_that_is_not_utf_8_keeps_nobody_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_renga-reconciler"))
        .arg("migrate")
        .env_clear()
        .env("SQLALCHEMY_DATABASE_URI", format!("sqlite:///{}/deployer.db", folder.path().display()))
        .env("DEPLOYER_HOST_PATHS", OsStr::from_bytes(b"/srv/\xff"))
        .env("SOMEBODY_ELSES", OsStr::from_bytes(b"\xff"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{told}");
    assert!(told.contains("the variable DEPLOYER_HOST_PATHS is not UTF-8"), "{told}");
    assert!(!told.contains("SOMEBODY_ELSES") && !told.contains("/srv/"), "{told}");
}
