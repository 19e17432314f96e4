//! The command `dsn`.

fn main() {}
