//! A program with a node inside: publishes a counter, prints what the others do.
//!
//! `cargo run --example embed -- my-id 127.0.0.1:8001 127.0.0.1:8000`: own id, address to listen
//! on, bootstrap address (none for the first node of a network). It ends after ten changes.
#![expect(clippy::print_stdout, reason = "the example shows what it sees")]

use std::error::Error;
use std::time::Duration;

use dsn::protocol::address::Address;
use dsn::protocol::entries::{Key, Value};
use dsn::protocol::identity::NodeId;
use dsn::protocol::report::Event;
use dsn::{Config, start};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(NodeId::new(&arguments.next().unwrap_or("embedded".into()))?);
    config.listen = arguments.next().unwrap_or("127.0.0.1:8001".into()).parse()?;
    config.bootstrap = arguments.map(|text| Address::new(&text)).collect::<Result<_, _>>()?;
    let node = start(config)?;
    println!("listening on {}", node.listen());

    let events = node.subscribe().ok_or("too many listen already")?;
    let counter = Key::new("counter")?;
    for count in 1..=10 {
        node.set(counter.clone(), Value::new(count.to_string().as_bytes())?)?;
        // Events of a second, then the next change.
        while let Some(event) = events.next(Duration::from_secs(1)) {
            match event {
                Event::Updated { node_id, key, new, .. } => println!("{node_id}: {key} = {new:?}"),
                other => println!("{other:?}"),
            }
        }
    }
    node.leave(Duration::from_secs(2))?;
    node.stop();
    Ok(())
}
