//! A distributed state network: every machine owns a small key-value state, every other machine
//! holds a live copy of it, and nothing sits in the middle.

pub mod credentials;
pub mod durable;
pub mod journal;
pub mod protocol;
