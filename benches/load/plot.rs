//! Plots as SVG, made of the results and of nothing else.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::rows::{load, number};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
const COLOURS: [&str; 3] = ["#1b6ca8", "#c8553d", "#6b8e23"];

/// One panel: the field over keys or nodes, both axes logarithmic.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// Fields of the points, and what they are called.
    pub(crate) lines: &'static [(&'static str, &'static str)],
}

const PANELS: [Panel; 5] = [
    Panel { title: "set to all, ms", lines: &[("p50_ms", "p50"), ("p99_ms", "p99")] },
    Panel { title: "UPDATEs a second at one node", lines: &[("updates_s", "")] },
    Panel { title: "CPU of all nodes for a change, ms", lines: &[("cpu_ms", "")] },
    Panel { title: "HTTP bytes of a change, all nodes", lines: &[("bytes", "")] },
    Panel { title: "memory of a node, MB", lines: &[("rss_mb", "all"), ("own_mb", "its own")] },
];

/// Writes the plots of figure 7 where there are results.
pub(crate) fn write() {
    let Some(points) = load("growth-points") else { return };
    for (field, what) in [("keys", "keys of a node, in 3 nodes"), ("nodes", "nodes of 10 keys")] {
        let points = points[field].as_array().unwrap();
        keep(&format!("growth-{field}"), &picture(&PANELS, points, field, what));
    }
}

/// Writes `docs/plots/NAME.svg`.
pub(crate) fn keep(name: &str, picture: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/plots");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.svg"));
    std::fs::write(&path, picture).unwrap();
    println!("plotted {}", path.display());
}

/// All panels, one below the other, over one field of the points.
pub(crate) fn picture(panels: &[Panel], points: &[Value], field: &str, what: &str) -> String {
    let height = HEIGHT * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        writeln!(svg, "<g transform=\"translate(0 {})\">", HEIGHT * at as f64).unwrap();
        draw(&mut svg, panel, points, field, what);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

/// Maps values to a stretch of the picture by their logarithm.
struct Axis {
    least: f64,
    most: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let (least, most) = (self.least.ln(), self.most.ln());
        let share = (value.max(self.least).ln() - least) / (most - least);
        self.begin + share * (self.end - self.begin)
    }
}

fn values(points: &[&Value], field: &str) -> Vec<f64> {
    points.iter().map(|point| point[field].as_f64().unwrap()).collect()
}

fn draw(svg: &mut String, panel: &Panel, points: &[Value], field: &str, what: &str) {
    // What was not measured at all sizes has fewer of them.
    let is_there = |point: &&Value| panel.lines.iter().all(|(name, _)| point[name].is_number());
    let points: &[&Value] = &points.iter().filter(is_there).collect::<Vec<_>>();
    let all: Vec<f64> = panel
        .lines
        .iter()
        .flat_map(|(name, _)| values(points, name))
        .filter(|v| *v > 0.0)
        .collect();
    let least = all.iter().copied().fold(f64::INFINITY, f64::min).log10().floor();
    let most = all.iter().copied().fold(0.0, f64::max).log10().ceil();
    let across = values(points, field);
    let [first, .., last] = across[..] else { return };
    let x = Axis { least: first, most: last, begin: LEFT, end: WIDTH - RIGHT };
    let (least, most) = if least < most { (least, most) } else { (least, least + 1.0) };
    let (begin, end) = (HEIGHT - BOTTOM, TOP);
    let y = Axis { least: 10_f64.powf(least), most: 10_f64.powf(most), begin, end };
    writeln!(svg, "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>", panel.title)
        .unwrap();
    let mut exponent = least;
    while exponent <= most {
        let value = 10_f64.powf(exponent);
        let at = y.at(value);
        writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        )
        .unwrap();
        exponent += 1.0;
    }
    for value in &across {
        let at = x.at(*value);
        let below = HEIGHT - BOTTOM + 16.0;
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{value}</text>")
            .unwrap();
    }
    let (middle, below) = (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - BOTTOM + 34.0);
    writeln!(svg, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{what}</text>")
        .unwrap();
    for (at, ((name, label), colour)) in panel.lines.iter().zip(COLOURS).enumerate() {
        line(svg, &x, &y, &across, &values(points, name), colour);
        let right = WIDTH - RIGHT - 80.0 * (panel.lines.len() - 1 - at) as f64;
        writeln!(
            svg,
            "<text x=\"{right}\" y=\"20\" text-anchor=\"end\" fill=\"{colour}\">{label}</text>"
        )
        .unwrap();
    }
}

fn line(svg: &mut String, x: &Axis, y: &Axis, across: &[f64], up: &[f64], colour: &str) {
    let places: Vec<(f64, f64)> =
        across.iter().zip(up).map(|(across, up)| (x.at(*across), y.at(*up))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let path = path.join(" ");
    writeln!(
        svg,
        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    )
    .unwrap();
    for ((x, y), value) in places.iter().zip(up) {
        writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{colour}\" \
             font-size=\"10\">{}</text>",
            y - 6.0,
            number(*value)
        )
        .unwrap();
    }
}
