"""`pip install .`; the tested, pinned set of all packages is requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "ernie_vil2/__init__.py").read_text(), re.M)

setup(
    name="ernie_vil2",
    version=VERSION.group(1),
    description="ERNIE-ViL 2.0 on PaddlePaddle: multi-view contrastive image-text pre-training",
    license="Apache-2.0",
    packages=find_packages(include=["ernie_vil2", "ernie_vil2.*"]),
    package_data={"ernie_vil2": ["**/*.html", "**/*.css", "**/*.js", "serving/http/swagger_ui/*"]},
    python_requires=">=3.9",
    install_requires=[
        "paddlenlp>=2.8.1,<2.9",
        "paddleclas>=2.6.0,<2.7",
        "opencv-python",
        "numpy>=1.24,<2",
        "pillow",
        "pyyaml>=6",
        "safetensors>=0.4",
        "tqdm",
        "visualdl>=2.5",
        # what PaddleNLP 2.8 and paddle import, where their newest releases break them
        "aistudio-sdk<0.3",
        "datasets<3.2",
        "huggingface-hub<0.27",
        "pyarrow<19",
        "setuptools<80",
        "pip",
    ],
    # Not above, as paddlepaddle and paddlepaddle-gpu are two names of one package that overwrite
    # each other's files: whoever installs chooses one, as with PaddleNLP and PaddleClas.
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<3.4"],
        "gpu": ["paddlepaddle-gpu>=2.6.2,<3.4"],
        "serve": ["fastapi>=0.115", "uvicorn", "python-multipart", "prometheus_client"],
        "onnx": ["onnx", "onnxruntime", "paddle2onnx>=1.3,<2"],
    },
)
