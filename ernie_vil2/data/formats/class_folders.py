"""A folder a class, as torchvision's ImageFolder, ELEVATER's sets and Chinese-CLIP's have them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from ernie_vil2.data.class_names import Class, name_classes, read_names
from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError

CLASS = "class"  # the key of a record's texts under which its class stands
_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_LABELS = ("label_cn.txt", "label.txt")  # of Chinese-CLIP's sets


class ClassFoldersReader(Reader):
    """Pictures in a folder for each class; the class's name is their only caption.

    A folder with `label_cn.txt` or `label.txt` is a set of Chinese-CLIP's ELEVATER: the classes are
    then the folders of `test/`, by number, and the file names them.

    Args:
        root: the folder of the folders, or such a set.
        names: a file or a list of the package (`class_names.py`); None: the set's own, else the
            folders' names.
        split: of such a set, "train" or "test".

    Attributes:
        classes: every class, in order, also one that is named and has no folder.

    Raises:
        UserError: no folder, one without a picture, or one that the names leave out.
    """

    def __init__(self, root: str, names: str | None = None, split: str | None = None):
        own = [label for label in _LABELS if os.path.isfile(os.path.join(root, label))]
        if own:
            names = names or os.path.join(root, own[0])
            root = os.path.join(root, split or "test")
        elif split is not None:
            raise UserError(
                f"{root} has no {' or '.join(_LABELS)}, so no split {split}: name the folder that "
                "holds the classes' folders"
            )
        self._root = rows.folder(root)
        folders = sorted(entry.name for entry in os.scandir(self._root) if _is_class(entry))
        if not folders:
            raise UserError(f"{root} has no folders: expected one for each class")
        if names is None:
            self.classes = [Class(folder, folder) for folder in folders]
        else:
            self.classes = name_classes(folders, read_names(names))
        number_of = {each.key: number for number, each in enumerate(self.classes)}
        paths, numbers = [], []
        for folder in folders:
            found = sorted(_pictures(self._root, folder))
            if not found:
                raise UserError(
                    f"class folder {os.path.join(root, folder)} holds no picture "
                    f"({', '.join(_PICTURES)}): put some there, or remove it"
                )
            paths += found
            numbers += [number_of[folder]] * len(found)
        # one string and two arrays, which forked processes share as they are
        self._paths = b"".join(map(os.fsencode, paths))
        self._ends = np.cumsum([len(os.fsencode(path)) for path in paths])
        self._numbers = np.array(numbers)

    def __len__(self) -> int:
        return len(self._ends)

    def _get(self, position: int) -> Record:
        start = int(self._ends[position - 1]) if position else 0
        path = os.fsdecode(self._paths[start : int(self._ends[position])])
        key, name = self.classes[self._numbers[position]]
        source = os.path.join(self._root, path)
        return Record(
            id=path,
            image=rows.read_image(self._root, path, source),
            captions=(name,),
            tags=(),
            source=source,
            texts={CLASS: (key,)},
        )


def _is_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")  # such as .ipynb_checkpoints


def _pictures(root: str, folder: str) -> Iterator[str]:
    """Paths from `root`."""
    for inner, _, files in os.walk(os.path.join(root, folder)):
        for name in files:
            if name.lower().endswith(_PICTURES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(inner, name), root)
