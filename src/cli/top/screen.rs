//! The terminal: taken over, drawn on, and given back whatever ends the command.

use std::io::{Error, Write};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::super::streams::{stdin, stdout};
use super::view::{Line, Style};

/// The other screen, no cursor, and lines that end at the edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// All of that back, and no colour.
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Columns and rows where the terminal does not say.
const SIZE: (usize, usize) = (80, 24);

/// A terminal that is drawn on. Dropping it gives it back.
pub(super) struct Screen {
    before: Termios,
    has_colours: bool,
}

impl Screen {
    /// Takes it over.
    pub(super) fn enter() -> Result<Self, Error> {
        let before = tcgetattr(stdin())?;
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let screen = Self { before, has_colours };
        screen.take()?;
        Ok(screen)
    }

    fn take(&self) -> Result<(), Error> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        put(ENTER)
    }

    fn give_back(&self) -> Result<(), Error> {
        let shown = put(LEAVE);
        tcsetattr(stdin(), OptionalActions::Flush, &self.before)?;
        shown
    }

    /// Gives it back while the process stands still, as after Ctrl-Z.
    pub(super) fn stand_still(&self) -> Result<(), Error> {
        self.give_back()?;
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::STOP)?;
        self.take()
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => SIZE,
        }
    }

    /// Shows these lines and nothing else, with one write.
    pub(super) fn show(&self, lines: &[Line]) -> Result<(), Error> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                text.push_str("\r\n");
            }
            let style = self.code(line.style);
            text.push_str(style);
            text.push_str(&line.text);
            if !style.is_empty() {
                text.push_str("\x1b[0m");
            }
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        put(&text)
    }

    fn code(&self, style: Style) -> &'static str {
        match style {
            Style::Plain => "",
            Style::Head => "\x1b[1m",
            Style::Chosen => "\x1b[7m",
            Style::Bad if self.has_colours => "\x1b[31m",
            Style::Doubtful if self.has_colours => "\x1b[33m",
            Style::Faint if self.has_colours => "\x1b[2m",
            Style::Bad | Style::Doubtful | Style::Faint => "",
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = self.give_back();
    }
}

fn put(text: &str) -> Result<(), Error> {
    stdout().write_all(text.as_bytes())
}
