//! The images that tests run. There is no registry to pull from: they are imported, made of Debian's `busybox-static`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::TryStreamExt;

use crate::deployment::workspace;

/// An image with a shell and the usual small programs in `/bin`: `sh`, `sleep`, `httpd`, `echo`, `cat` and so on.
/// No entry point, no command, root as its user.
pub const BUSYBOX: &str = "renga-test/busybox:1";

/// Sees to it that the engine has [`BUSYBOX`], and answers its name. Quick when it has.
///
/// # Errors
/// When `busybox-static` is not installed, or the engine refuses.
pub async fn busybox(docker: &Docker) -> Result<&'static str> {
    match docker.inspect_image(BUSYBOX).await {
        Ok(_) => return Ok(BUSYBOX),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(error) => return Err(error).context("ask the engine for the test image"),
    }
    let root = tokio::task::spawn_blocking(busybox_root).await??;
    let (name, tag) = BUSYBOX.split_once(':').context("the test image's name has a tag")?;
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(name).tag(tag).build();
    // Tests that import it at the same time each make an image; the last one keeps the name. All are alike.
    docker
        .create_image(Some(options), Some(bollard::body_full(root.into())), None)
        .try_collect::<Vec<_>>()
        .await
        .context("import the test image")?;
    Ok(BUSYBOX)
}

/// The image's file system as a tar.
fn busybox_root() -> Result<Vec<u8>> {
    let made = Command::new(workspace().join("scripts/test-image.sh")).output().context("run scripts/test-image.sh")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr).trim_end());
    Ok(made.stdout)
}
