//! Files that somebody names by a path. Whatever stands there, nobody waits for ever, nothing is
//! read without a bound, and no device is opened, as that alone may do something.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::advice::{Advice, advice};
use crate::patience::{Over, Patience};

/// How long somebody may take to begin to write to a pipe: a shell starts both sides at once.
const WRITER_TIME: Duration = Duration::from_secs(5);
/// How long a writer that is there may take: it may ask somebody for a password first.
const WRITING_TIME: Duration = Duration::from_secs(60);
/// What a pipe is called.
const PIPE: &str = "a pipe";
/// Bytes that are read at once.
const PART_BYTES: usize = 16 * 1024;

/// What may stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file, which can be read again.
    File,
    /// What is read once: a pipe, such as `<(…)` of a shell, too, and /dev/null.
    Stream,
}

/// Why it is not read.
#[derive(Debug)]
pub enum Unreadable {
    /// The system refused.
    System {
        /// Which.
        path: PathBuf,
        /// What it said.
        why: Error,
    },
    /// It is something else.
    NotAFile {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Another process holds it, and has to be asked first (a lease, fcntl(2)).
    Held {
        /// Which.
        path: PathBuf,
        /// How long was waited.
        time: Duration,
    },
    /// It was waited for, and this process is to stop.
    Stopped {
        /// Which.
        path: PathBuf,
    },
    /// A stream that somebody else opened, and not to be read.
    Closed {
        /// Which.
        path: PathBuf,
        /// How it is, and what to do.
        why: &'static str,
    },
    /// A pipe to which nobody writes.
    Silent {
        /// Which.
        path: PathBuf,
        /// How long was waited.
        time: Duration,
    },
    /// It is longer than it may be.
    TooLong {
        /// Which.
        path: PathBuf,
        /// The limit, bytes.
        bytes_max: u64,
    },
}

impl Unreadable {
    /// The same with another way out, such as "name another file".
    pub fn with(&self, other: &'static str) -> impl fmt::Display + '_ {
        With { fault: self, other }
    }

    /// Whether the fault is that of who named it.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::System { why, .. } => crate::advice::is_wrong_name(why),
            Self::Held { .. } | Self::Stopped { .. } => false,
            Self::NotAFile { .. } | Self::Silent { .. } => true,
            Self::TooLong { .. } | Self::Closed { .. } => true,
        }
    }

    /// Whether it would be the right thing where it is read once.
    pub fn is_pipe(&self) -> bool {
        matches!(self, Self::NotAFile { what: PIPE, .. })
    }
}

/// Another way out, where there is one.
struct Or<'a>(&'a str);

impl fmt::Display for Or<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, ", or {}", self.0) }
    }
}

struct With<'a> {
    fault: &'a Unreadable,
    other: &'static str,
}

impl fmt::Display for With<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Unreadable::System { path, why } => {
                let why: Advice<'_> = advice(why, path, self.other);
                write!(formatter, "{} can't be read: {why}", path.display())
            }
            Unreadable::NotAFile { path, what } => write!(
                formatter,
                "{} is {what}, and a file is wanted there. Name a file",
                path.display()
            ),
            Unreadable::Held { path, time } => write!(
                formatter,
                "{} is held by another process, which did not let go of it within {} s. End that one (`fuser {}` names \
                 it){}",
                path.display(),
                time.as_secs(),
                path.display(),
                Or(self.other)
            ),
            Unreadable::Stopped { path } => {
                write!(
                    formatter,
                    "{} was waited for until this process was told to stop",
                    path.display()
                )
            }
            Unreadable::Closed { path, why } => {
                write!(formatter, "{} can't be read: {why}", path.display())
            }
            Unreadable::Silent { path, time } => write!(
                formatter,
                "{} is a pipe, and nothing came out of it within {} s. Start what writes to it first, or name a file",
                path.display(),
                time.as_secs()
            ),
            Unreadable::TooLong { path, bytes_max } => write!(
                formatter,
                "{} has more than {bytes_max} bytes: it is not such a file. Name another one",
                path.display()
            ),
        }
    }
}

/// For those who speak of files as the system does.
impl From<Unreadable> for Error {
    fn from(fault: Unreadable) -> Self {
        match fault {
            Unreadable::System { why, .. } => why,
            Unreadable::NotAFile { what, .. } => {
                Self::new(ErrorKind::InvalidInput, format!("{what} stands where a file is wanted"))
            }
            other => Self::other(other.with("").to_string()),
        }
    }
}

