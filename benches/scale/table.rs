//! Rows of the table: printed as they are measured, kept as JSON. A row that is measured again
//! takes the place of the old one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    None,
    AtLeast(f64),
    AtMost(f64),
}

pub(crate) struct Table {
    rows: Vec<Value>,
}

fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        |folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
    );
    target.join("bench")
}

fn path() -> PathBuf {
    std::env::var_os("DSN_BENCH_SCALE").map_or_else(|| folder().join("scale.json"), Into::into)
}

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
        println!("{}", line(&row));
        let same = |other: &Value| ["what", "nodes", "loss"].iter().all(|it| other[it] == row[it]);
        match self.rows.iter().position(same) {
            Some(at) => self.rows[at] = row,
            None => self.rows.push(row),
        }
    }

    pub(crate) fn save(&self) {
        let path = path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{:#}\n", Value::Array(self.rows.clone()))).unwrap();
    }

    pub(crate) fn print(&self) {
        println!("\n{}", "-".repeat(110));
        let mut rows: Vec<&Value> = self.rows.iter().collect();
        let first = |row: &Value| self.rows.iter().position(|it| it["what"] == row["what"]);
        rows.sort_by_key(|row| {
            let loss = row["loss"].as_f64().unwrap_or_default() as u64;
            (first(row), loss, row["nodes"].as_u64())
        });
        for row in rows {
            println!("{}", line(row));
        }
    }
}

fn line(row: &Value) -> String {
    let met = match row["met"].as_bool() {
        None => "",
        Some(true) => "met",
        Some(false) => "MISSED",
    };
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let value = row["value"].as_f64().map_or_else(|| "never".to_owned(), number);
    format!(
        "{:<44} | {:>5} | {:>3} % | {:<24} | {:<9} | {met}",
        text("what"),
        row["nodes"].as_u64().unwrap_or_default(),
        row["loss"].as_f64().unwrap_or_default(),
        format!("{value} {}", text("unit")),
        text("goal"),
    )
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Memory of this process that is in RAM, MB.
pub(crate) fn rss_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}
