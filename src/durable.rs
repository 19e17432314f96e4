//! Writing a file so that it is there after a power cut; reading what a bad disk still gives.

use std::fs::{DirBuilder, File};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::named::{self, Kind, Unreadable};

/// Mode of files that hold secrets or state: for the owner alone.
pub const FILE_MODE: u32 = 0o600;
/// Mode of their folders.
pub const FOLDER_MODE: u32 = 0o700;

/// What a disk loses at once when it loses something, bytes.
pub const BLOCK_BYTES: usize = 4096;
/// Most blocks that are tried and can't be read: a dying disk may take seconds for each.
const BAD_BLOCKS_MAX: usize = 16;
/// Most damaged files that are kept beside a good one; then the last name is used again.
const ASIDE_MAX: usize = 4;

/// How often a folder is made that somebody else takes away again: whoever does so fails to start,
/// and does it once.
const FOLDER_TRIES: usize = 16;

/// Folders that were made here and by nobody else, the deepest one first.
#[derive(Debug, Default)]
pub struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Takes them away again, as far as nobody put anything there. Who was about to do that makes
    /// them again: [`create_within`].
    pub fn undo(&self) {
        for folder in &self.0 {
            // The fault that counts is the one before.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Makes a folder, and those above it, for the owner alone. One that is there stays as it is. What
/// fails leaves nothing behind.
pub fn create_private_folder(folder: &Path) -> Result<(), Error> {
    create_within(folder, || Ok(())).map(drop)
}

/// The same, with something in it. As long as that is not there, another process that made the
/// folder and failed may take it away: then all is done again.
pub fn create_within<T>(
    folder: &Path,
    mut put: impl FnMut() -> Result<T, Error>,
) -> Result<(T, NewFolders), Error> {
    let mut new = NewFolders::default();
    let mut tries = 0..FOLDER_TRIES;
    let is_gone = |why: &Error| why.kind() == ErrorKind::NotFound && !folder.is_dir();
    loop {
        match make_folders(folder, &mut new).and_then(|()| put()) {
            Ok(made) => return Ok((made, new)),
            Err(why) if is_gone(&why) && tries.next().is_some() => {}
            Err(why) => {
                new.undo();
                return Err(why);
            }
        }
    }
}

fn make_folders(folder: &Path, new: &mut NewFolders) -> Result<(), Error> {
    if folder.is_dir() {
        return Ok(());
    }
    let exists = |path: &&Path| !path.as_os_str().is_empty() && path.exists();
    if folder.ancestors().find(exists).is_some_and(|path| !path.is_dir()) {
        // The system would say that it exists.
        return Err(Errno::NOTDIR.into());
    }
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let missing: Vec<&Path> = folder.ancestors().take_while(missing).collect();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            // One by one, as only the system knows who made it when two do it at once.
            Ok(()) if new.0.iter().any(|known| known == folder) => {}
            Ok(()) => new.0.insert(0, folder.to_owned()),
            // Unless it went again by now.
            Err(why) if why.kind() == ErrorKind::AlreadyExists => {
                if !std::fs::metadata(folder)?.is_dir() {
                    return Err(Errno::NOTDIR.into());
                }
            }
            Err(why) => return Err(why),
        }
        // Its name stands in the one above it.
        sync_folder_of(folder)?;
    }
    Ok(())
}

/// What a file has in it.
#[derive(Debug)]
pub struct Content {
    /// Its bytes; zeros where the disk did not give them.
    pub bytes: Vec<u8>,
    /// What the disk said where it did not.
    pub fault: Option<Error>,
}

