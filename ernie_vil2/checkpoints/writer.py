"""Writing checkpoints beside the training: snapshot, write, sync, publish, rotate."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ernie_vil2.checkpoints import store
from ernie_vil2.checkpoints.layout import (
    BASE,
    MANIFEST,
    STATE,
    manifest,
    manifest_entry,
    of_step,
    shard_name,
)
from ernie_vil2.checkpoints.notes import leave_note, wait_for_notes
from ernie_vil2.files.durable import sealed, sync
from ernie_vil2.files.safetensors import snapshot, write_safetensors

log = logging.getLogger("ernie_vil2")

_PATIENCE = 10.0  # seconds that a failing run waits for other ranks' files


class Unsaved(Exception):
    """A run is over, and its last checkpoint could not be written."""


class CheckpointWriter:
    """Writes `folder`/step_*; every process of a run has one and calls it at the same steps.

    `save` copies the tensors to host memory and returns; a thread does the rest, for one checkpoint
    at a time. What the disk refuses is warned of and counted in `failed`, and the run goes on: the
    last good checkpoint is untouched, the next `save` tries again. Any other error of the thread is
    raised by the next call here. The thread is a daemon: `close` waits for it, and a process that
    ends without, or is killed, leaves nothing that looks like a checkpoint.

    In a sharded run each process writes its file into one folder, and then a note with its size and
    checksum; rank 0 waits for the notes before it publishes.

    Args:
        config: a `Config`, for config.yaml.
        vocab_file: the tokenizer's, copied to vocab.txt.
        keep: the number of newest ones kept, beside the best.
        keep_every: those whose step it divides are kept too; 0: none.
        sharded: every process brings tensors of its own, not rank 0 alone.
        token: equal on all ranks and another at each start of the run, so that files of a dead run
            are never taken for this one's.
        time_limit: seconds that rank 0 waits for the others' files.
        base: for base.json; None: `weights` are whole.
    """

    def __init__(
        self,
        folder: Path,
        config,
        vocab_file: str,
        keep: int = 3,
        keep_every: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sharded: bool = False,
        token: str | None = None,
        time_limit: float = 600.0,
        base: Mapping | None = None,
    ):
        sharded = sharded and world_size > 1
        assert keep >= 1 and (token or not sharded)
        self.folder, self.config, self.vocab_file = folder, config, vocab_file
        self.base = base
        self.keep, self.keep_every, self.time_limit = keep, keep_every, time_limit
        self.rank, self.world_size, self.sharded = rank, world_size, sharded
        self.token = token or f"{os.getpid()}-{time.time_ns()}"
        self.failed = 0  # checkpoints and amendments that the disk refused
        self.last: Path | None = None  # the newest that was published
        self._refused: tuple[int, OSError] | None = None  # the newest of all that was not: its step
        self._number = 0  # of calls of save, which is the same on all ranks
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            others = [p for p in folder.glob(".writing-*") if not p.name.endswith(f"-{self.token}")]
            store.tidy(folder, others)

    def save(
        self, weights: Mapping | None, training: Mapping, state: Mapping, best: bool = False
    ) -> None:
        """Begin to write the checkpoint of state["step"], once the one before is written.

        Args:
            weights: name -> tensor or array, the model to use; None on ranks other than 0.
            training: name -> tensor or array, all else that a resume needs; where sharded, what
                this rank owns, else rank 0's.
            state: what JSON can hold, and arrays.
            best: point `best` at it.
        """
        self.wait()
        self._number += 1
        if self.rank != 0 and not self.sharded:
            return
        arguments = (
            snapshot(weights or {}),
            snapshot(training),
            state["step"],
            sealed({**state, "is_best": best}),
            best,
        )
        self._thread = threading.Thread(
            target=self._run, args=arguments, name="checkpoint", daemon=True
        )
        self._thread.start()

    def amend(self, state: Mapping, best: bool) -> Path | None:
        """Replace the state of the checkpoint of state["step"], as an evaluation after it has to.

        Returns:
            Its folder; None where it was not written, and on ranks other than 0.
        """
        self.wait()
        if self.rank != 0:
            return None
        path = of_step(self.folder, state["step"])
        if path is None:
            return None
        try:
            store.amend(path, state, best)
        except (OSError, ValueError) as error:
            self.failed += 1
            log.warning("%s keeps the state it had before the evaluation: %s", path, error)
            return None
        return path

    @property
    def writing(self) -> bool:
        """Whether this rank still writes."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Return when nothing is being written; raises what was wrong with the program."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self, failing: bool = False) -> None:
        """Let the last checkpoint be finished.

        Args:
            failing: other ranks may be dead, so their files are waited for a few seconds at most.
        """
        if failing:
            self.time_limit = min(self.time_limit, _PATIENCE)
        self.wait()

    def check_saved(self) -> None:
        """Refuse to end a run whose last call of `save` wrote nothing.

        Rank 0 knows of all ranks; the others raise nothing.

        Raises:
            Unsaved: naming what is lost.
        """
        self.wait()
        if self.rank != 0 or self._refused is None:
            return
        step, error = self._refused
        newest = store.find_latest(self.folder)
        lost = f"what was learned after {newest.name}" if newest else "all that was learned"
        raise Unsaved(
            f"the checkpoint of step {step} could not be written to {self.folder} ({error}): "
            f"{lost} is lost; make it writable, with room, and --resume auto goes on from "
            f"{newest.name if newest else 'the start'}"
        )

    # -- on the thread -----------------------------------------------------------------------------

    def _run(self, weights: dict, training: dict, step: int, state: str, best: bool) -> None:
        draft = self.folder / f".writing-{step:08d}-{self._number}-{self.token}"
        path = None
        try:
            try:
                self._write(draft, weights, training, state)
                if self.rank == 0:
                    path = self.last = store.publish(draft, self.folder, step)
                self._refused = None
            except OSError as error:
                self.failed += 1
                self._refused = step, error
                self._give_up(draft, step, error)
                return
            if path is not None:
                log.info("saved %s%s", path, " (best)" if best else "")
                self._settle(path, best)
        except BaseException as error:  # not the disk's fault: for the training thread to raise
            self._error = error

    def _write(self, draft: Path, weights: dict, training: dict, state: str) -> None:
        self._remove_abandoned()
        draft.mkdir(parents=True, exist_ok=True)
        entry = _write_tensors(draft / self._training_name(self.rank), training)
        if self.rank != 0:
            leave_note(draft, self.rank, entry)
            return
        files = {self._training_name(0): entry}
        files["model.safetensors"] = _write_tensors(draft / "model.safetensors", weights)
        self.config.dump(draft / "config.yaml")
        shutil.copyfile(self.vocab_file, draft / "vocab.txt")
        if self.base is not None:
            (draft / BASE).write_text(sealed(self.base), encoding="utf-8")
        for name in ("config.yaml", "vocab.txt", *([BASE] if self.base else [])):
            files[name] = _synced_entry(draft / name)
        _write_text(draft / STATE, state)
        if self.sharded:
            others = wait_for_notes(draft, range(1, self.world_size), lambda: self.time_limit)
            files.update({self._training_name(rank): entry for rank, entry in others.items()})
        _write_text(draft / MANIFEST, manifest(files))
        sync(draft)

    def _training_name(self, rank: int) -> str:
        if not self.sharded:
            return "training.safetensors"
        return shard_name(rank, self.world_size)

    def _settle(self, newest: Path, best: bool) -> None:
        """Let the links follow, and drop older ones."""
        try:
            store.point(self.folder / "latest", newest)
            if best:
                store.point(self.folder / "best", newest)
            sync(self.folder)
            store.rotate(self.folder, self.keep, self.keep_every)
        except OSError as error:
            log.warning("%s is whole, but older ones stay as they are: %s", newest, error)

    def _give_up(self, draft: Path, step: int, error: OSError) -> None:
        if self.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)  # the disk may be full
        else:
            self._tell_of_failure(draft, error)
        good = self.folder / "latest"
        log.warning(
            "checkpoint of step %d is not written (%s); training goes on, %s",
            step,
            error,
            f"{good.resolve().name} is untouched" if good.exists() else "there is none yet",
        )

    def _tell_of_failure(self, draft: Path, error: OSError) -> None:
        """Tell rank 0 not to wait; where even that fails, it waits for its time limit."""
        with contextlib.suppress(OSError):
            (draft / self._training_name(self.rank)).unlink(missing_ok=True)
            leave_note(draft, self.rank, {"error": str(error)})

    def _remove_abandoned(self) -> None:
        """Remove drafts of this run that rank 0 has given up.

        It is at most one save behind another rank, which therefore leaves the one before alone.
        """
        before = self._number if self.rank == 0 else self._number - 1
        for path in self.folder.glob(f".writing-*-{self.token}"):
            if int(path.name.split("-")[2]) < before:
                shutil.rmtree(path, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    sync(path)


def _write_tensors(path: Path, tensors: dict) -> dict:
    entry = _synced_entry(path, write_safetensors(path, tensors))
    tensors.clear()  # it is on the disk; the host has other use for the memory
    return entry


def _synced_entry(path: Path, digest: str | None = None) -> dict:
    sync(path)
    return manifest_entry(path, digest)
