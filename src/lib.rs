//! FerroMQ: a RocketMQ 5 compatible messaging server.
//!
//! ```text
//!            cli ─────────► server ◄──────── config          clients            operators
//!                             │                                 │                   │
//!                     opens and closes                       proxy                admin
//!                                                               └────────┬──────────┘
//!                                                                     broker
//!                                                                        │
//!                                                                      store ──► disk
//! ```
//!
//! A room sees what lies below it, and [`types`]; only [`server`] sees all. `ARCHITECTURE.md` has the reasons, the formats
//! and the names.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod config;
pub mod dial;
pub mod drain;
pub mod meter;
pub mod observe;
pub mod ops;
pub mod proto;
pub mod proxy;
pub mod runtime;
pub mod server;
pub mod store;
pub mod types;
