"""From a request's body, JSON or a multipart form, to its fields, checked but for their items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from email.message import Message
from typing import Any

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ernie_vil2.serving.web.errors import ApiError
from ernie_vil2.serving.web.limits import Limits

JSON, FORM = "application/json", "multipart/form-data"
_PART_HEADERS = 8192  # bytes of all headers of a part of a form


async def read_fields(
    request: Request, chunks: AsyncGenerator[bytes, None], kinds: tuple[str, ...]
) -> bytearray | dict:
    """The body as JSON text not yet parsed, or as a form's fields: name -> list of str or bytes.

    Raises:
        ApiError: 400 no form, 415 another content type than `kinds`.
    """
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    kind = header.get_content_type() if header["content-type"] else "none"
    charset = str(header.get_param("charset", "utf-8")).lower()
    if kind not in kinds or charset not in ("utf-8", "utf8"):
        message = f"Content-Type {header['content-type'][:80]!r}: expected {' or '.join(kinds)}"
        raise ApiError(415, "media_type", message)
    if kind == FORM:
        return await _read_form(request, chunks)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
    return body


async def _read_form(request: Request, chunks: AsyncGenerator[bytes, None]) -> dict:
    parser = _Form(request.headers, chunks)
    try:
        form = await parser.parse()
        fields: dict[str, list] = {}
        for name, value in form.multi_items():
            content = value.file.read() if isinstance(value, UploadFile) else value
            fields.setdefault(name, []).append(content)
        return fields
    except (MultiPartException, FormParserError) as error:
        text = " ".join(str(getattr(error, "message", error)).split())
        raise ApiError(400, "bad_form", f"no multipart form: {text[:200]}") from None
    finally:
        parser.close()


class _Form(MultiPartParser):
    """Starlette's parser, kept to memory, to UTF-8 and to short headers."""

    max_file_size = 0  # of a file kept in memory: no limit here, the body has one

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._header_bytes = 0

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_field(data, start, end)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        super().on_header_value(data, start, end)

    def _count(self, length: int) -> None:
        self._header_bytes += length
        if self._header_bytes > _PART_HEADERS:
            raise MultiPartException(f"a part's headers have more than {_PART_HEADERS} bytes")

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            try:
                bytes(self._current_part.data).decode("utf-8")
            except UnicodeDecodeError as error:
                raise MultiPartException(f"a field is not UTF-8: {error}") from None
        super().on_part_end()


def validate(model: type[BaseModel], fields: bytearray | dict, limits: Limits) -> BaseModel:
    """The request as `model` has it.

    Raises:
        ApiError: 400 no JSON, 422 other fields or types than the model's.
    """
    try:
        if isinstance(fields, dict):
            return model.model_validate(_unlisted(model, fields))
        if fields.count(b",") > limits.commas:
            raise ApiError(422, "invalid_request", f"more than {limits.commas} values")
        return model.model_validate_json(fields, strict=True)  # "5" is no number
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    raise refusal(errors)


def refusal(errors: Sequence[Mapping[str, Any]], skip: int = 0) -> ApiError:
    """The answer to what pydantic found wrong; `skip`: how much of a place to leave out."""
    first = errors[0]
    place, message = list(first["loc"])[skip:], " ".join(first["msg"].split())
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", message)
    # a union's branches are named after the index
    index = next((entry for entry in place if isinstance(entry, int)), None)
    name = place[0] if place else "body"
    name = name if index is None else f"{name}[{index}]"
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = f"{str(name)[:80]}: {message}{others}"
    return ApiError(422, "invalid_request", message, index)


def _unlisted(model: type[BaseModel], fields: dict) -> dict:
    """A form's fields; one that is no list in the model stands for itself."""
    properties = model.model_json_schema()["properties"]
    return {
        name: values[0] if len(values) == 1 and not _is_list(properties.get(name, {})) else values
        for name, values in fields.items()
    }


def _is_list(schema: Mapping[str, Any]) -> bool:
    return any(each.get("type") == "array" for each in (schema, *schema.get("anyOf", ())))