/// Reads a file, up to so many bytes; nothing where there is none. A block that the disk can't
/// read does not cost the others.
pub fn read(path: &Path, bytes_max: u64) -> Result<Option<Content>, Error> {
    match named::open(path, Kind::File) {
        Ok(file) => read_open(&file, bytes_max).map(Some),
        Err(Unreadable::System { why, .. }) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// The same of a file that is open.
pub fn read_open(file: &File, bytes_max: u64) -> Result<Content, Error> {
    let end = file.metadata()?.len().min(bytes_max);
    let mut content = Content { bytes: Vec::new(), fault: None };
    let (mut at, mut bad_blocks) = (0, 0);
    let mut buffer = vec![0; 64 * 1024];
    while at < end && bad_blocks < BAD_BLOCKS_MAX {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let into = buffer.get_mut(..wanted).unwrap_or_default();
        match file.read_at(into, at) {
            Ok(0) => break,
            Ok(count) => {
                content.bytes.extend_from_slice(into.get(..count).unwrap_or_default());
                at += count as u64;
            }
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) if is_bad_block(&why) => {
                bad_blocks += 1;
                content.fault.get_or_insert(why);
                let block = BLOCK_BYTES as u64;
                at = ((at / block + 1) * block).min(end);
                content.bytes.resize(usize::try_from(at).unwrap_or(usize::MAX), 0);
            }
            Err(why) => return Err(why),
        }
    }
    Ok(content)
}

fn is_bad_block(why: &Error) -> bool {
    let bad = [Errno::IO, Errno::BADMSG, Errno::UCLEAN].map(|errno| errno.raw_os_error());
    why.raw_os_error().is_some_and(|code| bad.contains(&code))
}

/// The name under which a damaged file is kept: `NAME.damaged-1`, or a higher number.
pub fn aside_name(path: &Path) -> PathBuf {
    let name = |number: usize| path.with_extension(format!("damaged-{number}"));
    let number = (1..ASIDE_MAX).find(|number| !name(*number).exists()).unwrap_or(ASIDE_MAX);
    name(number)
}

/// Keeps a file under a second name, too, when it is about to be replaced. This needs no room and
/// reads nothing, so it works on a disk that is full or half dead. Where a file has one name only,
/// these bytes of it are written.
pub fn keep_as(path: &Path, aside: &Path, bytes: &[u8]) -> Result<(), Error> {
    match std::fs::remove_file(aside) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    std::fs::hard_link(path, aside).or_else(|_| put(aside, bytes).map(drop))?;
    sync_folder_of(aside)
}

/// Moves a file of no use out of the way; gives its new name.
pub fn move_aside(path: &Path) -> Result<PathBuf, Error> {
    let aside = aside_name(path);
    std::fs::rename(path, &aside)?;
    sync_folder_of(path)?;
    Ok(aside)
}

/// Replaces a file in one step: afterwards the old or the new bytes are there, never a mixture.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    put(path, bytes)?;
    sync_folder_of(path)
}

