//! METRICS: one table of what is told ([`catalogue`]), and the text that Prometheus reads ([`Page`]); what collectors are
//! sent is made of the same samples ([`Sink`]) in [`crate::observe::otlp`]. Dashboard and alert rules are generated from the
//! same table ([`dashboard`], [`alerts`]), so that no name drifts.

pub mod alerts;
pub mod catalogue;
pub mod dashboard;
mod page;
mod sink;

pub use catalogue::Id;
pub use page::{Names, Page};
pub use sink::{Number, Sink};
