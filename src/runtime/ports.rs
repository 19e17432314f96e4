//! The ports of a node: that for other nodes, and that of its web page, where it has one.

use std::sync::{Arc, OnceLock};

use super::error::StartError;
use super::random_number;
use crate::config::{Config, Http};
use crate::credentials;
use crate::driver::Driver;
use crate::protocol::BODY_BYTES_MAX;
use crate::protocol::fault::Fault;
use crate::protocol::wire::Kind;
use crate::server::{Audience, Handler, OnFault, Response, Server, Serves};
use crate::web::{self, Web};

/// Threads that a node has from the beginning, or with its first change: 3 that send, journal,
/// ticker, gate, 4 workers, 5 of tiny_http, one for the control socket, one for the log.
const THREADS_MIN: usize = 17;
/// The same of the web page: gate, 2 workers, 5 of tiny_http.
const WEB_THREADS_MIN: usize = 8;

/// All that this node has from the beginning, with the one that looks for others.
pub(super) fn threads_min(config: &Config) -> usize {
    let web = config.http.as_ref().map_or(0, |_| WEB_THREADS_MIN);
    THREADS_MIN + web + usize::from(config.discover)
}

/// What is served to other nodes.
const SERVES: Serves = Serves {
    name: "dsn",
    flag: "--listen",
    paths: &[
        Kind::Hello.path(),
        Kind::Peers.path(),
        Kind::Update.path(),
        Kind::Ping.path(),
        Kind::Data.path(),
    ],
    methods: &["POST"],
    body_bytes_max: BODY_BYTES_MAX,
    audience: Audience::Nodes,
};

/// The driver, as soon as there is one: until then a port answers 503.
type Later = Arc<OnceLock<Arc<Driver>>>;

/// All that is open.
pub(super) struct Ports {
    pub(super) server: Server,
    pub(super) web: Option<Server>,
    /// What is to be known of the file of the token.
    pub(super) notice: Option<Fault>,
}

impl Ports {
    /// Opens them.
    pub(super) fn open(config: &Config, driver: &Later) -> Result<Self, StartError> {
        let server = start_server(config, driver)?;
        let web = config.http.as_ref().map(|http| start_web(http, driver)).transpose()?;
        let (web, notice) = web.unzip();
        Ok(Self { server, web, notice: notice.flatten() })
    }
}

fn start_server(config: &Config, driver: &Later) -> Result<Server, StartError> {
    let on_fault = fault_teller(driver);
    let driver = Arc::clone(driver);
    let handler: Handler = Arc::new(move |request| match driver.get() {
        Some(driver) => driver.on_http(request),
        None => Response { status: 503, ..Response::default() },
    });
    Ok(Server::start(&config.listen, SERVES, handler, on_fault)?)
}

/// The port of the web page, with what is to be known of the file of its token.
fn start_web(http: &Http, driver: &Later) -> Result<(Server, Option<Fault>), StartError> {
    if http.token.is_none() && !http.listen.is_loopback() {
        return Err(StartError::NoToken { listen: http.listen.clone() });
    }
    let token = http.token.as_deref().map(credentials::load_token).transpose()?;
    let notice = http.token.as_deref().map(credentials::who_else_reads).transpose()?.flatten();
    let web = Web::new(http, token.as_ref().map(|token| token.as_str()), random_number()?);
    let on_fault = fault_teller(driver);
    let driver = Arc::clone(driver);
    let handler: Handler = Arc::new(move |request| match driver.get() {
        Some(driver) => web.answer(driver, &request),
        None => Response { status: 503, ..Response::default() },
    });
    let server = Server::start(&http.listen, web::SERVES, handler, on_fault)?;
    log::info!("the page is at http://{}/", server.local_address());
    Ok((server, notice))
}

/// Who is told of a thread of a port that ended.
fn fault_teller(driver: &Later) -> OnFault {
    let owner = Arc::clone(driver);
    Arc::new(move |why: &str| match owner.get() {
        Some(driver) => driver.broke(why),
        None => log::error!("BUG: {why}"),
    })
}
