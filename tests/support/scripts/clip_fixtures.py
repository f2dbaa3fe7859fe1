"""Numbers of Chinese-CLIP, open_clip and Hugging Face's CLIP for tests/weights/clip.

In an environment of its own, beside this project and never in it:

    pip install torch torchvision cn_clip==1.6.0 open_clip_torch==3.3.0 transformers==5.24.0
    PYTHONPATH=. python tests/support/scripts/clip_fixtures.py OUT

It builds small models of theirs with the weights of `clip_numbers`, saves each as theirs is saved,
into OUT, and writes OUT/theirs.npz and OUT/theirs.json: what each makes of the inputs, and of each
the shapes of its weights and the JSON beside them.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.support.clip_numbers import inputs, weights

VOCAB, LENGTH = 40, 20
_TEXT = {
    "vocab_size": VOCAB,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 160,
    "max_position_embeddings": LENGTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "type_vocab_size": 2,
}
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}


def chinese_clip(resnet: bool = False, image_resolution: int = 32) -> nn.Module:
    from cn_clip.clip.model import CLIP

    vit = {"vision_layers": 2, "vision_width": 128, "vision_patch_size": 8}
    rn50 = {"vision_layers": [3, 4, 6, 3], "vision_width": 8, "vision_patch_size": None}
    text = {key if key == "vocab_size" else f"text_{key}": v for key, v in _TEXT.items()}
    sizes = {"embed_dim": 24, "image_resolution": image_resolution, **(rn50 if resnet else vit)}
    return CLIP(**sizes, **text)


def open_clip(quick_gelu: bool = False, head_width: int = 64) -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(
        layers=2, width=128, head_width=head_width, patch_size=8, image_size=32, mlp_ratio=4.0
    )
    text = CLIPTextCfg(context_length=7, vocab_size=VOCAB, width=32, heads=2, layers=1)
    return CLIP(24, vision, text, quick_gelu=quick_gelu)


def huggingface(name: str, hidden_act: str = "quick_gelu") -> nn.Module:
    import transformers as hf

    vision = {**_VISION, "hidden_act": hidden_act}
    if name == "ChineseCLIPModel":
        text = {**_TEXT, "num_attention_heads": 4}
        config = hf.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    elif name == "CLIPModel":
        text = {**_VISION, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
        config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    else:
        config = hf.CLIPVisionConfig(**vision, projection_dim=24)
    return getattr(hf, name)(config)


CASES = {
    "chinese_clip-vit": (chinese_clip, {}),
    "chinese_clip-rn50": (chinese_clip, {"resnet": True, "image_resolution": 64}),
    "openai-vit": (open_clip, {"quick_gelu": True}),
    "open_clip-vit": (open_clip, {"head_width": 32}),
    "huggingface-chinese": (huggingface, {"name": "ChineseCLIPModel"}),
    "huggingface-clip": (huggingface, {"name": "CLIPModel", "hidden_act": "gelu"}),
    "huggingface-vision": (huggingface, {"name": "CLIPVisionModelWithProjection"}),
}


def fill(model: nn.Module) -> dict:
    """Give a model the weights of `clip_numbers`; returns the shapes of its state."""
    shapes = {name: list(t.shape) for name, t in model.state_dict().items()}
    derived = {name: t for name, t in model.state_dict().items() if name.endswith("position_ids")}
    state = {name: torch.from_numpy(array) for name, array in weights(shapes).items()}
    model.load_state_dict({**state, **derived})
    model.eval()
    return shapes


@torch.no_grad()
def outputs(model: nn.Module, pixels: np.ndarray, ids: np.ndarray) -> dict:
    """L2-normalised embeddings: of images, and of texts where a BERT reads them."""
    images, texts = torch.from_numpy(pixels), torch.from_numpy(ids)
    result = {}
    if hasattr(model, "encode_image"):
        result["image"] = model.encode_image(images)
        if hasattr(model, "bert"):
            result["text"] = model.encode_text(texts)
    elif type(model).__name__ == "CLIPVisionModelWithProjection":
        result["image"] = model(pixel_values=images).image_embeds
    else:
        vision = model.vision_model(pixel_values=images).pooler_output
        result["image"] = model.visual_projection(vision)
        if type(model).__name__ == "ChineseCLIPModel":
            mask = (texts != 0).long()
            state = model.text_model(input_ids=texts, attention_mask=mask)[0]
            result["text"] = model.text_projection(state[:, 0])
    return {name: nn.functional.normalize(x, dim=-1).numpy() for name, x in result.items()}


def save(name: str, model: nn.Module, folder: Path) -> None:
    """As theirs is saved: a training's checkpoint, a TorchScript archive, or a folder."""
    kind = name.split("-")[0]
    state = model.state_dict()
    if kind == "huggingface":
        model.save_pretrained(folder / name)
    elif kind == "chinese_clip":
        state = {f"module.{key}": value.half() for key, value in state.items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        optimizer.param_groups[0]["lr"] = np.float64(2e-5)  # as its schedule sets it
        content = {"epoch": 1, "step": 9, "name": "run", "state_dict": state}
        torch.save({**content, "optimizer": optimizer.state_dict()}, folder / f"{name}.pt")
    elif kind == "openai":
        example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 7, dtype=torch.long))
        torch.jit.trace(model, example, check_trace=False).save(folder / f"{name}.pt")
    else:
        (folder / name).mkdir(exist_ok=True)
        torch.save(state, folder / name / "open_clip_pytorch_model.bin")
        config = {"model_cfg": {"embed_dim": 24, "vision_cfg": {"head_width": 32}}}
        (folder / name / "open_clip_config.json").write_text(json.dumps(config))


