//! What can be wrong with the own state on disk, and what to do about it.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::disk::REMOVED;
use super::frame::FORMAT;
use crate::advice::advice;
use crate::durable::folder_of;

/// The own state could not be read or written. What was acknowledged before is still there.
#[derive(Debug)]
pub struct JournalError {
    path: PathBuf,
    what: &'static str,
    pub(super) fault: Fault,
}

/// What is wrong.
#[derive(Debug)]
pub(super) enum Fault {
    /// The disk said no.
    Disk(Error),
    /// The path leads to another folder than at the start.
    Elsewhere,
    /// The file has this format.
    Format(u32),
    /// It would not be read again: a fault of this program.
    Unfit,
}

impl JournalError {
    pub(super) fn opened(path: &Path, why: Error) -> Self {
        Self { path: path.into(), what: "opened", fault: Fault::Disk(why) }
    }

    pub(super) fn read(path: &Path, fault: Fault) -> Self {
        Self { path: path.into(), what: "read", fault }
    }

    pub(super) fn written(path: &Path, fault: Fault) -> Self {
        Self { path: path.into(), what: "written", fault }
    }

    /// The file is not what it was, in the folder that it was in.
    pub(super) fn removed(path: &Path) -> Self {
        Self::written(path, Fault::Disk(Error::new(ErrorKind::NotFound, REMOVED)))
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the state in {} can't be {}: ", self.path.display(), self.what)?;
        match &self.fault {
            Fault::Disk(why) if why.to_string() == REMOVED => {
                write!(formatter, "{why}. It is made anew soon; leave it there while the node runs")
            }
            Fault::Disk(why) => advice(why, &self.path, "use --data DIR").fmt(formatter),
            Fault::Elsewhere => write!(
                formatter,
                "the folder {} is not the one that the node started with. If its disk is gone, mount it again, \
                 and the node goes on by itself; to go on with what is there now, start the node again",
                folder_of(&self.path).display()
            ),
            Fault::Format(found) => write!(
                formatter,
                "it has format {found}, and this program knows format {FORMAT}. Use the program that wrote it"
            ),
            Fault::Unfit => write!(formatter, "it would not be read again. Please report this"),
        }
    }
}

impl std::error::Error for JournalError {}
