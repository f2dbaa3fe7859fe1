"""Programs that show a run's curves: VisualDL, TensorBoard, Weights & Biases."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ernie_vil2.config.load import Config
from ernie_vil2.data.arrays import Array
from ernie_vil2.data.packages import needed
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import append

_BUCKETS = 50
_ID = "wandb_id"  # file with what the run is called there, so that a resume goes on with it


class Sink(Protocol):
    """Takes what is to be shown; a full disk is an OSError."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def histogram(self, step: int, name: str, values: Array) -> None: ...

    def picture(self, name: str, pixels: Array) -> None:
        """uint8 [H, W, 3], at step 0."""

    def text(self, name: str, value: str) -> None:
        """At step 0."""

    def close(self) -> None: ...


def open_sinks(output: Path, config: Config) -> list[Sink]:
    """Those of `Global.log_to`.

    Raises:
        UserError: a package that one needs is not installed, or Weights & Biases lets nobody in.
    """
    return [_SINKS[name](output, config) for name in config.Global.log_to]


def open_to_append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


# -- VisualDL --------------------------------------------------------------------------------------


class _Records:
    """VisualDL's file: its records, each behind its length as uint64.

    Its own writer tears a record where the disk is full, so that VisualDL can't read the file any
    more, and its thread may die of it and let the next points wait for ever.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open_to_append(folder / f"vdlrecords.{int(time.time()):010d}.log")

    def add_record(self, record: Any) -> None:
        data = record.SerializeToString()
        append(self.file, struct.pack("<Q", len(data)) + data)


class _VisualDL:
    def __init__(self, output: Path, config: Config):
        from visualdl import LogWriter  # slow to import, and other ranks do without

        records = self._records = _Records(output / "vdl")

        class Writer(LogWriter):
            def _get_file_writer(self):
                return records

        self._writer = Writer()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, values: Array) -> None:
        self._writer.add_histogram(name, values, step, buckets=_BUCKETS)

    def picture(self, name: str, pixels: Array) -> None:
        self._writer.add_image(name, np.ascontiguousarray(pixels), 0)

    def text(self, name: str, value: str) -> None:
        self._writer.add_text(name, value, 0)

    def close(self) -> None:
        os.close(self._records.file)


# -- TensorBoard -----------------------------------------------------------------------------------


class _TensorBoard:
    def __init__(self, output: Path, config: Config):
        writer = needed("tensorboardX", "Global.log_to: tensorboard", None).SummaryWriter
        self._writer = writer(str(output / "tensorboard"), flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, values: Array) -> None:
        self._writer.add_histogram(name, values, step, bins="auto", max_bins=_BUCKETS)

    def picture(self, name: str, pixels: Array) -> None:
        self._writer.add_image(name, np.ascontiguousarray(pixels), 0, dataformats="HWC")

    def text(self, name: str, value: str) -> None:
        self._writer.add_text(name, value, 0)

    def close(self) -> None:
        self._writer.close()


# -- Weights & Biases ------------------------------------------------------------------------------


class _WandB:
    """Goes where WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE say, as all programs that use it."""

    def __init__(self, output: Path, config: Config):
        wandb = self._wandb = needed("wandb", "Global.log_to: wandb", None)
        known = output / _ID
        if not known.exists():
            known.write_text(wandb.util.generate_id(), encoding="utf-8")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "ernie_vil2"),
                name=output.name,
                id=known.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(output),
                config=config.to_dict(),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"Weights & Biases: {reason}: run wandb login, set WANDB_MODE=offline, or leave "
                "wandb out of Global.log_to"
            ) from error
        # a resumed run takes steps again, which wandb's own counter would refuse
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def histogram(self, step: int, name: str, values: Array) -> None:
        counts = np.histogram(values, _BUCKETS)
        self._run.log({"step": step, name: self._wandb.Histogram(np_histogram=counts)})

    def picture(self, name: str, pixels: Array) -> None:
        self._run.log({"step": 0, name: self._wandb.Image(pixels)})

    def text(self, name: str, value: str) -> None:
        html = self._wandb.Html(escape(value), inject=False, data_is_not_path=True)
        self._run.log({"step": 0, name: html})

    def close(self) -> None:
        self._run.finish()


_SINKS: Mapping[str, Callable[[Path, Config], Sink]] = {
    "visualdl": _VisualDL,
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
}
