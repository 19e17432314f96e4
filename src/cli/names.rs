//! What the settings of `dsn run` are called.

/// What can be set: the one list of the names that options, the file and messages have. Tests see
/// that no option and no line of the file is missing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    NodeId,
    Listen,
    Bootstrap,
    Discover,
    Advertise,
    NetworkKey,
    Credentials,
    Data,
    Sync,
    Allow,
    Control,
    ControlGroup,
    Http,
    HttpToken,
    HttpHost,
    Tick,
    Alone,
    Config,
}

impl Setting {
    /// All of them.
    pub(super) const ALL: [Self; 18] = [
        Self::NodeId,
        Self::Listen,
        Self::Bootstrap,
        Self::Discover,
        Self::Advertise,
        Self::NetworkKey,
        Self::Credentials,
        Self::Data,
        Self::Sync,
        Self::Allow,
        Self::Control,
        Self::ControlGroup,
        Self::Http,
        Self::HttpToken,
        Self::HttpHost,
        Self::Tick,
        Self::Alone,
        Self::Config,
    ];

    /// As it stands in the file, and behind the `--` of the option.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NodeId => "node-id",
            Self::Listen => "listen",
            Self::Bootstrap => "bootstrap",
            Self::Discover => "discover",
            Self::Advertise => "advertise",
            Self::NetworkKey => "network-key",
            Self::Credentials => "credentials",
            Self::Data => "data",
            Self::Sync => "sync",
            Self::Allow => "allow",
            Self::Control => "control",
            Self::ControlGroup => "control-group",
            Self::Http => "http",
            Self::HttpToken => "http-token",
            Self::HttpHost => "http-host",
            Self::Tick => "tick",
            Self::Alone => "alone",
            Self::Config => "config",
        }
    }
}
