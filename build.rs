//! Compiles the `.proto` files with a compiler written in Rust, so that no `protoc` is needed.

use std::{env, fs, path::PathBuf};

use prost::Message;

type Error = Box<dyn std::error::Error>;

const PROTOS: [&str; 5] = [
    "apache/rocketmq/v2/definition.proto",
    "apache/rocketmq/v2/service.proto",
    "apache/rocketmq/v2/admin.proto",
    "ferromq/admin/v1/admin.proto",
    "keda/externalscaler.proto",
];

/// What collectors of OpenTelemetry are told; we are their client, so reflection does not tell of it.
const OTLP: [&str; 2] = [
    "opentelemetry/proto/collector/metrics/v1/metrics_service.proto",
    "opentelemetry/proto/collector/trace/v1/trace_service.proto",
];

fn main() -> Result<(), Error> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let otlp = protox::compile(OTLP, ["proto"])?;
    fs::write(out.join("otlp_descriptors.bin"), otlp.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(otlp)?;
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // Served by gRPC reflection.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Message bodies are sliced out of the request and the log, never copied.
        .bytes(".apache.rocketmq.v2")
        .compile_fds(descriptors)?;
    Ok(())
}
