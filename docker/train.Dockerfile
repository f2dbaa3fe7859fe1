# Training on NVIDIA GPUs, of compute capability 6.1 to 8.9 as it stands; from the project's root:
#
#   docker build -f docker/train.Dockerfile -t ernie_vil2-train .
#   docker run --gpus all --ipc host -v "$PWD/data:/opt/ernie_vil2/data" -v "$PWD/output:/opt/ernie_vil2/output" \
#       ernie_vil2-train python -m paddle.distributed.launch --gpus 0,1 tools/train.py -c configs/base.yaml
#
# For 9.0 and newer (Hopper, Blackwell), and for no GPU at all, docker build gets
#   --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu22.04 --build-arg REQUIREMENTS=requirements-gpu-paddle3.txt
#   --build-arg BASE=ubuntu:22.04 --build-arg REQUIREMENTS=requirements.txt
#
# No engine for containers was at hand: tests/tools/test_docker.py runs these commands in order in a
# fresh folder, but for apt-get, and for the packages, which are those of the tests' environment.
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

# The packages before the code: a change of the code does not install them again.
COPY requirements*.txt ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check -r ${REQUIREMENTS}

COPY . .
# pip's CUDA libraries to where Paddle looks for them; then what a missing system library would stop
RUN python -c "from ernie_vil2 import runtime; print(*runtime.link_cuda_libraries())" \
    && python -c "import cv2, paddle; print(paddle.version.full_version)"

CMD ["python", "tools/train.py", "-c", "configs/demo.yaml", "--resume", "auto"]
