//! The parts of the page, as they stand in the program.

use crate::protocol::hash::Sha256;
use crate::protocol::identity::hex;
use crate::server::Response;

/// How many digits of the hash of a file name its version.
const TAG_DIGITS: usize = 16;

/// A part of the page.
pub(super) struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// Names this very file for browsers that have it.
    pub(super) tag: String,
}

/// All parts.
pub(super) struct Files(Vec<File>);

impl Files {
    pub(super) fn new() -> Self {
        let all: [(_, _, &[u8]); 4] = [
            ("/", "text/html; charset=utf-8", include_bytes!("page.html")),
            ("/page.css", "text/css; charset=utf-8", include_bytes!("page.css")),
            ("/page.js", "text/javascript; charset=utf-8", include_bytes!("page.js")),
            ("/icon.svg", "image/svg+xml", include_bytes!("icon.svg")),
        ];
        let file = |(path, kind, bytes): (_, _, &'static [u8])| {
            let mut name = hex(&Sha256::new(bytes).finish());
            name.truncate(TAG_DIGITS);
            File { path, kind, bytes, tag: format!("\"{name}\"") }
        };
        Self(all.map(file).into())
    }

    pub(super) fn find(&self, path: &str) -> Option<&File> {
        self.0.iter().find(|file| file.path == path)
    }
}

impl File {
    pub(super) fn response(&self) -> Response {
        let headers = vec![("Content-Type", self.kind.into())];
        Response { status: 200, headers, body: self.bytes.to_vec(), ..Response::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser gets that opens the page, without what it reads then.
    #[test]
    fn the_page_has_at_most_40_kb() {
        let bytes: usize = Files::new().0.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes <= 40_000, "{bytes} bytes");
    }
}
