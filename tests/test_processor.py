"""What runs follows from a processor's flags: both kinds of machine are tested on any."""

import shutil
import signal
import subprocess
import sys

import paddle
import pytest
from paddle import inference

from ernie_vil2 import processor
from ernie_vil2.errors import UserError
from ernie_vil2.serving import predictor, program
from ernie_vil2.serving.predictor import Predictor
from tests.support.paths import ROOT

on_paddle2 = pytest.mark.skipif(paddle.__version__ >= "3", reason="the pass is Paddle 2's")

# as /proc/cpuinfo has them, less what no precision asks for
DESKTOP = frozenset({"sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"})
SKYLAKE = DESKTOP - {"avx_vnni"} | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
CASCADE_LAKE = SKYLAKE | {"avx512_vnni"}
SAPPHIRE_RAPIDS = CASCADE_LAKE | {"avx512_bf16", "amx_bf16", "amx_int8", "amx_tile"}
PASS = "self_attention_fuse_pass"


@pytest.mark.parametrize(
    "has,runs",
    [
        (frozenset(), ["fp32"]),
        (DESKTOP, ["fp32"]),
        (SKYLAKE, ["fp32"]),
        (CASCADE_LAKE, ["fp32", "int8"]),
        (SAPPHIRE_RAPIDS, ["fp32", "bf16", "int8"]),
        (SAPPHIRE_RAPIDS - {"avx512vl"}, ["fp32"]),
    ],
)
def test_which_precisions_run_where(has, runs):
    assert [name for name in processor.NEEDS if processor.why_not(name, has) is None] == runs


def test_what_is_missing_is_said_in_one_line():
    assert processor.why_not("bf16", CASCADE_LAKE) == (
        "precision bf16: this processor lacks avx512_bf16; use fp32 or int8 here"
    )
    assert "lacks avx512_vnni, avx512bw, avx512dq, avx512f" in processor.why_not("int8", DESKTOP)
    assert "/proc/cpuinfo tells no instructions" in processor.why_not("int8", frozenset())


@pytest.mark.parametrize(
    "precision,has,version,passes",
    [
        ("fp32", DESKTOP, "2.6.2", (PASS,)),
        ("fp32", frozenset(), "2.6.2", (PASS,)),
        ("fp32", SKYLAKE - {"avx512vl"}, "2.6.2", (PASS,)),
        ("int8", DESKTOP, "2.6.2", (PASS,)),
        ("fp32", SKYLAKE, "2.6.2", ()),
        ("int8", CASCADE_LAKE, "2.6.2", ()),
        ("bf16", SAPPHIRE_RAPIDS, "2.6.2", (PASS,)),
        ("fp32", DESKTOP, "0.0.0", (PASS,)),  # built from Paddle's sources
        ("fp32", DESKTOP, "3.3.1", ()),
        ("bf16", SAPPHIRE_RAPIDS, "3.3.1", ()),
    ],
)
def test_passes_that_would_end_the_process(precision, has, version, passes):
    assert processor.unsafe_passes(precision, has, version) == passes


def test_flags(tmp_path):
    assert "sse2" in processor.flags()
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx avx2\nvmx flags\t: vnmi\n\nflags : none\n")
    assert processor.flags(path) == {"fpu", "avx", "avx2"}
    path.write_text("processor: 0\nFeatures: asimd\n")  # ARM
    assert processor.flags(path) == processor.flags(tmp_path / "none") == frozenset()


def deleted(monkeypatch, make) -> set:
    """The passes that `make` deletes from configurations of Paddle Inference."""
    names = set()
    delete = inference.Config.delete_pass
    monkeypatch.setattr(
        inference.Config, "delete_pass", lambda self, name: names.add(name) or delete(self, name)
    )
    make()
    return names


@on_paddle2
@pytest.mark.parametrize("has,passes", [(DESKTOP, {PASS}), (SAPPHIRE_RAPIDS, set())])
def test_the_predictor_asks_the_processor(tiny_artefact, monkeypatch, has, passes):
    monkeypatch.setattr(program.processor, "flags", lambda: has)
    assert deleted(monkeypatch, lambda: Predictor(tiny_artefact)) == passes


@on_paddle2
@pytest.mark.parametrize("has,passes", [(DESKTOP, {PASS}), (SAPPHIRE_RAPIDS, set())])
def test_int8_is_made_without_them_too(tiny_artefact, tmp_path, monkeypatch, has, passes):
    from ernie_vil2.export import quantize

    monkeypatch.setattr(quantize.processor, "flags", lambda: has)
    model = tiny_artefact / "fp32" / "image.pdmodel"
    assert deleted(monkeypatch, lambda: quantize._optimize(model, tmp_path)) == passes


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_the_processor_lacks_is_refused(tiny_artefact, monkeypatch, precision):
    monkeypatch.setattr(program.processor, "flags", lambda: DESKTOP)
    artefact = predictor.Artefact.open(tiny_artefact)
    artefact.precisions[precision] = {}
    fp32 = predictor.Artefact.program  # whose files are there
    monkeypatch.setattr(predictor.Artefact, "program", lambda self, tower, _: fp32(self, tower))
    with pytest.raises(UserError, match=f"precision {precision}: this processor lacks avx512_"):
        Predictor(artefact, precision)


@pytest.fixture
def fused_model(tiny_artefact, tmp_path):
    """Exported, with attention that Paddle 2.6 fuses on processors with AVX-512."""
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.export.programs import export
    from ernie_vil2.models.dual_encoder import build_model
    from tests.support.scripts.distributed_step import ARCH

    image = {**ARCH["Image"], "img_size": 32, "depth": 3, "embed_dim": 128}
    model = build_model({**ARCH, "Image": image})
    model.eval()
    return export(model, Tokenizer(tiny_artefact / "vocab.txt", max_len=8), tmp_path).folder


@pytest.mark.slow
@on_paddle2
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="no qemu-x86_64 (qemu-user)")
@pytest.mark.parametrize("has,code", [(DESKTOP, 0), (SAPPHIRE_RAPIDS, -signal.SIGILL)])
def test_on_a_processor_without_avx512(fused_model, has, code):
    """QEMU's own, which has AVX2; /proc/cpuinfo there is still this machine's."""
    program = (
        "from ernie_vil2 import processor; from ernie_vil2.serving.predictor import Predictor; "
        "import paddle; "
        "paddle.disable_signal_handler(); "  # which hangs in QEMU
        f"processor.flags = lambda: {has!r}; Predictor({str(fused_model)!r})"
    )
    command = ["qemu-x86_64", "-cpu", "max", sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE).returncode == code
