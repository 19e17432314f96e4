//! What is shown, pure: what the node said and what was pressed come in, lines come out.

use std::collections::VecDeque;

use serde_json::Value as Json;

use super::super::args::Sort;
use super::super::print::{
    self, ago, escape, escaped, fault_name, list, number, text, text_or_dash,
};
use super::keys::Key;
use dsn::order;

/// Most changes that are kept to be shown.
const CHANGES_MAX: usize = 200;
/// Longest change that is kept, characters: no screen shows more of a line.
const CHANGE_CHARACTERS_MAX: usize = 500;
/// Longest text to look for, characters.
const FILTER_MAX: usize = 64;
/// Most faults that are shown; the others are counted.
const FAULTS_MAX: usize = 3;
/// From so many rows on changes are shown, too.
const ROWS_FOR_CHANGES: usize = 14;

const HELP: &str = "arrows choose  enter keys of it  / find  s sort  r turn around  q end";
const HELP_OPEN: &str = "arrows move  esc back to all nodes  / find  q end";

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Name => Self::Status,
            Self::Status => Self::Heard,
            Self::Heard => Self::Keys,
            Self::Keys => Self::Name,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Status => "status",
            Self::Heard => "heard",
            Self::Keys => "keys",
        }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Head,
    Chosen,
    Bad,
    Doubtful,
    Faint,
}

/// A line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

impl Line {
    fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// What the node said last.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The answer to `status`; null before there is one.
    pub(super) status: Json,
    /// That to `peers`.
    pub(super) peers: Json,
    /// That to `state` for the node that is open; null where there is none.
    pub(super) state: Json,
    /// Why there is nothing newer, and for how many seconds.
    pub(super) silent: Option<(String, u64)>,
    changes: VecDeque<(String, String)>,
}

impl Said {
    /// Something happened.
    pub(super) fn note(&mut self, event: &Json) {
        if matches!(text(event, "event"), "watching" | "snapshot") {
            return;
        }
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        let line = print::event(event).chars().take(CHANGE_CHARACTERS_MAX).collect();
        self.changes.push_back((text(event, "node_id").to_owned(), line));
    }
}

/// What is to be done after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Show it.
    Show,
    /// Ask the node, as another one was opened, and show it.
    Ask,
    /// Give the terminal back for a while.
    StandStill,
    End,
}

/// What somebody has chosen to see.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) sort: Sort,
    pub(super) is_turned: bool,
    pub(super) filter: String,
    is_filter_typed: bool,
    /// The node that is chosen, if one is.
    chosen: Option<String>,
    /// The node whose keys are shown.
    open: Option<String>,
    /// How many lines of keys stand above the screen.
    above: usize,
    /// How many lines of the list the last screen had.
    page: usize,
}

struct Row {
    node: String,
    status: String,
    /// Milliseconds; nothing where it was never heard.
    heard: Option<u64>,
    keys: u64,
    cells: [String; 6],
}

impl View {
    /// Rows sorted like this, and only those with this text.
    pub(super) fn new(sort: Sort, filter: String) -> Self {
        Self { sort, filter, ..Self::default() }
    }

    /// The node whose keys are shown, if any.
    pub(super) fn open(&self) -> Option<&str> {
        self.open.as_deref()
    }

    pub(super) fn on_key(&mut self, key: Key, said: &Said) -> Next {
        match key {
            Key::Interrupt => return Next::End,
            Key::Suspend => return Next::StandStill,
            _ if self.is_filter_typed => self.on_filter_key(key),
            Key::Character('q') => return Next::End,
            Key::Character('/') => self.is_filter_typed = true,
            Key::Escape | Key::Backspace if self.open.is_some() => self.open = None,
            Key::Escape => self.filter.clear(),
            Key::Character('s') if self.open.is_none() => self.sort = self.sort.next(),
            Key::Character('r') if self.open.is_none() => self.is_turned = !self.is_turned,
            Key::Enter if self.open.is_none() => {
                let rows = self.rows(said);
                let chosen = self.place_in(&rows).and_then(|at| rows.get(at));
                self.open = chosen.map(|row| row.node.clone());
                self.above = 0;
                return Next::Ask;
            }
            other => self.step(other, said),
        }
        Next::Show
    }

    fn on_filter_key(&mut self, key: Key) {
        match key {
            Key::Character(character) if self.filter.chars().count() < FILTER_MAX => {
                self.filter.push(character);
            }
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.is_filter_typed = false,
            Key::Escape => {
                self.filter.clear();
                self.is_filter_typed = false;
            }
            _ => {}
        }
        self.above = 0;
    }

