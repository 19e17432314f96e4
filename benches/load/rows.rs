//! Figures: printed as they are measured, kept as JSON for the table and the plots.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Nothing: it stands for orientation.
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// The figures of one part of the run.
pub(crate) struct Rows {
    name: &'static str,
    rows: Vec<Value>,
}

/// Where results go: beside all else that cargo makes.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        |folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
    );
    target.join(if QUICK.load(Ordering::Relaxed) { "bench-quick" } else { "bench" })
}

static QUICK: AtomicBool = AtomicBool::new(false);

/// Results of a quick run mean nothing: they must not overwrite those that do.
pub(crate) fn keep_apart(quick: bool) {
    QUICK.store(quick, Ordering::Relaxed);
}

impl Rows {
    pub(crate) fn new(name: &'static str) -> Self {
        println!("\n== {name}");
        Self { name, rows: Vec::new() }
    }

    /// Takes a figure and prints it.
    pub(crate) fn add(&mut self, what: impl Into<String>, value: f64, unit: &str, goal: Goal) {
        assert!(value.is_finite(), "this measured nothing: give it more time");
        let (bound, met) = match goal {
            Goal::None => (None, None),
            Goal::AtLeast(least) => (Some(format!(">= {least}")), Some(value >= least)),
            Goal::AtMost(most) => (Some(format!("<= {most}")), Some(value <= most)),
        };
        let row = json!({
            "figure": self.name, "what": what.into(), "value": value, "unit": unit,
            "goal": bound, "met": met,
        });
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// The same for a figure that tells, but has no goal.
    pub(crate) fn note(&mut self, what: impl Into<String>, value: f64, unit: &str) {
        self.add(what, value, unit, Goal::None);
    }

    /// Writes the figures to disk.
    pub(crate) fn save(self) {
        save(self.name, &Value::Array(self.rows));
    }
}

/// Writes results under their name.
pub(crate) fn save(name: &str, results: &Value) {
    std::fs::create_dir_all(folder()).unwrap();
    let path = folder().join(format!("{name}.json"));
    std::fs::write(&path, format!("{results:#}\n")).unwrap();
}

/// Reads results by their name; nothing where there are none.
pub(crate) fn load(name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).ok()?;
    serde_json::from_str(&text).ok()
}

fn line(row: &Value) -> String {
    let met = match row["met"].as_bool() {
        None => "",
        Some(true) => "met",
        Some(false) => "MISSED",
    };
    let value = format!("{} {}", number(row["value"].as_f64().unwrap()), text(&row["unit"]));
    format!("{:<62} | {value:<16} | {:<9} | {met}", text(&row["what"]), text(&row["goal"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints all figures that were kept and have a goal as one table, and writes all that were kept
/// as Markdown, for docs/benchmarks.md.
pub(crate) fn print_table(names: &[&str]) {
    println!("\n{:<62} | {:<16} | {:<9} | met?", "figure", "value", "goal");
    println!("{}", "-".repeat(104));
    let mut markdown = String::from("| figure | value | goal | met? |\n|---|---|---|---|\n");
    for results in names.iter().filter_map(|name| load(name)) {
        for row in results.as_array().unwrap() {
            let line = line(row);
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            markdown += &format!("| {} |\n", cells.join(" | "));
            if row["goal"].is_string() {
                println!("{line}");
            }
        }
    }
    markdown += &growth_table().unwrap_or_default();
    std::fs::create_dir_all(folder()).unwrap();
    std::fs::write(folder().join("table.md"), markdown).unwrap();
    println!("\nall of them as Markdown: {}", folder().join("table.md").display());
}

/// Figure 7 as Markdown.
fn growth_table() -> Option<String> {
    let points = load("growth-points")?;
    let fields = [
        "nodes",
        "keys",
        "p50_ms",
        "p99_ms",
        "updates_s",
        "update_bytes",
        "cpu_ms",
        "requests",
        "bytes",
        "rss_mb",
        "own_mb",
    ];
    let mut table = String::from(
        "\n| nodes | keys | p50 ms | p99 ms | UPDATEs/s | bytes of one | CPU ms | requests | bytes | \
         RSS MB | own MB |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for point in ["keys", "nodes"].iter().filter_map(|by| points[by].as_array()).flatten() {
        let cells = fields.map(|field| match point[field].as_u64() {
            Some(whole) => whole.to_string(),
            None => number(point[field].as_f64().unwrap_or_default()),
        });
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Some(table)
}
