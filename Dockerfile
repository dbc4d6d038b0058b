# An image of the agent. Build: docker build -t nomadpy .
# A client in a container needs the engine's socket and its data directory under the same path as on the host, because
# the engine resolves the paths of bind mounts on the host:
#   docker run --net host -v /run/docker.sock:/run/docker.sock -v /var/lib/nomadpy:/var/lib/nomadpy nomadpy \
#       -data-dir /var/lib/nomadpy -server -client -bootstrap-expect 1
ARG BASE=python:3.12-slim
FROM ${BASE}

WORKDIR /usr/src/nomadpy
COPY . .
RUN pip install --no-cache-dir .

WORKDIR /
EXPOSE 4646 4647 4648 4648/udp
ENTRYPOINT ["nomadpy", "agent"]