    fn step(&mut self, key: Key, said: &Said) {
        let page = self.page.max(2) - 1;
        let go = |from: usize| match key {
            Key::Up | Key::Character('k') => Some(from.saturating_sub(1)),
            Key::Down | Key::Character('j') => Some(from.saturating_add(1)),
            Key::PageUp => Some(from.saturating_sub(page)),
            Key::PageDown => Some(from.saturating_add(page)),
            Key::Home => Some(0),
            Key::End => Some(usize::MAX),
            _ => None,
        };
        if self.open.is_some() {
            // What is too far is brought back when it is shown.
            self.above = go(self.above).unwrap_or(self.above);
            return;
        }
        let rows = self.rows(said);
        let from = self.place_in(&rows);
        let Some(to) = from.map_or(Some(0), go) else { return };
        let row = rows.get(to.min(rows.len().saturating_sub(1)));
        self.chosen = row.map(|row| row.node.clone());
    }

    fn place_in(&self, rows: &[Row]) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        rows.iter().position(|row| row.node == *chosen)
    }

    fn has_text(&self, of: &str) -> bool {
        self.filter.is_empty() || of.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// This node and the others, as they are to be shown.
    fn rows(&self, said: &Said) -> Vec<Row> {
        let own = own_row(&said.status);
        let others = list(&said.peers).iter().map(row);
        let is_shown = |row: &Row| row.cells.iter().any(|cell| self.has_text(cell));
        let mut rows: Vec<Row> = own.into_iter().chain(others).filter(is_shown).collect();
        let rank = |row: &Row| match self.sort {
            Sort::Name => 0,
            Sort::Status => match row.status.as_str() {
                "lost" => 0,
                "suspect" => 1,
                "left" => 2,
                _ => 3,
            },
            // The most comes first.
            Sort::Heard => u64::MAX - row.heard.unwrap_or(u64::MAX),
            Sort::Keys => u64::MAX - row.keys,
        };
        order::sort_by(&mut rows, |one, other| {
            rank(one).cmp(&rank(other)).then_with(|| one.node.cmp(&other.node))
        });
        if self.is_turned {
            rows.reverse();
        }
        rows
    }

    /// The whole screen: so many columns and rows at most.
    pub(super) fn lines(&mut self, said: &Said, (columns, height): (usize, usize)) -> Vec<Line> {
        let mut lines = self.head(said);
        let has_changes = height >= ROWS_FOR_CHANGES;
        let for_changes = if has_changes { (height / 4).max(3) } else { 0 };
        let room = height.saturating_sub(lines.len() + for_changes + 1);
        let body = if self.open.is_some() {
            self.key_lines(said, room)
        } else {
            self.node_lines(said, room)
        };
        lines.extend(body);
        lines.truncate(height.saturating_sub(for_changes + 1));
        if has_changes {
            lines.resize_with(height - for_changes - 1, || Line::new("", Style::Plain));
            lines.extend(self.change_lines(said, for_changes));
        }
        lines.resize_with(height.saturating_sub(1), || Line::new("", Style::Plain));
        lines.push(self.foot());
        lines.truncate(height);
        for line in &mut lines {
            line.text = line.text.chars().take(columns).collect();
        }
        lines
    }

    /// The same for a file or a pipe: all rows, and nothing that moves.
    pub(super) fn all_lines(&self, said: &Said) -> Vec<Line> {
        let rows = self.rows(said);
        let widths = widths_of(rows.iter().map(|row| &row.cells));
        let mut lines = self.head(said);
        lines.push(Line::new(in_columns(&HEADER.map(str::to_owned), widths), Style::Plain));
        let table = rows.iter().map(|row| Line::new(in_columns(&row.cells, widths), Style::Plain));
        lines.extend(table);
        lines
    }

    /// Who this is, and what is wrong.
    fn head(&self, said: &Said) -> Vec<Line> {
        let (status, none) = (&said.status, Json::Null);
        let peers = status.get("peers").unwrap_or(&none);
        let counts = ["alive", "suspect", "lost", "left"].map(|word| (word, number(peers, word)));
        let counts: Vec<String> = counts
            .into_iter()
            .filter(|(word, count)| *word == "alive" || *count > 0)
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        let title = format!(
            "{}  {}  {}  up {} s  dsn {}",
            text(status, "node_id"),
            text(status, "listen"),
            counts.join(", "),
            number(status, "uptime_s"),
            text(status, "version")
        );
        let mut lines = vec![Line::new(title, Style::Head)];
        if let Some((why, seconds)) = &said.silent {
            let text = format!("! no news for {seconds} s: {}", escape(why));
            lines.push(Line::new(text, Style::Bad));
        }
        let faults = list(status.get("degraded").unwrap_or(&none));
        for fault in faults.iter().take(FAULTS_MAX) {
            let (what, hint) = (escape(text(fault, "text")), escape(text(fault, "hint")));
            lines.push(Line::new(format!("! {}: {what}", fault_name(fault)), Style::Bad));
            lines.push(Line::new(format!("  {hint}"), Style::Plain));
        }
        if faults.len() > FAULTS_MAX {
            let more = faults.len() - FAULTS_MAX;
            lines.push(Line::new(format!("! {more} more: dsn status"), Style::Bad));
        }
        lines
    }

    fn node_lines(&mut self, said: &Said, room: usize) -> Vec<Line> {
        self.page = room.saturating_sub(1);
        let rows = self.rows(said);
        let at = self.place_in(&rows);
        let first = at.unwrap_or(0).saturating_sub(self.page.saturating_sub(1));
        let widths = widths_of(rows.iter().map(|row| &row.cells));
        let head = in_columns(&HEADER.map(str::to_owned), widths);
        let mut lines = vec![Line::new(head, Style::Head)];
        for (place, row) in rows.iter().enumerate().skip(first).take(room) {
            let style = if Some(place) == at { Style::Chosen } else { style_of(&row.status) };
            lines.push(Line::new(in_columns(&row.cells, widths), style));
        }
        if rows.is_empty() {
            let text = format!("no node has {:?} in it", self.filter);
            lines.push(Line::new(escape(&text), Style::Faint));
        }
        lines.truncate(room);
        lines
    }

    fn key_lines(&mut self, said: &Said, room: usize) -> Vec<Line> {
        self.page = room.saturating_sub(1);
        let node = self.open.clone().unwrap_or_default();
        // While the node is silent, what it said last may be about another one.
        let is_of_it = text(&said.state, "node_id") == node;
        let (state, none) = (&said.state, Json::Null);
        let state = if is_of_it { state } else { &none };
        let held = match state.get("held_ms").and_then(Json::as_u64) {
            Some(ms) => format!("came {}", ago(ms)),
            None => "from before this run".to_owned(),
        };
        let entries = state.get("entries").and_then(Json::as_object);
        let title = match entries {
            Some(_) => format!("{node}  {}  this version {held}", text(state, "status")),
            None if said.silent.is_some() => format!("{node}  not asked yet"),
            None => format!("{node}  nothing is held of it"),
        };
        let pairs = entries.into_iter().flatten();
        let pairs = pairs.map(|(key, value)| format!("{}={}", escape(key), escaped(value)));
        let all: Vec<String> = pairs.filter(|pair| self.has_text(pair)).collect();
        self.above = self.above.min(all.len().saturating_sub(self.page));
        let shown = all.into_iter().skip(self.above).take(self.page);
        let mut lines = vec![Line::new(title, Style::Head)];
        lines.extend(shown.map(|pair| Line::new(pair, Style::Plain)));
        lines
    }

    fn change_lines(&self, said: &Said, room: usize) -> Vec<Line> {
        let is_of = |node: &str| self.open.as_deref().is_none_or(|open| open == node);
        let of_it = said.changes.iter().filter(|(node, _)| is_of(node));
        let latest: Vec<&str> =
            of_it.rev().take(room.saturating_sub(1)).map(|(_, line)| line.as_str()).collect();
        let mut lines = vec![Line::new("changes", Style::Head)];
        lines.extend(latest.into_iter().rev().map(|line| Line::new(line, Style::Faint)));
        lines.resize_with(room, || Line::new("", Style::Plain));
        lines
    }

    fn foot(&self) -> Line {
        if self.is_filter_typed {
            return Line::new(format!("find: {}_", escape(&self.filter)), Style::Head);
        }
        let help = if self.open.is_some() { HELP_OPEN } else { HELP };
        let mut text = format!("{help}   by {}", self.sort.word());
        if self.is_turned {
            text.push_str(", turned around");
        }
        if !self.filter.is_empty() {
            text.push_str(&format!(", with {:?}", escape(&self.filter)));
        }
        Line::new(text, Style::Faint)
    }
}

