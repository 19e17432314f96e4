//! Flags, environment and file of `dsn run` to one checked configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dsn::advice::whole_path;
use dsn::config::{Config, Control, OWN_NODE, SyncRule};
use dsn::protocol::SEEDS_MAX;
use dsn::protocol::address::{Address, InvalidAddress};
use dsn::protocol::identity::NodeId;
use serde::Deserialize;

use super::args::{RunArgs, not_empty};
use super::names::Setting;
use super::wrong::ConfigError;
use super::{group, http, streams};

/// Shortest tick: below it a network talks about itself more than it works.
const TICK_MIN: Duration = Duration::from_millis(100);
/// Longest tick: above it a lost node is noticed after minutes only.
const TICK_MAX: Duration = Duration::from_secs(60);
/// Longest path of a Unix socket, bytes (unix(7): `sun_path` has 108 with its end).
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Longest time until a sync.
const SYNC_MAX: Duration = Duration::from_secs(3600);
/// Shortest one: below it a sync would cost more than it saves.
const SYNC_MIN: Duration = Duration::from_millis(10);
/// What stands for a data folder where the state is in memory alone.
const IN_MEMORY: &str = "none";

impl RunArgs {
    /// Without what is empty, such as `DSN_LISTEN=` in a file of variables: that is not given.
    fn without_empty(self) -> Self {
        Self {
            node_id: not_blank(self.node_id),
            listen: not_blank(self.listen),
            bootstrap: self.bootstrap.into_iter().filter(is_given).collect(),
            advertise: not_blank(self.advertise),
            network_key: not_empty(self.network_key),
            credentials: not_empty(self.credentials),
            data: not_empty(self.data),
            sync: not_blank(self.sync),
            allow: not_empty(self.allow),
            control_group: not_blank(self.control_group),
            http: not_blank(self.http),
            http_token: not_empty(self.http_token),
            http_host: self.http_host.into_iter().filter(is_given).collect(),
            tick: not_blank(self.tick),
            alone: self.alone,
            discover: self.discover,
            config: not_empty(self.config),
        }
    }
}

/// The configuration file. An unknown name is an error, as it is most likely a slip.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileArgs {
    node_id: Option<String>,
    listen: Option<http::Port>,
    bootstrap: Option<Bootstrap>,
    advertise: Option<String>,
    network_key: Option<PathBuf>,
    credentials: Option<PathBuf>,
    data: Option<PathBuf>,
    control: Option<PathBuf>,
    control_group: Option<String>,
    sync: Option<String>,
    allow: Option<PathBuf>,
    http: Option<http::Port>,
    http_token: Option<PathBuf>,
    http_host: Option<Bootstrap>,
    tick: Option<String>,
    alone: Option<bool>,
    discover: Option<bool>,
}

impl FileArgs {
    /// The same for the file: lists drop what is empty in them by themselves.
    fn without_empty(self) -> Self {
        Self {
            node_id: not_blank(self.node_id),
            listen: self.listen.filter(|port| !port.is_empty()),
            advertise: not_blank(self.advertise),
            network_key: not_empty(self.network_key),
            credentials: not_empty(self.credentials),
            data: not_empty(self.data),
            control: not_empty(self.control),
            control_group: not_blank(self.control_group),
            sync: not_blank(self.sync),
            allow: not_empty(self.allow),
            http: self.http.filter(|port| !port.is_empty()),
            http_token: not_empty(self.http_token),
            tick: not_blank(self.tick),
            ..self
        }
    }
}

fn not_blank(text: Option<String>) -> Option<String> {
    text.filter(is_given)
}

/// Whether there is anything in it.
#[expect(clippy::ptr_arg, reason = "it filters options and lists of strings")]
fn is_given(text: &String) -> bool {
    !text.trim().is_empty()
}

/// One address or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected an address, or a list of addresses, such as [\"10.0.0.1:8000\"]"
)]
enum Bootstrap {
    One(String),
    Several(Vec<String>),
}

