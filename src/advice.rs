//! What the system said about a file, with the thing and the next step: one place for all messages.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Most links that are followed one after the other, as the system does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// An error of the system about a path, as a person reads it: `WHY. STEP`.
pub struct Advice<'a> {
    why: &'a Error,
    path: &'a Path,
    other: &'a str,
}

/// Explains an error. `other` is another way out, such as "name another place with --data DIR", or
/// nothing.
pub fn advice<'a>(why: &'a Error, path: &'a Path, other: &'a str) -> Advice<'a> {
    Advice { why, path, other }
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, path, other } = self;
        // What is no error of the system has words of ours, and they say what to do.
        if why.kind() == ErrorKind::Other && why.raw_os_error().is_none() {
            write!(formatter, "{why}")?;
        } else {
            write!(formatter, "{why}. {}", step(why, path))?;
        }
        if other.is_empty() { Ok(()) } else { write!(formatter, ", or {other}") }
    }
}

/// Whether the system says that a path is not what it should be, whoever tries: the fault is that
/// of who named it.
pub fn is_wrong_name(why: &Error) -> bool {
    use ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(why.kind(), NotFound | NotADirectory | IsADirectory | InvalidFilename)
}

/// What to do, as a sentence without its full stop.
fn step(why: &Error, path: &Path) -> String {
    match why.kind() {
        ErrorKind::PermissionDenied => refused(why, path),
        ErrorKind::NotFound => missing(path),
        ErrorKind::StorageFull => "Make room on that disk, which is full".into(),
        ErrorKind::QuotaExceeded => "Make room: this user may store no more there".into(),
        ErrorKind::ReadOnlyFilesystem => "Mount that disk so that it can be written".into(),
        ErrorKind::IsADirectory => format!("{} is a folder: name a file", path.display()),
        ErrorKind::NotADirectory => format!("{} is no folder: name one", no_folder(path).display()),
        ErrorKind::FileTooLarge => {
            "This user may write no larger file: raise the limit (`ulimit -f`, \
             LimitFSIZE= of the service)"
                .into()
        }
        ErrorKind::ResourceBusy => {
            format!("Something holds {}: a mount, or another program", path.display())
        }
        ErrorKind::InvalidInput if why.raw_os_error().is_none() => {
            format!("Move {} away", path.display())
        }
        ErrorKind::InvalidData => "That file is no text in UTF-8: save it as one".into(),
        ErrorKind::StaleNetworkFileHandle => "Mount that network disk again".into(),
        _ => by_number(why, path),
    }
}

fn by_number(why: &Error, path: &Path) -> String {
    match why.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOLCK) => {
            "That file system gives no locks (NFS without its lock service): use \
             a disk of this host"
                .into()
        }
        Some(Errno::MFILE) => "This process has no descriptor left: raise the limit (`ulimit -n`, \
             LimitNOFILE= of the service)"
            .into(),
        Some(Errno::NFILE) => {
            "This host has no descriptor left: end programs that hold many".into()
        }
        Some(Errno::NOMEM) => "No memory is left: make some free, or raise the limit".into(),
        Some(Errno::LOOP) => format!("Links at {} lead back to themselves", path.display()),
        Some(Errno::NAMETOOLONG) => "That name is too long: choose a shorter one".into(),
        Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NODEV | Errno::NXIO) => {
            "Look after that disk (`dmesg` says more)".into()
        }
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            "That file system can't do this: use another one".into()
        }
        Some(Errno::AGAIN) => "The system has none to give right now: try again".into(),
        _ => "Look after that disk".into(),
    }
}

/// EPERM says that nobody may, or that the file system can't; EACCES that this user may not.
fn refused(why: &Error, path: &Path) -> String {
    if why.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
        return format!(
            "The system allows it to nobody: {} is protected (`lsattr`), or its file system can't do this",
            path.display()
        );
    }
    let user = rustix::process::geteuid().as_raw();
    let Some((place, found)) = nearest(path) else {
        return format!("Give user {user} the right to {}", path.display());
    };
    format!(
        "Give user {user} the right to it: {} belongs to user {} and has mode {:04o}",
        whole(&place).display(),
        found.uid(),
        found.mode() & 0o7777
    )
}

/// What there is of a path: itself, or the folder above it that can be looked at.
fn nearest(path: &Path) -> Option<(PathBuf, std::fs::Metadata)> {
    let mut places = path.ancestors().map(shown);
    places.find_map(|place| Some((place.to_owned(), std::fs::metadata(place).ok()?)))
}