const HEADER: [&str; 6] = ["NODE", "STATUS", "ADDRESS", "HEARD", "KEYS", "WHY"];

fn own_row(status: &Json) -> Option<Row> {
    let node = status.get("node_id").and_then(Json::as_str)?.to_owned();
    let keys = number(status, "keys");
    let address = text_or_dash(status, "advertise").to_owned();
    let cells = [
        node.clone(),
        "alive".to_owned(),
        address,
        "this node".to_owned(),
        keys.to_string(),
        String::new(),
    ];
    Some(Row { node, status: "alive".to_owned(), heard: Some(0), keys, cells })
}

fn row(peer: &Json) -> Row {
    let heard = peer.get("heard_ms_ago").and_then(Json::as_u64);
    let (node, status) = (text(peer, "node_id").to_owned(), text(peer, "status").to_owned());
    let address = text_or_dash(peer, "address").to_owned();
    let keys = number(peer, "keys");
    let cells = [
        node.clone(),
        status.clone(),
        address,
        print::heard(peer),
        keys.to_string(),
        escape(text(peer, "reason")),
    ];
    Row { node, status, heard, keys, cells }
}

fn style_of(status: &str) -> Style {
    match status {
        "lost" => Style::Bad,
        "suspect" => Style::Doubtful,
        "left" => Style::Faint,
        _ => Style::Plain,
    }
}

