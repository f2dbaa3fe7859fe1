"""PaddleNLP's config.json, as it writes it and as people spoil it."""

import json

import pytest

import ernie_vil2
from ernie_vil2.errors import UserError
from ernie_vil2.weights.paddlenlp_config import mlp_ratio


@pytest.mark.parametrize(
    "section, key, value, said",
    [
        ("text", "hidden_size", [64], "text_config.hidden_size is [64]; expected a whole number"),
        ("text", "hidden_size", "64", "text_config.hidden_size is '64'; expected a whole number"),
        ("text", "hidden_size", 0, "text_config.hidden_size is 0"),
        ("text", "hidden_size", -64, "text_config.hidden_size is -64"),
        ("text", "hidden_size", 64.5, "text_config.hidden_size is 64.5"),
        ("text", "hidden_size", True, "text_config.hidden_size is true"),
        ("text", "hidden_size", None, "text_config.hidden_size is null"),
        ("text", "hidden_size", 10**30, "text_config.hidden_size is 1000"),
        ("text", "hidden_size", 1 << 20, "1048576, but the weights beside it have 64"),
        ("text", "vocab_size", 9_999_999, "9999999, but the weights beside it have 883"),
        ("text", "num_hidden_layers", 999, "999, but the weights beside it have 2"),
        ("text", "max_position_embeddings", 32, "32, but the weights beside it have 64"),
        ("text", "intermediate_size", 255, "255, but the weights beside it have 256"),
        ("text", "num_attention_heads", 7, "no multiple of num_attention_heads 7"),
        ("text", "hidden_act", "swish2", "hidden_act is 'swish2'; expected gelu or relu"),
        ("text", "hidden_act", ["gelu"], "hidden_act is ['gelu']"),
        ("text", "hidden_dropout_prob", 1.5, "expected a number from 0 to below 1"),
        ("text", "hidden_dropout_prob", float("nan"), "expected a number from 0 to below 1"),
        ("text", "pad_token_id", 1, "pad_token_id is 1; expected 0"),
        ("text", "task_id", 3, "task_id is 3, but the weights know 3 tasks"),
        ("text", "task_id", "x", "task_id is 'x'"),
        ("vision", "hidden_act", "gelu", "hidden_act is 'gelu'; expected quick_gelu"),
        ("vision", "patch_size", 0, "vision_config.patch_size is 0"),
        ("vision", "patch_size", 128, "128, but the weights beside it have 16"),
        ("vision", "image_size", 96, "96, but the weights beside it have 16 patches"),
        ("vision", "image_size", 1 << 14, "16384, but the weights beside it have 16 patches"),
        ("vision", "num_attention_heads", 1000, "no multiple of num_heads 1000"),
        ("vision", "layer_norm_eps", "tiny", "expected a number above 0"),
        ("text", None, [1, 2], "text_config is [1, 2]; expected an object"),
        ("vision", None, "base", "vision_config is 'base'; expected an object"),
    ],
)
def test_odd_values_are_one_line(paddlenlp_folder, section, key, value, said):
    content = json.loads((paddlenlp_folder / "config.json").read_text())
    content = {name: content[name] for name in ("model_type", "text_config", "vision_config")}
    if key:
        content[f"{section}_config"][key] = value
    else:
        content[f"{section}_config"] = value
    (paddlenlp_folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        ernie_vil2.load(paddlenlp_folder)
    message = str(error.value)
    assert said in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("text", ["[" * 100_000, '{"text_config": ' + "9" * 5000 + "}", "\ud800"])
def test_json_that_cannot_be_read(paddlenlp_folder, text):
    (paddlenlp_folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"config.json"):
        ernie_vil2.load(paddlenlp_folder)


def test_ratio_survives_every_size():
    for hidden in range(1, 200):
        for intermediate in range(1, 800, 7):
            assert int(mlp_ratio(intermediate, hidden) * hidden) == intermediate
