//! Commands: what is quoted is split back, and a library splits alike.

use renga_shared::domain::Command;

/// The longest input for which no limit of a command counts.
const UNLIMITED: usize = 10_000;

/// See the module.
pub fn hold(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let command = Command::split(text);
    // The library begins comments, and takes joined lines and carriage returns otherwise.
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

/// An empty word and the end of a line have no such form.
fn with_backslashes(argument: &str) -> String {
    if argument.is_empty() {
        return "''".into();
    }
    argument.chars().map(|c| if c == '\n' { "'\n'".into() } else { format!("\\{c}") }).collect()
}
