FROM rust:1.95-bookworm AS build
WORKDIR /coldstream
COPY . .
RUN cargo build --profile dist --locked

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /coldstream/target/dist/coldstream /usr/local/bin/coldstream
USER nobody
EXPOSE 3000 9000
ENTRYPOINT ["coldstream"]
