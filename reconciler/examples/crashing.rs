//! The reconciler as the crash tests run it: it ends at the points that `FAILPOINTS` names.

use renga_reconciler::{app, config, logging};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _points = fail::FailScenario::setup();
    logging::start();
    let config = config::from_environment().map_err(|problems| anyhow::anyhow!("{problems}"))?;
    app::run(config, renga_reconciler::stop_signal()).await
}