/// Which settings came from the environment.
#[derive(Debug, Default)]
pub(super) struct Variables(Vec<Setting>);

impl Variables {
    /// Those of `dsn run`, as it was parsed.
    pub(super) fn of(matches: &clap::ArgMatches) -> Self {
        let Some(run) = matches.subcommand_matches("run") else { return Self::default() };
        let is_variable = |setting: &Setting| {
            let id = setting.name().replace('-', "_");
            run.value_source(&id) == Some(clap::parser::ValueSource::EnvVariable)
        };
        Self(Setting::ALL.into_iter().filter(is_variable).collect())
    }
}

/// Puts together flags (with what came from the environment), file and defaults, in this order.
///
/// `control` is the socket given on the command line or in the environment; `host_name` names a
/// node that got no name. A fault names what was given, where it was given; so does what comes with
/// the configuration, for faults that show when it is used.
pub(super) fn resolve(
    flags: RunArgs,
    control: Option<PathBuf>,
    variables: &Variables,
    host_name: &str,
) -> Result<(Config, Origin), ConfigError> {
    let flags = flags.without_empty();
    let given = given(&flags, not_empty(control.clone()).is_some());
    let mut origin = Origin { given, variables: variables.0.clone(), file: None };
    let file = match flags.config.clone() {
        Some(path) => {
            let (file, text) = read_file(&path, &origin.typed(Setting::Config))?;
            origin.file = Some((path, text));
            file.without_empty()
        }
        None => FileArgs::default(),
    };
    match put_together(flags, control, file, host_name) {
        Ok(config) => Ok((config, origin)),
        Err(fault) => Err(match fault.setting().and_then(|setting| origin.of(setting)) {
            Some(place) => ConfigError::At { place, fault: fault.into() },
            None => fault,
        }),
    }
}

/// Where each setting was given.
#[derive(Debug)]
pub(super) struct Origin {
    given: Vec<Setting>,
    variables: Vec<Setting>,
    file: Option<(PathBuf, String)>,
}

impl Origin {
    /// How whoever gave it knows it; nothing where nobody did.
    fn of(&self, setting: Setting) -> Option<String> {
        if self.given.contains(&setting) {
            return Some(self.typed(setting));
        }
        let (path, text) = self.file.as_ref()?;
        let line = line_of(text, setting.name())?;
        Some(format!("{}, line {line}: {}", path.display(), setting.name()))
    }

    fn typed(&self, setting: Setting) -> String {
        let name = setting.name();
        match self.variables.contains(&setting) {
            true => format!("DSN_{}", name.replace('-', "_").to_uppercase()),
            false => format!("--{name}"),
        }
    }

    /// What was given elsewhere than on the command line and may be told of by what is in it.
    pub(super) fn elsewhere(&self, config: &Config) -> Elsewhere {
        let shown = |path: &PathBuf| path.display().to_string();
        let control = match &config.control {
            Control::At(path) => Some(shown(path)),
            _ => None,
        };
        let http = config.http.as_ref();
        let all = [
            (Setting::NetworkKey, config.network_key.as_ref().map(shown)),
            (Setting::Credentials, Some(shown(&config.credentials))),
            (Setting::Data, config.data.as_ref().map(shown)),
            (Setting::Allow, config.allow.as_ref().map(shown)),
            (Setting::Control, control),
            (Setting::HttpToken, http.and_then(|http| http.token.as_ref()).map(shown)),
            (Setting::Http, http.map(|http| http.listen.to_string())),
            (Setting::Listen, Some(config.listen.to_string())),
        ];
        let of = |(setting, text): (Setting, Option<String>)| {
            let place = self.of(setting).filter(|place| !place.starts_with("--"));
            Some((place, text?))
        };
        Elsewhere(all.into_iter().filter_map(of).collect())
    }
}

