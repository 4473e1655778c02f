//! The images that tests run. There is no registry to pull from: they are imported, made of Debian's `busybox-static`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::TryStreamExt;

use super::guarded::find_program;

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
    let busybox = find_busybox()?;
    let applets =
        Command::new(&busybox).arg("--list").output().with_context(|| format!("run {}", busybox.display()))?;
    ensure!(applets.status.success(), "{} --list failed", busybox.display());
    let applets = String::from_utf8(applets.stdout).context("busybox lists names in UTF-8")?;

    let mut root = tar::Builder::new(Vec::new());
    for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        root.append_data(&mut header(tar::EntryType::Directory, mode, 0), folder, std::io::empty())?;
    }
    let binary = std::fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    root.append_data(&mut header(tar::EntryType::Regular, 0o755, binary.len() as u64), "bin/busybox", &binary[..])?;
    for applet in applets.lines().filter(|&applet| applet != "busybox") {
        root.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    let users = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    root.append_data(&mut header(tar::EntryType::Regular, 0o644, users.len() as u64), "etc/passwd", &users[..])?;
    Ok(root.into_inner()?)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// A busybox that runs where there is nothing else: one that needs a loader would not start in the image.
fn find_busybox() -> Result<PathBuf> {
    let Some(busybox) = find_program("busybox", &["/usr/bin".into(), "/bin".into()]) else {
        bail!("busybox is not installed: install busybox-static, or run `make servers`");
    };
    ensure!(is_static(&busybox)?, "{} needs shared libraries: install busybox-static instead", busybox.display());
    Ok(busybox)
}

/// Only a dynamically linked program names the loader that it needs.
fn is_static(program: &Path) -> Result<bool> {
    let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    Ok(!bytes.windows(7).any(|window| window == b"/ld-lin" || window == b"/ld-mus"))
}
