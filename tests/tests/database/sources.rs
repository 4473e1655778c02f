//! What the sources must not have, whoever adds to them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use renga_tests::deployment::workspace;

/// The parts that must keep to `shared::sql`: there is no SQL beside what [`statements`] lists.
#[test]
fn there_is_no_other_sql() -> Result<()> {
    let words = ["\"SELECT ", "\"INSERT INTO ", "\"UPDATE ", "\"DELETE FROM ", "\"WITH "];
    let mut found = Vec::new();
    for part in ["shared/src", "functions/api/src", "functions/database/src", "reconciler/src", "cli/src"] {
        look(&workspace().join(part), &mut |path, source| {
            let (product, _tests) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
            let lines = product.lines().enumerate().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
            found.extend(lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
        })?;
    }
    // `reads` of the native adapters asks how a statement begins.
    found.retain(|line| !line.contains("/shared/src/sql/") && !line.contains("starts_with(\"SELECT"));
    ensure!(found.is_empty(), "SQL has its home in shared/src/sql:\n{}", found.join("\n"));
    Ok(())
}

/// Files whose calls may keep a thread waiting, and why that is no thread of the runtime while it serves.
const MAY_WAIT: [(&str, &str); 10] = [
    ("reconciler/src/config.rs", "the configuration is read before anything runs"),
    ("reconciler/src/engine/config.rs", "as above"),
    ("reconciler/src/engine/docker/url.rs", "as above"),
    ("reconciler/src/engine/host_paths.rs", "`mounts_looked_at` has a thread for it"),
    ("host/src/manifest.rs", "`Host::load` and what comes before"),
    ("host/src/runtime_config.rs", "as above"),
    ("host/src/engine.rs", "`Host::load`, and the ticker's own thread"),
    ("host/src/sqlite/writer.rs", "the writer's own thread"),
    ("host/src/sqlite/statement.rs", "opens a file: a read in place is a read of the file too, and bounded"),
    ("host/src/sqlite/file.rs", "as above: whether it is the same file is asked beside the read"),
];

/// A call that waits for a file system keeps everything waiting that its thread of the runtime would do.
#[test]
fn no_thread_of_the_runtime_waits_for_a_file_system() -> Result<()> {
    let words =
        ["std::fs::", "fs::OpenOptions", ".canonicalize()", ".is_dir()", ".is_file()", ".exists()", "thread::sleep"];
    let mut found = Vec::new();
    for part in ["reconciler/src", "host/src"] {
        look(&workspace().join(part), &mut |path, source| {
            let (product, _tests) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
            let lines = product.lines().enumerate().filter(|(_, line)| {
                // A type is no call.
                words.iter().any(|word| line.contains(word))
                    && !line.contains("tokio::fs::")
                    && !line.starts_with("use std::fs::Metadata")
            });
            found.extend(lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
        })?;
    }
    for (file, _) in MAY_WAIT {
        let before = found.len();
        found.retain(|line| !line.contains(&format!("/{file}:")));
        ensure!(found.len() < before, "{file} has none any more: take it off the list");
    }
    ensure!(found.is_empty(), "use tokio::fs or spawn_blocking, or say why not in MAY_WAIT:\n{}", found.join("\n"));
    Ok(())
}

fn look(folder: &Path, each: &mut impl FnMut(&Path, &str)) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            look(&path, each)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path, &std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
