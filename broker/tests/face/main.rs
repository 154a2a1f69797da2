//! The face over real sockets, with a client that says exactly the bytes it is told to.

mod acks;
mod connect;
mod deliver;
mod grants;
mod host;
mod peer;
mod strict;
