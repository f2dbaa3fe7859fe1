"""Writing checkpoints beside the training: snapshot, write, sync, publish, rotate."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ernie_vil2.checkpoints import store
from ernie_vil2.files.durable import read_json, replace_text, sealed, sha256, sync
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

    Processes meet in the file system alone, since a thread must not use collectives while the
    training does. In a sharded run each writes its file into one folder, and then a note with its
    size and checksum; rank 0 waits for the notes before it publishes.

    Args:
        config: a `Config`, for config.yaml.
        vocab_file: the tokenizer's, copied to vocab.txt.
        keep: the number of newest ones kept, beside the best.
        keep_every: those whose step it divides are kept too; 0: none.
        sharded: every process brings tensors of its own, not rank 0 alone.
        token: equal on all ranks and another at each start of the run, so that files of a dead run
            are never taken for this one's.
        time_limit: seconds that rank 0 waits for the others' files.
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
    ):
        sharded = sharded and world_size > 1
        assert keep >= 1 and (token or not sharded)
        self.folder, self.config, self.vocab_file = folder, config, vocab_file
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

        Returns its folder; None where it was not written, and on ranks other than 0.
        """
        self.wait()
        if self.rank != 0:
            return None
        path = store.of_step(self.folder, state["step"])
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

        failing: other ranks may be dead, so their files are waited for a few seconds at most.
        """
        if failing:
            self.time_limit = min(self.time_limit, _PATIENCE)
        self.wait()

    def check_saved(self) -> None:
        """Raise Unsaved, with what is lost, where the last call of `save` wrote nothing.

        Rank 0 knows of all ranks; the others raise nothing.
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
        try:
            try:
                self._write(draft, weights, training, state)
                if self.rank == 0:
                    self.last = store.publish(draft, self.folder, step)
                self._refused = None
            except OSError as error:
                self.failed += 1
                self._refused = step, error
                self._give_up(draft, step, error)
                return
            if self.rank == 0:
                log.info("saved %s%s", self.last, " (best)" if best else "")
                self._settle(best)
        except BaseException as error:  # not the disk's fault: for the training thread to raise
            self._error = error

    def _write(self, draft: Path, weights: dict, training: dict, state: str) -> None:
        self._remove_abandoned()
        draft.mkdir(parents=True, exist_ok=True)
        entry = _write_tensors(draft / self._training_name(self.rank), training)
        if self.rank != 0:
            replace_text(draft / _note_name(self.rank), sealed(entry))
            return
        files = {self._training_name(0): entry}
        files["model.safetensors"] = _write_tensors(draft / "model.safetensors", weights)
        self.config.dump(draft / "config.yaml")
        shutil.copyfile(self.vocab_file, draft / "vocab.txt")
        for name in ("config.yaml", "vocab.txt"):
            files[name] = _entry(draft / name, sha256(draft / name))
        _write_text(draft / store.STATE, state)
        if self.sharded:
            files.update(self._wait_for_shards(draft))
        _write_text(draft / store.MANIFEST, sealed({"files": files}))
        sync(draft)

    def _training_name(self, rank: int) -> str:
        if not self.sharded:
            return "training.safetensors"
        return store.shard_name(rank, self.world_size)

    def _wait_for_shards(self, draft: Path) -> dict:
        """File name -> entry of all other ranks' shards."""
        files: dict = {}
        missing = set(range(1, self.world_size))
        begun, pause = time.monotonic(), 0.01
        while True:
            for rank in sorted(missing):
                note = draft / _note_name(rank)
                try:
                    entry = read_json(note, sealed=True)
                except FileNotFoundError:
                    continue
                if "error" in entry:
                    raise OSError(f"rank {rank}: {entry['error']}")
                files[self._training_name(rank)] = {k: entry[k] for k in ("size", "sha256")}
                missing.discard(rank)
                note.unlink()
            if not missing:
                return files
            if time.monotonic() - begun > self.time_limit:  # which `close` may lower
                ranks = ", ".join(map(str, sorted(missing)))
                raise TimeoutError(
                    f"nothing came from rank {ranks} within {self.time_limit:g} s: do all nodes "
                    "share Global.output_dir?"
                )
            time.sleep(pause)
            pause = min(1.0, 1.5 * pause)

    def _settle(self, best: bool) -> None:
        """Let the links follow, and drop older ones."""
        try:
            store.point(self.folder / "latest", self.last)
            if best:
                store.point(self.folder / "best", self.last)
            sync(self.folder)
            store.rotate(self.folder, self.keep, self.keep_every)
        except OSError as error:
            log.warning("%s is whole, but older ones stay as they are: %s", self.last, error)

    def _give_up(self, draft: Path, step: int, error: OSError) -> None:
        if self.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)  # the disk may be full
        else:
            self._leave_note(draft, error)
        good = self.folder / "latest"
        log.warning(
            "checkpoint of step %d is not written (%s); training goes on, %s",
            step,
            error,
            f"{good.resolve().name} is untouched" if good.exists() else "there is none yet",
        )

    def _leave_note(self, draft: Path, error: OSError) -> None:
        """Tell rank 0 not to wait; where even that fails, it waits for its time limit."""
        try:
            (draft / self._training_name(self.rank)).unlink(missing_ok=True)
            note = sealed({"error": str(error)})
            replace_text(draft / _note_name(self.rank), note)
        except OSError:
            pass

    def _remove_abandoned(self) -> None:
        """Remove drafts of this run that rank 0 has given up.

        It is at most one save behind another rank, which therefore leaves the one before alone.
        """
        before = self._number if self.rank == 0 else self._number - 1
        for path in self.folder.glob(f".writing-*-{self.token}"):
            if int(path.name.split("-")[2]) < before:
                shutil.rmtree(path, ignore_errors=True)


def _note_name(rank: int) -> str:
    return f".rank-{rank}.json"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    sync(path)


def _write_tensors(path: Path, tensors: dict) -> dict:
    entry = _entry(path, write_safetensors(path, tensors))
    tensors.clear()  # it is on the disk; the host has other use for the memory
    return entry


def _entry(path: Path, digest: str) -> dict:
    sync(path)
    return {"size": path.stat().st_size, "sha256": digest}
