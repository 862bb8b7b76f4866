//! GRPC FRONT: the RocketMQ 5 API over the broker's methods.
//!
//! It sees the broker, the wire types and the vocabulary; no file, no store, no other front. A call runs on the thread
//! of its connection from the first byte to the last, and passes through the rooms in this order:
//!
//! ```text
//! server     socket -> TLS or plaintext by its first bytes -> HTTP/2
//! layers     trace, rescue, limit, context (and the place for auth): what every call goes through
//! rpc        one file for each family of RPCs: what RocketMQ wants to happen
//! convert    wire types <-> vocabulary; every check of a field's form
//! status     broker error -> RocketMQ code
//! sessions   what clients told about themselves, and their open Telemetry streams
//! commands   what the server has to say to its clients over them
//! meters     how long each RPC takes
//! trace      what a call is about, for those that are traced
//! renew      leases that the server keeps alive for push consumers
//! admin      RocketMQ's own Admin service, which is served on the port of administration
//! ```
//!
//! Business errors travel in the `status` field of an answer under gRPC OK. A gRPC error is only for what is not a
//! RocketMQ matter, since clients take it for a broken server and rebuild their channels.

mod about;
mod addresses;
mod admin;
mod asks;
mod census;
mod commands;
pub mod config;
mod convert;
mod front;
mod health;
mod layers;
mod meters;
mod producers;
mod rates;
mod renew;
mod rpc;
mod server;
mod sessions;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

pub use addresses::{AddressError, HostPort};
pub use asks::AskError;
pub use census::Clients;
pub use config::{Config, Listener, TlsMode};
pub use meters::RpcCounts;
pub use server::Proxy;
pub use sessions::PushError;
pub use tls::{TlsError, host_name};

/// Why the front did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The API's own descriptors could not be served by reflection.
    #[error("reading the API descriptors: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
