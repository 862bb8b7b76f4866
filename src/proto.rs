//! The generated wire types and service traits; no code written by hand.

/// RocketMQ 5's own API: `MessagingService` and `Admin`.
pub mod v2 {
    #![expect(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]
    tonic::include_proto!("apache.rocketmq.v2");
}

/// FerroMQ's administration service.
pub mod admin {
    #![expect(clippy::pedantic, missing_docs, reason = "generated code")]
    tonic::include_proto!("ferromq.admin.v1");
}

/// What KEDA asks of an external scaler.
pub mod keda {
    #![expect(clippy::pedantic, missing_docs, reason = "generated code")]
    tonic::include_proto!("externalscaler");
}

/// Every file above with its dependencies, as an encoded `FileDescriptorSet`; gRPC reflection serves it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
