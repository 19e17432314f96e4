//! The number of a group, from its name.

use std::io::Read;
use std::path::Path;

use super::wrong::ConfigError;

/// Where the groups of the host are. Those of a directory service are not: they have numbers.
const GROUPS: &str = "/etc/group";
/// Largest file of groups, bytes.
const GROUPS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// No group: chown(2) takes it for "as it is".
const NO_GROUP: u32 = u32::MAX;

/// Takes the name of a group, or its number.
pub(super) fn number(text: &str) -> Result<u32, ConfigError> {
    number_in(text, Path::new(GROUPS))
}

fn number_in(text: &str, groups: &Path) -> Result<u32, ConfigError> {
    if let Ok(number) = text.parse() {
        return if number == NO_GROUP { Err(unknown(text, groups)) } else { Ok(number) };
    }
    let mut bytes = Vec::new();
    std::fs::File::open(groups)
        .and_then(|file| file.take(GROUPS_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|why| ConfigError::Groups { path: groups.into(), name: text.into(), why })?;
    let lines =
        bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let of_name = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
    };
    lines.into_iter().find_map(of_name).ok_or_else(|| unknown(text, groups))
}

fn unknown(text: &str, groups: &Path) -> ConfigError {
    ConfigError::Group { name: text.to_owned(), groups: groups.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_or_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let groups = folder.path().join("group");
        let number_in = |text| number_in(text, &groups);
        assert!(number_in("sensors").unwrap_err().to_string().contains("can't be read"));
        std::fs::write(&groups, "root:x:0:\n#x\n\nsensors:x:1042:pi,kim\nbad:x\n").unwrap();
        assert_eq!(number_in("sensors").unwrap(), 1042);
        assert_eq!(number_in("1043").unwrap(), 1043);
        for none in ["sensor", "", "bad", "4294967295", "-1", "x"] {
            let said = number_in(none).unwrap_err().to_string();
            assert!(said.contains("no group") && said.contains("groupadd"), "{said}");
        }
    }
}
