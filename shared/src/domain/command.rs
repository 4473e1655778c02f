//! The command of a container, as a list of arguments.
//!
//! The splitter is our own because the libraries (`shlex`, `shell-words`) treat `#` as the start of a comment and
//! silently drop the rest. The 2018 service used Python's `shlex.split`, which keeps it.

use serde_json::Value;

use super::field::{Problems, handed, kind, without_nul};

/// The maximum number of arguments. No user needs as many, and a kernel accepts more.
const MOST_ARGUMENTS: usize = 10_000;

/// The arguments; the first is the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(Vec<String>);

impl Command {
    /// Returns the arguments, at least one.
    pub fn arguments(&self) -> &[String] {
        &self.0
    }

    /// Splits a string into words as a POSIX shell does: quotes and backslashes count, nothing is expanded, and `#`
    /// starts no comment. Returns `None` if the string has no word.
    ///
    /// Where Python's `shlex.split` differs from a shell, this function follows the shell: a backslash at the end of a
    /// line joins the lines, and in double quotes a backslash quotes `$` and the backtick.
    ///
    /// # Errors
    /// A message for the user that says what is wrong.
    pub fn split(text: &str) -> Result<Option<Self>, String> {
        without_nul(text)?;
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            match c {
                ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match characters.next() {
                            Some('\'') => break,
                            Some(c) => word.push(c),
                            None => return Err("has a single quote that is not closed".into()),
                        }
                    }
                }
                '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
                '\\' => match characters.next() {
                    Some('\n') => {}
                    Some(c) => word.get_or_insert_default().push(c),
                    None => return Err("ends with a backslash that quotes nothing".into()),
                },
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        for word in &words {
            handed(0, word).map_err(|problem| format!("has a word that {problem}"))?;
        }
        if words.len() > MOST_ARGUMENTS {
            return Err(format!("has {} words; at most {MOST_ARGUMENTS} are allowed", words.len()));
        }
        Ok(if words.is_empty() { None } else { Some(Self(words)) })
    }

    /// Reads a string, a list of strings, or null.
    pub(super) fn read(pointer: &str, value: Option<&Value>, problems: &mut Problems) -> Option<Self> {
        match value? {
            Value::Null => None,
            Value::String(text) => problems.check(pointer, Self::split(text)).flatten(),
            Value::Array(elements) if elements.len() > MOST_ARGUMENTS => {
                problems.add(pointer, format!("has {} elements; at most {MOST_ARGUMENTS} are allowed", elements.len()));
                None
            }
            Value::Array(elements) => {
                let mut arguments = Vec::with_capacity(elements.len());
                for (index, element) in elements.iter().enumerate() {
                    let argument = match element {
                        Value::String(text) => handed(0, text).map(str::to_owned),
                        other => Err(format!("must be a text, not {}", kind(other))),
                    };
                    arguments.extend(problems.check(&format!("{pointer}/{index}"), argument));
                }
                if arguments.is_empty() { None } else { Some(Self(arguments)) }
            }
            other => {
                problems.add(pointer, format!("must be a text or a list of texts, not {}", kind(other)));
                None
            }
        }
    }
}

/// Reads the rest of a double-quoted string. A backslash quotes only the characters that a shell would act on.
fn double_quoted(characters: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    let unclosed = || "has a double quote that is not closed".to_owned();
    loop {
        match characters.next().ok_or_else(unclosed)? {
            '"' => return Ok(()),
            '\\' => match characters.next().ok_or_else(unclosed)? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                '\n' => {}
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::LONGEST_HANDED;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, expected) in [
            ("echo hello", vec!["echo", "hello"]),
            ("  sh -c 'echo \"$HOME\"; exit 3'  ", vec!["sh", "-c", "echo \"$HOME\"; exit 3"]),
            (r#"a "b \" \\ \$ \n c" d\ e"#, vec!["a", r#"b " \ $ \n c"#, "d e"]),
            ("a '' \"\" b", vec!["a", "", "", "b"]),
            ("pre'mid'\"post\"", vec!["premidpost"]),
            ("echo #not a comment", vec!["echo", "#not", "a", "comment"]),
            ("ä\t🐋\n$x `y` *", vec!["ä", "🐋", "$x", "`y`", "*"]),
        ] {
            let command = Command::split(text).unwrap().unwrap();
            assert_eq!(command.arguments(), expected, "{text:?}");
        }
        assert_eq!(Command::split(" \n"), Ok(None));
        for bad in ["'", "\"", "a \\", "a\0b", "\"\\"] {
            assert!(Command::split(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn escaped_line_ends_join_lines_and_long_words_are_bounded() {
        for (text, expected) in [("a \\\n b", vec!["a", "b"]), ("a\\\nb", vec!["ab"]), ("\"a\\\nb\"", vec!["ab"])] {
            assert_eq!(Command::split(text).unwrap().unwrap().arguments(), expected);
        }
        assert_eq!(Command::split("\\\n"), Ok(None));
        let long = "x".repeat(LONGEST_HANDED);
        assert_eq!(Command::split(&long).unwrap().unwrap().arguments(), [long.as_str()]);
        assert!(Command::split(&format!("a {long}x")).unwrap_err().contains("131072 bytes"));
        assert!(Command::split(&"x ".repeat(MOST_ARGUMENTS + 1)).is_err());
    }

    #[test]
    fn a_command_is_a_string_a_list_or_null() {
        let read = |value: Value| {
            let mut problems = Problems::default();
            let command = Command::read("/command", Some(&value), &mut problems);
            problems.into_result(Some(command.map(|command| command.0)))
        };
        assert_eq!(read(json!(null)), Ok(None));
        assert_eq!(read(json!("")), Ok(None));
        assert_eq!(read(json!([])), Ok(None));
        assert_eq!(read(json!(["a b", "", "'"])), Ok(Some(vec!["a b".into(), "".into(), "'".into()])));
        for (bad, pointers) in [
            (json!(1), vec!["/command"]),
            (json!({"a": 1}), vec!["/command"]),
            (json!("it's"), vec!["/command"]),
            (json!(["a", 1, "b\u{0}", null, ["c"]]), vec!["/command/1", "/command/2", "/command/3", "/command/4"]),
            (json!(vec!["a"; MOST_ARGUMENTS + 1]), vec!["/command"]),
            (json!(["a", "x".repeat(LONGEST_HANDED + 1)]), vec!["/command/1"]),
        ] {
            let errors = read(bad.clone()).unwrap_err();
            assert_eq!(errors.iter().map(|error| error.pointer.as_str()).collect::<Vec<_>>(), pointers, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn splitting_undoes_quoting(arguments in proptest::collection::vec("[^\0]{0,12}", 1..6)) {
            let text = shlex::try_join(arguments.iter().map(String::as_str)).unwrap();
            let command = Command::split(&text).unwrap().unwrap();
            prop_assert_eq!(command.arguments(), arguments);
        }

        /// `shlex` agrees wherever the text has no comment and no joined line.
        #[test]
        fn splitting_agrees_with_shlex(text in r#"([ab $`*\t]|["'\\]){0,16}"#) {
            let expected = shlex::split(&text).map(|words| if words.is_empty() { None } else { Some(Command(words)) });
            prop_assert_eq!(Command::split(&text).ok(), expected);
        }
    }
}