/// What something is that is no file.
pub fn not_a_file(kind: FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a folder"),
        kind if kind.is_fifo() => Some(PIPE),
        kind if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

/// Looks whether a file can be opened there at all, to be written, too. Nothing at all is no fault.
pub fn check(path: &Path) -> Result<(), Unreadable> {
    let found = std::fs::metadata(path).ok();
    match found.and_then(|found| not_a_file(found.file_type())) {
        Some(what) => Err(Unreadable::NotAFile { path: path.into(), what }),
        None => Ok(()),
    }
}

/// Opens what is there to be read.
///
/// A file that another process holds (a file server does, for whoever works with it) is waited for
/// as long as for one that writes: the kernel asks the holder to let go, and takes it after 45 s.
/// The stop of this process ends that.
pub fn open(path: &Path, kind: Kind) -> Result<File, Unreadable> {
    open_within(path, kind, WRITING_TIME)
}

fn open_within(path: &Path, kind: Kind, time: Duration) -> Result<File, Unreadable> {
    let system = |why| Unreadable::System { path: path.into(), why };
    // It is looked at first: a device may do something when it is opened.
    judge(path, &std::fs::metadata(path).map_err(system)?, kind)?;
    // Without waiting for whoever is at the other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = once_free(path, time, || Ok(rustix::fs::open(path, flags, Mode::empty())?.into()))?;
    // It may be another one by now.
    judge(path, &file.metadata().map_err(system)?, kind)?;
    Ok(file)
}

/// Opens a file of ours to be written, as these options say, and waits for it as [`open`] does.
pub fn open_to_write(path: &Path, options: &mut OpenOptions) -> Result<File, Unreadable> {
    check(path)?;
    let options = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    once_free(path, WRITING_TIME, || options.open(path))
}

/// What was opened, once no other process holds it. The kernel would wait for that, too, but not
/// hear of a stop meanwhile.
fn once_free(
    path: &Path,
    time: Duration,
    open: impl Fn() -> Result<File, Error>,
) -> Result<File, Unreadable> {
    let waits = Patience::new(time);
    loop {
        match open() {
            Ok(file) => return Ok(file),
            Err(why) if why.kind() == ErrorKind::WouldBlock => {
                waits.pause().map_err(|over| match over {
                    Over::Late => Unreadable::Held { path: path.into(), time },
                    Over::Stopped => Unreadable::Stopped { path: path.into() },
                })?;
            }
            Err(why) => return Err(Unreadable::System { path: path.into(), why }),
        }
    }
}

fn judge(path: &Path, found: &Metadata, kind: Kind) -> Result<(), Unreadable> {
    let is_null = || found.file_type().is_char_device() && found.rdev() == NULL;
    match not_a_file(found.file_type()) {
        Some(PIPE) if kind == Kind::Stream => Ok(()),
        Some(_) if kind == Kind::Stream && is_null() => Ok(()),
        Some(what) => Err(Unreadable::NotAFile { path: path.into(), what }),
        None => Ok(()),
    }
}

/// The number of /dev/null (null(4)).
const NULL: u64 = 0x103;

/// Reads what is there, all of it.
pub fn read(path: &Path, bytes_max: u64, kind: Kind) -> Result<Vec<u8>, Unreadable> {
    read_within(path, bytes_max, kind, (WRITER_TIME, WRITING_TIME))
}

fn read_within(
    path: &Path,
    bytes_max: u64,
    kind: Kind,
    (writer_time, writing_time): (Duration, Duration),
) -> Result<Vec<u8>, Unreadable> {
    let mut file = open_within(path, kind, writing_time)?;
    let system = |why| Unreadable::System { path: path.into(), why };
    let is_pipe = file.metadata().map_err(system)?.file_type().is_fifo();
    let silent = |time| Unreadable::Silent { path: path.into(), time };
    let (began, mut bytes, mut part) = (Instant::now(), Vec::new(), vec![0; PART_BYTES]);
    let (mut had_writer, mut is_over) = (false, false);
    loop {
        match file.read(&mut part) {
            // Before there was a writer, a pipe says the same as after.
            Ok(0) if !is_pipe || is_over || !bytes.is_empty() => return Ok(bytes),
            Ok(0) => {}
            Ok(count) => {
                had_writer = true;
                bytes.extend_from_slice(part.get(..count).unwrap_or_default());
                if bytes.len() as u64 > bytes_max {
                    return Err(Unreadable::TooLong { path: path.into(), bytes_max });
                }
                continue;
            }
            Err(why) if why.kind() == ErrorKind::WouldBlock => had_writer = true,
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            Err(why) => return Err(system(why)),
        }
        let limit = if had_writer { writing_time } else { writer_time };
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(silent(limit));
        }
        is_over = hung_up(&file, left).map_err(system)?;
    }
}

