"""The folders from which Paddle Serving 0.9 serves an exported model, without its own converter.

That converter needs `paddle.fluid`, which Paddle 2.6 no longer has. All it writes is what the
program says of itself: names, types and shapes, once as text and once as the bytes of the same
message, for the server and for the client.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import paddle
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from paddle.static import Program

from ernie_vil2.artefact.folder import TOWERS
from ernie_vil2.errors import UserError

SERVER, CLIENT = "serving_server", "serving_client"
# Paddle Serving's own numbers for types (paddle_serving_client/io, var_type_conversion)
TYPE_CODES = {
    paddle.int64: 0,
    paddle.float32: 1,
    paddle.int32: 2,
    paddle.float64: 3,
    paddle.int16: 4,
    paddle.float16: 5,
    paddle.bfloat16: 6,
    paddle.uint8: 7,
    paddle.int8: 8,
    paddle.bool: 9,
}


def write_serving(folder: str | os.PathLike) -> None:
    """Write `serving_server/{image,text}` and `serving_client/{image,text}` of an artefact.

    The programs and weights are hard links to those in `fp32/`, or copies where the disk cannot
    link. A program's input and output keep their names; the output's alias is `image_embeds` or
    `text_embeds`. A dimension of any size is left out of `shape`, as Paddle Serving does.

    Raises:
        UserError: no programs in the folder, or Paddle 3's, which Paddle Serving cannot read.
    """
    folder = Path(folder)
    for tower in TOWERS:
        program = folder / "fp32" / f"{tower}.pdmodel"
        weights = program.with_suffix(".pdiparams")
        if program.with_suffix(".json").is_file() and not program.is_file():
            raise UserError(
                f"{program.with_suffix('.json')} is a program of Paddle 3, Paddle Serving 0.9 "
                "reads .pdmodel: export the model with Paddle 2.6"
            )
        for path in (program, weights):
            if not path.is_file():
                raise UserError(f"{path} is missing: expected what tools/export.py writes")
        config = _describe(program, tower)
        server, client = folder / SERVER / tower, folder / CLIENT / tower
        for side, path in (("server", server), ("client", client)):
            path.mkdir(parents=True, exist_ok=True)
            stem = path / f"serving_{side}_conf"
            stem.with_suffix(".prototxt").write_text(text_format.MessageToString(config))
            stem.with_suffix(".stream.prototxt").write_bytes(config.SerializeToString())
        for path in (program, weights):
            _link(path, server / path.name)


def _describe(path: Path, tower: str) -> Any:
    """The `GeneralModelConfig` of a program."""
    paddle.enable_static()  # operators cannot be read without
    try:
        block = Program.parse_from_string(path.read_bytes()).global_block()
    except Exception as error:  # of Paddle's C++, for a file that is not a program
        raise UserError(
            f"{path} is damaged, or no program of Paddle 2 ({type(error).__name__}): export again"
        ) from None
    finally:
        paddle.disable_static()
    config = _message_class()()
    for op in block.ops:
        if op.type == "feed":
            _add(config.feed_var, "feed", block.var(op.output("Out")[0]))
        elif op.type == "fetch":
            _add(config.fetch_var, "fetch", block.var(op.input("X")[0]), f"{tower}_embeds")
    return config


def _add(variables: Any, kind: str, variable: Any, alias: str | None = None) -> None:
    entry = variables.add()
    entry.name, entry.alias_name = variable.name, alias or variable.name
    entry.is_lod_tensor = variable.lod_level > 0
    setattr(entry, f"{kind}_type", TYPE_CODES[variable.dtype])
    entry.shape.extend(size for size in variable.shape if size >= 0)


@functools.cache
def _message_class() -> Any:
    """`GeneralModelConfig` of Paddle Serving's general_model_config.proto (proto2)."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="general_model_config.proto", package="baidu.paddle_serving.configure"
    )
    config = descriptor_pb2.DescriptorProto(name="GeneralModelConfig")
    for number, kind in enumerate(("feed", "fetch"), 1):
        message = file.message_type.add(name=f"{kind.capitalize()}Var")
        for index, (name, type, label) in enumerate(
            (
                ("name", field.TYPE_STRING, field.LABEL_OPTIONAL),
                ("alias_name", field.TYPE_STRING, field.LABEL_OPTIONAL),
                ("is_lod_tensor", field.TYPE_BOOL, field.LABEL_OPTIONAL),
                (f"{kind}_type", field.TYPE_INT32, field.LABEL_OPTIONAL),
                ("shape", field.TYPE_INT32, field.LABEL_REPEATED),
            ),
            1,
        ):
            message.field.add(name=name, number=index, type=type, label=label)
        config.field.add(
            name=f"{kind}_var",
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".{file.package}.{message.name}",
            label=field.LABEL_REPEATED,
        )
    file.message_type.append(config)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = f"{file.package}.{config.name}"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
