//! `dsn metrics --output`: a file that another program reads while it is written again and again.

use std::ffi::OsString;
use std::fs;
use std::io::Error;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dsn::advice::{advice, is_wrong_name};

use super::Fault;

/// Whoever collects them is another user, and there is nothing secret in it.
const MODE: u32 = 0o644;

/// Puts the text into the file in one step. It is not made durable: that would cost a card a write
/// each time, and the next one is soon.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let beside = name_beside(path).ok_or_else(|| {
        Fault::Usage(format!("{path:?} is no name of a file; use --output FILE.prom"))
    })?;
    let is_other = fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
    if is_other {
        return Err(Fault::Usage(format!(
            "{} is there and is no regular file: it would be replaced. Without --output the text goes to stdout",
            path.display()
        )));
    }
    // A process of this number may have died in the middle of it.
    let _ = fs::remove_file(&beside);
    let written = put(&beside, text).and_then(|()| fs::rename(&beside, path));
    written.map_err(|why| {
        // What was not renamed is of no use; it may not be there at all.
        let _ = fs::remove_file(&beside);
        let step = advice(&why, path, "name another file: dsn metrics --output FILE");
        let text = format!("{} can't be written: {step}", path.display());
        if is_wrong_name(&why) { Fault::Usage(text) } else { Fault::No(text) }
    })
}

fn put(beside: &Path, text: &str) -> Result<(), Error> {
    let mut options = fs::File::options();
    let mut file = options.write(true).create_new(true).mode(MODE).open(beside)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    // Whatever the umask of a unit says.
    file.set_permissions(fs::Permissions::from_mode(MODE))
}

/// A name in the same folder that no collector takes: it does not end like the other one, and two
/// commands at a time have different ones.
fn name_beside(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(format!(".{}.new", std::process::id()));
    Some(path.with_file_name(name))
}
