"""Checkpoints on disk: whole or absent, checked, and without code in them.

checkpoints/step_00001000/
    model.safetensors     the weights to use, by structured name, float32; averaged where EMA is on
    training.safetensors  "<parameter>|<accumulator>" of the optimizer, the loss's own parameters,
                          and, where EMA is on, the weights as they were trained; in a sharded run
                          training-00001-of-00004.safetensors ... instead, one a process
    config.yaml           resolved
    vocab.txt             a copy of the tokenizer's
    state.json            step, best metric, loss scaler ...; it carries its own checksum, because
                          an evaluation amends it
    manifest.json         size and SHA-256 of all files above but state.json
checkpoints/latest, best  links to such a folder
checkpoints/.writing-*, .deleting-*  not there yet, not there any more

A step that is written again, as after going back to an older checkpoint, becomes step_00001000.2
and takes the place of the first only then: at no moment is there none. `checkpoint_writer` writes
all this, `training_state` says what the tensors are.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import read_json, replace_text, sealed, sha256, sync
from ernie_vil2.files.safetensors import LazyTensors

log = logging.getLogger("ernie_vil2")

MANIFEST, STATE = "manifest.json", "state.json"
_STEP = re.compile(r"step_(\d{8})(?:\.(\d+))?$")
_SHARD = re.compile(r"training-(\d{5})-of-(\d{5})\.safetensors$")
_WEIGHTS = ("model.safetensors", "config.yaml", "vocab.txt")  # what a model is made from
_NOT_STATE = ("is_best", "checksum")  # what state.json holds beside the caller's state


# -- Finding ---------------------------------------------------------------------------------------


def find_latest(folder: Path) -> Path | None:
    """The newest good checkpoint under `folder`, or None; warns of each damaged newer one."""
    for path in reversed(checkpoints(folder)):
        problems = verify(path)
        if not problems:
            return path
        log.warning("checkpoint %s is damaged (%s): trying an older one", path, _brief(problems))
    return None


def check(checkpoint: Path) -> None:
    """Raise UserError, with what to use instead, unless `checkpoint` is good."""
    problems = verify(checkpoint)
    if not problems:
        return
    places = (checkpoint / "checkpoints", checkpoint, checkpoint.resolve().parent)
    good = (p for place in places for p in reversed(checkpoints(place)) if not verify(p))
    instead = next(good, None)
    remedy = f"{instead} is good" if instead else "start from weights with Global.pretrained"
    raise UserError(
        f"{checkpoint} is no checkpoint to resume from ({_brief(problems)}): "
        f"name a whole folder checkpoints/step_*; {remedy}"
    )


def check_weights(source: Path) -> None:
    """Raise UserError, with what to use instead, where weights are not as they were written.

    source: a folder, or a file in one. Of a folder with a manifest the model, its configuration and
    its vocabulary have to be right; what only a resume needs may be missing. Without a manifest
    there is nothing to compare with.
    """
    problems = _weights_problems(source)
    if not problems:
        return
    folder = (source if source.is_dir() else source.parent).resolve()
    good = (p for p in reversed(checkpoints(folder.parent)) if not _weights_problems(p))
    instead = next(good, None)
    remedy = f"{instead} is good" if instead else "copy it again from where it is whole"
    raise UserError(f"{source} is damaged ({_brief(problems)}): {remedy}")


def _weights_problems(source: Path) -> list[str]:
    folder = source if source.is_dir() else source.parent
    if not (folder / MANIFEST).exists():
        return []
    try:
        files = read_json(folder / MANIFEST, sealed=True)["files"]
    except (OSError, ValueError) as error:
        return [_reason(MANIFEST, error)]
    wanted = _WEIGHTS if source.is_dir() else {source.name}
    return _file_problems(folder, {n: files[n] for n in files if n in wanted}, checksums=True)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder` by step, oldest first; they may be damaged."""
    return sorted((p for p in folder.glob("step_*") if _STEP.match(p.name)), key=_order)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name tells."""
    return _order(checkpoint)[0]


def of_step(folder: Path, step: int) -> Path | None:
    """The checkpoint of `step`, the newer of two, or None."""
    same = [path for path in checkpoints(folder) if step_of(path) == step]
    return same[-1] if same else None


def read_state(checkpoint: Path) -> dict:
    """The state that was saved; raises UserError where there is none, or a damaged one."""
    try:
        content = read_json(checkpoint / STATE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{checkpoint} is no checkpoint to resume from ({_reason(STATE, error)}): "
            "name a whole folder checkpoints/step_*, or start from weights with Global.pretrained"
        ) from None
    return {name: value for name, value in content.items() if name not in _NOT_STATE}


def training_files(checkpoint: Path) -> list[Path]:
    """The files of the optimizer's state: one, or one a process that wrote it."""
    return sorted(checkpoint.glob("training*.safetensors"))


