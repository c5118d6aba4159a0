# Targets: cpu (the last one, so `docker build -t boneage .` makes it) and gpu.
#
#   docker run --rm boneage                         trains the phantom: no data, no network, minutes
#   docker run --rm --gpus all -v DATA:/data:ro -v RUNS:/runs boneage:gpu train RECIPE --data /data/manifest.csv
#
# The gpu target needs nothing but the host's driver: CUDA and cuDNN come as wheels from the lock.
# BASE_IMAGE is any Debian-like image with Python 3.11-3.13 as python3 and its venv module.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- Where things are installed; nothing of these stages but /opt/boneage and the wheel is kept.

FROM ${BASE_IMAGE} AS python
RUN python3 -m venv /opt/boneage
ENV PATH=/opt/boneage/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# The lock also holds the workshop's tools (tests, lint, types): they stay behind, and so do the
# 290 MB of C++ headers in tensorflow, which only serve to compile new operations.
FROM python AS locked-gpu
COPY requirements-gpu.lock ./
RUN pip install --require-hashes --only-binary=:all: -r requirements-gpu.lock \
    && pip uninstall --yes crepes execnet hypothesis joblib mypy pandas-stubs \
       pytest pytest-xdist ruff scikit-learn axe-core-python httpx2 selenium \
    && rm -rf /opt/boneage/lib/python3*/site-packages/tensorflow/include

FROM python AS locked-cpu
COPY requirements.lock ./
RUN pip install --require-hashes --only-binary=:all: -r requirements.lock \
    && pip uninstall --yes crepes execnet hypothesis jax jaxlib joblib mypy pandas-stubs \
       pytest pytest-xdist ruff scikit-learn axe-core-python httpx2 selenium \
    && rm -rf /opt/boneage/lib/python3*/site-packages/tensorflow/include

FROM locked-cpu AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY boneage boneage
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist .

# --- What runs: a user without rights, a root that may be read-only, /runs for everything written.

FROM ${BASE_IMAGE} AS runtime
RUN groupadd --gid 10001 boneage \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp boneage \
    # Anybody may write there: `docker run --user "$(id -u):$(id -g)"` keeps files one's own.
    && install -d -m 1777 /runs
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
# in hand, with a checkpoint.
WORKDIR /opt/project
COPY experiments experiments
VOLUME /runs
ENTRYPOINT ["boneage"]
CMD ["train", "experiments/phantom/recipe.toml"]

FROM runtime AS gpu
COPY --from=locked-gpu /opt/boneage /opt/boneage
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir --no-index --no-deps /tmp/dist/*.whl && rm -rf /tmp/dist
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG COMMIT=
ENV BONEAGE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001

FROM runtime AS cpu
COPY --from=locked-cpu /opt/boneage /opt/boneage
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir --no-index --no-deps /tmp/dist/*.whl && rm -rf /tmp/dist
ARG COMMIT=
ENV BONEAGE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001
