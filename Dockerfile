# Compiles on the builder's own architecture and cross-compiles for the target's, so nothing is emulated.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src

# Dependencies change rarely: this layer is rebuilt only when go.mod or go.sum does.
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG VERSION=dev
ARG TARGETOS
ARG TARGETARCH
# Static, because the final image has no libc; trimmed, so that equal sources give equal bytes.
RUN --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/larder ./cmd/larder

# CA certificates (for rediss://) and a nonroot user; no shell, no package manager, no libc.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/larder /larder

# The user nonroot, by number: a kubelet told runAsNonRoot cannot check a name and refuses the pod.
USER 65532:65532

# A container is reached from outside it; the binary alone listens on loopback.
ENV LARDER_GRPC_ADDR=:50051 \
    LARDER_ADMIN_ADDR=:9090
EXPOSE 50051 9090

# Asks for "live", which never depends on Redis: an outage there must not mark this container broken.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/larder", "probe"]

ENTRYPOINT ["/larder"]
CMD ["serve"]

ARG VERSION=dev
LABEL org.opencontainers.image.title="larder" \
      org.opencontainers.image.description="A shared cache and session store over gRPC, kept in Redis" \
      org.opencontainers.image.source="https://github.com/berthcare/larder" \
      org.opencontainers.image.version="$VERSION"
