//! Restricts volumes to host paths under a folder that the operator allowed.

use std::io;
use std::path::{Component, Path, PathBuf};

use renga_shared::domain::Why;

use super::EngineError;

/// Returns the path inside a hostPath volume to mount. Fails with `Refused` unless a folder of `allowed` contains it.
///
/// `look`: the engine's host is this machine. Symbolic links are then resolved before the check, because a user with
/// write access to an allowed folder could add a link that leads out of it. A change of the folder between this check
/// and the mount is not detected, so a folder should be allowed only to users who may see everything on its machine.
pub(super) fn allow(
    path: &str,
    sub_path: Option<&str>,
    allowed: &[PathBuf],
    look: bool,
) -> Result<PathBuf, EngineError> {
    let wanted = sub_path.map_or_else(|| PathBuf::from(path), |sub| Path::new(path).join(sub));
    let refused = || {
        let text = format!(
            "A volume's path {} is not under a folder that the deployer's operator allows in DEPLOYER_HOST_PATHS, \
             or a link in it leads out of that folder or nowhere.",
            wanted.display()
        );
        Err(EngineError::Refused(Why::new("HostPathNotAllowed", text)))
    };
    let Some(normal) = normalise(&wanted) else { return refused() };
    if !allowed.iter().any(|folder| normal.starts_with(folder)) {
        return refused();
    }
    if !look {
        return Ok(normal);
    }
    // A path that cannot be followed to its end is refused: the engine may have rights that this process lacks.
    let Ok(real) = real_path(&normal) else { return refused() };
    let real_folders = allowed.iter().map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.clone()));
    if !real_folders.into_iter().any(|folder| real.starts_with(folder)) {
        return refused();
    }
    Ok(real)
}

/// Returns the path without symbolic links. The end of it that does not exist yet is kept as it is. Fails if a link leads
/// nowhere, or if a part of the path cannot be read.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(real_path(parent)?.join(name)),
                _ => Err(error),
            }
        }
        resolved => resolved,
    }
}

/// Returns the path without doubled slashes, or `None` if it is relative or contains `..`.
fn normalise(path: &Path) -> Option<PathBuf> {
    let normal = |part: &Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    (path.is_absolute() && path.components().all(|part| normal(&part))).then(|| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(path: &str, sub_path: Option<&str>, look: bool, folders: &[&Path]) -> Option<PathBuf> {
        let folders: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
        match allow(path, sub_path, &folders, look) {
            Ok(path) => Some(path),
            Err(EngineError::Refused(why)) => {
                assert_eq!(why.reason, "HostPathNotAllowed");
                assert!(why.message.contains("DEPLOYER_HOST_PATHS"), "{}", why.message);
                None
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_outside_allowed_folders_are_refused() {
        let folders = [Path::new("/srv/data"), Path::new("/mnt")];
        for good in ["/srv/data", "/srv/data/", "/srv//data/x", "/mnt/a/b"] {
            assert!(allowed(good, None, false, &folders).is_some(), "{good}");
        }
        for bad in
            ["/", "/srv", "/srv/database", "/srv/data/../../etc", "/srv/data/..", "srv/data", "/var/run/docker.sock"]
        {
            assert_eq!(allowed(bad, None, false, &folders), None, "{bad}");
        }
        assert_eq!(allowed("/srv/data", Some("a/b"), false, &folders), Some("/srv/data/a/b".into()));
        assert_eq!(allowed("/srv/data", Some("../b"), false, &folders), None);
        assert_eq!(allowed("/srv/data", Some("/etc"), false, &folders), None);
        assert_eq!(allowed("/srv/data", None, false, &[]), None);
    }

    #[test]
    fn a_symlink_out_of_an_allowed_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("allowed");
        std::fs::create_dir_all(inside.join("real")).unwrap();
        std::os::unix::fs::symlink("/etc", inside.join("out")).unwrap();
        std::os::unix::fs::symlink("real", inside.join("in")).unwrap();
        let path = |name: &str| inside.join(name).display().to_string();
        assert_eq!(allowed(&path("out"), None, true, &[&inside]), None);
        assert_eq!(allowed(&path("out"), Some("ssl"), true, &[&inside]), None);
        assert_eq!(allowed(&path("in"), None, true, &[&inside]), Some(inside.join("real").canonicalize().unwrap()));
        assert!(allowed(&path("not-there"), None, true, &[&inside]).is_some());
    }

    #[test]
    fn a_path_that_cannot_be_followed_to_its_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("allowed");
        std::fs::create_dir_all(&inside).unwrap();
        // Somebody may create the target after this check; a link to itself stands for a folder that cannot be read.
        std::os::unix::fs::symlink(folder.path().join("later"), inside.join("dangling")).unwrap();
        std::os::unix::fs::symlink("circle", inside.join("circle")).unwrap();
        std::os::unix::fs::symlink("/etc", inside.join("out")).unwrap();
        let path = |name: &str| inside.join(name).display().to_string();
        for bad in ["dangling", "dangling/x", "circle", "circle/x", "out/not-there", "out/not-there/x"] {
            assert_eq!(allowed(&path(bad), None, true, &[&inside]), None, "{bad}");
        }
        let real = inside.canonicalize().unwrap();
        assert_eq!(allowed(&path("a/b"), None, true, &[&inside]), Some(real.join("a/b")));
    }
}
