"""The table of the formats, by the name that a configuration gives."""

import inspect

from ernie_vil2.data.formats.chinese_clip import ChineseClipReader
from ernie_vil2.data.formats.coco import coco_reader
from ernie_vil2.data.formats.folder import FolderReader
from ernie_vil2.data.formats.tsv import TsvReader
from ernie_vil2.errors import UserError, did_you_mean

_FORMATS = {
    "tsv": TsvReader,
    "folder": FolderReader,
    "chinese_clip": ChineseClipReader,
    "coco": coco_reader,
}


def build_reader(name: str, **options):
    """The reader called `name`: tsv, folder, chinese_clip or coco.

    A reader is a sequence: `len(reader)`, and `reader[i]` is a Record or raises BadRecord. It may
    be pickled and used in forked processes. Raises UserError: un_FORMATS name or option, a missing
    file, an empty set.
    """
    if name not in _FORMATS:
        raise UserError(f'no data set format "{name}"{did_you_mean(name, _FORMATS)}')
    parameters = inspect.signature(_FORMATS[name]).parameters
    for option in options:
        if option not in parameters:
            raise UserError(
                f'data set format {name} has no option "{option}"{did_you_mean(option, parameters)}'
            )
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and options.get(option) is None:
            raise UserError(f"data set format {name} needs the option {option}")
    return _FORMATS[name](**options)