/// What settings are, each with where it was given, if that was not on the command line: what was
/// typed is seen, and what nobody gave was given nowhere.
pub(super) struct Elsewhere(Vec<(Option<String>, String)>);

impl Elsewhere {
    /// The same text, and where what it is about was given.
    pub(super) fn explain(&self, text: String) -> String {
        let is_about = |given: &String| {
            let given = [given.clone(), whole_path(Path::new(given)).display().to_string()];
            text.split_whitespace().map(|word| word.trim_end_matches([':', '.', ','])).any(|word| {
                let behind = |given: &String| word.strip_prefix(given.as_str());
                given.iter().filter_map(behind).any(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        // Of a folder and what is in it the latter is meant.
        let about = self.0.iter().filter(|(_, given)| is_about(given));
        let about = about.max_by_key(|(_, given)| whole_path(Path::new(given)).as_os_str().len());
        match about {
            Some((Some(place), _)) => format!("{text}. It was given by {place}"),
            _ => text,
        }
    }
}

/// The settings that flags and environment give. It names all fields, so that none is forgotten.
fn given(flags: &RunArgs, has_control: bool) -> Vec<Setting> {
    let RunArgs {
        node_id,
        listen,
        bootstrap,
        discover,
        advertise,
        network_key,
        credentials,
        data,
        sync,
        allow,
        control_group,
        http,
        http_token,
        http_host,
        tick,
        alone,
        config,
    } = flags;
    let all = [
        (Setting::Control, has_control),
        (Setting::NodeId, node_id.is_some()),
        (Setting::Listen, listen.is_some()),
        (Setting::Bootstrap, !bootstrap.is_empty()),
        (Setting::Discover, *discover),
        (Setting::Advertise, advertise.is_some()),
        (Setting::NetworkKey, network_key.is_some()),
        (Setting::Credentials, credentials.is_some()),
        (Setting::Data, data.is_some()),
        (Setting::Sync, sync.is_some()),
        (Setting::Allow, allow.is_some()),
        (Setting::ControlGroup, control_group.is_some()),
        (Setting::Http, http.is_some()),
        (Setting::HttpToken, http_token.is_some()),
        (Setting::HttpHost, !http_host.is_empty()),
        (Setting::Tick, tick.is_some()),
        (Setting::Alone, *alone),
        (Setting::Config, config.is_some()),
    ];
    all.into_iter().filter(|(_, is_given)| *is_given).map(|(setting, _)| setting).collect()
}

/// The line of a setting in the file, from 1. It was parsed: names stand before `=`.
fn line_of(text: &str, setting: &str) -> Option<usize> {
    let is_it = |line: &str| {
        let name = line.split_once('=').map(|(name, _)| name.trim().trim_matches(['"', '\'']));
        name == Some(setting)
    };
    text.lines().position(is_it).map(|at| at + 1)
}

fn put_together(
    flags: RunArgs,
    control: Option<PathBuf>,
    file: FileArgs,
    host_name: &str,
) -> Result<Config, ConfigError> {
    let given = flags.node_id.or(file.node_id);
    let is_named_by_host = given.is_none();
    let node_id = match given {
        Some(text) => NodeId::new(&text).map_err(ConfigError::NodeId)?,
        None => named_by_host(host_name)?,
    };
    if node_id.as_str() == OWN_NODE {
        return Err(ConfigError::OwnName);
    }
    let mut config = Config { is_named_by_host, ..Config::new(node_id) };
    if let Some(text) = flags.listen.or(file.listen.map(http::Port::text)) {
        config.listen = text.trim().parse().map_err(ConfigError::Listen)?;
    }
    let bootstrap = words(flags.bootstrap, file.bootstrap);
    if bootstrap.len() > SEEDS_MAX {
        return Err(ConfigError::TooManyBootstraps { count: bootstrap.len() });
    }
    let wrong = |setting| move |fault| ConfigError::Address { setting, fault };
    config.bootstrap = bootstrap
        .iter()
        .map(|text| seed(text))
        .collect::<Result<_, _>>()
        .map_err(wrong(Setting::Bootstrap))?;
    if let Some(text) = flags.advertise.or(file.advertise) {
        config.advertise = Some(advertised(text.trim()).map_err(wrong(Setting::Advertise))?);
    }
    config.credentials = flags.credentials.or(file.credentials).unwrap_or(config.credentials);
    config.network_key = flags.network_key.or(file.network_key);
    if let Some(data) = flags.data.or(file.data) {
        config.data = (data != Path::new(IN_MEMORY)).then_some(data);
    }
    if let Some(path) = not_empty(control).or(file.control) {
        config.control = Control::At(path);
    }
    let socket = config.control_socket().ok_or(ConfigError::NoSocket)?;
    check_socket_path(&socket)?;
    let control_group = flags.control_group.or(file.control_group);
    config.control_group = control_group.as_deref().map(group::number).transpose()?;
    config.allow = flags.allow.or(file.allow);
    if let Some(text) = flags.sync.or(file.sync) {
        config.sync = parse_sync(&text)?;
    }
    config.http = http::resolve(
        flags.http.or(file.http.map(http::Port::text)),
        flags.http_token.or(file.http_token),
        words(flags.http_host, file.http_host),
    )?;
    config.discover = flags.discover || file.discover.unwrap_or(false);
    config.alone = flags.alone || file.alone.unwrap_or(false);
    if let Some(text) = flags.tick.or(file.tick) {
        config.tick = parse_tick(&text)?;
    }
    Ok(config)
}

/// A list of words as flags and environment have it, or else the file. Blanks between them are as
/// good as commas: that is how lists are typed.
fn words(flags: Vec<String>, file: Option<Bootstrap>) -> Vec<String> {
    let texts = match file {
        _ if !flags.is_empty() => flags,
        None => Vec::new(),
        Some(Bootstrap::One(text)) => vec![text],
        Some(Bootstrap::Several(texts)) => texts,
    };
    let words = texts.iter().flat_map(|text| text.split(|c: char| c == ',' || c.is_whitespace()));
    words.filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// `localhost` is what every host is called that was given no name: two of them would clash.
fn named_by_host(name: &str) -> Result<NodeId, ConfigError> {
    let fault = || ConfigError::HostName { name: name.to_owned() };
    let node_id = NodeId::new(name).map_err(|_| fault())?;
    let first = name.split('.').next().unwrap_or_default();
    if first.eq_ignore_ascii_case("localhost") { Err(fault()) } else { Ok(node_id) }
}

fn read_file(path: &Path, named: &str) -> Result<(FileArgs, String), ConfigError> {
    let named = || named.to_owned();
    let bytes = streams::read_named(path, FILE_BYTES_MAX)
        .map_err(|fault| ConfigError::File { named: named(), fault })?;
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::NoText { path: path.into() })?;
    // Some editors put a mark before a text.
    let text = text.trim_start_matches('\u{feff}');
    let file = toml::from_str(text).map_err(|fault| ConfigError::Toml {
        path: path.into(),
        fault: fault.to_string().trim_end().to_owned(),
    })?;
    Ok((file, text.to_owned()))
}

/// A bootstrap address. A link-local one can't be dialled without its zone.
fn seed(text: &str) -> Result<Address, InvalidAddress> {
    let address = Address::on_this_host(text)?;
    if address.is_link_local() && address.zone().is_none() {
        let why = "a link-local address needs the name of its interface: [fe80::1%eth0]:8000";
        return Err(InvalidAddress { text: text.to_owned(), why });
    }
    Ok(address)
}

/// An address for others.
fn advertised(text: &str) -> Result<Address, InvalidAddress> {
    let address = Address::new(text)?;
    if address.is_link_local() {
        let why = "a link-local address means nothing on other links: give another one, or none";
        return Err(InvalidAddress { text: text.to_owned(), why });
    }
    Ok(address)
}

fn parse_tick(text: &str) -> Result<Duration, ConfigError> {
    let tick =
        humantime::parse_duration(text).map_err(|_| ConfigError::Tick { text: text.to_owned() })?;
    if (TICK_MIN..=TICK_MAX).contains(&tick) {
        Ok(tick)
    } else {
        Err(ConfigError::Tick { text: text.to_owned() })
    }
}

fn parse_sync(text: &str) -> Result<SyncRule, ConfigError> {
    match text {
        "always" => Ok(SyncRule::Always),
        "shared" => Ok(SyncRule::Shared),
        _ => match humantime::parse_duration(text) {
            Ok(sync) if (SYNC_MIN..=SYNC_MAX).contains(&sync) => Ok(SyncRule::Within(sync)),
            _ => Err(ConfigError::Sync { text: text.to_owned() }),
        },
    }
}

fn check_socket_path(path: &Path) -> Result<(), ConfigError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ConfigError::SocketPath { path: path.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(flags: RunArgs, control: Option<PathBuf>) -> Result<Config, ConfigError> {
        resolve(flags, control, &Variables::default(), "pi").map(|(config, _)| config)
    }

    fn with_file(text: &str) -> (tempfile::TempDir, RunArgs) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dsn.toml");
        std::fs::write(&path, text).unwrap();
        (folder, RunArgs { config: Some(path), ..RunArgs::default() })
    }

    #[test]
    fn defaults_are_what_readme_says() {
        let config = told(RunArgs::default(), None).unwrap();
        assert_eq!(config.node_id.as_str(), "pi");
        assert_eq!(config.listen.to_string(), "[::]:8000");
        assert_eq!(config.network_key_file(), Path::new("credentials/network.key"));
        assert_eq!(config.control_socket().unwrap(), Path::new("data/pi/control.sock"));
        assert_eq!(config.tick, Duration::from_secs(3));
        assert_eq!(config.sync, SyncRule::Always);
    }

    #[test]
    fn a_flag_overrules_the_file_and_the_file_the_default() {
        let (_folder, mut flags) = with_file(
            "node-id = \"a\"\nlisten = \"127.0.0.1:1\"\nbootstrap = [\"x:1\", \"y:2\"]\ntick = \"1s\"\ndata = \"/d\"",
        );
        flags.listen = Some(":9".into());
        let config = told(flags, Some("/c".into())).unwrap();
        assert_eq!(config.node_id.as_str(), "a");
        assert_eq!(config.listen.to_string(), "[::]:9");
        assert_eq!(config.bootstrap.len(), 2);
        let socket = config.control_socket().unwrap();
        assert_eq!((config.tick, &*socket), (Duration::from_secs(1), Path::new("/c")));
        let (_folder, flags) = with_file("bootstrap = \"x:1\"");
        assert_eq!(told(flags, None).unwrap().bootstrap.len(), 1);
    }

    #[test]
    fn a_list_of_addresses_may_have_blanks() {
        let addresses = |flags| {
            let config = told(flags, None).unwrap();
            config.bootstrap.iter().map(Address::to_string).collect::<Vec<_>>().join(" ")
        };
        for list in [&["a:1 b:2"][..], &["a:1, b:2"], &["a:1,b:2"], &[" a:1", "", "b:2,"]] {
            let bootstrap = list.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(addresses(RunArgs { bootstrap, ..RunArgs::default() }), "a:1 b:2");
        }
        let (_folder, flags) = with_file("bootstrap = \"a:1 b:2,[fe80::1%eth0]:3\"");
        assert_eq!(addresses(flags), "a:1 b:2 [fe80::1%eth0]:3");
    }

    #[test]
    fn the_page_is_for_this_host_where_only_a_port_is_given() {
        let http = |flags| told(flags, None).unwrap().http.unwrap();
        for (text, listen) in [
            ("8001", "127.0.0.1:8001"),
            (":0", "127.0.0.1:0"),
            ("localhost:8001", "127.0.0.1:8001"),
            (" [::1]:1", "[::1]:1"),
            ("0.0.0.0:1", "0.0.0.0:1"),
        ] {
            let flags = RunArgs { http: Some(text.into()), ..RunArgs::default() };
            assert_eq!(http(flags).listen.to_string(), listen);
        }
        let (_folder, flags) =
            with_file("http = 8001\nhttp-token = \"/t\"\nhttp-host = [\"a.example\", \"b\"]");
        let http = http(flags);
        assert_eq!(http.listen.to_string(), "127.0.0.1:8001");
        assert_eq!(http.token.as_deref(), Some(Path::new("/t")));
        assert_eq!(http.hosts, ["a.example", "b"]);
        assert_eq!(told(RunArgs::default(), None).unwrap().http, None);
    }

    #[test]
    fn what_is_empty_is_not_given() {
        let (_folder, mut flags) = with_file("listen = \"127.0.0.1:1\"");
        let empty = || Some(String::new());
        (flags.listen, flags.node_id, flags.tick) = (empty(), empty(), empty());
        (flags.sync, flags.advertise, flags.http) = (empty(), empty(), empty());
        (flags.data, flags.allow) = (Some(PathBuf::new()), Some(PathBuf::new()));
        (flags.network_key, flags.credentials) = (Some(PathBuf::new()), Some(PathBuf::new()));
        flags.http_token = Some(PathBuf::new());
        flags.http_host = vec![String::new()];
        flags.bootstrap = vec![String::new()];
        let config = told(flags, Some(PathBuf::new())).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:1");
        assert_eq!(config.network_key_file(), Path::new("credentials/network.key"));
        assert_eq!(config.control_socket().unwrap(), Path::new("data/pi/control.sock"));
        assert_eq!((config.advertise, config.allow), (None, None));
        // Nor is it in a file.
        let names = ["node-id", "listen", "advertise", "network-key", "credentials", "data"];
        let names = names.iter().chain(&["control", "control-group", "sync", "allow", "http"]);
        let names = names.chain(&["http-token", "tick", "bootstrap", "http-host"]);
        let text: String = names.map(|name| format!("{name} = \"\"\n")).collect();
        let (_folder, flags) = with_file(&text);
        let with = |flags| format!("{:?}", told(flags, None).unwrap());
        assert_eq!(with(flags), with(RunArgs::default()));
    }

    /// One that is missing in the list would be told without where it was given.
    #[test]
    fn all_settings_are_on_the_one_list() {
        let sorted = |mut names: Vec<String>| {
            names.sort_unstable();
            names
        };
        let all = Setting::ALL.map(|setting| setting.name().to_owned()).to_vec();
        let all = sorted(all);
        let definitions = super::super::args::Arguments::definitions();
        let run = definitions.find_subcommand("run").unwrap();
        let options = run.get_arguments().filter_map(|option| option.get_env());
        let variables = options.map(|name| name.to_str().unwrap()[4..].replace('_', "-"));
        assert_eq!(sorted(variables.map(|name| name.to_lowercase()).collect()), all);
        let options = run.get_arguments().filter(|option| option.get_env().is_some());
        let options = options.map(|option| option.get_long().unwrap().to_owned());
        assert_eq!(sorted(options.collect()), all);
        // The parser names all that it would take; the file itself does not name a file.
        let fault = toml::from_str::<FileArgs>("none = 1").unwrap_err().to_string();
        let (_, expected) = fault.split_once("expected one of").unwrap();
        let names = expected.split('`').skip(1).step_by(2).map(str::to_owned);
        assert_eq!(sorted(names.chain(["config".to_owned()]).collect()), all);
        let path = || Some(PathBuf::from("x"));
        let text = || Some("x".to_owned());
        let every = RunArgs {
            node_id: text(),
            listen: text(),
            bootstrap: vec!["x".into()],
            discover: true,
            advertise: text(),
            network_key: path(),
            credentials: path(),
            data: path(),
            sync: text(),
            allow: path(),
            control_group: text(),
            http: text(),
            http_token: path(),
            http_host: vec!["x".into()],
            tick: text(),
            alone: true,
            config: path(),
        };
        let given = given(&every, true).into_iter().map(|setting| setting.name().to_owned());
        assert_eq!(sorted(given.collect()), all);
        assert_eq!(super::given(&RunArgs::default(), false), []);
    }

    #[test]
    fn each_fault_names_what_is_wrong() {
        let fault = |change: fn(&mut RunArgs)| {
            let mut flags = RunArgs::default();
            change(&mut flags);
            told(flags, None).unwrap_err().to_string()
        };
        assert!(fault(|f| f.node_id = Some("../x".into())).contains("../x"));
        assert!(fault(|f| f.listen = Some("nowhere".into())).contains("nowhere"));
        assert!(fault(|f| f.tick = Some("1ms".into())).contains("100ms"));
        for sync in ["never", "0s", "2h", "5"] {
            let mut flags = RunArgs { sync: Some(sync.into()), ..RunArgs::default() };
            let said = told(flags.clone(), None).unwrap_err().to_string();
            assert!(said.contains(sync) && said.contains("shared"), "{said}");
            flags.sync = Some("5s".into());
            let config = told(flags, None).unwrap();
            assert_eq!(config.sync, SyncRule::Within(Duration::from_secs(5)));
        }
        assert!(fault(|f| f.bootstrap = vec!["x".into()]).contains("bootstrap"));
        assert!(fault(|f| f.bootstrap = vec!["http://x:1".into()]).contains("leave out http://"));
        assert!(fault(|f| f.bootstrap = vec!["[fe80::1]:1".into()]).contains("%eth0"));
        assert!(fault(|f| f.advertise = Some("[fe80::1%eth0]:1".into())).contains("another host"));
        assert!(fault(|f| f.advertise = Some("[fe80::1]:1".into())).contains("other links"));
        assert!(fault(|f| f.listen = Some("[fe80::1]:1".into())).contains("%eth0"));
        assert!(fault(|f| f.data = Some("d".repeat(200).into())).contains("--control"));
        assert!(fault(|f| f.config = Some("/none".into())).contains("/none"));
        assert!(fault(|f| f.http = Some("kitchen:1".into())).contains("http: "));
        assert!(fault(|f| f.http_token = Some("t".into())).contains("http-token: "));
        assert!(fault(|f| f.http_host = vec!["x".into()]).contains("http-host: "));
        assert!(
            resolve(RunArgs::default(), None, &Variables::default(), "_")
                .unwrap_err()
                .to_string()
                .contains("--node-id")
        );
        // Who looks after a service has to know where to mend it.
        for text in [
            "listen = \"x\"",
            "tick = \"1\"",
            "data = \"none\"",
            "http-host = \"x\"",
            "sync = \"1\"",
        ] {
            let (folder, mut flags) = with_file(text);
            let said = told(flags.clone(), None).unwrap_err().to_string();
            let file = folder.path().join("dsn.toml");
            assert!(said.starts_with(&format!("{}, line 1: ", file.display())), "{said}");
            flags.advertise = Some("y".into());
            flags.listen = Some("y".into());
            let said = told(flags, None).unwrap_err().to_string();
            assert!(said.starts_with("--") && !said.contains("line"), "{said}");
        }
        for (text, named) in [
            ("listne = \"x\"", "listne"),
            ("bootstrap = 3", "list of addresses"),
            (&*"#".repeat(70_000), "65536"),
        ] {
            let (_folder, flags) = with_file(text);
            let fault = told(flags, None).unwrap_err().to_string();
            assert!(fault.contains(named), "{fault}");
        }
    }
}
