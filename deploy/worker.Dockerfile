# A node of the Ray cluster, its head too: the method and what runs it. Python lies where the service's image has it,
# since the service tells Ray which interpreter is to run a search.
FROM python:3.11-slim-bookworm

WORKDIR /opt/yoso
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY yoso yoso
COPY nas_core nas_core
COPY worker worker
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[gcs,s3,worker]' \
    && rm -rf /opt/yoso \
    && useradd --uid 10001 --create-home yoso \
    && install --directory --owner=yoso --group=yoso /storage /data

USER yoso
WORKDIR /home/yoso
CMD ["ray", "--help"]
