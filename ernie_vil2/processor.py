"""What a processor can run, told from its flags in /proc/cpuinfo.

Standard library only, and pure functions: a machine of either kind can test the choice for both.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from ernie_vil2.errors import UserError

# What oneDNN calls AVX512-Core; of these processors are its kernels for bf16 and int8.
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
# What each precision on the CPU needs beside what Paddle itself does, which is AVX.
NEEDS: dict[str, frozenset[str]] = {
    "fp32": frozenset(),
    "bf16": AVX512 | {"avx512_bf16"},
    "int8": AVX512 | {"avx512_vnni"},
}


def flags(cpuinfo: str | Path = "/proc/cpuinfo") -> frozenset[str]:
    """The instructions of this machine's first processor; none where that cannot be told."""
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def missing(precision: str, has: Set[str]) -> list[str]:
    """The flags that `precision` needs on a CPU and `has` lacks, in order of their names."""
    return sorted(NEEDS[precision] - has)


def why_not(precision: str, has: Set[str]) -> str | None:
    """One line on what keeps `precision` from running on a CPU with the flags `has`, or None."""
    lacks = missing(precision, has)
    if not lacks:
        return None
    if not has:
        return f"precision {precision}: /proc/cpuinfo tells no instructions; use fp32 here"
    others = " or ".join(other for other in NEEDS if not missing(other, has))
    return f"precision {precision}: this processor lacks {', '.join(lacks)}; use {others} here"


def check(precision: str, has: Set[str]) -> None:
    """Refuse a precision that a CPU with the flags `has` cannot run.

    Raises:
        UserError: naming what the processor lacks.
    """
    reason = why_not(precision, has)
    if reason is not None:
        raise UserError(reason)


def unsafe_passes(precision: str, has: Set[str], paddle_version: str) -> tuple[str, ...]:
    """The passes of Paddle Inference on oneDNN that must not run, for `Config.delete_pass`.

    Paddle 2.6's `self_attention_fuse_pass` puts in an operator, `self_dp_attention`, that is
    compiled for AVX-512 without asking the processor: elsewhere it ends the process (SIGILL). And
    its kernel is float32's, so in bf16 it costs time. Nothing else in 2.6.2's libpaddle.so has such
    instructions (objdump), but OpenSSL, which asks. Paddle 3 chooses by the processor.
    """
    if int(paddle_version.split(".")[0]) >= 3:
        return ()
    return () if precision != "bf16" and has >= AVX512 else ("self_attention_fuse_pass",)
