"""The text tower: ERNIE without segments, dropout that makes views, sizes from names."""

import numpy as np
import paddle
import pytest
from paddlenlp.transformers import BertConfig, BertModel, ErnieConfig, ErnieModel, RobertaModel
from paddlenlp.transformers.ernie.configuration import (
    ERNIE_PRETRAINED_INIT_CONFIGURATION as RELEASED,
)
from paddlenlp.transformers.roberta.configuration import PRETRAINED_INIT_CONFIGURATION as ROBERTA

from ernie_vil2.errors import UserError
from ernie_vil2.models.text import TextTower, fold_constant_embeddings

TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
}


def tokens(batch=3, length=8, seed=0):
    ids = np.random.default_rng(seed).integers(3, 50, (batch, length))
    ids[:, 0] = 1
    return paddle.to_tensor(ids)


def test_padding_changes_nothing():
    tower = TextTower("own", **TINY)
    tower.eval()
    padded = paddle.concat([tokens(), paddle.zeros([3, 4], "int64")], axis=1)
    np.testing.assert_allclose(tower(padded).numpy(), tower(tokens()).numpy(), atol=1e-6)


def test_dropout_makes_views_in_training_alone():
    tower = TextTower("own", **TINY)
    tower.train()
    assert float((tower(tokens()) - tower(tokens())).abs().max()) > 1e-3
    tower.eval()
    np.testing.assert_array_equal(tower(tokens()).numpy(), tower(tokens()).numpy())
    still = TextTower("own", **TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still.train()
    np.testing.assert_array_equal(still(tokens()).numpy(), still(tokens()).numpy())


def test_folding_keeps_paddlenlps_function():
    paddle.seed(0)
    config = ErnieConfig(
        **TINY, intermediate_size=64, type_vocab_size=4, use_task_id=True, task_type_vocab_size=3
    )
    config.task_id = 2
    source = ErnieModel(config)
    tower = TextTower("own", **TINY, intermediate_size=64, epsilon=1e-12)
    state = fold_constant_embeddings(source.state_dict(), task_id=2)
    assert state.keys() == tower.ernie.state_dict().keys()
    tower.ernie.set_state_dict(state)
    source.eval(), tower.eval()
    expected = source(tokens())[1]
    np.testing.assert_allclose(tower(tokens()).numpy(), expected.numpy(), atol=1e-5)


def test_pretrained_weights_are_folded(monkeypatch):
    # The download alone is replaced: a model of the released kind stands for what it would bring.
    sizes = {"num_hidden_layers": 1}
    source = ErnieModel(ErnieConfig(**{**RELEASED["ernie-3.0-nano-zh"], **sizes}))
    monkeypatch.setattr(ErnieModel, "from_pretrained", lambda name: source)
    tower = TextTower("ernie-3.0-nano-zh", pretrained=True, **sizes, epsilon=1e-12)
    source.eval(), tower.eval()
    assert source.config.use_task_id
    np.testing.assert_allclose(tower(tokens()).numpy(), source(tokens())[1].numpy(), atol=1e-5)
    with pytest.raises(UserError, match=r"other shapes for embeddings.word_embeddings.weight"):
        TextTower("ernie-3.0-nano-zh", pretrained=True, **sizes, vocab_size=70)


def test_pretrained_weights_of_another_length(monkeypatch, logged):
    sizes = {"num_hidden_layers": 1, "vocab_size": 60}
    source = ErnieModel(ErnieConfig(**{**RELEASED["ernie-3.0-nano-zh"], **sizes}))
    monkeypatch.setattr(ErnieModel, "from_pretrained", lambda name: source)
    sizes["max_position_embeddings"] = 20
    tower = TextTower("ernie-3.0-nano-zh", pretrained=True, **sizes, epsilon=1e-12)
    source.eval(), tower.eval()
    np.testing.assert_allclose(tower(tokens()).numpy(), source(tokens())[1].numpy(), atol=1e-5)
    assert "cut from 2048 to the first 20" in logged.text


def test_released_names_give_their_sizes():
    tower = TextTower("ernie-3.0-nano-zh", num_hidden_layers=1)
    assert tower.vocab_size == 40000 and tower.width == 312 and tower.num_layers == 1
    assert tower.max_len == 2048
    assert all(
        layer._epsilon == 1e-5
        for layer in tower.sublayers()
        if isinstance(layer, paddle.nn.LayerNorm)
    )
    assert not any("type_embeddings" in name for name, _ in tower.named_parameters())


def test_layers_from_stem_to_head():
    tower = TextTower("own", **TINY)
    layers = {name: tower.layer_of(name) for name, _ in tower.named_parameters()}
    assert layers["ernie.embeddings.word_embeddings.weight"] == 0
    assert layers["ernie.encoder.layers.0.linear1.bias"] == 1
    assert layers["ernie.encoder.layers.1.norm2.weight"] == tower.num_layers == 2
    assert layers["ernie.pooler.dense.weight"] == 3


def test_recompute_runs_blocks_twice_with_equal_gradients():
    plain, again = TextTower("own", **TINY), TextTower("own", **TINY, recompute=True)
    again.set_state_dict(plain.state_dict())
    gradients, calls = [], []
    for tower in (plain, again):
        count = []
        for block in tower.ernie.encoder.layers:
            block.register_forward_post_hook(lambda *_, count=count: count.append(1))
        paddle.seed(1)
        tower(tokens()).square().sum().backward()
        gradients.append({name: p.grad.numpy() for name, p in tower.named_parameters()})
        calls.append(len(count))
    assert calls == [2, 4]
    for name, grad in gradients[0].items():
        np.testing.assert_array_equal(grad, gradients[1][name], name)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"name": "ernie-3.0-bsae-zh"}, 'did you mean "ernie-3.0-base-zh"'),
        ({**TINY, "name": "own", "hidden_size": 30}, "no multiple of num_attention_heads 4"),
        ({**TINY, "name": "own", "pretrained": True}, 'no weights for "own"'),
        ({"name": "own", "kind": "bert"}, "no released BERT and vocab_size"),
        ({**TINY, "name": "own", "kind": "bert", "pretrained": True}, 'no weights for "own"'),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError) as error:
        TextTower(**options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_too_long_a_text_is_named():
    with pytest.raises(UserError, match="a text has 13 tokens, the text tower takes 12: lower"):
        TextTower("own", **TINY)(tokens(length=13))


def test_bert_gives_the_last_state_of_its_first_token():
    paddle.seed(0)
    source = BertModel(BertConfig(**TINY, intermediate_size=64, type_vocab_size=2))
    tower = TextTower("own", "bert", **TINY, intermediate_size=64, epsilon=1e-12)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("pooler")}
    assert state.keys() == tower.bert.state_dict().keys()
    tower.bert.set_state_dict(state)
    source.eval(), tower.eval()
    ids = paddle.concat([tokens(), paddle.zeros([3, 4], "int64")], axis=1)
    np.testing.assert_allclose(tower(ids).numpy(), source(ids)[0][:, 0].numpy(), atol=1e-5)
    assert tower.layer_of("bert.embeddings.word_embeddings.weight") == 0
    assert tower.layer_of("bert.encoder.layers.1.norm2.weight") == 2
    tower.train()
    tower(ids).square().sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


def test_released_berts_give_their_sizes(monkeypatch):
    # of PaddleNLP's RobertaModel, whose positions begin at 1 where these were trained from 0
    source = BertModel(BertConfig(**{**ROBERTA["hfl/rbt3"], "num_hidden_layers": 1}))
    monkeypatch.setattr(RobertaModel, "from_pretrained", lambda name: source)
    tower = TextTower("hfl/rbt3", pretrained=True, num_hidden_layers=1, epsilon=1e-12)
    assert tower.kind == "bert" and tower.vocab_size == 21128 and tower.width == 768
    source.eval(), tower.eval()
    expected = source(tokens())[0][:, 0].numpy()
    np.testing.assert_allclose(tower(tokens()).numpy(), expected, atol=1e-5)
