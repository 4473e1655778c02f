//! The images of `deploy/Dockerfile`. Their base images are not available here. The test replaces the Rust image by one
//! whose cargo copies programs that were built outside, and the others by one with the libraries of this machine. The
//! stages, the paths and the user are the Dockerfile's.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::workspace;
use renga_tests::servers::{BUSYBOX, busybox};
use renga_tests::{process, require};
use tokio::process::Command;

use super::installed::write_image;

const RUST: &str = "renga-test/rust:1";
const BASE: &str = "renga-test/base:1";
const CARGO: &str = r#"#!/bin/sh
mkdir -p target/release target/wasm32-wasip2/release
case "$*" in
    *"--locked --release --target wasm32-wasip2 -p renga-api"*) cp built/renga_api.wasm target/wasm32-wasip2/release/ ;;
    *"--locked --release --bin renga-reconciler --bin renga-deployer"*) cp built/renga-* target/release/ ;;
    *) echo "cargo $* is not foreseen" >&2; exit 1 ;;
esac
"#;

#[tokio::test]
async fn the_dockerfile_builds_both_images() -> Result<()> {
    busybox(&require!(docker)).await?;
    let folder = tempfile::tempdir()?;
    let (reconciler, deployer) = (process::reconciler()?, process::deployer()?);
    stand_ins(folder.path(), deployer).await?;

    let source = folder.path().join("source");
    std::fs::create_dir_all(source.join("built"))?;
    for file in ["spin.toml", "runtime-config.toml"] {
        std::fs::copy(workspace().join(file), source.join(file))?;
    }
    for program in [reconciler, deployer] {
        std::fs::copy(program, source.join("built").join(program.file_name().context("a program has a name")?))?;
    }
    std::fs::write(source.join("built/renga_api.wasm"), "stands for it")?;

    // Other stages only copy from these stages. They are built by name, so that they can be removed.
    let stages = [build(&source, "build").await?, build(&source, "components").await?];
    let deployer = build(&source, "deployer").await?;
    for program in ["renga-reconciler", "renga-deployer"] {
        let path = format!("/usr/local/bin/{program}");
        let said = docker(&["run", "--rm", "--read-only", &deployer, &path, "--version"]).await?;
        ensure!(said.starts_with(program), "{path}: {said}");
    }
    let api = build(&source, "api-on-spin").await?;
    let app = docker(&["run", "--rm", "--read-only", "--entrypoint", "/bin/find", &api, "/app", "-type", "f"]).await?;
    for file in ["spin.toml", "runtime-config.toml", "target/wasm32-wasip2/release/renga_api.wasm"] {
        ensure!(app.lines().any(|line| line == format!("/app/{file}")), "{file} is not in {app}");
    }
    for image in [&deployer, &api] {
        let user = docker(&["inspect", "--format={{.Config.User}}", image]).await?;
        ensure!(user.trim_end() == "65532:65532", "{image} runs as {user}");
    }
    let [build, components] = stages;
    docker(&["rmi", "--force", &api, &deployer, &components, &build, BASE, RUST]).await.map(drop)
}

/// Builds the images that replace the base images.
async fn stand_ins(folder: &Path, program: &Path) -> Result<()> {
    let rust = folder.join("rust");
    std::fs::create_dir(&rust)?;
    std::fs::write(rust.join("cargo"), CARGO)?;
    let dockerfile = format!("FROM {BUSYBOX}\nCOPY cargo /bin/cargo\nRUN chmod 755 /bin/cargo\n");
    std::fs::write(rust.join("Dockerfile"), dockerfile)?;
    docker(&["build", "--quiet", "--tag", RUST, &rust.display().to_string()]).await?;
    let tar = folder.join("base.tar");
    write_image(program, &tar).await?;
    docker(&["import", &tar.display().to_string(), BASE]).await.map(drop)
}

async fn build(source: &Path, target: &str) -> Result<String> {
    let file = workspace().join("deploy/Dockerfile").display().to_string();
    let arguments = [("RUST_IMAGE", RUST), ("BASE_IMAGE", BASE), ("SPIN_IMAGE", BUSYBOX)];
    let arguments = arguments.map(|(name, image)| format!("--build-arg={name}={image}"));
    let mut line = vec!["build", "--quiet", "--file", &file, "--target", target];
    line.extend(arguments.iter().map(String::as_str));
    let source = source.display().to_string();
    line.push(&source);
    Ok(docker(&line).await?.trim_end().to_owned())
}

async fn docker(arguments: &[&str]) -> Result<String> {
    // The host is explicit, because the client's own context may point elsewhere.
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let ran = Command::new("docker")
        .args(["--host", &host])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("run docker")?;
    ensure!(ran.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}
