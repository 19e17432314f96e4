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
    let slip = Slip { fault, definitions, words };
    let told = match (fault.kind(), fault.source()) {
        (ErrorKind::ValueValidation, Some(why)) => {
            let place = place_of(context(ContextKind::InvalidArg), definitions, words);
            let value = context(ContextKind::InvalidValue);
            Some(format!("{place}: \"{}\" {why}", escape(value)))
        }
        (ErrorKind::InvalidValue, _) if context(ContextKind::InvalidValue).is_empty() => {
            Some(slip.no_value())
        }
        (ErrorKind::InvalidValue, _) => Some(slip.other_value()),
        (ErrorKind::MissingRequiredArgument, _) => slip.no_word(),
        (ErrorKind::UnknownArgument, _) => Some(slip.negative().unwrap_or_else(|| slip.no_place())),
        (ErrorKind::TooManyValues, _) => Some(slip.no_flag()),
        (ErrorKind::ArgumentConflict, _) => slip.not_together(),
        (ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand, _) => Some(slip.no_command()),
        // Who types nothing at all wants the help.
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _)
            if slip.command().0.get_name() != definitions.get_name() =>
        {
            Some(slip.no_command())
        }
        _ => None,
    };
    if let Some(told) = told {
        return format!("dsn: {told}");
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

/// Words that were not taken.
struct Slip<'a> {
    fault: &'a clap::Error,
    definitions: &'a clap::Command,
    words: &'a [OsString],
}

