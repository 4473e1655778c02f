//! Commands: splitting undoes quoting, and agrees with a library.

use renga_shared::domain::Command;

/// The maximum length, in bytes, of an input that cannot exceed any limit of a command.
const UNLIMITED: usize = 10_000;

/// Checks the properties in the module's doc.
pub fn hold(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let command = Command::split(text);
    // The library supports comments, and treats joined lines and carriage returns differently.
    if text.len() <= UNLIMITED && !text.contains(['\0', '#', '\r']) && !text.contains("\\\n") {
        let words = shlex::split(text);
        let ours = command.as_ref().ok().map(|command| command.as_ref().map_or(&[][..], Command::arguments));
        assert_eq!(ours, words.as_deref(), "{text:?}");
    }
    let Ok(Some(command)) = command else { return };
    let arguments = command.arguments();
    assert!(!arguments.is_empty() && arguments.iter().all(|argument| !argument.contains('\0')), "{arguments:?}");
    for quote in [in_single_quotes, in_double_quotes, with_backslashes] {
        let quoted: Vec<String> = arguments.iter().map(|argument| quote(argument)).collect();
        let again = Command::split(&quoted.join(" "));
        assert_eq!(again, Ok(Some(command.clone())), "{quoted:?}");
    }
}

fn in_single_quotes(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r"'\''"))
}

fn in_double_quotes(argument: &str) -> String {
    let special = |c: char| matches!(c, '"' | '\\' | '$' | '`');
    let quoted: String = argument.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect();
    format!("\"{quoted}\"")
}

/// Quotes with backslashes. An empty word and a line feed have no such form, so they are quoted.
fn with_backslashes(argument: &str) -> String {
    if argument.is_empty() {
        return "''".into();
    }
    argument.chars().map(|c| if c == '\n' { "'\n'".into() } else { format!("\\{c}") }).collect()
}
