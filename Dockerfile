# The server alone: one static binary, no shell, no root.
#
#   docker build -t ferromq:0.1.0 .
#   docker run -p 8081:8081 -v mq:/var/lib/ferromq --read-only --cap-drop ALL ferromq:0.1.0

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl-tools \
 && rustup target add x86_64-unknown-linux-musl
WORKDIR /src
COPY . .
RUN cargo build --release --locked --target x86_64-unknown-linux-musl --bin ferromq \
 && mkdir -p /out/store \
 && cp target/x86_64-unknown-linux-musl/release/ferromq /out/ferromq

FROM scratch
COPY --from=build /out/ferromq /usr/local/bin/ferromq
# A new volume takes over the owner of what it covers.
COPY --from=build --chown=65532:65532 /out/store /var/lib/ferromq
COPY LICENSE /usr/share/licenses/ferromq/LICENSE
ENV PATH=/usr/local/bin
ENV FERROMQ_STORE_PATH_ROOT_DIR=/var/lib/ferromq
ENV FERROMQ_LOG_FORMAT=json
USER 65532:65532
EXPOSE 8081
VOLUME /var/lib/ferromq
STOPSIGNAL SIGTERM
# A store that recovers takes its time; nothing counts against it until then.
HEALTHCHECK --interval=10s --timeout=5s --start-period=1h --retries=3 CMD ["/usr/local/bin/ferromq", "health"]
ENTRYPOINT ["/usr/local/bin/ferromq"]
