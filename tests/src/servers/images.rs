//! The images that tests run, built from Debian's `busybox-static` and imported, because there is no registry.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::TryStreamExt;

use crate::deployment::workspace;

/// An image with a shell and the usual small programs in `/bin`: `sh`, `sleep`, `httpd`, `echo`, `cat` and so on. It
/// has no entry point and no command, and its user is root.
pub const BUSYBOX: &str = "renga-test/busybox:1";

/// Makes sure that the engine has [`BUSYBOX`], and returns its name. Fast if the engine has the image.
///
/// # Errors
/// Fails if `busybox-static` is not installed, or if the engine refuses.
pub async fn busybox(docker: &Docker) -> Result<&'static str> {
    match docker.inspect_image(BUSYBOX).await {
        Ok(_) => return Ok(BUSYBOX),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(error) => return Err(error).context("ask the engine for the test image"),
    }
    let root = tokio::task::spawn_blocking(busybox_root).await??;
    let (name, tag) = BUSYBOX.split_once(':').context("the test image's name has a tag")?;
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(name).tag(tag).build();
    // Tests that import the image at the same time each create one with the same content. The last one keeps the name.
    docker
        .create_image(Some(options), Some(bollard::body_full(root.into())), None)
        .try_collect::<Vec<_>>()
        .await
        .context("import the test image")?;
    Ok(BUSYBOX)
}

/// Returns the image's file system as a tar archive.
fn busybox_root() -> Result<Vec<u8>> {
    let made = Command::new(workspace().join("scripts/test-image.sh")).output().context("run scripts/test-image.sh")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr).trim_end());
    Ok(made.stdout)
}
