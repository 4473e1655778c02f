//! Image references: an accepted one matches the grammar, is kept as it is, and has one canonical form.

use std::sync::LazyLock;

use regex::Regex;
use renga_shared::domain::ImageRef;

/// The grammar of <https://pkg.go.dev/github.com/distribution/reference>.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
    let domain = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
    let part = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*";
    let tag = "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}";
    let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    let reference = format!(r"\A(?:{domain}/)?{part}(?:/{part})*(?::{tag})?(?:@{digest})?\z");
    #[expect(clippy::expect_used, reason = "it is the same each time")]
    Regex::new(&reference).expect("the grammar is a regular expression")
});

/// Checks the properties in the module's doc.
pub fn hold(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let image = match ImageRef::parse(text) {
        Ok(image) => image,
        Err(detail) => return assert!(detail.len() < 1_200, "{detail}"),
    };
    assert!(GRAMMAR.is_match(text), "{text:?}");
    assert_eq!(image.as_str(), text);
    assert_eq!(ImageRef::parse(&image.to_string()).as_ref(), Ok(&image));
    let canonical = image.canonical();
    match ImageRef::parse(&canonical) {
        Ok(again) => assert_eq!(again.canonical(), canonical),
        Err(detail) => panic!("{canonical:?} {detail}"),
    }
    let rest = canonical.strip_prefix(text);
    let pinned = text.contains('@') || text.rsplit('/').next().is_some_and(|name| name.contains(':'));
    assert_eq!(rest, Some(if pinned { "" } else { ":latest" }));
}
