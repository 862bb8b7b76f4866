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

/// OTLP, which collectors of OpenTelemetry take. The modules are nested as the packages are: generated code says so.
pub mod opentelemetry {
    pub mod proto {
        macro_rules! package {
            ($($name:ident: $package:literal;)*) => {$(
                pub mod $name {
                    pub mod v1 {
                        #![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]
                        tonic::include_proto!($package);
                    }
                }
            )*};
        }
        package! {
            common: "opentelemetry.proto.common.v1";
            resource: "opentelemetry.proto.resource.v1";
            metrics: "opentelemetry.proto.metrics.v1";
            trace: "opentelemetry.proto.trace.v1";
        }
        pub mod collector {
            package! {
                metrics: "opentelemetry.proto.collector.metrics.v1";
                trace: "opentelemetry.proto.collector.trace.v1";
            }
        }
    }
}

/// The files of OTLP, as an encoded `FileDescriptorSet`.
pub const OTLP_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/otlp_descriptors.bin"));

/// Every other file above with its dependencies, as an encoded `FileDescriptorSet`; gRPC reflection serves it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
