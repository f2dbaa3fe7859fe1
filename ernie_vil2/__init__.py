"""ERNIE-ViL 2.0 on PaddlePaddle: multi-view contrastive image-text pre-training."""

__version__ = "0.1.0"
