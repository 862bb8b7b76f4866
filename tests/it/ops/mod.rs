//! How the server reaches its users: chart, container, archive.

mod chart;
mod container;
mod dependencies;
mod dist;