def shard_name(rank: int, world_size: int) -> str:
    """The file of what `rank` owns."""
    return f"training-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def _order(checkpoint: Path) -> tuple[int, int]:
    step, again = _STEP.match(checkpoint.name).groups()
    return int(step), int(again or 1)


# -- Verifying -------------------------------------------------------------------------------------


def verify(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint, a line each; empty: it is whole, and every byte is right.

    Those of this project's first version have no manifest; of them the files' headers are checked.
    An answer is remembered until a file's size or time changes.
    """
    checkpoint = checkpoint.resolve()
    try:
        files = [(path.name, path.stat()) for path in checkpoint.iterdir()]
    except OSError as error:
        return [f"it cannot be read: {error.strerror}"]
    stamp = tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in files))
    return list(_verified(checkpoint, stamp))


@functools.lru_cache(maxsize=256)
def _verified(checkpoint: Path, stamp: tuple) -> tuple[str, ...]:
    return tuple(_problems(checkpoint, checksums=True))


def _problems(checkpoint: Path, checksums: bool) -> list[str]:
    problems = _shard_problems({path.name for path in training_files(checkpoint)})
    with_manifest, state = (checkpoint / MANIFEST).exists(), {}
    try:
        state = read_json(checkpoint / STATE, sealed=with_manifest)
        if not isinstance(state.get("step"), int):
            problems.append(f"{STATE} names no step")
    except (OSError, ValueError) as error:
        problems.append(_reason(STATE, error))
    if not with_manifest and "checksum" not in state:
        return problems + _problems_without_manifest(checkpoint)
    try:
        files = read_json(checkpoint / MANIFEST, sealed=True)["files"]
    except (OSError, ValueError) as error:
        return [*problems, _reason(MANIFEST, error)]
    problems += _file_problems(checkpoint, files, checksums)
    foreign = {path.name for path in training_files(checkpoint)} - set(files)
    return problems + [f"{name} belongs to another checkpoint" for name in sorted(foreign)]


def _file_problems(checkpoint: Path, files: Mapping, checksums: bool) -> list[str]:
    """What is wrong with those files of a manifest."""
    problems = []
    for name, entry in files.items():
        try:
            size = (checkpoint / name).stat().st_size
            if size != entry["size"]:
                problems.append(f"{name} has {size} bytes, expected {entry['size']}")
            elif checksums and sha256(checkpoint / name) != entry["sha256"]:
                problems.append(f"{name} does not match its checksum")
        except OSError as error:
            problems.append(_reason(name, error))
    return problems


def _problems_without_manifest(checkpoint: Path) -> list[str]:
    problems = []
    for name in ("config.yaml", "vocab.txt"):
        try:
            if not (checkpoint / name).stat().st_size:
                problems.append(f"{name} is empty")
        except OSError as error:
            problems.append(_reason(name, error))
    for path in (checkpoint / "model.safetensors", *training_files(checkpoint)):
        try:
            LazyTensors([path])  # compares what the header promises with the file's size
        except UserError as error:
            problems.append(str(error))
    return problems


def _shard_problems(names: set[str]) -> list[str]:
    if names == {"training.safetensors"}:
        return []
    worlds = {int(match[2]) for match in map(_SHARD.match, names) if match}
    if len(worlds) != 1:
        found = " and ".join(sorted(names)[:: max(1, len(names) - 1)])
        return [f"{found} are of different runs" if names else "training.safetensors is missing"]
    world_size = worlds.pop()
    expected = {shard_name(rank, world_size) for rank in range(world_size)}
    return [f"{name} is missing" for name in sorted(expected - names)] + [
        f"{name} belongs to another checkpoint" for name in sorted(names - expected)
    ]


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    if isinstance(error, OSError):
        return f"{name} cannot be read: {error.strerror}"
    return f"{name} is damaged: {error}"


def _brief(problems: list[str]) -> str:
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"


# -- Changing what is there ------------------------------------------------------------------------


def publish(draft: Path, folder: Path, step: int) -> Path:
    """Give a draft that is whole and synced its name."""
    final, before = folder / f"step_{step:08d}", of_step(folder, step)
    if before is not None:
        final = folder / f"{final.name}.{_order(before)[1] + 1}"
    os.rename(draft, final)
    sync(folder)
    return final


def point(link: Path, target: Path) -> None:
    """Let `link` name `target`, its sibling, from one moment to the next."""
    draft = link.with_name(f".{link.name}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target.name)
    os.replace(draft, link)


def amend(checkpoint: Path, state: Mapping, best: bool) -> None:
    """Replace a checkpoint's state, as an evaluation after it has to, and call it the best."""
    before = read_json(checkpoint / STATE)
    replace_text(
        checkpoint / STATE,
        sealed({**state, "is_best": best or before.get("is_best", False)}),
    )
    if best:
        point(checkpoint.parent / "best", checkpoint)


def rotate(folder: Path, keep: int, keep_every: int) -> None:
    """Delete all but the newest `keep` whole ones, latest, best, and multiples of `keep_every`."""
    named = {(folder / link).resolve() for link in ("latest", "best")}
    whole, seen = 0, set()
    for path in reversed(checkpoints(folder)):
        step = step_of(path)
        replaced = step in seen
        good = not _problems(path, checksums=False)
        if whole < keep and not replaced:
            whole += good  # one that cannot be read just now is neither counted nor deleted
        elif path.resolve() not in named and (replaced or not keep_every or step % keep_every):
            delete(path)
        if good:
            seen.add(step)


def delete(path: Path) -> None:
    """Delete a folder; what a kill leaves of it does not look like a checkpoint."""
    gone = path.with_name(f".deleting-{path.name}-{time.time_ns()}")
    os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)  # the next start tries again


