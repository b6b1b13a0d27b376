# API, dashboard, dispatcher and migration: neither torch nor Ray.
FROM python:3.11-slim-bookworm

WORKDIR /opt/yoso
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY yoso yoso
COPY nas_core nas_core
COPY service service
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[gcs,mlflow,s3]' \
    && rm -rf /opt/yoso \
    && useradd --uid 10001 --create-home yoso \
    && install --directory --owner=yoso --group=yoso /storage /data

USER yoso
WORKDIR /home/yoso
CMD ["yoso", "--help"]
