//! The web page as people see it: in a real browser, over real nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::browser::{Browser, ENTER};
use crate::support::process::{Process, run_with};
use crate::support::{Member, Place4Nodes, id, write_private};
use crate::web::address_of_page;

/// Where the pictures of the page are kept.
fn pictures() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A node with a page, at this address.
fn served(place: &Place4Nodes, node_id: &str, http: &str, more: &[&str]) -> (Process, String) {
    let mut command = place.run_command(node_id, &[]);
    command.args(["--http", http]).args(more);
    let node = place.spawn(command, node_id);
    let address = address_of_page(&node);
    (node, format!("http://{address}"))
}

/// A JavaScript expression for the body of the table that a node is in.
fn body_of(node_id: &str) -> String {
    format!(
        "[...document.querySelectorAll('#all > table > tbody')].find((it) => \
         it.querySelector('tr.row bdi').textContent === '{node_id}')"
    )
}

fn text_of(node_id: &str) -> String {
    format!("({}?.innerText ?? '')", body_of(node_id))
}

fn shows(browser: &Browser, node_id: &str, what: &str) {
    let text = text_of(node_id);
    browser.wait(&format!("{node_id} shows {what}"), &format!("{text}.includes({})", json!(what)));
}

/// Puts the focus on the button of a node, as the Tab key would.
fn focus(browser: &Browser, node_id: &str) {
    browser.run(&format!("{}.querySelector('button').focus()", body_of(node_id)));
}

fn is_open(browser: &Browser, node_id: &str) -> Json {
    let button = format!("{}.querySelector('button')", body_of(node_id));
    browser.run(&format!("return {button}.getAttribute('aria-expanded')"))
}

fn is_quiet(browser: &Browser, origin: &str) {
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    let asked = browser.requests();
    assert!(asked.iter().any(|url| url.starts_with(origin)), "{asked:?}");
    let ours = |url: &String| url.starts_with(&format!("{origin}/")) || url.starts_with("data:");
    let foreign: Vec<&String> = asked.iter().filter(|url| !ours(url)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

/// The same page on a desk and in a hand, by day and by night.
fn take_pictures(browser: &Browser, name: &str) {
    for (width, height, scale) in [(1280, 640, 1), (390, 844, 2)] {
        browser.resize(width, height, scale);
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            browser.wait("nothing sticks out at the side", fits);
            browser.picture(&pictures().join(format!("{name}-{width}-{scheme}.png")));
        }
    }
    browser.resize(1280, 640, 1);
    browser.prefer("light");
}

#[test]
fn a_change_and_a_death_are_seen_without_a_reload() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (kitchen, origin) = served(&place, "kitchen", "127.0.0.1:0", &[]);
    let garden = place.spawn_at("garden", "127.0.0.1:0", &[&kitchen.address]);
    let shed = place.spawn_at("shed", "127.0.0.1:0", &[&kitchen.address]);
    garden.told(&["set", "temperature=17.5", "door=open", "battery=0.91", "plan=water at six"]);
    shed.told(&["set", "rain=0.2", "lamp=off"]);
    kitchen.told(&["-t", "60s", "wait", "peers", "2"]);
    browser.resize(1280, 640, 1);
    browser.open(&format!("{origin}/"));
    for node_id in ["kitchen", "garden", "shed"] {
        shows(&browser, node_id, "alive");
    }
    // What is asserted below is about this very page.
    browser.run("window.marked = true");
    browser.wait("the round trip is known", &format!("/\\d ms/.test({})", text_of("garden")));

    focus(&browser, "garden");
    assert_eq!(is_open(&browser, "garden"), "false");
    browser.press(ENTER);
    assert_eq!(is_open(&browser, "garden"), "true");
    shows(&browser, "garden", "water at six");
    assert_eq!(browser.run("return location.hash"), "#node=garden");

    let began = Instant::now();
    garden.told(&["set", "door", "closed"]);
    shows(&browser, "garden", "closed");
    // A second, and the time that a change takes; much is left to a host that has no time.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for reading in ["17.9", "18.4", "18.1", "18.8", "19.0", "18.6", "18.9"] {
        garden.told(&["set", "temperature", reading]);
        shows(&browser, "garden", reading);
    }
    let label = "document.querySelector('svg.spark')?.getAttribute('aria-label') ?? ''";
    browser.wait("there is a sparkline", &format!("{label}.includes('from 17.5 to 19')"));

    shed.kill();
    shows(&browser, "shed", "lost");
    let news = "document.getElementById('news').textContent";
    browser.wait("it is said aloud", &format!("{news}.includes('shed is lost')"));
    browser.wait("it is counted", "document.title.includes('(1 lost)')");
    browser.run("document.activeElement.blur()");
    take_pictures(&browser, "network");

    let spoken = browser.spoken();
    let says =
        |role: &str, name: &str| spoken.iter().any(|(is, said)| is == role && said.contains(name));
    assert!(says("table", "Nodes of the network"), "{spoken:?}");
    assert!(says("columnheader", "Status") && says("rowheader", "garden"), "{spoken:?}");
    assert!(says("button", "garden") && says("searchbox", "Filter nodes"), "{spoken:?}");
    assert!(says("cell", "lost") && says("image", "values since"), "{spoken:?}");

    let _shed = place.spawn_at("shed", "127.0.0.1:0", &[&kitchen.address]);
    shows(&browser, "shed", "alive");
    assert_eq!(browser.run("return window.marked"), true, "it was not loaded again");
    is_quiet(&browser, &origin);
}