impl Slip<'_> {
    fn text(&self, kind: ContextKind) -> &str {
        match self.fault.get(kind) {
            Some(ContextValue::String(text)) => text,
            _ => "",
        }
    }

    fn list(&self, kind: ContextKind) -> &[String] {
        match self.fault.get(kind) {
            Some(ContextValue::Strings(list)) => list,
            Some(ContextValue::String(text)) => std::slice::from_ref(text),
            _ => &[],
        }
    }

    fn typed(&self) -> impl Iterator<Item = &str> {
        self.words.iter().filter_map(|word| word.to_str())
    }

    /// The command that was typed last, and all of them as they are typed.
    fn command(&self) -> (&clap::Command, String) {
        let mut found = (self.definitions, "dsn".to_owned());
        for word in self.typed() {
            let below = found.0.find_subcommand(word).filter(|below| below.get_name() != "help");
            if let Some(below) = below {
                found = (below, format!("{} {}", found.1, below.get_name()));
            }
        }
        found
    }

    /// How that one is typed, where a line is enough for it, and where more stands.
    fn usage(&self) -> String {
        let (command, path) = self.command();
        let usage = command.clone().bin_name(&path).render_usage().to_string();
        match usage.trim().strip_prefix("Usage: ").filter(|usage| !usage.contains('\n')) {
            Some(usage) => format!(": {usage}; see {path} --help"),
            None => format!("; see {path} --help"),
        }
    }

    /// An option without its value: it was the last word, or another option follows.
    fn no_value(&self) -> String {
        let shown = self.text(ContextKind::InvalidArg);
        let place = place_of(shown, self.definitions, self.words);
        if !place.starts_with("--") {
            return format!("{place}: \"\" is empty, and something is expected there");
        }
        let mut behind = self.typed().skip_while(|word| {
            // It may be typed short, and there is no other option without its value.
            !(*word == place || word.len() == 2 && is_short_of(word, &place, self.definitions))
        });
        let because = match behind.nth(1) {
            Some("--") => ": -- ends the options".to_owned(),
            Some(word) => format!(": \"{}\" behind it is an option", escape(word)),
            None => String::new(),
        };
        let taken = self.list(ContextKind::ValidValue);
        let example = taken.first().map(String::as_str).or_else(|| example_of(shown));
        let such_as = example.map_or(String::new(), |it| format!(", such as {place} {it}"));
        let step = match taken {
            [] => "Give one".to_owned(),
            _ => format!("It is one of {}", taken.join(", ")),
        };
        format!("{place}: its value is missing{because}. {step}{such_as}")
    }

    /// A value behind a flag that takes none.
    fn no_flag(&self) -> String {
        let place = place_of(self.text(ContextKind::InvalidArg), self.definitions, self.words);
        let value = escape(self.text(ContextKind::InvalidValue));
        format!(
            "{place}: it takes no value, and \"{value}\" stands there; it is {place} alone, or not there"
        )
    }

    /// None of the words that go there.
    fn other_value(&self) -> String {
        let place = place_of(self.text(ContextKind::InvalidArg), self.definitions, self.words);
        let value = escape(self.text(ContextKind::InvalidValue));
        let taken = self.list(ContextKind::ValidValue);
        // Only some options cut their lists.
        let is_list = value.split(',').count() > 1;
        let is_list = is_list && value.split(',').all(|word| taken.iter().any(|it| it == word));
        let more = if is_list { ". Several of them are words of their own" } else { "" };
        format!("{place}: \"{value}\" is none of {}{more}", taken.join(", "))
    }

    /// Words that are missing at the end; nothing where it is an option that is.
    fn no_word(&self) -> Option<String> {
        let name = |shown: &String| {
            let name = shown.trim_end_matches('.').strip_prefix('<')?.strip_suffix('>')?;
            (!name.contains(['<', '|'])).then(|| name.to_owned())
        };
        let names = self.list(ContextKind::InvalidArg).iter().map(name);
        let names = names.collect::<Option<Vec<String>>>()?;
        let verb = if names.len() == 1 { "is" } else { "are" };
        Some(format!("{} {verb} missing{}", names.join(" and "), self.usage()))
    }

    /// A word or an option that nothing takes.
    fn no_place(&self) -> String {
        let word = escape(self.text(ContextKind::InvalidArg));
        if !word.starts_with('-') {
            return format!("\"{word}\" is one word too many{}", self.usage());
        }
        let like = self.list(ContextKind::SuggestedArg);
        let like = like.first().map_or(String::new(), |like| format!("; {like} is much like it"));
        let (_, path) = self.command();
        format!(
            "there is no option {word}{like}. Where it is a name, put -- before it; see {path} --help"
        )
    }

    /// A number with a sign, where an option was expected.
    fn negative(&self) -> Option<String> {
        let start = self.text(ContextKind::InvalidArg);
        let is_negative = |word: &&str| {
            let rest = word.strip_prefix('-').unwrap_or_default();
            rest.starts_with(|first: char| first.is_ascii_digit()) && word.starts_with(start)
        };
        let words: Vec<&str> = self.typed().collect();
        let at = words.iter().position(is_negative).filter(|_| !start.is_empty())?;
        let word = escape(words.get(at)?);
        let before = at.checked_sub(1).and_then(|at| words.get(at));
        Some(match before.filter(|before| before.starts_with('-') && **before != "--") {
            Some(option) => format!(
                "{}: \"{word}\" is negative, and nothing there can be; a text goes with =, as in --option={word}",
                escape(option)
            ),
            None => format!(
                "\"{word}\" looks like an option, and there is none; where it is a name, put -- before it"
            ),
        })
    }

    /// Two of which one goes at most.
    fn not_together(&self) -> Option<String> {
        let name = |shown: &String| place_of(shown, self.definitions, self.words);
        let one = name(self.list(ContextKind::InvalidArg).first()?);
        let others = self.list(ContextKind::PriorArg).iter().map(name).collect::<Vec<_>>();
        let (_, path) = self.command();
        Some(match others.join(" and ") {
            other if other == one => format!("{one} is given twice; see {path} --help"),
            other => format!("{one} does not go together with {other}; see {path} --help"),
        })
    }

    /// A command that is none, or none at all.
    fn no_command(&self) -> String {
        let (command, path) = self.command();
        let names = command.get_subcommands().map(clap::Command::get_name);
        let names = names.filter(|name| *name != "help").collect::<Vec<_>>().join(", ");
        let like = self.list(ContextKind::SuggestedSubcommand).join(" or ");
        let more = match &*like {
            "" => format!("; there are {names}."),
            like => format!("; did you mean {like}?"),
        };
        if self.fault.kind() != ErrorKind::InvalidSubcommand {
            return format!("behind {path} stands one of {names}; see {path} --help");
        }
        let word = escape(self.text(ContextKind::InvalidSubcommand));
        if names.is_empty() {
            // Of `dsn help set x`.
            return format!("\"{word}\" is one word too many; see {path} --help");
        }
        format!("\"{word}\" is no command of {path}{more} See {path} --help")
    }
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
        assert!(said.contains("It is one of alive, suspect, lost, left, such as"), "{said}");
        assert!(told(&["on", "--retry", "--"]).contains("it takes 0 to 1000, such as 3"));
    }

    #[test]
    fn what_fits_nowhere_is_told_in_one_line() {
        let rows: [(&[&str], &str); 16] = [
            (
                &["ping", "a", "b"],
                "\"b\" is one word too many: dsn ping [OPTIONS] <NODE>; see dsn ping --help",
            ),
            (&["get", "a", "b", "c"], "\"c\" is one word too many; see dsn get --help"),
            (
                &["on", "a", "echo"],
                "\"echo\" is one word too many: dsn on [OPTIONS] [NODE] -- COMMAND...; see",
            ),
            (&["--jsn", "status"], "there is no option --jsn; --json is much like it. Where"),
            (
                &["wait", "node", "a", "dead"],
                "STATUS: \"dead\" is none of alive, suspect, lost, left",
            ),
            (&["wait", "node", "a", "lost,left"], "left. Several of them are words of their own"),
            (&["peers", "-s", "gone"], "--status: \"gone\" is none of alive, suspect, lost, left"),
            (
                &["forget", "a", "--lost"],
                "NODE does not go together with --lost; see dsn forget --help",
            ),
            (&["get", "-a", "-a", "k"], "--all is given twice; see dsn get --help"),
            (
                &["wait"],
                "behind dsn wait stands one of peers, node, key, synced; see dsn wait --help",
            ),
            (
                &["wait", "foo"],
                "\"foo\" is no command of dsn wait; there are peers, node, key, synced. See",
            ),
            (
                &["statsu"],
                "\"statsu\" is no command of dsn; did you mean state or status? See dsn --help",
            ),
            (&["help", "foo"], "\"foo\" is no command of dsn; there are status,"),
            (&["help", "set", "x"], "\"x\" is one word too many; see dsn set --help"),
            (&["run", "--alone=yes"], "--alone: it takes no value, and \"yes\" stands there"),
            (&["keygen", ""], "FILE: \"\" is empty, and something is expected there"),
        ];
        for (words, why) in rows {
            let said = told(words);
            assert!(said.starts_with("dsn: ") && said.contains(why), "{words:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
        }
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
