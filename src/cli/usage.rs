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
        (ErrorKind::InvalidValue, _) if context(ContextKind::InvalidValue).is_empty() => {
            return no_value(fault, definitions, words);
        }
        (ErrorKind::MissingRequiredArgument, _) => {
            if let Some(text) = no_word(fault, definitions, words) {
                return text;
            }
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

/// An option without its value: it was the last word, or another option follows.
fn no_value(fault: &clap::Error, definitions: &clap::Command, words: &[OsString]) -> String {
    let shown = match fault.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let place = place_of(shown, definitions, words);
    let mut behind = words.iter().filter_map(|word| word.to_str()).skip_while(|word| {
        // It may be typed short, and there is no other option without its value.
        !(*word == place || word.len() == 2 && is_short_of(word, &place, definitions))
    });
    let because = match behind.nth(1) {
        Some("--") => ": -- ends the options".to_owned(),
        Some(word) => format!(": \"{}\" behind it is an option", escape(word)),
        None => String::new(),
    };
    let taken = match fault.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(taken)) => taken.as_slice(),
        _ => &[],
    };
    let example = taken.first().map(String::as_str).or_else(|| example_of(shown));
    let such_as = example.map(|example| format!("such as {place} {example}"));
    let takes = (!taken.is_empty()).then(|| format!("it takes {}", taken.join(", ")));
    let step = [takes, such_as].into_iter().flatten().collect::<Vec<_>>().join("; ");
    format!("dsn: {place}: its value is missing{because}. Give one, {step}")
}

fn is_short_of(word: &str, option: &str, definitions: &clap::Command) -> bool {
    let of = |command: &clap::Command| {
        let all = command.get_arguments();
        let named = all.filter(|arg| arg.get_long() == option.strip_prefix("--"));
        named
            .filter_map(clap::Arg::get_short)
            .any(|short| word.strip_prefix('-') == Some(short.encode_utf8(&mut [0; 4])))
    };
    of(definitions) || definitions.get_subcommands().any(|below| is_short_of(word, option, below))
}

/// What could stand behind an option, which `clap` shows as `--count <N>`.
fn example_of(shown: &str) -> Option<&'static str> {
    let (option, value) = shown.split_once([' ', '='])?;
    Some(match (option, value.trim_matches(['<', '>', '[', ']', '.'])) {
        ("--timeout", _) => "5s",
        ("--tick", _) => "3s",
        ("--control", _) => "/run/dsn.sock",
        ("--from", "FILE") => "keys.json",
        ("--output", _) => "dsn.prom",
        ("--config", _) => "dsn.toml",
        ("--network-key", _) => "network.key",
        ("--allow", _) => "allow.txt",
        ("--http-token", _) => "http.token",
        ("--credentials", _) => "credentials",
        ("--data", _) => "data",
        ("--http", _) => "8001",
        ("--http-host", _) => "dsn.example",
        ("--listen", _) => "8000",
        (_, "HOST:PORT") => "10.0.0.1:8000",
        (_, "always|shared|DURATION") => "shared",
        (_, "DURATION") => "10m",
        (_, "N") => "3",
        (_, "PREFIX") => "temp",
        (_, "ID" | "NODE" | "TEXT") => "garden",
        (_, "VALUE") => "off",
        (_, "GROUP") => "dsn",
        _ => return None,
    })
}

/// Words that are missing at the end; nothing where it is an option that is.
fn no_word(fault: &clap::Error, definitions: &clap::Command, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::Strings(missing)) = fault.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = |shown: &String| {
        let name = shown.trim_end_matches('.').strip_prefix('<')?.strip_suffix('>')?;
        (!name.contains(['<', '|'])).then(|| name.to_owned())
    };
    let names: Vec<String> = missing.iter().map(name).collect::<Option<_>>()?;
    let names = names.join(" and ");
    let verb = if missing.len() == 1 { "is" } else { "are" };
    // The commands that were typed, one below the other.
    let (mut here, mut path) = (definitions, "dsn".to_owned());
    for word in words.iter().filter_map(|word| word.to_str()) {
        if let Some(below) = here.find_subcommand(word) {
            here = below;
            path = format!("{path} {}", below.get_name());
        }
    }
    let usage = match fault.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    // With a variable for it, `clap` takes it for one that was typed.
    let usage =
        usage.trim().trim_start_matches("Usage: ").replace("--control <PATH> ", "[OPTIONS] ");
    let usage = if usage.lines().count() == 1 { format!(": {usage}") } else { String::new() };
    Some(format!("dsn: {names} {verb} missing{usage}; see {path} --help"))
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

#[cfg(test)]
mod tests {
    use super::super::args::Arguments;
    use super::*;

    fn told(words: &[&str]) -> String {
        let mut definitions = Arguments::definitions();
        let all = ["dsn"].iter().chain(words).map(OsString::from);
        let fault = definitions.try_get_matches_from_mut(all).unwrap_err();
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        explain(&fault, &definitions, &words)
    }

    /// Each option of each command, without its value, as the last word and before another one.
    #[test]
    fn an_option_without_its_value_is_told_with_an_example() {
        fn check(command: &clap::Command, path: &[String]) {
            for option in command.get_arguments() {
                let Some(long) = option.get_long() else { continue };
                if !option.get_action().takes_values() || option.is_hide_set() {
                    continue;
                }
                for behind in [&[][..], &["--"], &["--help"]] {
                    let long = format!("--{long}");
                    let words = path.iter().map(String::as_str).chain([&*long]);
                    let words: Vec<&str> = words.chain(behind.iter().copied()).collect();
                    // It takes whatever stands there.
                    if long == "--not" && !behind.is_empty() {
                        continue;
                    }
                    let said = told(&words);
                    assert!(said.starts_with(&format!("dsn: {long}: ")), "{words:?}: {said}");
                    assert!(said.contains("such as "), "{words:?}: {said}");
                    assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
                }
            }
            for below in command.get_subcommands() {
                let path = [path, &[below.get_name().to_owned()]].concat();
                check(below, &path);
            }
        }
        check(&Arguments::definitions(), &[]);
        let said = told(&["on", "-k", "--", "true"]);
        assert_eq!(
            said,
            "dsn: --key: its value is missing: -- ends the options. Give one, such as --key temp"
        );
        let said = told(&["peers", "--status", "--ids"]);
        assert!(said.contains("\"--ids\" behind it is an option"), "{said}");
        assert!(said.contains("it takes alive, suspect, lost, left; such as"), "{said}");
        assert!(told(&["on", "--retry", "--"]).contains("it takes 0 to 1000, such as 3"));
    }

    #[test]
    fn words_that_are_missing_are_named() {
        let said = told(&["wait", "key", "self"]);
        assert!(said.starts_with("dsn: KEY is missing: dsn wait key "), "{said}");
        assert!(said.ends_with("; see dsn wait key --help"), "{said}");
        let said = told(&["wait", "node"]);
        assert!(said.starts_with("dsn: NODE and STATUS are missing: "), "{said}");
        assert!(told(&["on", "self"]).contains("COMMAND is missing"));
        assert!(told(&["unset"]).starts_with("dsn: KEY is missing: "));
    }
}