def restore_links(folder: Path) -> None:
    """Let `latest` and `best` be links again where a copy of the run has followed them.

    As folders they are copies of a step's, or its only one, which then gets the step's name.
    """
    for path in (folder / "latest", folder / "best"):
        if path.is_symlink() or not path.exists():
            continue
        if path.is_file():  # a copy that knows no links holds the name in a file
            path.unlink()
            continue
        if problems := verify(path):
            damaged = path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
            log.warning("%s is damaged (%s)", damaged, _brief(problems))
            continue
        step = read_state(path)["step"]
        original = of_step(folder, step)
        if original is None or verify(original):
            original = publish(path, folder, step)
        else:
            delete(path)
        point(path, original)


def tidy(folder: Path, drafts: Iterable[Path]) -> None:
    """Remove `drafts` and what else a kill may have left, and bring the links up to date."""
    restore_links(folder)
    for path in (*drafts, *folder.glob(".deleting-*")):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"step_*/.{STATE}"):
        path.unlink()
    newest = next((path for path in reversed(checkpoints(folder)) if not verify(path)), None)
    if newest:
        point(folder / "latest", newest)
    whole = [path for path in checkpoints(folder) if not _problems(path, checksums=False)]
    bests = [path for path in whole if read_json(path / STATE).get("is_best")]
    link = folder / "best"
    target = link.resolve()
    if bests and not (target.exists() and _order(target) >= _order(bests[-1])):
        point(link, bests[-1])
    elif not target.exists():
        link.unlink(missing_ok=True)


def put_aside(folder: Path, after: int | None = None, number: int = 1) -> Path | None:
    """Move an earlier run's checkpoints to a folder beside, so that a new run loses none of them.

    after: only those of later steps, which a run that goes on from step `after` leaves behind: the
    newest would else be resumed from, and be kept instead of the new ones.
    number: the first to try behind the folder's name.

    Returns the folder's name, or None where there was nothing to move.
    """
    old = [path for path in checkpoints(folder) if after is None or step_of(path) > after]
    if not old:
        return None
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    if after is None:
        return folder.rename(aside)
    aside.mkdir()
    for path in reversed(old):
        path.rename(aside / path.name)
    tidy(folder, [])
    return aside
