//! Many nodes.
mod crowd;
mod figures;
#[test]
fn primed() {
    let _ = crowd::Crowd::primed(16, 0, 1);
}
