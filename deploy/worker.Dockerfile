# A node of the Ray cluster, its head too: the method and what runs it. Python lies where the service's image has it,
# since the service tells Ray which interpreter is to run a search.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
FROM ${BASE}

RUN useradd --uid 10001 --create-home yoso \
    && install --directory --owner=yoso --group=yoso /storage /data

# What Yoso needs is a layer of its own, which changes with these packages alone. `make lock` writes the file.
COPY deploy/worker.lock.txt /opt/lock.txt
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps --requirement /opt/lock.txt

COPY pyproject.toml README.md LICENSE /opt/yoso/
COPY yoso /opt/yoso/yoso
COPY nas_core /opt/yoso/nas_core
COPY worker /opt/yoso/worker
RUN pip install --no-cache-dir --disable-pip-version-check --no-index --no-deps --no-build-isolation /opt/yoso \
    && rm -rf /opt/yoso /opt/lock.txt

ARG VERSION=unknown
LABEL org.opencontainers.image.title="Yoso: a node of the Ray cluster" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"

USER 10001:10001
WORKDIR /home/yoso
CMD ["ray", "--help"]