fn missing(path: &Path) -> String {
    let first = path.ancestors().map(shown).take_while(|place| !place.exists()).last();
    match first {
        // A link that leads nowhere is there.
        Some(place) if place.is_symlink() => format!(
            "{} is a link to {}, where nothing is: mount or make that",
            place.display(),
            end_of(place).display()
        ),
        Some(place) => format!("There is no {}: make it", place.display()),
        None => "It is gone: something removes it".into(),
    }
}

/// Where a link leads, by way of others. What it leads to need not be there.
pub fn end_of(link: &Path) -> PathBuf {
    let mut end = link.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = end.read_link() else { break };
        // It counts from the folder that the link is in.
        end = end.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    end
}

fn no_folder(path: &Path) -> &Path {
    let mut places = path.ancestors().map(shown);
    places.find(|place| place.exists() && !place.is_dir()).unwrap_or(path)
}

/// The folder that an empty path stands for has a name.
fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// A path from the root: `.` names no folder to who reads it in a log.
fn whole(path: &Path) -> PathBuf {
    if path != Path::new(".") {
        return path.to_owned();
    }
    std::env::current_dir().unwrap_or_else(|_| path.to_owned())
}

/// The same about a thread that the system did not give.
pub fn no_thread(why: &Error) -> String {
    let step = match why.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AGAIN) => {
            "This user or service may have no more of them, or no memory is left: raise the limit \
             (`ulimit -u`, TasksMax= of the service, pids.max of the container)"
        }
        Some(Errno::PERM | Errno::NOSYS) => {
            "A filter of system calls forbids it: a container runtime that is too old for clone3 (Docker \
             before 20.10.10) has to be updated; see SystemCallFilter= of the service"
        }
        Some(Errno::NOMEM) => "No memory is left: make some free, or raise the limit",
        _ => "Look at the limits of this user and service",
    };
    format!("the system gave no thread: {why}. {step}")
}

/// A path from the root on: somebody who reads a log does not know the folder of the process.
pub fn whole_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rights are spoken of where rights are what is missing, and nowhere else.
    #[test]
    fn each_error_has_its_own_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let rows = [
            (Errno::ACCESS, "the right to it"),
            (Errno::PERM, "allows it to nobody"),
            (Errno::NOSPC, "Make room"),
            (Errno::DQUOT, "Make room"),
            (Errno::ROFS, "can be written"),
            (Errno::ISDIR, "is a folder"),
            (Errno::NOLCK, "no locks"),
            (Errno::FBIG, "ulimit -f"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::LOOP, "lead back"),
            (Errno::NAMETOOLONG, "shorter"),
            (Errno::BUSY, "a mount"),
            (Errno::IO, "dmesg"),
            (Errno::OPNOTSUPP, "file system"),
        ];
        for (errno, word) in rows {
            let why = Error::from_raw_os_error(errno.raw_os_error());
            let said = advice(&why, &file, "use --data DIR").to_string();
            assert!(said.contains(word) && said.ends_with(", or use --data DIR"), "{said}");
            assert_eq!(said.contains("right to"), errno == Errno::ACCESS, "{said}");
        }
        std::fs::write(&file, [0xff, 0xfe, b'a', 0]).unwrap();
        let why = std::fs::read_to_string(&file).unwrap_err();
        let said = advice(&why, &file, "").to_string();
        assert!(said.contains("no text in UTF-8") && !said.contains("disk"), "{said}");
        let missing = folder.path().join("none/of/these");
        let why = std::fs::read(&missing).unwrap_err();
        let said = advice(&why, &missing, "").to_string();
        assert!(said.contains("none: make it") && !said.contains("of/these"), "{said}");
        // Words of our own are all that there is to say.
        let said = advice(&Error::other("it sleeps. Wake it"), &file, "use --data DIR").to_string();
        assert_eq!(said, "it sleeps. Wake it, or use --data DIR");
        let below = file.join("below/it");
        let why = std::fs::read(&below).unwrap_err();
        let said = advice(&why, &below, "").to_string();
        assert!(said.contains("file is no folder") && !said.contains("below"), "{said}");
        for errno in [Errno::AGAIN, Errno::PERM] {
            let said = no_thread(&Error::from_raw_os_error(errno.raw_os_error()));
            assert!(said.contains("raise the limit") || said.contains("clone3"), "{said}");
        }
    }
}
