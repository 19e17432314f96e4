//! The standard streams as they are. The standard library opens /dev/null in the place of one that
//! is closed, and takes one that is not open for what is wanted for the end of a file, or for
//! written. So a command would end with 0 that could say nothing, and set an empty value.

use std::fmt;
use std::io::{Error, IsTerminal, Read, Result, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use dsn::named::{self, Kind, Unreadable};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, fcntl_getfd};

use super::{Fault, tell};

/// Which were closed when the program began: a bit each.
static CLOSED: AtomicU8 = AtomicU8::new(0);
const STDIN: u8 = 1;
const STDOUT: u8 = 2;

/// Runs before the standard library begins, as nobody can tell afterwards. Two system calls, and
/// nothing that would need that library.
#[ctor::ctor]
fn look() {
    let closed = |end: BorrowedFd<'_>, bit| if fcntl_getfd(end).is_err() { bit } else { 0 };
    let found = closed(rustix::stdio::stdin(), STDIN) | closed(rustix::stdio::stdout(), STDOUT);
    CLOSED.store(found, Ordering::Relaxed);
}

fn is_closed(stream: u8) -> bool {
    CLOSED.load(Ordering::Relaxed) & stream != 0
}

/// Where answers go. What is written is written at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out;

/// Where bytes come from that are too many for the command line.
#[derive(Debug, Clone, Copy)]
pub(super) struct In;

pub(super) fn stdout() -> Out {
    Out
}

pub(super) fn stdin() -> In {
    In
}

impl AsFd for Out {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdout()
    }
}

impl AsFd for In {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }
}

impl Out {
    pub(super) fn is_terminal(self) -> bool {
        self.as_fd().is_terminal()
    }

    /// Whether it is there at all: what would be done is not done in vain then.
    pub(super) fn check(self) -> Result<()> {
        if is_closed(STDOUT) {
            return Err(Error::other("stdout is closed. Send it somewhere, such as >FILE"));
        }
        Ok(())
    }
}

impl In {
    pub(super) fn is_terminal(self) -> bool {
        self.as_fd().is_terminal()
    }

    /// Whether it is there at all. `path` is how it was named.
    fn check(self, path: &Path) -> std::result::Result<(), Unreadable> {
        if is_closed(STDIN) {
            let why = "it is closed. Give the bytes with a pipe, or with <FILE";
            return Err(Unreadable::Closed { path: path.into(), why });
        }
        Ok(())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.check()?;
        let written =
            until_ready(self.as_fd(), PollFlags::OUT, || rustix::io::write(self.as_fd(), bytes));
        written.map_err(|why| match why {
            Errno::BADF => Error::other("stdout is open for reading alone. Send it somewhere else"),
            Errno::NOSPC | Errno::DQUOT => Error::new(
                Error::from(why).kind(),
                format!("{}. Make room there, or send it somewhere else", Error::from(why)),
            ),
            why => why.into(),
        })
    }

    /// With one write, so that no line is cut by what others write there.
    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<()> {
        self.write_all(text.to_string().as_bytes())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Read for In {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let into = &mut *bytes;
        let read = until_ready(rustix::stdio::stdin(), PollFlags::IN, || {
            rustix::io::read(rustix::stdio::stdin(), &mut *into)
        });
        Ok(read?)
    }
}

/// Does it again where somebody else has told the stream, which others use, too, not to wait.
fn until_ready<T>(
    stream: BorrowedFd<'_>,
    ready: PollFlags,
    mut act: impl FnMut() -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    loop {
        match act() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::from_borrowed_fd(stream, ready)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(why) => return Err(why),
            },
            done => return done,
        }
    }
}

/// Names of stdin that are paths.
const STDIN_NAMES: [&str; 3] = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// Reads what was named by a path: a file, or a pipe, such as `<(…)` of a shell.
pub(super) fn read_named(path: &Path, bytes_max: u64) -> std::result::Result<Vec<u8>, Unreadable> {
    if STDIN_NAMES.iter().any(|name| path == Path::new(name)) {
        // What stands in its place has nothing in it.
        stdin().check(path)?;
    }
    named::read(path, bytes_max, Kind::Stream)
}

/// All of stdin, up to so many bytes.
pub(super) fn read_stdin(what: &str, bytes_max: u64) -> std::result::Result<Vec<u8>, Fault> {
    if stdin().is_terminal() {
        tell(&format!(
            "- reads {what} from this terminal; end with Ctrl-D at the beginning of a line (Ctrl-C gives up)"
        ));
    }
    let mut bytes = Vec::new();
    let path = Path::new("stdin");
    let read = stdin().check(path).and_then(|()| {
        let read = stdin().take(bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(|why| match why.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::BADF) => {
                let why = "it is open for writing alone. Give the bytes with <FILE";
                Unreadable::Closed { path: path.into(), why }
            }
            _ => Unreadable::System { path: path.into(), why },
        })
    });
    read.map_err(|fault| Fault::unreadable("", &fault))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Fault::Usage(format!("stdin has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}
