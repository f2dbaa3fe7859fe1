# The HTTP server of an exported model, on an NVIDIA GPU of compute capability 6.1 to 8.9 as it stands;
# from the project's root:
#
#   docker build -f docker/serve.Dockerfile -t ernie_vil2-serve .
#   docker run --gpus all -p 127.0.0.1:8080:8080 -v "$PWD/exported:/model:ro" ernie_vil2-serve
#
# For 9.0 and newer, and for no GPU at all (then also `docker run -e DEVICE=cpu`), docker build gets
#   --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu22.04 --build-arg REQUIREMENTS=requirements-gpu-paddle3.txt
#   --build-arg BASE=ubuntu:22.04 --build-arg REQUIREMENTS=requirements.txt
# The model must have been exported by the same Paddle. Who may reach the port may ask the model:
# docs/serving.md has keys and limits.
#
# How far this was tried: docker/train.Dockerfile says it.
ARG BASE=nvidia/cuda:11.8.0-base-ubuntu22.04
FROM ${BASE}

ARG REQUIREMENTS=requirements-gpu.txt
ARG ROOT=/opt/ernie_vil2
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libgl1 libglib2.0-0 libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR ${ROOT}
ENV PATH=${ROOT}/.venv/bin:${PATH}
RUN python3 -m venv .venv

# Paddle and CUDA before the code, and nothing of what only training needs.
COPY requirements*.txt ./
RUN grep -E '^(--|nvidia-|paddlepaddle|setuptools)' ${REQUIREMENTS} > paddle.txt \
    && python -m pip install --no-cache-dir --disable-pip-version-check -c ${REQUIREMENTS} -r paddle.txt

COPY . .
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-build-isolation \
        -c ${REQUIREMENTS} ".[serve]" \
    && python -c "from ernie_vil2 import runtime; print(*runtime.link_cuda_libraries())" \
    && python -c "import cv2, paddle; print(paddle.version.full_version)"

ENV MODEL=/model DEVICE=gpu HOST=0.0.0.0 PORT=8080
EXPOSE 8080
USER 10001:10001
HEALTHCHECK --start-period=120s CMD python -c "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/readyz')"
CMD exec python tools/serve.py ${MODEL} --device ${DEVICE} --host ${HOST} --port ${PORT}
