//! Reports of tests that could not run: on standard error, and in `target/not-run.txt`, which `make test` prints at its
//! end.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The return value of a test function that could not run.
pub trait NotRun {
    /// Returns that value.
    fn not_run() -> Self;
}

impl NotRun for () {
    fn not_run() -> Self {}
}

impl<E> NotRun for Result<(), E> {
    fn not_run() -> Self {
        Ok(())
    }
}

/// Records that a test could not run, and why. Tests use [`require!`](crate::require), which passes the type name of a
/// function inside the test, because libtest does not tell a test its name.
///
/// # Panics
/// Panics with `CI=true` or `RENGA_REQUIRE_ALL=1`, because every test must run there.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn report_not_run(inside: &str, reason: &str) {
    let test = inside.trim_end_matches("::here").replace("::{{closure}}", "");
    // A server's last lines are joined, so that each test has one line.
    let reason = reason.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    let line = format!("NOT RUN: {test}: {reason}");
    if is_set("CI", "true") || is_set("RENGA_REQUIRE_ALL", "1") {
        panic!("{line}");
    }
    // `eprintln!` is not used, because libtest hides its output if the test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/not-run.txt");
    // Each line is one write, because other test processes append at the same time.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut list| list.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        panic!("{line}; nor could {} be written: {error}", file.display());
    }
}

fn is_set(name: &str, value: &str) -> bool {
    std::env::var(name).is_ok_and(|found| found == value)
}

/// Returns a server that the test needs, or ends the test as one that could not run.
///
/// - `require!(docker)`: a client of the machine's Docker Engine;
/// - `require!(dedicated_docker, "--live-restore")`: a new [`DedicatedDocker`](crate::servers::DedicatedDocker);
/// - `require!(postgres)`: the [`Postgres`](crate::servers::Postgres) that the process shares;
/// - `require!(keycloak)`: the [`Keycloak`](crate::servers::Keycloak) that the process shares;
/// - `require!(dedicated_keycloak)`: a new one;
/// - `require!(kubernetes)`: the [`Cluster`](crate::servers::Cluster) that the process shares;
/// - `require!(dedicated_kubernetes)`: a new one, which the test may break;
/// - `require!(kubernetes_without_node)`: a new one with only a control plane, where no pod runs.
///
/// Every engine has the image [`BUSYBOX`](crate::servers::BUSYBOX).
/// For use in an `async fn` that returns `()` or a `Result<(), _>`.
#[macro_export]
macro_rules! require {
    (docker) => {
        $crate::require!(@answer $crate::servers::docker())
    };
    (dedicated_docker $(, $option:expr)* $(,)?) => {
        $crate::require!(@answer $crate::servers::DedicatedDocker::start(&[$($option),*]))
    };
    (postgres) => {
        $crate::require!(@answer $crate::servers::postgres())
    };
    (keycloak) => {
        $crate::require!(@answer $crate::servers::keycloak())
    };
    (dedicated_keycloak) => {
        $crate::require!(@answer $crate::servers::Keycloak::start())
    };
    (kubernetes) => {
        $crate::require!(@answer $crate::servers::kubernetes())
    };
    (dedicated_kubernetes) => {
        $crate::require!(@answer $crate::servers::Cluster::start())
    };
    (kubernetes_without_node) => {
        $crate::require!(@answer $crate::servers::Cluster::start_without_node())
    };
    (@answer $server:expr) => {
        match $server.await {
            Ok(server) => server,
            Err(error) => {
                fn here() {}
                let here = ::std::any::type_name_of_val(&here);
                $crate::servers::report_not_run(here, &format!("{error:#}"));
                return $crate::servers::NotRun::not_run();
            }
        }
    };
}
