//! WHAT OPERATORS LOOK AT: metrics, probes and KEDA's scaler, on a port and a thread of their own.
//!
//! The port is open before the store is, so that a probe can tell a server that recovers from one that is gone; and until
//! the very end, so that a drain can be watched. Nothing here runs on a thread that serves clients, and no lock of theirs is
//! held longer than a few instructions.
//!
//! - [`state`]: what the server is at; readiness and liveness.
//! - [`collect`]: the page of metrics.
//! - [`keda`]: scaling on a group's lag.
//! - [`http`]: the listener, with its bounds.
//! - [`export`]: metrics and traces to a collector of OpenTelemetry.

mod collect;
pub mod config;
mod export;
mod http;
mod keda;
mod state;

pub use config::Config;
pub use export::{Error as ExportError, Exporter};
pub use http::Listener;
pub use state::{BEAT_INTERVAL, Condition, State};