/// The same, but that a power cut may still bring back the old file: until the folder is synced.
/// Gives the new file, open.
pub fn put(path: &Path, bytes: &[u8]) -> Result<File, Error> {
    let temporary = temporary_of(path);
    let written = write_new(&temporary, bytes)
        .and_then(|file| std::fs::rename(&temporary, path).map(|()| file));
    if written.is_err() {
        // What was begun is of no use; the fault that counts is the first one.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// How a file got its new bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// In one step: the old or the new bytes are there, whatever happens.
    AtOnce,
    /// In its place, byte by byte: what a power cut leaves in the middle of it is neither.
    InPlace,
}

/// Replaces a file that somebody else may have put there: through links, with its mode and group
/// kept, and in place where it is a mount of its own or its folder can't be written.
pub fn replace_there(path: &Path, bytes: &[u8]) -> Result<Written, Error> {
    let path = path.canonicalize()?;
    let before = std::fs::metadata(&path)?;
    let temporary = temporary_of(&path);
    let written = write_new(&temporary, bytes).and_then(|file| {
        // Without the group, its rights would be those of another one.
        if before.gid() == file.metadata()?.gid()
            || std::os::unix::fs::fchown(&file, None, Some(before.gid())).is_ok()
        {
            let mode = std::fs::Permissions::from_mode(before.mode() & 0o777);
            // A file system without modes has nothing to keep.
            let _ = file.set_permissions(mode);
        }
        std::fs::rename(&temporary, &path)
    });
    let Err(why) = written else { return sync_folder_of(&path).map(|()| Written::AtOnce) };
    let in_place = [Errno::BUSY, Errno::ROFS, Errno::ACCESS, Errno::PERM];
    let may_go = why.raw_os_error().map(Errno::from_raw_os_error);
    let done = match may_go {
        // Until it is done, the whole of it stands in the temporary file, if that could be made.
        Some(errno) if in_place.contains(&errno) => {
            let _ = sync_folder_of(&temporary);
            overwrite(&path, bytes).map_err(|_| why)
        }
        _ => Err(why),
    };
    let _ = std::fs::remove_file(&temporary);
    done.map(|()| Written::InPlace)
}

/// Writes over what is in a file; puts that back where it fails.
fn overwrite(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = File::options().read(true).write(true).open(path)?;
    let before = read_open(&file, bytes.len().max(BLOCK_BYTES) as u64)?.bytes;
    let put = |bytes: &[u8]| {
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    };
    put(bytes).inspect_err(|_| {
        // The fault that counts is the first one.
        let _ = put(&before);
    })
}

/// Makes a file that is not there yet; one that is there is an error and stays as it is. After a
/// power cut all of it is there or nothing; on file systems that have neither links nor renames
/// that spare what is there, an empty file may be left, too.
///
/// As long as what this gives is kept, the file is locked, where the file system has locks: who
/// finds it can see that it may go again.
pub fn create(path: &Path, bytes: &[u8]) -> Result<File, Error> {
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let temporary = own_temporary_of(path);
    let _ = std::fs::remove_file(&temporary);
    let named = write_new(&temporary, bytes)
        .and_then(|file| {
            // Before it has its name, so that nobody ever sees it without.
            let _ = file.try_lock();
            name_new(file, &temporary, path, bytes)
        })
        .and_then(|file| sync_folder_of(path).map(|()| file));
    let _ = std::fs::remove_file(&temporary);
    named
}

/// Gives a whole file its name, unless something has that name.
fn name_new(file: File, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<File, Error> {
    let lacks = |why: &Error| {
        let can_t = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::MLINK];
        why.raw_os_error().is_some_and(|code| can_t.contains(&Errno::from_raw_os_error(code)))
    };
    // Unlike a plain rename, neither of these ever replaces what is there. FAT has no links.
    match std::fs::hard_link(temporary, path) {
        Err(why) if lacks(&why) => {}
        done => return done.map(|()| file),
    }
    match rustix::fs::renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Err(why) if lacks(&why.into()) => {}
        done => return Ok(done.map(|()| file)?),
    }
    let mut file = File::options().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    let _ = file.try_lock();
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
        // It was made here, just now.
        let _ = std::fs::remove_file(path);
    });
    written.map(|()| file)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<File, Error> {
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// One that no other process or thread has: two that make one file at once must not write into each
/// other's.
fn own_temporary_of(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{number}.new", std::process::id()));
    name.into()
}

/// The folder that the name of a file or folder stands in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the name of a file or folder durable.
pub fn sync_folder_of(path: &Path) -> Result<(), Error> {
    sync_folder(folder_of(path))
}

/// Makes the names in a folder durable. A file system that can't be told to has no more to give.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    match File::open(folder)?.sync_all() {
        Err(why) if why.kind() == ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_private_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// One that fails takes away what it made, while others begin to use it.
    #[test]
    fn many_make_things_in_one_new_folder_at_once() {
        const ROUNDS: usize = 60;
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b/c");
        let work = |thread: usize| {
            for round in 0..ROUNDS {
                let path = folder.join(format!("{thread}-{round}"));
                let (file, new) = create_within(&folder, || create(&path, b"kept")).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), b"kept");
                std::fs::remove_file(&path).unwrap();
                drop(file);
                new.undo();
            }
        };
        std::thread::scope(|scope| (0..3).for_each(|thread| _ = scope.spawn(move || work(thread))));
    }

    #[test]
    fn a_folder_is_taken_away_by_who_made_it_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        // Another process makes it while this one is about to.
        let (_, new) = create_within(&folder, || Ok(())).unwrap();
        let (_, later) = create_within(&folder.join("c"), || Ok(())).unwrap();
        later.undo();
        assert!(folder.is_dir() && !folder.join("c").exists());
        new.undo();
        assert!(!place.path().join("a").exists());
        // One that goes before anything is in it is made again.
        let mut tries = 0;
        let mut put = || {
            tries += 1;
            if tries < 3 {
                std::fs::remove_dir(&folder)?;
                std::fs::remove_dir(place.path().join("a"))?;
            }
            File::create(folder.join("file"))
        };
        let (_, new) = create_within(&folder, &mut put).unwrap();
        std::fs::remove_file(folder.join("file")).unwrap();
        new.undo();
        assert!(!place.path().join("a").exists());
    }

    /// Each has its own bytes, and the one that comes first has its file.
    #[test]
    fn of_two_that_make_one_file_at_once_one_has_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let path = folder.path().join(round.to_string());
            let path = &path;
            std::thread::scope(|scope| {
                let make = |bytes: &'static [u8]| {
                    scope.spawn(move || match create(path, bytes) {
                        Ok(_file) => assert_eq!(std::fs::read(path).unwrap(), bytes),
                        Err(why) => assert_eq!(why.kind(), ErrorKind::AlreadyExists, "{why}"),
                    })
                };
                let made = [make(b"one"), make(b"other")];
                made.into_iter().for_each(|thread| thread.join().unwrap());
            });
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 50);
    }

    #[test]
    fn create_never_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        create(&path, b"one").unwrap();
        let again = create(&path, b"two").unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// A key file may be a link into a folder of secrets, for a group to read.
    #[test]
    fn a_file_is_replaced_where_it_is_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, "one").unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(replace_there(&link, b"two").unwrap(), Written::AtOnce);
        assert_eq!(std::fs::read(&real).unwrap(), b"two");
        assert!(link.is_symlink());
        assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        overwrite(&real, b"a longer one").unwrap();
        overwrite(&real, b"short").unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"short");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