/// What changes as time passes, and what is told of it.
#[test]
fn ages_and_times_left_go_on_and_who_comes_is_said_aloud() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &[]);
    node.told(&["set", "--ttl", "90s", "alive=1"]);
    browser.resize(1280, 640, 1);
    browser.open(&format!("{origin}/#node=kitchen"));
    let goes = "(document.querySelector('.goes')?.textContent ?? '')";
    browser.wait("it says when it goes", &format!("/^goes in \\d+ s$/.test({goes})"));
    browser.wait("it counts down", &format!("parseInt({goes}.slice(8)) < 88"));
    node.told(&["set", "--ttl", "1h", "alive=1"]);
    browser.wait("it goes later", &format!("/^goes in \\d+ min$/.test({goes})"));

    // Notices are made by hand here: those of a node take a day to fill.
    browser
        .run("about.notices = [{ code: 'port', text: 'a', hint: 'b', ago_ms: 1000 }]; drawAbout()");
    let notice = "document.getElementById('notices').lastElementChild.textContent";
    browser.wait("its age goes on", &format!("parseInt({notice}) >= 3"));

    let news = "document.getElementById('news').textContent";
    let garden = place.spawn_at("garden", "127.0.0.1:0", &[&node.address]);
    browser.wait("who comes is told", &format!("{news}.includes('garden is new')"));
    garden.kill();
    node.told(&["-t", "60s", "wait", "node", "garden", "lost", "suspect"]);
    node.told(&["forget", "garden"]);
    browser.wait("and who is gone", &format!("{news}.includes('garden is gone')"));
}

/// A long state on a slow line keeps nothing else from being fresh.
#[test]
fn a_state_that_takes_long_does_not_hold_the_page_up() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &["--alone"]);
    browser.resize(1280, 640, 1);
    browser.open(&format!("{origin}/#node=kitchen"));
    shows(&browser, "kitchen", "It has no keys.");
    browser.run(
        "window.held = []; window.really = window.fetch; window.fetch = (path, how) => \
         path.startsWith('api/state') ? new Promise((_, fail) => window.held.push(fail)) : \
         window.really(path, how)",
    );
    node.told(&["set", "long", &"v".repeat(20_000)]);
    browser.wait("it is asked for", "window.held.length === 1");
    let count = format!("{}.querySelector('.c-keys').textContent", body_of("kitchen"));
    node.told(&["set", "b", "2"]);
    browser.wait("the rest is fresh", &format!("{count} === '2'"));
    node.told(&["set", "c", "3"]);
    browser.wait("and stays so", &format!("{count} === '3'"));
    let link = "return [document.getElementById('link').innerText, window.held.length]";
    assert_eq!(browser.run(link), json!(["live", 1]), "one at a time");
    browser.run("window.fetch = window.really; window.held[0](new Error('slow'))");
    shows(&browser, "kitchen", "all 20,000 characters");
    assert_eq!(browser.run("return document.getElementById('link').innerText"), "live");
}

