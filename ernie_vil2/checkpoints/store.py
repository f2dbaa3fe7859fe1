"""A run's checkpoints as they come and go: found, published, pointed at, and deleted."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from ernie_vil2.checkpoints.layout import STATE, checkpoints, of_step, order, step_of
from ernie_vil2.checkpoints.verify import brief, problems_of, reason, verify, weights_problems
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import read_json, replace_text, sealed, sync

log = logging.getLogger("ernie_vil2")

_NOT_STATE = ("is_best", "checksum")  # what state.json holds beside the caller's state


# -- Finding ---------------------------------------------------------------------------------------


def find_latest(folder: Path) -> Path | None:
    """The newest good checkpoint under `folder`, or None; warns of each damaged newer one."""
    for path in reversed(checkpoints(folder)):
        problems = verify(path)
        if not problems:
            return path
        log.warning("checkpoint %s is damaged (%s): trying an older one", path, brief(problems))
    return None


def check(checkpoint: Path) -> None:
    """Refuse a checkpoint that is not good.

    Raises:
        UserError: naming what is wrong, and what to use instead.
    """
    problems = verify(checkpoint)
    if not problems:
        return
    places = (checkpoint / "checkpoints", checkpoint, checkpoint.resolve().parent)
    good = (p for place in places for p in reversed(checkpoints(place)) if not verify(p))
    instead = next(good, None)
    remedy = f"{instead} is good" if instead else "start from weights with Global.pretrained"
    raise UserError(
        f"{checkpoint} is no checkpoint to resume from ({brief(problems)}): "
        f"name a whole folder checkpoints/step_*; {remedy}"
    )


def check_weights(source: Path) -> None:
    """Refuse weights that are not as they were written.

    Of a folder with a manifest the model, its configuration and its vocabulary have to be right;
    what only a resume needs may be missing. Without a manifest there is nothing to compare with.

    Args:
        source: a folder, or a file in one.

    Raises:
        UserError: naming what is wrong, and what to use instead.
    """
    problems = weights_problems(source)
    if not problems:
        return
    folder = (source if source.is_dir() else source.parent).resolve()
    good = (p for p in reversed(checkpoints(folder.parent)) if not weights_problems(p))
    instead = next(good, None)
    remedy = f"{instead} is good" if instead else "copy it again from where it is whole"
    raise UserError(f"{source} is damaged ({brief(problems)}): {remedy}")


def read_state(checkpoint: Path) -> dict:
    """The state that was saved.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        content = read_json(checkpoint / STATE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{checkpoint} is no checkpoint to resume from ({reason(STATE, error)}): "
            "name a whole folder checkpoints/step_*, or start from weights with Global.pretrained"
        ) from None
    return {name: value for name, value in content.items() if name not in _NOT_STATE}


# -- Changing what is there ------------------------------------------------------------------------


def publish(draft: Path, folder: Path, step: int) -> Path:
    """Give a draft that is whole and synced its name."""
    final, before = folder / f"step_{step:08d}", of_step(folder, step)
    if before is not None:
        final = folder / f"{final.name}.{order(before)[1] + 1}"
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
        good = not problems_of(path, checksums=False)
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

    A folder in a link's place is a copy of a step's folder. Where that one is gone or damaged, the
    copy gets its name.
    """
    for path in (folder / "latest", folder / "best"):
        if path.is_symlink() or not path.exists():
            continue
        if path.is_file():  # a copy that knows no links holds the name in a file
            path.unlink()
            continue
        if problems := verify(path):
            damaged = path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
            log.warning("%s is damaged (%s)", damaged, brief(problems))
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
    whole = [path for path in checkpoints(folder) if not problems_of(path, checksums=False)]
    bests = [path for path in whole if read_json(path / STATE).get("is_best")]
    link = folder / "best"
    target = link.resolve()
    if bests and not (target.exists() and order(target) >= order(bests[-1])):
        point(link, bests[-1])
    elif not target.exists():
        link.unlink(missing_ok=True)


def put_aside(folder: Path, after: int | None = None, number: int = 1) -> Path | None:
    """Move an earlier run's checkpoints to a folder beside, so that a new run loses none of them.

    Args:
        after: only those of later steps, which a run that goes on from step `after` leaves behind:
            the newest would else be resumed from, and be kept instead of the new ones.
        number: the first to try behind the folder's name.

    Returns:
        The folder's name, or None where there was nothing to move.
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
