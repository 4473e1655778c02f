//! What is wrong is said at the start, with the thing, its value and the cure.

use std::collections::BTreeMap;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

use renga_host::{HostError, Manifest, RuntimeConfig, Settings, variables_from_env};

use crate::support::{MANIFEST, Server, guest, load};

/// The error of a manifest that is written with `source` as it is.
fn refused(manifest: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spin.toml");
    std::fs::write(&path, manifest).unwrap();
    let error = Manifest::load(&path).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    error
}

async fn fails(manifest: &str, adjust: impl FnOnce(&mut Settings)) -> String {
    let folder = tempfile::tempdir().unwrap();
    match load(manifest, folder.path(), adjust).await {
        Ok(_) => panic!("it loads"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_manifest_is_refused_with_the_entry_and_the_cure() {
    let built = MANIFEST.replace("{source}", "missing.wasm");
    assert!(refused(&built).contains("missing.wasm, is not there: build it with `make build`"));
    for (from, to, says) in [
        ("spin_manifest_version = 2", "spin_manifest_version = 1", "only version 2"),
        ("route = \"/...\"", "route = \"/a/:id\"", "named segments"),
        ("route = \"/...\"", "route = \"a\"", "starts with /"),
        ("component = \"guest\"", "component = \"other\"", "[component.other]"),
        ("sqlite_databases", "files = [\"x\"]\nsqlite_databases", "`files` is not provided"),
        (
            "sqlite_databases",
            "key_value_stores = [\"default\"]\nsqlite_databases",
            "`key_value_stores` is not provided",
        ),
        ("sqlite_databases", "ai_models = [\"x\"]\nsqlite_databases", "`ai_models` is not provided"),
        ("sqlite_databases", "sqlite_database", "unknown field `sqlite_database`"),
        ("{{ greeting }}", "{{ greting }}", "greting"),
        ("{{ greeting }}", "{{ greeting", "not closed"),
        ("port = { default = \"1\" }", "Port = { default = \"1\" }", "Port"),
        ("port = { default = \"1\" }", "port = { required = true, default = \"1\" }", "either a default"),
        ("[[trigger.http]]", "[[trigger.redis]]", "http trigger only"),
    ] {
        let changed = MANIFEST.replace(from, to);
        assert_ne!(changed, MANIFEST, "{from}");
        let error = refused(&changed);
        assert!(error.contains(says), "{to}: {error}");
    }
    assert!(Manifest::load(Path::new("/nowhere/spin.toml")).unwrap_err().to_string().contains("/nowhere/spin.toml"));
}

#[tokio::test]
async fn all_missing_variables_are_named_at_once() {
    let manifest = MANIFEST
        .replace("greeting = { default = \"hello\" }", "greeting = { required = true }\nname = { required = true }");
    let error = fails(&manifest, |_| {}).await;
    assert!(error.contains("greeting, name"), "{error}");
    let error = fails(MANIFEST, |settings| _ = settings.variables.insert("greting".into(), String::new())).await;
    assert!(error.contains("greting"), "{error}");
}

#[tokio::test]
async fn databases_need_a_file_that_can_be_opened() {
    let error = fails(MANIFEST, |settings| settings.sqlite.clear()).await;
    assert!(error.contains("\"default\"") && error.contains("[sqlite_database.default]"), "{error}");
    // A folder where the file should be, which even root cannot open as a file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let error = fails(MANIFEST, |settings| _ = settings.sqlite.insert("default".into(), path)).await;
    assert!(error.contains(&folder.path().display().to_string()) && error.contains("choose a path"), "{error}");
    let below = Path::new("/dev/null/deployer.db").to_owned();
    let error = fails(MANIFEST, |settings| _ = settings.sqlite.insert("default".into(), below)).await;
    assert!(error.contains("/dev/null/deployer.db"), "{error}");
}

#[tokio::test]
async fn allowed_hosts_are_checked_with_their_variables_filled_in() {
    let error = fails(MANIFEST, |settings| _ = settings.variables.insert("port".into(), "high".into())).await;
    assert!(error.contains("http://127.0.0.1:high") && error.contains("not a port"), "{error}");
}

#[tokio::test]
async fn the_cache_needs_a_folder() {
    let error = fails(MANIFEST, |settings| settings.cache_dir = PathBuf::from("/dev/null/cache")).await;
    assert!(error.contains("/dev/null/cache") && error.contains("can be written"), "{error}");
}

#[tokio::test]
async fn what_is_not_a_component_or_imports_too_much_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guest.wasm");
    let manifest = MANIFEST.replace("{source}", &file.display().to_string());
    std::fs::write(&file, b"not wasm").unwrap();
    let error = fails(&manifest, |_| {}).await;
    assert!(error.contains("guest.wasm") && error.contains("make build"), "{error}");

    // The smallest component that imports an interface: a type section with an empty instance, and the import of one.
    let interface = b"wasi:keyvalue/store@0.2.0-draft2";
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.extend([7, 3, 1, 0x42, 0]);
    bytes.extend([10, u8::try_from(interface.len() + 5).unwrap(), 1, 0, u8::try_from(interface.len()).unwrap()]);
    bytes.extend(interface);
    bytes.extend([5, 0]);
    std::fs::write(&file, bytes).unwrap();
    let error = load(&manifest, folder.path(), |_| {}).await.err().unwrap();
    match &error {
        HostError::UnknownImports { component, interfaces } => {
            assert_eq!(
                (component.as_str(), &interfaces[..]),
                ("guest", &["wasi:keyvalue/store@0.2.0-draft2".to_owned()][..])
            );
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("wasi:keyvalue/store@0.2.0-draft2"));
}

/// Every file below a folder, with what tells a file that was written again.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.path().extension().is_none() {
            // wasmtime counts the uses of an entry in a file beside it, with an extension.
            found.insert(entry.path(), entry.ino());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_is_kept_and_never_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, source) = (folder.path().join("cache"), folder.path().join("guest.wasm"));
    let manifest = MANIFEST.replace("{source}", &source.display().to_string());
    let says = async || {
        let server = Server::start_with(&manifest, |settings| settings.cache_dir.clone_from(&cache)).await;
        server.get("/nowhere").await.text()
    };
    let bytes = std::fs::read(guest()).unwrap();
    std::fs::write(&source, &bytes).unwrap();
    assert_eq!(says().await, "no such path");
    let kept = files(&cache);
    assert!(!kept.is_empty());
    assert_eq!(says().await, "no such path");
    assert_eq!(files(&cache), kept, "it was compiled again");

    // The same file, built from other code: the code that is kept must not be taken for it.
    let at = bytes.windows(12).position(|text| text == b"no such path").unwrap();
    let mut changed = bytes;
    changed[at..at + 12].copy_from_slice(b"another path");
    std::fs::write(&source, &changed).unwrap();
    assert_eq!(says().await, "another path");
    assert!(files(&cache).len() > kept.len());

    // What is kept and damaged is compiled again.
    for file in files(&cache).keys() {
        std::fs::write(file, b"damaged").unwrap();
    }
    assert_eq!(says().await, "another path");
}

#[test]
fn the_environment_is_asked_as_spin_asks_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spin.toml");
    let source = guest().display().to_string();
    std::fs::write(&path, MANIFEST.replace("{source}", &source)).unwrap();
    let manifest = Manifest::load(&path).unwrap();
    let config: RuntimeConfig = "[[variables_provider]]\ntype = \"env\"\nprefix = \"ONE\"\n\
        [[variables_provider]]\ntype = \"env\"\nprefix = \"TWO\"\n\
        [sqlite_database.default]\ntype = \"spin\"\npath = \"some.db\"\n"
        .parse()
        .unwrap();
    assert_eq!(config.sqlite()["default"], Path::new("some.db"));
    let given = |names: &[(&'static str, &'static str)]| {
        let names = names.to_vec();
        variables_from_env(&manifest, &config, &move |name: &str| {
            names.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let values =
        given(&[("TWO_GREETING", "two"), ("ONE_GREETING", "one"), ("SPIN_VARIABLE_PORT", "80"), ("PORT", "1")]);
    assert_eq!(values["greeting"], "one");
    assert_eq!(values["port"], "80");
    assert!(given(&[("GREETING", "bare")]).is_empty());
    for (text, says) in [
        ("[[variables_provider]]\ntype = \"vault\"", "vault"),
        ("[sqlite_database.default]\ntype = \"libsql\"\nurl = \"x\"", "libsql"),
        ("[key_value_store.default]\ntype = \"spin\"", "key_value_store"),
    ] {
        let error = text.parse::<RuntimeConfig>().unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn the_old_names_reach_the_components() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let config = RuntimeConfig::load(&root.join("runtime-config.toml")).unwrap();
    for (variable, name) in [
        ("access", "DEPLOYER_ACCESS"),
        ("base_path", "DEPLOYER_BASE_PATH"),
        ("database_uri", "SQLALCHEMY_DATABASE_URI"),
        ("default_base_url", "DEPLOYER_DEFAULT_BASE_URL"),
        ("jwt_issuer", "DEPLOYER_JWT_ISSUER"),
        ("jwt_key", "DEPLOYER_JWT_KEY"),
        ("seal_key", "DEPLOYER_SEAL_KEY"),
        ("token_scope_key", "DEPLOYER_TOKEN_SCOPE_KEY"),
    ] {
        assert!(config.environment_names(variable).any(|known| known == name), "{name}");
    }
    assert_eq!(config.sqlite()["default"], Path::new("deployer.db"));
}