/// Keys and values that would be something else than text, if anything did.
#[test]
fn what_others_say_stays_text() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &["--alone"]);
    let long = "<b>".repeat(65_536 / 3);
    let pairs: [(&str, &[u8]); 10] = [
        ("<script>hack()</script>", b"<script>window.hacked=1</script>"),
        ("\"><b>bold</b>", b"\"><img src=x onerror=\"window.hacked=1\">"),
        ("javascript:window.hacked", b"{{constructor.constructor('window.hacked=1')()}}"),
        ("__proto__", b"polluted"),
        ("turned", "abc\u{202e}gnp.exe\u{2066}x".as_bytes()),
        ("terminal", b"\x1b[31mred\x1b]0;title\x07\r\n\x00\x7f"),
        ("unseen", "a\u{200b}b\u{feff}c\u{ad}d\u{e0041}".as_bytes()),
        ("bytes", b"\xff\xfe\x00\x80"),
        ("long", long.as_bytes()),
        ("z&lt;", "&amp;<!--\u{5d0}\u{5d1}\u{5d2} abc".as_bytes()),
    ];
    let set = |key: &str, value: &[u8]| {
        let said = run_with(&mut node.command(&["set", key, "-"]), value);
        assert_eq!(said.code, 0, "{key}: {}", said.err);
    };
    let is_long = |(_, value): &&(&str, &[u8])| value.len() > 10_000;
    pairs.iter().filter(|pair| !is_long(pair)).for_each(|(key, value)| set(key, value));
    browser.resize(1280, 640, 1);
    browser.open(&format!("{origin}/#node=kitchen"));
    shows(&browser, "kitchen", "polluted");
    // From now on the state is one that does not come by itself.
    pairs.iter().filter(is_long).for_each(|(key, value)| set(key, value));
    shows(&browser, "kitchen", "<script>window.hacked=1</script>");
    for shown in [
        "<script>hack()</script>",
        "\"><b>bold</b>",
        "\"><img src=x onerror=\"window.hacked=1\">",
        "__proto__",
        "polluted",
        "abc\\u{202e}gnp.exe\\u{2066}x",
        "\\u{1b}[31mred\\u{1b}]0;title\\u{7}\\r\\n",
        "\\u{0}\\u{7f}",
        "a\\u{200b}b\\u{feff}c\\u{ad}d\\u{e0041}",
        "4 bytes: ff fe 00 80",
        "z&lt;",
        "&amp;<!--\u{5d0}\u{5d1}\u{5d2} abc",
        "all 65,535 characters",
    ] {
        shows(&browser, "kitchen", shown);
    }
    let raw = browser.run(&format!("return {}", text_of("kitchen")));
    let raw = raw.as_str().unwrap();
    assert!(!raw.contains(['\u{202e}', '\u{1b}', '\u{200b}', '\0']), "{raw:?}");
    take_pictures(&browser, "hostile");
    browser.click(".value button:not([hidden])");
    browser.wait("all of it is shown", &format!("{}.length > 65000", text_of("kitchen")));
    let made = "document.querySelectorAll('img, #all script, #all svg[onload], b').length";
    assert_eq!(browser.run(&format!("return {made}")), 0);
    let harm = "return [window.hacked ?? null, {}.polluted ?? null, document.title]";
    assert_eq!(browser.run(harm), json!([null, null, "kitchen \u{b7} dsn"]));
    is_quiet(&browser, &origin);
}

