//! Which values are taken, and what is said of those that are not: in one voice, with what is
//! taken and an example. What is wrong stands before it: `usage.rs` puts them together.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use humantime::format_duration;

/// How long one may wait at all: a year, which is as good as no end.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::ZERO..=days(365);
/// For how long a value may stand: as the node has it (`protocol/lease.rs`).
pub(super) const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=days(30);

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 60 * 60)
}

/// A duration within these limits.
pub(super) fn duration(
    limits: RangeInclusive<Duration>,
) -> impl TypedValueParser<Value = Duration> {
    of_text(move |text| parse_duration(text, &limits))
}

/// A whole number within these limits.
pub(super) fn number<T>(limits: RangeInclusive<T>) -> impl TypedValueParser<Value = T>
where
    T: Copy + Clone + Send + Sync + 'static + Into<u64> + TryFrom<u64>,
{
    of_text(move |text| parse_number(text, (*limits.start()).into(), (*limits.end()).into()))
}

/// A text.
pub(super) fn text() -> impl TypedValueParser<Value = String> {
    of_text(|text| Ok(text.to_owned()))
}

/// What a variable says that stands for a flag.
pub(super) fn switch() -> impl TypedValueParser<Value = bool> {
    of_text(|text| match text.trim().to_ascii_lowercase().as_str() {
        "" | "0" | "n" | "no" | "f" | "false" | "off" => Ok(false),
        "1" | "y" | "yes" | "t" | "true" | "on" => Ok(true),
        _ => Err("is neither yes nor no; it takes 1, yes, true, on, or 0, no, false, off".into()),
    })
}

/// Any path, an empty one too, which counts as none.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// What is said of an option in the place of a value.
fn missing(text: &str) -> &'static str {
    match text {
        "--" => "ends the options, and a value is expected there",
        _ => "is an option, and a value is expected there",
    }
}

fn is_option(text: &str) -> bool {
    let mut rest = text.strip_prefix('-').unwrap_or_default().chars();
    rest.next().is_some_and(|first| !first.is_ascii_digit() && first != '.')
}

/// All that people type is text, but for values, DATA and paths.
fn of_text<T: Clone + Send + Sync + 'static>(
    parse: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |word: OsString| {
        let text = word.into_string().map_err(|_| "is not UTF-8".to_owned())?;
        parse(&text)
    })
}

fn parse_duration(text: &str, limits: &RangeInclusive<Duration>) -> Result<Duration, String> {
    use humantime::DurationError::NumberOverflow;
    let is_number = || text.parse::<f64>().is_ok();
    let why = match humantime::parse_duration(text) {
        Ok(time) if limits.contains(&time) => return Ok(time),
        Ok(time) if time < *limits.start() => "is too short",
        Ok(_) | Err(NumberOverflow) => "is too long",
        Err(_) if is_option(text) => missing(text),
        Err(_) if text.starts_with('-') => "is negative",
        Err(_) if text.is_empty() => "is empty",
        Err(_) if is_number() => "has no unit",
        Err(_) => "is not a duration",
    };
    let [least, most] = [limits.start(), limits.end()].map(|time| short(*time));
    Err(format!("{why}; it takes {least} to {most}, such as 1500ms, 30s, 5m or 2h"))
}

/// `30d` instead of a month less some hours.
fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 86_400 && seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        _ => format_duration(time).to_string(),
    }
}

fn parse_number<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let has_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let found = text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    if let Some(number) = found.and_then(|number| T::try_from(number).ok()) {
        return Ok(number);
    }
    let why = match text {
        "" => "is empty",
        _ if is_option(text) => missing(text),
        _ if !has_digits => "is not a whole number in digits",
        _ if text.starts_with('-') => "is negative",
        _ if text.parse().is_ok_and(|number: u64| number < least) => "is too small",
        _ => "is too large",
    };
    let most = if most == u64::MAX { "or more".to_owned() } else { format!("to {most}") };
    Err(format!("{why}; it takes {least} {most}, such as 3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_told_with_what_is() {
        let told = |text| parse_duration(text, &TTL).unwrap_err();
        for (text, why) in [
            ("31d", "is too long"),
            ("99999999999999999999d", "is too long"),
            ("999ms", "is too short"),
            ("-1s", "is negative"),
            ("30", "has no unit"),
            ("1.5", "has no unit"),
            ("", "is empty"),
            ("soon", "is not a duration"),
            ("\u{663}s", "is not a duration"),
        ] {
            let said = told(text);
            assert_eq!(said, format!("{why}; it takes 1s to 30d, such as 1500ms, 30s, 5m or 2h"));
        }
        assert!(
            told("--json").starts_with("is an option, and a value is expected there; it takes")
        );
        assert!(
            told("--").starts_with("ends the options, and a value is expected there; it takes")
        );
        assert_eq!(parse_duration("1500ms", &TTL), Ok(Duration::from_millis(1500)));
        let told = |text| parse_number::<u8>(text, 1, 64).unwrap_err();
        for (text, why) in [
            ("0", "is too small"),
            ("65", "is too large"),
            ("300", "is too large"),
            ("99999999999999999999", "is too large"),
            ("-1", "is negative"),
            ("", "is empty"),
            ("5s", "is not a whole number in digits"),
            ("1.5", "is not a whole number in digits"),
            ("\u{663}", "is not a whole number in digits"),
            ("-x", missing("-x")),
            ("--", missing("--")),
        ] {
            assert!(told(text).starts_with(why), "{text}: {}", told(text));
        }
        assert!(told("65").ends_with("it takes 1 to 64, such as 3"));
        let said = parse_number::<u64>("0", 1, u64::MAX).unwrap_err();
        assert!(said.ends_with("it takes 1 or more, such as 3"), "{said}");
        assert_eq!(parse_number::<u64>("7", 1, u64::MAX), Ok(7));
    }

    /// Whatever is taken here is taken by the node.
    #[test]
    fn a_time_to_live_has_the_limits_of_the_node() {
        use dsn::protocol::lease::Ttl;
        let of = |time: Duration| Ttl::try_from(time).is_ok();
        let step = Duration::from_millis(1);
        assert!(of(*TTL.start()) && of(*TTL.end()));
        assert!(!of(*TTL.start() - step) && !of(*TTL.end() + step));
    }
}