/// Waits until there is something to read; says whether all writers are gone.
fn hung_up(pipe: &File, time: Duration) -> Result<bool, Error> {
    let mut ends = [PollFd::new(pipe, PollFlags::IN)];
    let time = Timespec::try_from(time).unwrap_or_default();
    match poll(&mut ends, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => Ok(ends.iter().any(|end| end.revents() == PollFlags::HUP)),
        Err(why) => Err(why.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe_in(folder: &Path) -> PathBuf {
        let path = folder.join("pipe");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    }

    /// A file server holds files for those who work with them, and lets go when it is asked.
    #[test]
    fn a_file_that_another_process_holds_is_waited_for() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        // It lets go when a line comes.
        const HOLDS: &str = "import fcntl, signal, sys\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            file = open(sys.argv[1], 'r+')\n\
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
            print('held', flush=True)\n\
            sys.stdin.readline()\n\
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n\
            sys.stdin.readline()\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        std::fs::write(&path, "kept").unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", HOLDS]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut holder) = command.spawn() else {
            eprintln!("SKIPPED: needs python3");
            return;
        };
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let mut tell = holder.stdin.take().unwrap();
        if said == "held\n" {
            let short = Duration::from_millis(50);
            let fault = read_within(&path, 9, Kind::File, (short, short)).unwrap_err();
            assert!(matches!(fault, Unreadable::Held { .. }), "{fault:?}");
            assert!(fault.with("").to_string().contains("held by another process"), "{fault:?}");
            let said = advice(&fault.into(), &path, "use --data DIR").to_string();
            assert!(said.ends_with("names it), or use --data DIR"), "{said}");
            std::thread::scope(|scope| {
                let reads = scope.spawn(|| read(&path, 9, Kind::File).unwrap());
                std::thread::park_timeout(short);
                assert!(!reads.is_finished());
                writeln!(tell).unwrap();
                assert_eq!(reads.join().unwrap(), b"kept");
            });
        } else {
            eprintln!("SKIPPED: needs a file system with leases");
        }
        drop(tell);
        holder.wait().unwrap();
    }

    const SHORT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

    #[test]
    fn what_is_no_file_is_named_and_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (folder.path(), "a folder"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            for kind in [Kind::File, Kind::Stream] {
                let said = read(path, 9, kind).unwrap_err();
                assert!(said.is_usage() && said.with("").to_string().contains(what), "{said:?}");
            }
            assert!(check(path).is_err());
        }
        let pipe = pipe_in(folder.path());
        assert!(read(&pipe, 9, Kind::File).unwrap_err().with("").to_string().contains("a pipe"));
        assert_eq!(read(Path::new("/dev/null"), 9, Kind::Stream).unwrap(), b"");
        assert!(read(Path::new("/dev/null"), 9, Kind::File).is_err());
        assert!(check(&folder.path().join("none")).is_ok());
        let long = folder.path().join("long");
        std::fs::write(&long, "0123456789").unwrap();
        assert!(matches!(read(&long, 9, Kind::File), Err(Unreadable::TooLong { .. })));
        assert_eq!(read(&long, 10, Kind::File).unwrap(), b"0123456789");
    }

    #[test]
    fn a_pipe_is_read_while_somebody_writes_and_nobody_waits_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = pipe_in(folder.path());
        let read = |times| read_within(&pipe, 1024, Kind::Stream, times);
        let said = read(SHORT).unwrap_err();
        assert!(matches!(said, Unreadable::Silent { time, .. } if time == SHORT.0), "{said:?}");
        // It is there, and says nothing.
        let idle = File::options().read(true).write(true).open(&pipe).unwrap();
        let said = read(SHORT).unwrap_err();
        assert!(matches!(said, Unreadable::Silent { time, .. } if time == SHORT.1), "{said:?}");
        drop(idle);
        // Who opens it while it is waited for has the whole time as well.
        let (writer_time, pause) = (Duration::from_secs(2), Duration::from_millis(100));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::io::Write;
                std::thread::park_timeout(pause);
                let mut file = File::options().write(true).open(&pipe).unwrap();
                std::thread::park_timeout(writer_time + pause);
                file.write_all(b"late").unwrap();
            });
            assert_eq!(read((writer_time, Duration::from_secs(60))).unwrap(), b"late");
        });
        let long = (Duration::from_secs(60), Duration::from_secs(60));
        for parts in [&["one", "two"][..], &[]] {
            let path = pipe.clone();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    use std::io::Write;
                    let mut file = File::options().write(true).open(path).unwrap();
                    for part in parts {
                        file.write_all(part.as_bytes()).unwrap();
                        std::thread::park_timeout(Duration::from_millis(20));
                    }
                });
                assert_eq!(read(long).unwrap(), parts.concat().as_bytes());
            });
        }
    }
}
