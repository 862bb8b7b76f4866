//! What the server tells about itself: logs, and how metrics are named and written. Who counts is [`crate::meter`].

pub mod metrics;
pub mod telemetry;
