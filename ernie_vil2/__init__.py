"""ERNIE-ViL 2.0 on PaddlePaddle: multi-view contrastive image-text pre-training."""

# Paddle 2.6 brings symbols of another zlib: Python's own must be bound before it is imported.
import zlib  # noqa: F401

__version__ = "0.1.0"


# Paddle takes seconds to import, so nothing of it is before it is needed.
def load(weights, config=None, partial=False, base=None):
    """A trained model in eval mode; see `ernie_vil2.weights.load.load`.

    Args:
        weights: a checkpoint folder of ours, a PaddleNLP ErnieViLModel folder, a name that
            PaddleNLP has released ("ernie_vil-2.0-base-zh"), or an official ERNIE-ViL 2.0
            `.pdparams`.
        config: a YAML path or a mapping that holds `Arch`, which the official file needs.
        partial: load what fits.
        base: of LoRA adapters, the weights below them where those have moved.

    Raises:
        ernie_vil2.errors.UserError: no such weights, or weights that do not fit.
    """
    from ernie_vil2.weights.load import load

    return load(weights, config, partial, base)


def save_paddlenlp(model, folder):
    """Write a folder that PaddleNLP's `ErnieViLModel.from_pretrained` loads.

    Raises:
        ernie_vil2.errors.UserError: a model that ErnieViLModel cannot represent.
    """
    from ernie_vil2.weights.paddlenlp import save_paddlenlp

    save_paddlenlp(model, folder)
