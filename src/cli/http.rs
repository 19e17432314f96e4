//! What `dsn run` is told of its web page.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use dsn::Http;
use dsn::server::{InvalidListen, Listen};
use serde::Deserialize;

use super::names::Setting;
use super::wrong::ConfigError;

/// Most names of this host.
const HOSTS_MAX: usize = 16;

/// Where, in the file: a port may stand there as a number.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected an address or a port, such as \"10.0.0.1:8000\" or 8000")]
pub(super) enum Port {
    Number(u16),
    Text(String),
}

impl Port {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.trim().is_empty())
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Number(port) => port.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// Why there can be no page as it is wanted.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The address is none.
    Listen(InvalidListen),
    /// A setting of the page, and no page.
    NoPage {
        /// Which.
        setting: Setting,
    },
    /// This can't be what a host is called.
    Host {
        /// What was given.
        text: String,
    },
    /// More names than anybody needs.
    TooManyHosts {
        /// How many.
        count: usize,
    },
}

impl Wrong {
    /// Of which setting it is the fault.
    pub(super) fn setting(&self) -> Setting {
        match self {
            Self::Listen(_) => Setting::Http,
            Self::NoPage { setting } => *setting,
            Self::Host { .. } | Self::TooManyHosts { .. } => Setting::HttpHost,
        }
    }
}

impl From<Wrong> for ConfigError {
    fn from(why: Wrong) -> Self {
        Self::Http(why)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(fault) => fault.fmt(formatter),
            Self::NoPage { .. } => formatter.write_str(
                "it is for the web page, and there is none; add --http 8001, or leave it out",
            ),
            Self::Host { text } => write!(
                formatter,
                "{text:?} is not the name of a host; give it without http:// and without a port, such as \
                 garden.example"
            ),
            Self::TooManyHosts { count } => {
                write!(formatter, "{count} names are given, the limit is {HOSTS_MAX}")
            }
        }
    }
}

/// Puts together what was said of the page; nothing where none is wanted.
pub(super) fn resolve(
    listen: Option<String>,
    token: Option<PathBuf>,
    hosts: Vec<String>,
) -> Result<Option<Http>, Wrong> {
    let Some(listen) = listen else {
        let rest = [(Setting::HttpToken, token.is_some()), (Setting::HttpHost, !hosts.is_empty())];
        return match rest.into_iter().find(|(_, is_given)| *is_given) {
            Some((setting, _)) => Err(Wrong::NoPage { setting }),
            None => Ok(None),
        };
    };
    if hosts.len() > HOSTS_MAX {
        return Err(Wrong::TooManyHosts { count: hosts.len() });
    }
    let is_name = |text: &String| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    if let Some(text) = hosts.iter().find(|text| !is_name(text)) {
        return Err(Wrong::Host { text: text.clone() });
    }
    Ok(Some(Http { listen: parse_listen(listen.trim())?, token, hosts }))
}

/// A port alone is one for this host alone.
fn parse_listen(text: &str) -> Result<Listen, Wrong> {
    let port = text.strip_prefix("localhost:").or(text.strip_prefix(':')).unwrap_or(text);
    match port.parse() {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()),
        Err(_) => text.parse().map_err(Wrong::Listen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_names() {
        let with = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            resolve(Some("1".into()), None, hosts).map_err(|why| why.to_string())
        };
        assert!(with(&["garden.example", "garden_2"]).is_ok());
        for wrong in ["http://garden", "garden:80", "a b", "\u{e4}"] {
            assert!(with(&[wrong]).unwrap_err().contains("name of a host"), "{wrong}");
        }
        assert!(with(&["a"; 17]).unwrap_err().contains("limit is 16"));
    }
}
