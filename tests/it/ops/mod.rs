//! How the server reaches its users (chart, container, archive), and what operators see of it.

mod chart;
mod container;
mod dependencies;
mod dist;
mod doctor;
mod http;
mod keda;
mod logs;
mod metrics;
mod otlp;
