# nextd in a container: built in one stage, run by nobody in particular in another.
#
#   docker build -t nextd .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/models:/models:ro" -v "$PWD/keys:/run/secrets/nextd-keys:ro" \
#       -e NEXTD_API_KEYS=/run/secrets/nextd-keys nextd -m /models/smollm2-135m-instruct-q4_1.gguf
#
# With an NVIDIA GPU, whose driver and container toolkit belong to the host (README has a table of drivers):
#
#   docker build --target cuda -t nextd:cuda .
#   docker run --gpus all ...
#
# Inside a container nextd has to listen on all addresses, and then it asks for API keys. Where the port is published to this machine only, as
# above, NEXTD_INSECURE=on in place of the keys is a choice; on a network it is none.
#
# Debian 13 for its libmicrohttpd (1.0.1), which has a strict mode of its own. The instruction set is chosen at run time: one image for all x86-64.
# A model in models/ that is a link into a cache is not reachable from inside: mount the directory that holds the file.

FROM debian:trixie-slim AS tools
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends build-essential pkg-config libmicrohttpd-dev libuv1-dev libjansson-dev \
    libgnutls28-dev libpcre2-dev libunistring-dev libinih-dev libsystemd-dev
WORKDIR /src

FROM tools AS build
COPY . .
RUN make -j"$(nproc)" && make install DESTDIR=/out PREFIX=/usr && strip /out/usr/bin/nextd

# The compiler comes before the sources: it is fetched once, not for every change.
FROM tools AS build-cuda
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
COPY scripts/lib.sh scripts/get-cuda scripts/
RUN scripts/get-cuda
COPY . .
RUN make -j"$(nproc)" && make install DESTDIR=/out PREFIX=/usr && strip /out/usr/bin/nextd

FROM debian:trixie-slim AS base
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libmicrohttpd12t64 libuv1t64 libjansson4 libgnutls30t64 libpcre2-8-0 \
    libunistring5 libinih1 libsystemd0 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin nextd
USER nextd
ENV NEXTD_HOST=0.0.0.0 NEXTD_PORT=8080
EXPOSE 8080
# A large model takes its time to load; until then /health says 503.
HEALTHCHECK --interval=15s --timeout=6s --start-period=10m --retries=3 CMD ["nextd", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["nextd", "serve"]
CMD ["--help"]

# CUDA's runtime is in the program; its driver is put in by the host, which is told here what is wanted.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute CUDA_CACHE_DISABLE=1
COPY --from=build-cuda /out/usr/bin/nextd /usr/bin/nextd

FROM base
COPY --from=build /out/usr/bin/nextd /usr/bin/nextd
