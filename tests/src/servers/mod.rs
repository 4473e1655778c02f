//! The real servers that tests run against: PostgreSQL, Keycloak, Docker and Kubernetes.
//!
//! A test that needs one begins with [`require!`](crate::require): `let docker = require!(docker);`. If the machine has
//! no such server, the test does not fail: it reports that loudly and is listed at the end of `make test`. It fails
//! with `CI=true` or `RENGA_REQUIRE_ALL=1`, because no test may stay unrun unnoticed there.
//!
//! Every server that is started here ends with the test process, by its own pid, however that process ends.

mod docker;
mod gate;
mod guarded;
mod images;
mod keycloak;
mod kubernetes;
mod not_run;
mod postgres;

pub use docker::{DedicatedDocker, docker};
pub use gate::Gate;
pub use images::{BUSYBOX, busybox};
pub use keycloak::{Keycloak, Realm, Tokens, keycloak};
pub use kubernetes::{Cluster, kubernetes};
pub use not_run::{NotRun, report_not_run};
pub use postgres::{Postgres, postgres};