TEXTS = (
    "一只戴着帽子的猫在海边看日落",
    "杰尼龟 皮卡丘, 可爱的 Pokémon!",
    "A man's T-shirt (XL), 100% cotton - $9.99",
    "２０２６年ＡＢＣ，。！？“引号”《书名》",
    "café NAÏVE Ångström İstanbul ς Σ ß",
    "emoji 😀😃 inside a😀b and 👩‍👩‍👧 family ☂️ flag 🇨🇳",
    "[MASK] [CLS] [UNK] ##ing the [SEP]",
    "tabs\tand\nnew\u3000lines\u00a0\u200bzero\ufeffwidth",
    "ひらがな カタカナ 한국어 ไทย العربية हिन्दी",
    "𠀀𪚥 豈 更 \U0002f800 x² ½ ① ㎏ №",
    "`~^|+=<>$ a`b c~d e^f g|h i+j",
    "control\x00\x07chars\x1f and \ufffd replaced",
    "http://www.example.com/a-b_c?d=1&e=2#f",
    "",
    "   ",
    "很长的文字" * 30,
    "w" * 100,
)


def tokens() -> dict:
    """Texts and the ids that cn_clip gives them, under a vocabulary of the tokens in them.

    It keeps unassigned and private characters, which ours drops, and looks at words of up to 200
    characters instead of 100: these alone are left out.
    """
    from cn_clip import clip
    from cn_clip.clip.bert_tokenizer import FullTokenizer

    whole = FullTokenizer()
    used = {token for text in TEXTS for token in whole.tokenize(text)}
    vocab = ["[PAD]", *sorted(used | {"[UNK]", "[CLS]", "[SEP]", "[MASK]"})]
    file = Path(sys.argv[1]) / "tokens.txt"
    file.write_text("\n".join(vocab), encoding="utf-8")
    clip._tokenizer.__init__(str(file))
    return {"vocab": vocab, "texts": TEXTS, "ids": clip.tokenize(list(TEXTS)).tolist()}


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    numbers, theirs = {}, {}
    for name, (build, options) in CASES.items():
        model = build(**options)
        theirs[name] = {"shapes": fill(model)}
        for tower, array in outputs(model, *inputs(64 if "rn50" in name else 32, VOCAB)).items():
            numbers[f"{name}.{tower}"] = array
        save(name, model, out)
        beside = (out / name).glob("*config.json")
        theirs[name]["beside"] = {path.name: json.loads(path.read_text()) for path in beside}
    np.savez_compressed(out / "theirs.npz", **numbers)
    theirs["tokens"] = tokens()
    (out / "theirs.json").write_text(json.dumps(theirs, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
