//! The text format: families of series, each with its help, its type and its label values escaped.

use std::fmt::Write;

use super::counts::{BUCKETS_MS, Histogram};

/// A text that grows.
pub(super) struct Text {
    text: String,
    /// The id of the node, escaped.
    node: String,
}

/// A family of series of one name. It is written with its first series: an empty one is not.
pub(super) struct Family<'a> {
    text: &'a mut Text,
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    has_head: bool,
}

impl Text {
    /// Takes the id of the node that all series are of.
    pub(super) fn new(node_id: &str) -> Self {
        Self { text: String::new(), node: escaped(node_id) }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// What goes up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// What only grows.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// How often something took how long.
    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str, of: &Histogram) {
        let mut family = self.family(name, "histogram", help);
        let mut count = 0;
        let last = "+Inf".to_owned();
        let bounds = BUCKETS_MS.iter().map(|ms| (f64::from(*ms) / 1e3).to_string()).chain([last]);
        for (bound, here) in bounds.zip(of.buckets) {
            count += here;
            family.series("_bucket", &[("le", &bound)], count as f64);
        }
        family.series("_sum", &[], of.sum_us as f64 / 1e6);
        family.series("_count", &[], count as f64);
    }

    fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) -> Family<'_> {
        Family { text: self, name, kind, help, has_head: false }
    }
}

impl Family<'_> {
    /// One more series, told apart by its labels.
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        self.series("", labels, value);
    }

    /// The only series, where its value is known.
    pub(super) fn add_some(&mut self, value: Option<f64>) {
        value.into_iter().for_each(|value| self.add(&[], value));
    }

    fn series(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let Self { name, kind, help, .. } = *self;
        let Text { text, node } = &mut *self.text;
        if !std::mem::replace(&mut self.has_head, true) {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        // Writing to a text can't fail.
        let _ = write!(text, "{name}{suffix}{{node=\"{node}\"");
        for (label, of) in labels {
            let _ = write!(text, ",{label}=\"{}\"", escaped(of));
        }
        let _ = writeln!(text, "}} {value}");
    }
}

/// A label value: what would end it or its line is escaped.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_stay_in_their_quotes() {
        let mut text = Text::new("a\"b");
        text.gauge("x", "Help.").add(&[("l", "c\\d\ne")], 1.5);
        assert_eq!(
            text.finish(),
            "# HELP x Help.\n# TYPE x gauge\nx{node=\"a\\\"b\",l=\"c\\\\d\\ne\"} 1.5\n"
        );
    }

    #[test]
    fn a_family_without_series_is_not_written() {
        let mut text = Text::new("a");
        text.gauge("x", "Help.").add_some(None);
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn a_histogram_counts_up() {
        let mut of = Histogram::default();
        of.buckets[0] = 2;
        of.buckets[1] = 1;
        of.buckets[BUCKETS_MS.len()] = 4;
        of.sum_us = 1_500_000;
        let mut text = Text::new("a");
        text.histogram("x", "Help.", &of);
        let text = text.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "x_bucket{node=\"a\",le=\"0.001\"} 2");
        assert_eq!(lines[3], "x_bucket{node=\"a\",le=\"0.0025\"} 3");
        assert_eq!(lines[lines.len() - 3], "x_bucket{node=\"a\",le=\"+Inf\"} 7");
        assert_eq!(lines[lines.len() - 2..], ["x_sum{node=\"a\"} 1.5", "x_count{node=\"a\"} 7"]);
    }
}
