# The appliance in a container. The image file lives on a volume; give the
# container a tmpfs or a DAX mount there to let programs map it.
#
#   docker build -t permafrost .
#   docker run -p 127.0.0.1:7433:7433 -v permafrost:/var/lib/permafrost permafrost
#
# With a mount that the host sees (docs/MOUNT.md):
#
#   mkdir -p /mnt/permafrost/fs
#   docker run --device /dev/fuse --cap-add SYS_ADMIN --cap-add DAC_READ_SEARCH --security-opt apparmor=unconfined -e PERMAFROST_MOUNT=/mnt/permafrost/fs \
#     -v /mnt/permafrost:/mnt/permafrost:rshared -p 127.0.0.1:7433:7433 -v permafrost:/var/lib/permafrost permafrost
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=1 go build -trimpath -ldflags '-s -w -linkmode external -extldflags -static' -tags 'osusergo netgo sqlite_omit_load_extension' -o /permafrost ./cmd/permafrost

FROM debian:bookworm-slim
COPY --from=build /permafrost /usr/local/bin/permafrost
VOLUME /var/lib/permafrost
EXPOSE 7433
HEALTHCHECK CMD ["permafrost", "status", "--json"]
# There is no loopback to publish from inside a container: the address is
# insecure by itself, publish it on the host's loopback only (see above).
ENTRYPOINT ["permafrost", "serve", "--listen", "0.0.0.0:7433", "--allow-insecure-listen"]
CMD ["--pmem", "/var/lib/permafrost/fs.pmem", "--create", "1GiB", "--state", "/var/lib/permafrost"]