#[test]
fn a_page_says_that_its_node_is_gone_and_goes_on_when_it_is_back() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &[]);
    let garden = place.spawn_at("garden", "127.0.0.1:0", &[&node.address]);
    garden.told(&["set", "temperature=17.5", "door=open"]);
    node.told(&["-t", "60s", "wait", "key", "garden", "door"]);
    node.told(&["set", "oven", "off"]);
    // A link that somebody kept.
    browser.resize(1280, 640, 1);
    browser.open(&format!("{origin}/#node=garden&filter=door%3Dopen"));
    shows(&browser, "garden", "17.5");
    let is_hidden = |node_id: &str| format!("{}.hidden", body_of(node_id));
    browser.wait("others are filtered out", &is_hidden("kitchen"));
    assert_eq!(browser.run("return document.getElementById('filter').value"), "door=open");
    browser.run("const it = document.getElementById('filter'); it.select(); it.focus()");
    browser.press("oven");
    browser.wait("the other one is found", &is_hidden("garden"));
    browser.wait("it can be kept", "location.hash.includes('filter=oven')");
    browser.run("document.getElementById('filter').select()");
    browser.press("nobody");
    let none = "document.getElementById('none')";
    browser.wait("it is said that there is none", &format!("!{none}.hidden && {none}.innerText"));
    browser.run("location.hash = '#node=garden'");
    browser.wait("a link that is typed counts", &format!("!{}", is_hidden("kitchen")));

    is_quiet(&browser, &origin);
    browser.run("window.marked = true");
    let (own, listen) = (origin.trim_start_matches("http://"), node.address.clone());
    node.kill();
    let link = "document.getElementById('link').innerText";
    browser.wait("it says so", &format!("{link}.includes('kitchen has not answered')"));
    let news = "document.getElementById('news').textContent";
    browser.wait("aloud, too", &format!("{news} === 'kitchen does not answer'"));
    browser.wait("and when it tries again", &format!("/again in \\d+ s/.test({link})"));
    browser.picture(&pictures().join("gone-1280-light.png"));
    garden.told(&["set", "door", "closed"]);
    let (node, _) = served(&place, "kitchen", own, &["--listen", &listen]);
    browser.wait("it is back", &format!("{link} === 'live'"));
    node.told(&["-t", "60s", "wait", "key", "garden", "door", "closed"]);
    shows(&browser, "garden", "closed");
    assert_eq!(browser.run("return window.marked"), true, "it was not loaded again");
}

#[test]
fn a_page_asks_for_the_token_and_keeps_it_in_its_tab() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let file = place.path().join("token");
    write_private(&file, b"0123456789abcdef-for-tests\n");
    let more = ["--bootstrap", "127.0.0.1:1", "--http-token", file.to_str().unwrap()];
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &more);
    node.told(&["set", "oven", "off"]);
    browser.resize(1280, 640, 1);
    browser.open(&format!("{origin}/#node=kitchen"));
    browser.wait("it asks", "document.activeElement.id === 'token'");
    browser.picture(&pictures().join("token-1280-light.png"));
    browser.press("not-the-token-of-it");
    browser.press(ENTER);
    let why = "document.getElementById('ask-why').innerText";
    browser.wait("it says no", &format!("{why}.includes('not the token')"));
    browser.press("0123456789abcdef-for-tests");
    browser.press(ENTER);
    shows(&browser, "kitchen", "off");
    // What is wrong stands above all, with what to do.
    let faults = "document.getElementById('faults').innerText";
    browser
        .wait("it says that it is alone", &format!("{faults}.includes('no other node is alive')"));
    browser.wait("with a hint", &format!("{faults}.includes('A network of one node says so')"));
    let above = "document.getElementById('faults').getBoundingClientRect().bottom <= \
                 document.querySelector('table').getBoundingClientRect().top";
    browser.wait("above the nodes", above);
    browser.picture(&pictures().join("degraded-1280-light.png"));
    // In this tab it is not asked for again; it is kept nowhere else.
    browser.run("location.reload()");
    shows(&browser, "kitchen", "off");
    let kept =
        "return [sessionStorage.length, localStorage.length, document.cookie, location.href]";
    assert_eq!(browser.run(kept), json!([1, 0, "", format!("{origin}/#node=kitchen")]));
    let requests = browser.requests();
    assert!(!requests.iter().any(|url| url.contains("0123")), "{requests:?}");
}

