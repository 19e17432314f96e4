//! Secret files as they are out there: who may read them, and what is no file at all.

use std::fs::{File, Metadata, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::{CredentialsError, unusable};
use crate::advice::whole_path;
use crate::durable;
use crate::named::{self, Kind, Unreadable};
use crate::patience::{Over, Patience};
use crate::protocol::fault::{Code, Fault};

/// Largest key file, bytes: a file that is longer is not one of ours.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// How long a key file may be in the hands of another node that starts: a disk may be slow.
const SETTLE_TIME: Duration = Duration::from_secs(20);
/// File systems on which a mode is what the mount says (statfs(2)): FAT, exFAT, NTFS (two drivers),
/// SMB (three), VirtualBox, 9p, and FUSE, where nobody knows.
const WITHOUT_MODES: [u32; 10] = [
    0x4d44,
    0x2011_bab0,
    0x5346_544e,
    0x7366_746e,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x786f_4256,
    0x0102_1997,
    0x6573_5546,
];

/// What is found where a key file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Missing,
    /// A file with nothing in it, or zeros: a disk that said too early that it had written it, and
    /// then lost its power, leaves that.
    Empty,
    /// Something.
    Present,
}

/// Looks whether there is a key file. One that a start of another node has made, which may still
/// fail and take it away, is waited for; a link that leads nowhere is an error, as nothing can be
/// made there.
pub fn presence(path: &Path) -> Result<Presence, CredentialsError> {
    presence_within(path, SETTLE_TIME)
}

pub(super) fn presence_within(path: &Path, time: Duration) -> Result<Presence, CredentialsError> {
    let Some(file) = settled(path, &Patience::new(time), is_there)? else {
        // Nothing can be made there either.
        let nowhere = || CredentialsError::LeadsNowhere { path: path.into() };
        return if path.is_symlink() { Err(nowhere()) } else { Ok(Presence::Missing) };
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|why| unusable(path, why))?;
    let is_empty = bytes.iter().all(|byte| *byte == 0);
    Ok(if is_empty { Presence::Empty } else { Presence::Present })
}

/// The file, once nobody who made it may take it away any more; nothing where there is none.
pub(super) fn settled(
    path: &Path,
    waits: &Patience,
    is_there: impl Fn(&Path, &File) -> bool,
) -> Result<Option<File>, CredentialsError> {
    loop {
        let file = match open_file(path) {
            Ok(file) => file,
            Err(CredentialsError::Unusable { why, .. }) if why.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(fault) => return Err(fault),
        };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let time = waits.limit();
                pause(waits, path, CredentialsError::Locked { path: path.into(), time })?;
            }
            // It stays, if it still is what stands there. Without locks nobody knows.
            Ok(()) | Err(TryLockError::Error(_)) if is_there(path, &file) => return Ok(Some(file)),
            Ok(()) | Err(TryLockError::Error(_)) => pause_before_another(waits, path)?,
        }
    }
}

/// A wait for a key file to be there or not, for good.
pub fn patience() -> Patience {
    Patience::new(SETTLE_TIME)
}

/// Pauses where another key file stands there than before, or one more, or one less.
pub fn pause_before_another(waits: &Patience, path: &Path) -> Result<(), CredentialsError> {
    pause(waits, path, CredentialsError::Unsettled { path: path.into(), time: waits.limit() })
}

fn pause(waits: &Patience, path: &Path, late: CredentialsError) -> Result<(), CredentialsError> {
    waits.pause().map_err(|over| match over {
        Over::Late => late,
        Over::Stopped => Unreadable::Stopped { path: path.into() }.into(),
    })
}

fn is_there(path: &Path, file: &File) -> bool {
    let found = (file.metadata(), std::fs::metadata(path));
    matches!(found, (Ok(own), Ok(there)) if is_same(&own, &there))
}

pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Moves a key file that holds nothing out of the way of a new one.
pub fn move_empty(path: &Path) -> Result<(), CredentialsError> {
    durable::move_aside(path).map(drop).map_err(|why| unusable(path, why))
}

/// Opens a file that has to be one: a key file is read more than once.
pub(super) fn open_file(path: &Path) -> Result<File, CredentialsError> {
    Ok(named::open(path, Kind::File)?)
}

/// Reads a secret file.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let file = open_file(path)?;
    judge_mode(path, &file)?;
    read_text(path, file, KEY_FILE_BYTES_MAX).map(Zeroizing::new)
}

/// What an operator should know about who else can read a secret file.
pub fn who_else_reads(path: &Path) -> Result<Option<Fault>, CredentialsError> {
    judge_mode(path, &open_file(path)?)
}

/// One that others could change, or that others can read for no reason, is refused, as ssh does: a
/// warning is not read by whoever copied the file with the wrong mode. One that can't be mended
/// there (a mounted secret, a FAT card) is taken, and so is what a group reads by intent.
fn judge_mode(path: &Path, file: &File) -> Result<Option<Fault>, CredentialsError> {
    let found = file.metadata().map_err(|why| unusable(path, why))?;
    let mode = found.mode() & 0o777;
    if mode & 0o066 == 0 {
        return Ok(None);
    }
    let has_modes = rustix::fs::fstatfs(file)
        // The type has another width and sign on each processor.
        .map(|found| found.f_type as u64 & 0xffff_ffff)
        .is_ok_and(|kind| !WITHOUT_MODES.iter().any(|known| kind == u64::from(*known)));
    let is_fixed = why_fixed(file, &found, has_modes);
    let is_read_only = rustix::fs::fstatvfs(file)
        .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let all_can_write = mode & 0o002 != 0 && !is_read_only;
    if all_can_write || is_fixed.is_none() && mode & 0o026 != 0 {
        return Err(CredentialsError::TooOpen { path: path.into(), mode, has_modes });
    }
    let who = match mode & 0o006 {
        0 => format!("the members of group {}", found.gid()),
        _ => "all users of this host".to_owned(),
    };
    let why = is_fixed.map_or_else(String::new, |why| format!(", and {why}"));
    Ok(Some(Fault::new(
        Code::KeyReadable,
        format!(
            "{} is a secret that {who} can read (mode {mode:04o}){why}. It is taken as it is; keep others off this host",
            whole_path(path).display()
        ),
        "",
    )))
}

/// Why the mode of a file can't be changed here, if it can't.
fn why_fixed(file: &File, found: &Metadata, has_modes: bool) -> Option<String> {
    if !has_modes {
        return Some("its file system keeps no modes".into());
    }
    // Setting what is there changes nothing, and shows whether anything could be set.
    let why = file.set_permissions(std::fs::Permissions::from_mode(found.mode() & 0o7777)).err()?;
    Some(format!("that can't be changed here ({why}; it belongs to user {})", found.uid()))
}

/// Reads a text of at most so many bytes.
pub(super) fn read_text(
    path: &Path,
    file: File,
    bytes_max: u64,
) -> Result<String, CredentialsError> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|why| unusable(path, why))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Unreadable::TooLong { path: path.into(), bytes_max }.into());
    }
    let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    let text = str::from_utf8(&bytes);
    text.map(str::to_owned).map_err(|_| CredentialsError::NoText { path: path.into(), is_utf16 })
}

/// A text without the mark that some editors put before it.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
