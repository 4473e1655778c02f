//! Executions by name: an id, or a beginning or end of one that is unique.

use anyhow::{Result, bail};

use super::bodies::Execution;
use super::http::Api;

/// The minimum length of a part of an id.
const FEWEST: usize = 3;
/// The length of ids in tables. The end is shown, because the beginning is the creation time: ids of the same minute
/// share it.
const SHORT: usize = 12;

/// The ids of an execution and its context, for the API's paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) context: String,
    pub(crate) execution: String,
}

impl Place {
    /// Returns the path of the execution, with `rest` appended.
    pub(crate) fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        [&["contexts", &self.context, "executions", &self.execution], rest].concat()
    }
}

/// Returns the short form of an id.
pub(crate) fn short(id: &str) -> &str {
    id.char_indices().rev().nth(SHORT - 1).map_or(id, |(at, _)| &id[at..])
}

/// Finds the execution that `text` names: `ID`, a beginning or end of one, or `CONTEXT/ID`.
pub(crate) async fn find(api: &Api, text: &str) -> Result<Place> {
    if let Some((context, execution)) = text.split_once('/') {
        return Ok(Place { context: context.to_owned(), execution: execution.to_owned() });
    }
    let text = text.to_ascii_lowercase();
    if text.len() < FEWEST {
        bail!(
            "{text:?} is too short to name an execution: give at least {FEWEST} characters of the beginning or end of its id"
        );
    }
    let found = |item: &serde_json::Value| item.get("identifier").and_then(|id| id.as_str()) == Some(text.as_str());
    // With a whole id, the search ends when it is found; a part must be compared with all ids.
    let items = api.list(&["executions"], &[], "executions", |items| items.iter().any(found)).await?;
    let executions = items.iter().map(Execution::read).collect::<Result<Vec<_>>>()?;
    choose(&text, executions.iter().map(Execution::place))
}

fn choose(text: &str, places: impl Iterator<Item = Place>) -> Result<Place> {
    let matches: Vec<Place> =
        places.filter(|place| place.execution.starts_with(text) || place.execution.ends_with(text)).collect();
    match matches.as_slice() {
        [] => bail!("none of your executions is {text:?}; `renga-deployer ps --all` lists them"),
        [only] => Ok(only.clone()),
        several => match several.iter().find(|place| place.execution == text) {
            Some(exact) => Ok(exact.clone()),
            None => bail!(
                "{text:?} is {} executions:\n  {}",
                several.len(),
                several.iter().take(5).map(|place| place.execution.as_str()).collect::<Vec<_>>().join("\n  ")
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] =
        ["0190aaaa-0000-7000-8000-00000000abcd", "0190aaaa-0000-7000-8000-0000000012ef", "0190bbbb-abcd"];

    fn chosen(text: &str) -> Result<String> {
        choose(text, IDS.iter().map(|id| Place { context: "c".into(), execution: (*id).into() }))
            .map(|place| place.execution)
    }

    #[test]
    fn a_beginning_or_end_names_an_execution_if_it_is_unique() {
        assert_eq!(chosen(IDS[0]).unwrap(), IDS[0]);
        assert_eq!(chosen("0190b").unwrap(), IDS[2]);
        assert_eq!(chosen("12ef").unwrap(), IDS[1]);
        let ambiguous = chosen("0190aaaa").unwrap_err().to_string();
        assert!(ambiguous.contains(IDS[0]) && ambiguous.contains(IDS[1]) && !ambiguous.contains(IDS[2]), "{ambiguous}");
        assert!(chosen("ffff").unwrap_err().to_string().contains("ps --all"));
    }

    #[test]
    fn ids_are_shortened_to_their_end() {
        assert_eq!(short(IDS[1]), "0000000012ef");
        assert_eq!(short("abc"), "abc");
    }
}
