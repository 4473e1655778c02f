//! References to container images.
//!
//! The parser follows the grammar of <https://pkg.go.dev/github.com/distribution/reference>. It is our own because the
//! crates for it bring a registry client or the whole OCI model, and do not keep the string that the user wrote.

use std::fmt;
use std::net::Ipv6Addr;

use super::field::beginning;

/// The longest name that registries accept.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A reference to an image, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    text: String,
    pinned: bool,
}

impl ImageRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// A message for the user that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() == 64 && text.chars().all(is_hex) {
            // An engine would read it as the id of a local image, which may belong to another user.
            return Err("is an image's id; name the image".into());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; a colon before it starts a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        check_name(name)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        Ok(Self { text: text.to_owned(), pinned: tag.is_some() || digest.is_some() })
    }

    /// Returns the reference as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the reference, with `:latest` if it has neither a tag nor a digest.
    pub fn canonical(&self) -> String {
        if self.pinned { self.text.clone() } else { format!("{}:latest", self.text) }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("must name an image, such as busybox or registry.example:5000/team/app:1.0".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("names an image with {} characters; at most {MAX_NAME} are allowed", name.len()));
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    // As in Docker: a first part that has a dot, a colon or an upper case letter, or is "localhost", is a registry.
    let registry = |part: &str| part == "localhost" || part.contains(['.', ':']) || part != part.to_lowercase();
    if parts.len() > 1 && registry(parts[0]) {
        check_registry(parts.remove(0))?;
    }
    for part in parts {
        check_path_part(part)?;
    }
    Ok(())
}

fn check_registry(registry: &str) -> Result<(), String> {
    // An IPv6 address has its colons in brackets.
    let after_host = registry.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match registry[after_host..].find(':') {
        Some(colon) => {
            let (host, port) = registry.split_at(after_host + colon);
            (host, Some(&port[1..]))
        }
        None => (registry, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => !address.contains('.') && address.parse::<Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_host_label),
    };
    let port_fits = port
        .is_none_or(|port| port.chars().all(|c| c.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0));
    if host_fits && port_fits {
        Ok(())
    } else {
        Err(format!("names the registry {:?}, which is not a host with an optional port", beginning(registry)))
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_hex(c: char) -> bool {
    matches!(c, '0'..='9' | 'a'..='f')
}

/// Checks `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn check_path_part(part: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |text: &str| matches!(text, "." | "_" | "__") || text.chars().all(|c| c == '-');
    let ends = part.starts_with(word) && part.ends_with(word);
    let middle = part.split(word).filter(|between| !between.is_empty()).all(separator);
    if ends && middle {
        Ok(())
    } else {
        Err(format!(
            "has the part {:?}: lower case letters and digits, joined by single dots, one or two underscores, or hyphens",
            beginning(part)
        ))
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let fits = (1..=MAX_TAG).contains(&tag.len())
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && !tag.starts_with(['.', '-']);
    if fits {
        Ok(())
    } else {
        Err(format!("has the tag {:?}: up to {MAX_TAG} letters, digits, '_', '.', '-'", beginning(tag)))
    }
}

fn check_digest(digest: &str) -> Result<(), String> {
    let length = |algorithm| match algorithm {
        "sha256" => Some(64),
        "sha384" => Some(96),
        "sha512" => Some(128),
        _ => None,
    };
    let fits = digest
        .split_once(':')
        .is_some_and(|(algorithm, hex)| length(algorithm) == Some(hex.len()) && hex.chars().all(is_hex));
    if fits {
        Ok(())
    } else {
        Err("has a digest that is not sha256:…, sha384:… or sha512:… in lower case hexadecimal".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_follow_the_grammar_of_docker() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        let id = "0123456789abcdef".repeat(4);
        for (good, canonical) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("library/busybox", "library/busybox:latest"),
            ("localhost:5000/a/b_c.d--e", "localhost:5000/a/b_c.d--e:latest"),
            ("registry.example.com/team/app:v1_2.3-x", "registry.example.com/team/app:v1_2.3-x"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("[::1]/app", "[::1]/app:latest"),
            ("Registry/app", "Registry/app:latest"),
            (id.get(1..).unwrap(), &format!("{}:latest", &id[1..])),
            (&format!("a@sha384:{}", "0".repeat(96)), &format!("a@sha384:{}", "0".repeat(96))),
            (digest.as_str(), digest.as_str()),
        ] {
            assert_eq!(ImageRef::parse(good).map(|image| image.canonical()).as_deref(), Ok(canonical), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "",
            " ",
            "Busybox",
            "busybox:",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b:c",
            "a@sha256:12",
            "a@md5:aa",
            "-a",
            "a___b",
            "a..b",
            "host.:5000/a",
            "host:99999/a",
            "a\0b",
            "ä",
            "a\n",
            long.as_str(),
            "$(reboot)",
            "../a",
            "host:+80/a",
            "host:/a",
            "host:0/a",
            "host:80:80/a",
            "[::1]garbage/a",
            "[::1/a",
            "[]/a",
            "[::ffff:1.2.3.4]/a",
            "[::1]",
            "a[::1]/a",
            "a@",
            "a@sha256:",
            "a@@sha256:",
            "@sha256:aa",
            ":1",
            "a:-b",
            "a:ä",
            "a/B",
            id.as_str(),
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad:?}");
        }
    }
    #[test]
    fn the_error_for_a_long_string_is_short() {
        // Each of these characters takes six when it is escaped.
        let strange = |count| "\u{17}".repeat(count);
        for long in [
            "a".repeat(1 << 20),
            format!("a:{}", "b".repeat(1 << 20)),
            "/".repeat(1 << 20),
            strange(255),
            format!("A{}/a", strange(250)),
        ] {
            assert!(ImageRef::parse(&long).unwrap_err().len() < 1_000);
        }
    }

    proptest! {
        #[test]
        fn any_string_is_parsed_or_rejected(text in "\\PC{0,80}") {
            if let Ok(image) = ImageRef::parse(&text) {
                prop_assert_eq!(image.to_string(), text);
            }
        }

        #[test]
        fn references_of_the_grammar_and_their_canonical_forms_are_parsed(
            // Without a registry, the first of several parts has no dot: with one, it would be a registry.
            text in r"([a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/)?([a-z0-9]{1,9}((_|__|-{1,3})[a-z0-9]{1,9}){0,2}/){0,2}[a-z0-9]{1,9}((\.|_|__|-{1,3})[a-z0-9]{1,9}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?(@sha256:[0-9a-f]{64})?"
        ) {
            let image = ImageRef::parse(&text);
            prop_assert!(image.is_ok(), "{text}: {image:?}");
            let canonical = image.unwrap().canonical();
            let again = ImageRef::parse(&canonical).unwrap();
            prop_assert_eq!(again.canonical(), canonical);
        }
    }
}
