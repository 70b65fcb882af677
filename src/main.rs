//! Image.
fn main() {}
