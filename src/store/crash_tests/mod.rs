//! The promises of the store under power failures: no acknowledged message is lost, none is shown to a consumer before it
//! is safe, none is altered, and what recovery gave up never comes back.
//!
//! The real store runs over [`SimDisk`](super::sim::SimDisk), stepped on the test's thread, so that a seed or a number
//! of a change on the disk says all. The same histories must break when a fault is planted.

mod faults;
mod histories;
mod world;
