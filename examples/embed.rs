//! A program with a node inside: publishes a counter, prints what the others do.
//!
//! `cargo run --example embed -- my-id 127.0.0.1:8001 127.0.0.1:8000`: own id, address to listen
//! on, bootstrap address (none for the first node of a network). It ends after ten changes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the example shows what it sees")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use dsn::{Config, Control, Event, Key, NodeId, start};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("embed: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let node_id: NodeId = arguments.next().unwrap_or("embedded".into()).parse()?;
    let mut config = Config::new(node_id);
    config.listen = arguments.next().unwrap_or("127.0.0.1:8001".into()).parse()?;
    config.bootstrap = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    config.alone = config.bootstrap.is_empty();
    // This program asks its node itself, so no socket is needed.
    config.control = Control::Nowhere;
    let node = start(config)?;
    println!("listening on {}", node.listen());

    // All states as they are, and then what changes: nothing falls between them.
    let (states, events) = node.subscribe_with_states().ok_or("too many listen already")?;
    for state in states {
        println!("{}: {:?}", state.node_id, state.entries);
    }
    let counter: Key = "counter".parse()?;
    for count in 1..=10 {
        node.set(counter.clone(), count.to_string().parse()?)?;
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
