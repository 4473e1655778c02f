//! Volumes: what each kind keeps, and which kinds are refused.

use anyhow::{Result, ensure};
use renga_reconciler::engine::Launch;
use renga_tests::scripts::{Script, TestEngine};
use serde_json::{Value, json};

use crate::bed::{Bed, refused};
use crate::cluster;

/// Returns a launch that appends a line to a file in a volume and prints the file.
fn appends(bed: &Bed, source: &Value, mount: &Value) -> Result<Launch> {
    let (mut volume, mut mounted) = (source.clone(), mount.clone());
    volume["name"] = json!("v");
    mounted["name"] = json!("v");
    mounted["mountPath"] = json!("/data");
    let fields = json!({ "volumes": [volume], "volumeMounts": [mounted] });
    bed.launch_with(&Script::AppendAndShow("/data/file"), &fields)
}

/// Runs an object to its end. Returns its id on the engine, its exit code and its output.
async fn run(bed: &Bed, launch: &Launch) -> Result<(String, i64, String)> {
    let object = bed.run(launch).await?;
    let code = bed.ended(launch).await?.code;
    let text = bed.text(&object).await?;
    Ok((object, code, text))
}

pub(crate) async fn an_empty_folder_lives_as_long_as_its_object(bed: &Bed) -> Result<()> {
    for source in [json!({"emptyDir": {}}), json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})] {
        let on_disk = source == json!({"emptyDir": {}});
        for _ in 0..2 {
            let launch = appends(bed, &source, &json!({}))?;
            let (object, code, text) = run(bed, &launch).await?;
            ensure!(code == 0 && text == "kept\n", "it is empty and can be written to: {code} {text:?}");
            let volumes = bed.volumes_of(&object).await?;
            ensure!(bed.which != TestEngine::Docker || volumes.len() == usize::from(on_disk), "{volumes:?}");
            bed.engine.remove(&object).await?;
            for volume in volumes {
                ensure!(!bed.has_volume(&volume).await?, "the volume {volume} is left over");
            }
        }
    }
    Ok(())
}

pub(crate) async fn a_named_volume_outlives_its_objects(bed: &Bed) -> Result<()> {
    let source = json!({"persistentVolumeClaim": {"claimName": bed.claim().await?}});
    for expected in ["kept\n", "kept\nkept\n"] {
        let launch = appends(bed, &source, &json!({}))?;
        let (object, code, text) = run(bed, &launch).await?;
        ensure!(code == 0 && (text == expected || !bed.which.has_files()), "{code} {text:?}");
        bed.engine.remove(&object).await?;
    }
    let launch = appends(bed, &source, &json!({"readOnly": true}))?;
    let (_, code, text) = run(bed, &launch).await?;
    ensure!(code != 0 || !bed.which.has_files(), "it was to be read only: {text:?}");
    Ok(())
}

pub(crate) async fn host_paths_only_where_they_are_allowed(bed: &Bed) -> Result<()> {
    let path = bed.allowed.path();
    let launch = appends(bed, &json!({"hostPath": {"path": path}}), &json!({}))?;
    let (_, code, text) = run(bed, &launch).await?;
    ensure!(code == 0 && text == "kept\n", "{code} {text:?}");
    ensure!(!bed.which.has_files() || std::fs::read_to_string(path.join("file"))? == "kept\n");

    let beside = format!("{}-beside", path.display());
    for other in ["/", "/etc", &beside] {
        let launch = appends(bed, &json!({"hostPath": {"path": other}}), &json!({}))?;
        is_refused(bed, &launch, "HostPathNotAllowed").await?;
    }
    Ok(())
}

pub(crate) async fn config_maps_and_secrets_are_given_or_refused(bed: &Bed) -> Result<()> {
    if let Some(namespace) = bed.namespace() {
        cluster::config(namespace).await?;
        let sources = [
            ("ConfigMap", json!({"configMap": {"name": "given"}})),
            ("Secret", json!({"secret": {"secretName": "given"}})),
        ];
        for (kind, mut volume) in sources {
            volume["name"] = json!("v");
            let fields = json!({ "volumes": [volume], "volumeMounts": [{"name": "v", "mountPath": "/data"}] });
            let launch = bed.launch_with(&Script::Show("/data/file"), &fields)?;
            let (_, code, text) = run(bed, &launch).await?;
            ensure!(code == 0 && text == kind, "{kind}: {code} {text:?}");
        }
        return Ok(());
    }
    for source in [json!({"configMap": {"name": "c"}}), json!({"secret": {"secretName": "s"}})] {
        is_refused(bed, &appends(bed, &source, &json!({}))?, "VolumeKindUnsupported").await?;
    }
    Ok(())
}

async fn is_refused(bed: &Bed, launch: &Launch, reason: &str) -> Result<()> {
    bed.engine.prepare(launch, &|_| {}).await?;
    refused(bed.engine.create(launch).await, reason)?;
    ensure!(bed.engine.inspect(launch.id).await?.is_none(), "what is refused is not made");
    Ok(())
}
