//! Finding others on the local network, where the program was built for that.

use std::net::SocketAddr;
use std::sync::Arc;

use super::error::StartError;
use crate::config::Config;
#[cfg(feature = "discover")]
use crate::discovery::Discovery;
use crate::driver::Driver;

/// What looks for others, where that is wanted. Dropping it takes back what was announced.
#[derive(Default)]
pub(super) struct Discovering {
    #[cfg(feature = "discover")]
    _runs: Option<Discovery>,
}

impl Discovering {
    /// Whether others could find this node, where they are to.
    pub(super) fn check(config: &Config) -> Result<(), StartError> {
        if config.discover && !cfg!(feature = "discover") {
            return Err(StartError::NoDiscovery);
        }
        if config.discover && config.listen.is_loopback() {
            return Err(StartError::DiscoverNowhere { listen: config.listen.clone() });
        }
        Ok(())
    }

    /// Begins to look for them.
    #[cfg(feature = "discover")]
    pub(super) fn start(
        config: &Config,
        at: SocketAddr,
        driver: &Arc<Driver>,
    ) -> Result<Self, StartError> {
        let start = || Discovery::start(at, driver).map_err(StartError::NoThread);
        Ok(Self { _runs: config.discover.then(start).transpose()? })
    }

    /// There is nothing to begin.
    #[cfg(not(feature = "discover"))]
    pub(super) fn start(_: &Config, _: SocketAddr, _: &Arc<Driver>) -> Result<Self, StartError> {
        Ok(Self::default())
    }
}