/// How wide each column is.
fn widths_of<'a>(rows: impl Iterator<Item = &'a [String; 6]>) -> [usize; 6] {
    let mut widths = HEADER.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn in_columns(row: &[String; 6], widths: [usize; 6]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        line.push_str(&format!("{cell:<width$}  "));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(peers: usize) -> Said {
        let peer = |at: usize| {
            let status = ["alive", "suspect", "lost", "left"][at % 4];
            json!({ "node_id": format!("n{at:02}"), "address": format!("10.0.0.{at}:8000"), "status": status,
                    "heard_ms_ago": 1000 * at, "keys": at, "reason": if at % 4 == 2 { json!("no\u{1b} answer") } else { Json::Null } })
        };
        Said {
            status: json!({ "node_id": "kitchen", "listen": "0.0.0.0:8000", "version": "1", "uptime_s": 7,
                            "keys": 3, "peers": { "alive": 2, "lost": 1 }, "degraded": [] }),
            peers: (0..peers).map(peer).collect(),
            ..Said::default()
        }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn names(view: &View, said: &Said) -> Vec<String> {
        view.rows(said).into_iter().map(|row| row.node).collect()
    }

    #[test]
    fn a_screen_is_as_large_as_the_terminal_whatever_that_is() {
        let mut said = said(60);
        for at in 0..300 {
            said.note(&json!({ "event": "lost", "node_id": format!("n{at}"), "time": "T" }));
        }
        for size in [(0, 0), (1, 1), (5, 2), (40, 3), (80, 13), (80, 14), (80, 24), (200, 90)] {
            let mut view = View::default();
            for key in [Key::End, Key::Enter, Key::End, Key::Escape, Key::PageUp] {
                let lines = view.lines(&said, size);
                assert_eq!(lines.len(), size.1, "{size:?}");
                assert!(lines.iter().all(|line| line.text.chars().count() <= size.0));
                view.on_key(key, &said);
            }
        }
    }

    #[test]
    fn rows_are_sorted_and_turned_around() {
        let (said, mut view) = (said(4), View::default());
        assert_eq!(names(&view, &said), ["kitchen", "n00", "n01", "n02", "n03"]);
        view.on_key(Key::Character('s'), &said);
        assert_eq!(names(&view, &said), ["n02", "n01", "n03", "kitchen", "n00"]);
        view.on_key(Key::Character('s'), &said);
        assert_eq!(names(&view, &said)[0], "n03");
        view.on_key(Key::Character('s'), &said);
        view.on_key(Key::Character('r'), &said);
        assert_eq!(names(&view, &said)[0], "n00");
    }

    #[test]
    fn what_is_chosen_stays_chosen_where_the_rows_move_and_is_always_on_the_screen() {
        let said = said(60);
        let mut view = View::default();
        for _ in 0..=40 {
            view.on_key(Key::Down, &said);
        }
        let chosen = |view: &mut View| {
            let lines = view.lines(&said, (80, 12));
            let line = lines.iter().find(|line| line.style == Style::Chosen);
            line.map(|line| line.text.split(' ').next().unwrap().to_owned())
        };
        let before = chosen(&mut view);
        assert_eq!(before.as_deref(), Some("n39"));
        view.on_key(Key::Character('r'), &said);
        assert_eq!(chosen(&mut view), before);
        view.on_key(Key::Home, &said);
        assert_eq!(chosen(&mut view).as_deref(), Some("n59"));
    }

    #[test]
    fn a_text_is_looked_for_while_it_is_typed_and_q_is_a_letter_there() {
        let (said, mut view) = (said(8), View::default());
        for key in [Key::Character('/'), Key::Character('q')] {
            assert_eq!(view.on_key(key, &said), Next::Show);
        }
        assert!(names(&view, &said).is_empty());
        assert!(texts(&view.lines(&said, (80, 24))).contains(&"no node has \"q\" in it"));
        view.on_key(Key::Backspace, &said);
        for character in "LOST".chars() {
            view.on_key(Key::Character(character), &said);
        }
        view.on_key(Key::Enter, &said);
        assert_eq!(names(&view, &said), ["n02", "n06"]);
        assert_eq!(view.on_key(Key::Character('q'), &said), Next::End);
        view.on_key(Key::Escape, &said);
        assert_eq!(names(&view, &said).len(), 9);
    }

    #[test]
    fn a_node_opens_to_its_keys_and_nothing_of_it_acts_on_the_terminal() {
        let (mut said, mut view) = (said(3), View::default());
        view.on_key(Key::Down, &said);
        view.on_key(Key::Down, &said);
        assert_eq!((view.on_key(Key::Enter, &said), view.open()), (Next::Ask, Some("n00")));
        said.state = json!({ "node_id": "n00", "status": "alive", "held_ms": 1500,
                             "entries": { "a": "\u{1b}[2J", "b": "x\u{202e}y", "c": { "base64": "/w==" } } });
        said.note(&json!({ "event": "updated", "node_id": "n00", "key": "a", "value": "\n", "time": "T" }));
        said.note(&json!({ "event": "lost", "node_id": "n01", "time": "T" }));
        let lines = view.lines(&said, (80, 24));
        let lines = texts(&lines);
        for expected in [
            "n00  alive  this version came 1.5 s ago",
            "a=\\u{1b}[2J",
            "b=x\\u{202e}y",
            "c=(1 bytes)",
            "T updated n00 a=\\n",
        ] {
            assert!(lines.contains(&expected), "{expected}: {lines:?}");
        }
        assert!(!lines.contains(&"T lost n01"), "that is of another one");
        let control = |line: &&&str| line.chars().any(char::is_control);
        assert!(lines.iter().find(control).is_none());
        view.on_key(Key::Escape, &said);
        assert_eq!(view.open(), None);
    }

    #[test]
    fn what_is_wrong_stands_on_top_with_what_to_do() {
        let mut said = said(1);
        let fault =
            |at: usize| json!({ "code": "alone", "text": format!("t{at}\u{9b}"), "hint": "do" });
        said.status["degraded"] = (0..5).map(fault).collect();
        said.silent = Some(("it stopped".into(), 4));
        let lines = View::default().all_lines(&said);
        let lines = texts(&lines);
        assert_eq!(lines[0], "kitchen  0.0.0.0:8000  2 alive, 1 lost  up 7 s  dsn 1");
        assert_eq!(lines[1], "! no news for 4 s: it stopped");
        assert_eq!(lines[2..4], ["! alone: t0\\u{9b}", "  do"]);
        assert_eq!(lines[8], "! 2 more: dsn status");
        assert!(lines[9].starts_with("NODE "));
    }

    #[test]
    fn keys_of_one_node_never_stand_under_the_name_of_another() {
        let (mut said, mut view) = (said(3), View::default());
        view.on_key(Key::Home, &said);
        view.on_key(Key::Down, &said);
        view.on_key(Key::Enter, &said);
        assert_eq!(view.open(), Some("n00"));
        said.state = json!({ "node_id": "kitchen", "status": "alive", "entries": { "a": "1" } });
        said.silent = Some(("it stopped".into(), 3));
        let lines = view.lines(&said, (80, 24));
        assert!(texts(&lines).contains(&"n00  not asked yet"), "{lines:?}");
        assert!(!texts(&lines).contains(&"a=1"));
        // Whatever comes in one read.
        for key in [Key::End, Key::Down, Key::PageDown] {
            view.on_key(key, &said);
        }
    }

    #[test]
    fn a_change_that_is_kept_is_short() {
        let mut said = said(0);
        let value = "\u{1b}".repeat(60_000);
        said.note(&json!({ "event": "updated", "node_id": "a", "key": "k", "value": value }));
        let kept: Vec<usize> = said.changes.iter().map(|(_, line)| line.len()).collect();
        assert_eq!(kept, [CHANGE_CHARACTERS_MAX]);
    }

    #[test]
    fn before_the_node_said_anything_there_is_a_screen() {
        let mut view = View::default();
        let lines = view.lines(&Said::default(), (80, 24));
        assert_eq!(lines.len(), 24);
        assert_eq!(view.on_key(Key::Enter, &Said::default()), Next::Ask);
        assert_eq!(view.open(), None);
    }
}
