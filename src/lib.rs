//! FerroMQ: a RocketMQ 5 compatible messaging server.

pub mod broker;
pub mod proto;
pub mod proxy;
pub mod store;
pub mod types;
