# Targets: cpu (the last one, so `docker build -t boneage .` makes it), gpu (TensorFlow), gpu-jax
# (JAX, several GPUs and hosts) and serve (the page and the API, without Keras).
#
#   docker run --rm boneage                         trains the phantom: no data, no network, minutes
#   docker run --rm --gpus all -v DATA:/data:ro -v RUNS:/runs boneage:gpu train RECIPE --data /data/manifest.csv
#
# docs/how-to/docker.md explains them. The GPU targets need nothing but the host's driver: CUDA and
# cuDNN come as wheels. BASE_IMAGE is any Debian-like image with Python 3.12 or 3.13 as python3,
# with pip. Each target installs the lock of its name from locks/. What changes most often comes last:
# a change of the code makes one layer again.
ARG BASE_IMAGE=python:3.12-slim-trixie

# --- A user without rights, a root that may be read-only, /runs for everything written.

FROM ${BASE_IMAGE} AS base
# Anybody may write to /runs: `docker run --user "$(id -u):$(id -g)"` keeps files one's own. No program
# needs to be started with the rights of its owner.
RUN install -d /data && install -d -m 1777 /runs \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && python3 -m venv --without-pip /opt/boneage
ENV PATH=/opt/boneage/bin:$PATH \
    BONEAGE_RUNS=/runs \
    BONEAGE_CACHE=/runs/.cache \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    KERAS_HOME=/tmp/.keras \
    NO_ALBUMENTATIONS_UPDATE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="boneage" \
      org.opencontainers.image.description="Bone-age regression on Keras 3: train, evaluate, report, predict" \
      org.opencontainers.image.licenses="Apache-2.0"
# `docker stop` sends SIGTERM: every verb ends at once with exit code 143, a training after the batch
# in hand, with a checkpoint. The server answers what it has begun, and ends with 0.
WORKDIR /opt/project
ENTRYPOINT ["boneage"]
CMD ["train", "phantom"]

# --- The package, without what it needs. Of this stage only /installed is kept.

FROM base AS wheel
WORKDIR /build
COPY locks/install.sh locks/build.lock ./
RUN sh install.sh --require-hashes -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY boneage boneage
RUN PIP_PYTHON=/opt/boneage/bin/python pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /dist . \
    && sh install.sh --no-index --root /installed /dist/*.whl

# --- What runs.

FROM base AS serve
COPY locks/install.sh locks/serve.lock locks/
RUN sh locks/install.sh --require-hashes -r locks/serve.lock
COPY --from=wheel /installed /
ARG COMMIT=
ENV BONEAGE_IMAGE=serve \
    BONEAGE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=9); c.request('GET', '/readyz'); assert c.getresponse().status == 200"]
# Without a token (-e BONEAGE_TOKEN=…) it refuses to start.
CMD ["serve", "--host", "0.0.0.0"]

FROM base AS gpu-jax
COPY locks/install.sh locks/gpu-jax.lock locks/
RUN sh locks/install.sh --require-hashes -r locks/gpu-jax.lock
COPY --from=wheel /installed /
COPY experiments experiments
ARG COMMIT=
ENV BONEAGE_IMAGE=gpu-jax \
    BONEAGE_COMMIT=${COMMIT} \
    KERAS_BACKEND=jax \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001

FROM base AS gpu
COPY locks/install.sh locks/gpu.lock locks/
RUN sh locks/install.sh --require-hashes -r locks/gpu.lock
COPY --from=wheel /installed /
COPY experiments experiments
ARG COMMIT=
ENV BONEAGE_IMAGE=gpu \
    BONEAGE_COMMIT=${COMMIT} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001

FROM base AS cpu
COPY locks/install.sh locks/cpu.lock locks/
RUN sh locks/install.sh --require-hashes -r locks/cpu.lock
COPY --from=wheel /installed /
COPY experiments experiments
ARG COMMIT=
ENV BONEAGE_IMAGE=cpu \
    BONEAGE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001
