//! What the server tells about itself: logs, how metrics are named and written, traces of calls, and how metrics and traces
//! go to a collector of OpenTelemetry. Who counts is [`crate::meter`].

pub mod metrics;
pub mod otlp;
pub mod telemetry;
pub mod trace;
