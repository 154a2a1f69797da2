//! For tests only: a scripted MQTT peer, links that can be cut, seeds, real processes and a chain under test.
//!
//! What can't be set up panics with a text that says what is missing: a test has nothing better to do with it.

pub mod anvil;
pub mod cut;
pub mod fuzz;
pub mod hosts;
pub mod packet;
pub mod peer;
pub mod process;
pub mod seed;
pub mod tls;
pub mod wait;

pub use anvil::Anvil;
pub use cut::{CutLink, Way};
pub use fuzz::fuzz;
pub use hosts::{NotPermitted, Star};
pub use packet::{Packet, Publish};
pub use peer::{Answer, Peer, Script};
pub use process::Child;
pub use seed::Seed;
pub use tls::Authority;
pub use wait::wait_until;
