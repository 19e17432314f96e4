//! Rows of the table: printed as they are measured, kept as JSON. A row that is measured again
//! takes the place of the old one.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::plot::{Panel, keep, picture};
use super::rows::{self, Goal, number};

pub(crate) struct Table {
    rows: Vec<Value>,
}

/// Names another file for the figures.
const ELSEWHERE: &str = "DSN_BENCH_SCALE";

/// Where the figures are kept.
fn path() -> PathBuf {
    let named = std::env::var_os(ELSEWHERE);
    named.map_or_else(|| rows::folder().join("scale.json"), Into::into)
}

/// The figures of the core before it was made for many nodes, measured in the same way.
const BEFORE: &str = include_str!("before.json");

impl Table {
    /// The rows of earlier runs.
    pub(crate) fn load() -> Self {
        let text = std::fs::read_to_string(path()).unwrap_or_default();
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        Self { rows }
    }

    pub(crate) fn add(
        &mut self,
        what: &str,
        nodes: usize,
        loss: f64,
        value: f64,
        unit: &str,
        goal: Goal,
    ) {
        let (bound, met) = match goal {
            Goal::None => (None, None),
            Goal::AtLeast(least) => (Some(format!(">= {least}")), Some(value >= least)),
            Goal::AtMost(most) => (Some(format!("<= {most}")), Some(value <= most)),
        };
        // JSON has no infinity: what never came about is null.
        let kept = value.is_finite().then_some(value);
        let row = json!({
            "what": what, "nodes": nodes, "loss": loss, "value": kept, "unit": unit,
            "goal": bound, "met": met,
        });
        println!("{}", line(&cells(&row), ""));
        match self.rows.iter().position(|other| is_same(other, &row)) {
            Some(at) => self.rows[at] = row,
            None => self.rows.push(row),
        }
    }

    pub(crate) fn save(&self) {
        let path = path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{:#}\n", Value::Array(self.rows.clone()))).unwrap();
    }

    /// Prints all that was kept, beside what it was before, writes it as Markdown for
    /// docs/benchmarks.md, and plots it.
    pub(crate) fn print(&self) {
        let before: Vec<Value> = serde_json::from_str(BEFORE).unwrap();
        let mut order: Vec<&Value> = self.rows.iter().collect();
        let first = |row: &Value| self.rows.iter().position(|it| it["what"] == row["what"]);
        order.sort_by_key(|row| {
            let loss = row["loss"].as_f64().unwrap_or_default() as u64;
            (first(row), loss, row["nodes"].as_u64())
        });
        println!("\n{}", line(&titles(), "before"));
        println!("{}", "-".repeat(126));
        let mut markdown = String::new();
        for row in order {
            let before = before.iter().find(|other| is_same(other, row));
            let line = line(&cells(row), &before.map(value).unwrap_or_default());
            println!("{line}");
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            markdown += &format!("| {} |\n", cells.join(" | "));
        }
        let head = "| figure | nodes | loss | before | now | goal | met? |\n|---|---|---|---|---|---|---|\n";
        std::fs::create_dir_all(rows::folder()).unwrap();
        let path = rows::folder().join("scale.md");
        std::fs::write(&path, format!("{head}{markdown}")).unwrap();
        println!("\nas Markdown: {}", path.display());
        // Figures that are kept elsewhere are for somebody who compares.
        if std::env::var_os(ELSEWHERE).is_none() {
            self.plot(&before);
        }
    }

    fn plot(&self, before: &[Value]) {
        for (name, rows) in [("scale-before", before), ("scale-now", &self.rows)] {
            let points = points(rows);
            if points.len() > 1 {
                keep(name, &picture(&PANELS, &points, "nodes", "nodes of 10 keys"));
            }
        }
    }
}

/// What is plotted over the number of nodes, by the names of rows with their loss.
const PANELS: [Panel; 6] = [
    Panel {
        title: "set to all, p99, ms",
        lines: &[
            ("set to all: p99, 0", "no loss"),
            ("set to all: p99, 1", "1 %"),
            ("set to all: p99, 5", "5 %"),
        ],
    },
    Panel {
        title: "UPDATEs of a change",
        lines: &[
            ("set: UPDATEs of all, mean, 0", "all"),
            ("set: UPDATEs of the owner, max, 0", "the owner"),
        ],
    },
    Panel { title: "idle: requests/s of a node", lines: &[("idle: requests a node, 0", "")] },
    Panel { title: "idle: bytes/s of a node", lines: &[("idle: bytes a node, 0", "")] },
    Panel {
        title: "lost at all, most, s",
        lines: &[
            ("killed, lost at all: max, 0", "killed"),
            ("hung, lost at all: max, 0", "hung"),
            ("cut, lost at all: max, 0", "cut"),
        ],
    },
    Panel { title: "all join at once, s", lines: &[("all join at once, 0", "no loss")] },
];

/// One for each number of nodes, with all its rows.
fn points(rows: &[Value]) -> Vec<Value> {
    let mut points = std::collections::BTreeMap::new();
    for row in rows {
        let Some(nodes) = row["nodes"].as_u64() else { continue };
        let point = points.entry(nodes).or_insert_with(|| json!({"nodes": nodes}));
        let loss = row["loss"].as_f64().unwrap_or_default();
        // A logarithm has no zero.
        let value = row["value"].as_f64().map(|value| value.max(0.001));
        point[format!("{}, {loss}", row["what"].as_str().unwrap_or_default())] = value.into();
    }
    points.into_values().collect()
}

fn is_same(row: &Value, other: &Value) -> bool {
    ["what", "nodes", "loss"].iter().all(|it| other[it] == row[it])
}

fn value(row: &Value) -> String {
    let value = row["value"].as_f64().map_or_else(|| "never".to_owned(), number);
    format!("{value} {}", row["unit"].as_str().unwrap_or_default())
}

/// The columns of a row but the one of before.
fn cells(row: &Value) -> [String; 6] {
    let met = match row["met"].as_bool() {
        None => "",
        Some(true) => "met",
        Some(false) => "MISSED",
    };
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let loss = format!("{} %", row["loss"].as_f64().unwrap_or_default());
    [text("what"), row["nodes"].to_string(), loss, value(row), text("goal"), met.to_owned()]
}

fn titles() -> [String; 6] {
    ["figure", "nodes", "loss", "now", "goal", "met?"].map(str::to_owned)
}

fn line(cells: &[String; 6], before: &str) -> String {
    let [what, nodes, loss, value, goal, met] = cells;
    format!("{what:<42} | {nodes:>5} | {loss:>4} | {before:<20} | {value:<20} | {goal:<9} | {met}")
}

/// Memory of this process that is in RAM, MB.
pub(crate) fn rss_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}
