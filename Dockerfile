# CPU:   docker build -t chiron .
# CUDA:  docker build -t chiron:cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg EXTRAS=train,data,eval .
# Run:   docker run --rm --user "$(id -u)" -v "$PWD:/work" -e OPENROUTER_API_KEY chiron search cases.jsonl --config mics.yaml --run runs/a
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

ARG EXTRAS=import,data,eval
# CPU images take the CPU build of torch: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
ENV DEBIAN_FRONTEND=noninteractive \
    OMP_WAIT_POLICY=PASSIVE \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/chiron/bin:$PATH

# CUDA bases have no Python; python bases have one before /usr/bin.
# hadolint ignore=DL3008
RUN if ! command -v python3 >/dev/null; then \
        apt-get update \
        && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && python3 -m venv /opt/chiron \
    && useradd --create-home --uid 1001 chiron \
    && mkdir /work \
    && chown chiron /work

WORKDIR /src
COPY constraints.txt pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]"

USER 1001
WORKDIR /work
ENTRYPOINT ["chiron"]
CMD ["--help"]