/// A page that lost its node, and is asked for a token when that is back, says one thing alone.
#[test]
fn a_node_that_is_back_with_a_token_answers() {
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &["--alone"]);
    browser.open(&format!("{origin}/"));
    shows(&browser, "kitchen", "alive");
    node.kill();
    browser.wait("it says so", "document.body.classList.contains('stale')");
    let file = place.path().join("token");
    write_private(&file, b"0123456789abcdef-for-tests\n");
    let more = ["--alone", "--http-token", file.to_str().unwrap()];
    let (_node, _) = served(&place, "kitchen", origin.trim_start_matches("http://"), &more);
    browser.wait("it asks", "document.activeElement.id === 'token'");
    // Whatever is drawn each second was drawn.
    browser.run("window.ticks = 0; setInterval(() => { window.ticks += 1 }, 1000)");
    browser.wait("time passes", "window.ticks >= 2");
    let said = "return [document.getElementById('link').hidden, document.body.className]";
    assert_eq!(browser.run(said), json!([true, ""]));
    browser.press("0123456789abcdef-for-tests");
    browser.press(ENTER);
    let link = "document.getElementById('link').innerText";
    browser.wait("it goes on", &format!("{link} === 'live'"));
}

/// A thousand nodes with ten keys each, as one member tells of them.
#[test]
fn a_thousand_nodes_stay_usable() {
    const NODES: usize = 1000;
    let Some(browser) = Browser::start() else { return };
    let place = Place4Nodes::new();
    let (node, origin) = served(&place, "kitchen", "127.0.0.1:0", &[]);
    let to: SocketAddr = node.address.parse().unwrap();
    let member = Member::joined("member", to);
    let keys: Vec<String> = (0..10).map(|key| format!("reading-{key}")).collect();
    let record = |number: usize, reading: &str| {
        let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), reading)).collect();
        let stamp = if reading == "17.5" { 1000 } else { 2000 };
        member.record_of(&id(&format!("node-{number:04}")), stamp, &pairs)
    };
    let numbers: Vec<usize> = (0..NODES - 1).collect();
    for part in numbers.chunks(64) {
        let records: Vec<Arc<_>> = part.iter().map(|number| record(*number, "17.5")).collect();
        assert_eq!(member.say(&member.push(records)).verdict().0, 204);
    }
    browser.resize(1280, 640, 1);
    let began = Instant::now();
    browser.open(&format!("{origin}/#node=node-0500"));
    let rows = "document.querySelectorAll('#all > table > tbody').length";
    browser.wait("all are there", &format!("{rows} >= {NODES}"));
    shows(&browser, "node-0500", "reading-9");
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    // What the page does in a second while all is shown, and what a key stroke costs.
    browser.run(
        "window.longest = 0; new PerformanceObserver((list) => { for (const it of list.getEntries()) \
         window.longest = Math.max(window.longest, it.duration) }).observe({ type: 'longtask' })",
    );
    let pushed = member.push(vec![record(7, "18.5"), record(500, "18.5")]);
    assert_eq!(member.say(&pushed).verdict().0, 204);
    shows(&browser, "node-0500", "18.5");
    browser.run("document.getElementById('filter').focus()");
    browser.press("=18.5");
    let shown = "[...document.querySelectorAll('#all > table > tbody')].filter((it) => !it.hidden)";
    browser.wait("two are found by what they say", &format!("{shown}.length === 2"));
    let longest = browser.run("return window.longest").as_f64().unwrap();
    assert!(longest < 5000.0, "{longest} ms at a time");
    browser.run("location.hash = ''");
    browser.wait("all are back", &format!("{shown}.length >= {NODES}"));
    browser.picture(&pictures().join("thousand-1280-light.png"));
    is_quiet(&browser, &origin);
}
