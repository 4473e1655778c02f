//! Pulls an image, and reports the progress.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures::{Stream, StreamExt as _};
use renga_shared::domain::Why;

use super::failure::{self, Failure};
use crate::engine::EngineError;

/// Time without progress after which a pull counts as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(120);
/// Minimum interval between two progress reports.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Pulls `image`, which must name a tag or a digest: without one Docker pulls all existing tags.
pub(super) async fn pull(
    docker: &bollard::Docker,
    image: &str,
    progress: &(dyn Fn(Why) + Send + Sync),
) -> Result<(), EngineError> {
    progress(Why::new("PullingImage", format!("Pulling image {image}")));
    let options = CreateImageOptions { from_image: Some(image.to_owned()), ..CreateImageOptions::default() };
    let answers = docker.create_image(Some(options), None, None).map(|answer| answer.map_err(Failure::from));
    follow(answers, image, progress).await
}

async fn follow(
    answers: impl Stream<Item = Result<CreateImageInfo, Failure>> + Send,
    image: &str,
    progress: &(dyn Fn(Why) + Send + Sync),
) -> Result<(), EngineError> {
    futures::pin_mut!(answers);
    let mut layers = Layers::default();
    let mut told = (Instant::now(), layers.to_string());
    loop {
        let answer = tokio::time::timeout(STALLED_AFTER, answers.next()).await.map_err(|_| {
            let text =
                format!("The image {image} could not be pulled: nothing came for {} s.", STALLED_AFTER.as_secs());
            EngineError::Retry(Why::new("ImagePullStalled", text))
        })?;
        match answer {
            None => return Ok(()),
            Some(Err(failure)) => return Err(failure::of_pull(failure, image)),
            Some(Ok(info)) => layers.hear(info),
        }
        let now_at = layers.to_string();
        if now_at != told.1 && told.0.elapsed() >= TOLD_EVERY {
            progress(Why::new("PullingImage", format!("Pulling image {image}{now_at}")));
            told = (Instant::now(), now_at);
        }
    }
}

/// The layers of an image in a pull, by Docker's short ids.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    done: bool,
    current: i64,
    total: i64,
}

impl Layers {
    fn hear(&mut self, info: CreateImageInfo) {
        let (Some(id), Some(status)) = (info.id, info.status) else { return };
        let detail = info.progress_detail.unwrap_or_default();
        let layer = match status.as_str() {
            "Pulling fs layer" | "Waiting" | "Verifying Checksum" | "Extracting" => self.0.entry(id).or_default(),
            "Downloading" => {
                let layer = self.0.entry(id).or_default();
                layer.current = detail.current.unwrap_or(layer.current);
                layer.total = detail.total.unwrap_or(layer.total).max(layer.current);
                return;
            }
            "Download complete" | "Pull complete" | "Already exists" => {
                let layer = self.0.entry(id).or_default();
                layer.done |= status != "Download complete";
                layer
            }
            // All other messages are about the image, not about a layer.
            _ => return,
        };
        if layer.done || status == "Download complete" || status == "Extracting" {
            layer.current = layer.total;
        }
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let done = self.0.values().filter(|layer| layer.done).count();
        write!(f, ": {done} of {} layers", self.0.len())?;
        // Whoever made the image says how large its layers are.
        let add =
            |sum: (i64, i64), layer: &Layer| (sum.0.saturating_add(layer.current), sum.1.saturating_add(layer.total));
        let (current, total) = self.0.values().fold((0, 0), add);
        if total > 0 {
            write!(f, ", {} of {} MB", megabytes(current), megabytes(total))?;
        }
        Ok(())
    }
}

fn megabytes(bytes: i64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn progress_adds_up_over_layers() {
        let mut layers = Layers::default();
        let mut hear = |id: &str, status: &str, current: Option<i64>, total: Option<i64>| {
            let progress_detail = Some(ProgressDetail { current, total });
            layers.hear(CreateImageInfo {
                id: Some(id.into()),
                status: Some(status.into()),
                progress_detail,
                ..CreateImageInfo::default()
            });
            layers.to_string()
        };
        assert_eq!(hear("latest", "Pulling from library/busybox", None, None), "");
        assert_eq!(hear("a", "Pulling fs layer", None, None), ": 0 of 1 layers");
        hear("b", "Already exists", None, None);
        assert_eq!(hear("a", "Downloading", Some(1_200_000), Some(45_600_000)), ": 1 of 2 layers, 1.2 of 45.6 MB");
        assert_eq!(hear("a", "Download complete", None, None), ": 1 of 2 layers, 45.6 of 45.6 MB");
        hear("a", "Extracting", Some(1), Some(45_600_000));
        assert_eq!(hear("a", "Pull complete", None, None), ": 2 of 2 layers, 45.6 of 45.6 MB");
        hear("c", "Downloading", Some(i64::MAX), Some(i64::MAX));
        let most = "9223372036854.7 of 9223372036854.7 MB";
        assert_eq!(hear("d", "Downloading", Some(i64::MAX), Some(i64::MAX)), format!(": 2 of 4 layers, {most}"));
    }
}
