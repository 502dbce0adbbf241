# raft-kv in a container: the one program, without a shell or root's rights, its data under /data.

FROM rust:1.93.0-slim-trixie AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package quorate --bin raft-kv \
    && cp target/release/raft-kv /usr/local/bin/ \
    && mkdir /data

# The same Debian as above, whose C library the program is linked to.
FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=build /usr/local/bin/raft-kv /usr/local/bin/
# A new volume takes the owner of what it is mounted over.
COPY --from=build --chown=65532:65532 /data /data
ENV DATA_DIR=/data
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/usr/local/bin/raft-kv", "--health"]
ENTRYPOINT ["/usr/local/bin/raft-kv"]
