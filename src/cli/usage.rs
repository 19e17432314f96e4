//! What is told of words that can't be taken: which option or variable, what stood there, and what
//! would be taken.

use std::error::Error;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::print::escape;

/// Explains what `clap` did not take of these words.
pub(super) fn explain(
    fault: &clap::Error,
    definitions: &clap::Command,
    words: &[OsString],
) -> String {
    let context = |kind| match fault.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    match (fault.kind(), fault.source()) {
        (ErrorKind::ValueValidation, Some(why)) => {
            let place = place_of(context(ContextKind::InvalidArg), definitions, words);
            let value = context(ContextKind::InvalidValue);
            return format!("dsn: {place}: \"{}\" {why}", escape(value));
        }
        (ErrorKind::UnknownArgument, _) => {
            let start = context(ContextKind::InvalidArg);
            let is_negative = |word: &&str| {
                let rest = word.strip_prefix('-').unwrap_or_default();
                rest.starts_with(|first: char| first.is_ascii_digit()) && word.starts_with(start)
            };
            let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
            let at = words.iter().position(is_negative).filter(|_| !start.is_empty());
            if let Some((at, word)) = at.and_then(|at| Some((at, escape(words.get(at)?)))) {
                let before = at.checked_sub(1).and_then(|at| words.get(at));
                return match before.filter(|before| before.starts_with('-') && **before != "--") {
                    Some(option) => format!(
                        "dsn: {}: \"{word}\" is negative, and nothing there can be; a text goes with =, as in --option={word}",
                        escape(option)
                    ),
                    None => format!(
                        "dsn: \"{word}\" looks like an option, and there is none; where it is a name, put -- before it"
                    ),
                };
            }
        }
        _ => {}
    }
    let text = fault.render().to_string();
    let text = text.strip_prefix("error: ").map_or(text.clone(), |rest| format!("dsn: {rest}"));
    // What was typed stands in it.
    text.trim_end()
        .lines()
        .map(|line| escape_line(line) + "\n")
        .collect::<String>()
        .trim_end()
        .into()
}

fn escape_line(line: &str) -> String {
    line.split('\\').map(escape).collect::<Vec<_>>().join("\\")
}

/// The option as it is typed, or the variable where that is what was wrong. `shown` is how `clap`
/// names it: `--count <N>`, or `<N>`.
fn place_of(shown: &str, definitions: &clap::Command, words: &[OsString]) -> String {
    let option = shown.split([' ', '=']).next().unwrap_or_default();
    let Some(long) = option.strip_prefix("--") else {
        return shown.trim_matches(['<', '>', '[', ']', '.']).to_owned();
    };
    let Some(found) = find(definitions, long) else { return option.to_owned() };
    let is_typed = words.iter().filter_map(|word| word.to_str()).any(|word| {
        let short = found.get_short().map(|short| format!("-{short}"));
        let name = word.split('=').next().unwrap_or_default();
        name == option || short.is_some_and(|short| word.starts_with(&short))
    });
    let variable = found.get_env().filter(|name| !is_typed && std::env::var_os(name).is_some());
    variable.map_or(option.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// An option of any command that has a variable, or else of any.
fn find<'a>(definitions: &'a clap::Command, long: &str) -> Option<&'a clap::Arg> {
    let here = definitions.get_arguments().find(|arg| arg.get_long() == Some(long));
    let below = || definitions.get_subcommands().find_map(|command| find(command, long));
    here.filter(|arg| arg.get_env().is_some()).or_else(below).or(here)
}
