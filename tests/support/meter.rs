//! A proxy in front of a node that counts what goes through: requests, and HTTP bytes in both
//! directions (without the heads of TCP and IP).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;

/// A copying thread needs next to nothing.
const STACK_BYTES: usize = 256 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
}

pub(crate) struct Meter {
    listener: TcpListener,
    address: String,
    counts: Arc<Counts>,
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Wakes the thread that accepts; those of connections end with the node.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap_or_default();
    }
}

impl Meter {
    pub(crate) fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address, counts: Arc::default() }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Requests and bytes so far.
    pub(crate) fn read(&self) -> (u64, u64) {
        let Counts { requests, bytes } = &*self.counts;
        (requests.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Passes connections on to the target from now on.
    pub(crate) fn start(&self, target: &str) {
        let (listener, target) = (self.listener.try_clone().unwrap(), target.to_owned());
        let counts = Arc::clone(&self.counts);
        spawn(move || {
            while let Ok((caller, _)) = listener.accept() {
                // A node that is down now may come back at the same address.
                let Ok(node) = TcpStream::connect(&target) else { continue };
                for stream in [&caller, &node] {
                    stream.set_nodelay(true).unwrap();
                }
                let (caller_too, node_too) =
                    (caller.try_clone().unwrap(), node.try_clone().unwrap());
                let (there, back) = (Arc::clone(&counts), Arc::clone(&counts));
                spawn(move || copy(caller, node, &there));
                spawn(move || copy(node_too, caller_too, &back));
            }
        });
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap();
}

fn copy(mut from: TcpStream, mut to: TcpStream, counts: &Counts) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        // Nodes wait for an answer before they ask again: a request begins a read.
        if chunk.starts_with(b"POST /") {
            counts.requests.fetch_add(1, Ordering::Relaxed);
        }
        counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
