"""`pip install .`; the tested, pinned set of all packages is requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "ernie_vil2/__init__.py").read_text(), re.M)

# Exactly this one: it is what the package is documented and tested for, and newer ones write other
# files. paddlepaddle and paddlepaddle-gpu are two names of one package that overwrite each other's
# files, so whoever installs chooses one by an extra.
CPU = ["paddlepaddle==2.6.2"]
# the wheel brings no CUDA libraries: requirements-gpu.in says which it opens
GPU = [
    "paddlepaddle-gpu==2.6.2",
    "nvidia-cublas-cu11==11.11.3.6",
    "nvidia-cuda-nvrtc-cu11==11.8.89",
    "nvidia-cuda-runtime-cu11==11.8.89",
    "nvidia-cudnn-cu11==8.6.0.163",
    "nvidia-cufft-cu11==10.9.0.58",
    "nvidia-curand-cu11==10.3.0.86",
    "nvidia-cusolver-cu11==11.4.1.48",
    "nvidia-cusparse-cu11==11.7.5.86",
    "nvidia-nccl-cu11==2.21.5",
    "nvidia-nvtx-cu11==11.8.86",
]
TRAIN = [
    "paddlenlp>=2.8.1,<2.9",
    "paddleclas>=2.6.0,<2.7",
    "jinja2>=3.1",
    "safetensors>=0.4",
    "simplejpeg>=1.7",
    "tqdm",
    "visualdl>=2.5",
    # what PaddleNLP 2.8 imports, where its newest releases break it
    "aistudio-sdk<0.3",
    "datasets<3.2",
    "huggingface-hub<0.27",
    "pyarrow<19",
    "pip",
]
# serving/http/server.py builds on private parts of uvicorn and h11: these are the tested ones.
HTTP = [
    "fastapi>=0.115,<0.129",
    "h11>=0.16,<0.17",
    "starlette>=0.49.1,<0.50",
    "uvicorn>=0.39,<0.40",
    "python-multipart>=0.0.20",
    "prometheus_client",
]

setup(
    name="ernie_vil2",
    version=VERSION.group(1),
    description="ERNIE-ViL 2.0 on PaddlePaddle: multi-view contrastive image-text pre-training",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    url="https://arxiv.org/abs/2209.15270",
    project_urls={
        "Paper": "https://arxiv.org/abs/2209.15270",
        "Official code": "https://github.com/PaddlePaddle/ERNIE/tree/ernie-kit-open-v1.0"
        "/Research/ERNIE-ViL2",
        "PaddlePaddle": "https://www.paddlepaddle.org.cn/en",
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["ernie_vil2", "ernie_vil2.*"]), "ernie_vil2.configs"],
    package_dir={"ernie_vil2.configs": "configs"},
    package_data={
        "ernie_vil2": [
            "py.typed",
            *("**/*.html", "**/*.j2", "**/*.css", "**/*.js"),
            *("**/LICENSE*", "**/NOTICE*", "**/*.txt", "**/*.md"),  # of what others made
            "**/*.tsv",
        ],
        "ernie_vil2.configs": ["*.yaml", "*.yml", "studies/*.yaml"],
    },
    entry_points={"console_scripts": ["ernie-vil2 = ernie_vil2.commands:console"]},
    # PaddleClas 2.6 demands numpy 1.24.4, which cannot be built on Python 3.12. There a clone runs
    # with the lock, which names another numpy: pip install --no-deps -r requirements.txt
    python_requires=">=3.9,<3.12",
    # what a server needs, beside Paddle and the HTTP stack
    install_requires=[
        "numpy>=1.24,<2",
        "opencv-python>=4.6,<4.12",
        "pillow>=9.1",
        "protobuf>=3.20.2,<6",
        "pyyaml>=6",
        "setuptools<80",  # which Paddle imports
    ],
    extras_require={
        "cpu": [*CPU, *TRAIN],
        "gpu": [*GPU, *TRAIN],
        "train": TRAIN,  # beside a Paddle of one's own choice, such as 3.3.1
        "serving": [*CPU, *HTTP],
        "serving-gpu": [*GPU, *HTTP],
        "serve": HTTP,  # the HTTP server beside one of the above
        "data": ["fsspec", "s3fs", "pyarrow<19", "lmdb>=1.4"],
        "ray": ["ray>=2.30"],
        "search": ["lancedb>=0.27", "pyarrow>=16,<19"],
        "milvus": ["pymilvus>=2.3.8,<2.4", "marshmallow<4"],  # of environs, which says no bound
        "onnx": ["onnx", "onnxruntime", "paddle2onnx>=1.3,<2"],
    },
)
