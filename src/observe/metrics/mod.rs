//! METRICS: one table of what is told ([`catalogue`]), and the text that Prometheus reads ([`page`]). Dashboard and alert
//! rules are generated from the same table ([`dashboard`], [`alerts`]), so that no name drifts.

pub mod alerts;
pub mod catalogue;
pub mod dashboard;
mod page;

pub use catalogue::Id;
pub use page::{Names, Page};
