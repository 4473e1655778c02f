//! Serves an application with this host alone: `cargo run -p renga-host --example serve -- SPIN_TOML ADDRESS [SQLITE_FILE]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use renga_host::{Host, Manifest, Settings};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [manifest, address, rest @ ..] = &arguments[..] else {
        return Err("usage: serve SPIN_TOML ADDRESS [SQLITE_FILE]".into());
    };
    let manifest = Manifest::load(Path::new(manifest))?;
    let settings = Settings {
        sqlite: rest.iter().map(|file| ("default".to_owned(), PathBuf::from(file))).collect(),
        cache_dir: std::env::temp_dir().join("renga-host-example"),
        ..Settings::default()
    };
    let start = std::time::Instant::now();
    let host = Arc::new(Host::load(&manifest, settings).await?);
    let listener = TcpListener::bind(address).await?;
    println!("http://{} after {:?}", listener.local_addr()?, start.elapsed());
    host.serve(listener, async { _ = tokio::signal::ctrl_c().await }).await?;
    Ok(())
}
