"""A Paddle Serving 0.9 Pipeline WebService: base64 images and strings in, embeddings out.

A request travels request -> route -> image -> text -> answer. `request` checks and prepares each
item in the thread of the call; `route` lets what has no image overtake those that wait for the
image tower; `image` and `text` run the towers through Paddle Serving's own `local_predictor`, the
items of several requests in one batch; `answer` writes embeddings and each bad item's error.
The protocol is described in `Reader` (request.py) and `Answer`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
from paddle import inference
from paddle_serving_server import pipeline
from paddle_serving_server.pipeline.pipeline_server import PipelineServicer
from paddle_serving_server.pipeline.proto import pipeline_service_pb2 as messages
from paddle_serving_server.web_service import WebService

from ernie_vil2 import processor
from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.artefact.golden import check_golden
from ernie_vil2.errors import UserError
from ernie_vil2.serving.buckets import by_length
from ernie_vil2.serving.paddle_serving.request import Reader, RequestError
from ernie_vil2.serving.paddle_serving.settings import Limits
from ernie_vil2.serving.paddle_serving.turns import Turns
from ernie_vil2.serving.program import BF16_OPERATORS

NAME = "ernie_vil2"  # of the service: the first part of its HTTP path
_UNKNOWN = 10000  # err_no of Paddle Serving for what should not happen


class Request(pipeline.RequestOp):
    """Lets a `Reader` read what came."""

    def __init__(self, reader: Reader):
        super().__init__()
        self.reader = reader

    def unpack_request_package(self, request):
        try:
            return self.reader.prepare(request), request.logid, None, ""
        except RequestError as error:
            return {}, request.logid, error.code, str(error)


class Route(pipeline.Op):
    """Sends what has no image past the image tower."""

    def check_jumping(self, input_data):
        return all(data.dictdata["image_count"] == 0 for data in input_data.values())


class Tower(pipeline.Op):
    """One tower's program, named "image" or "text", over the rows of several requests.

    Args:
        name, input_ops: as Paddle Serving has them.
        feed: the name of the program's input.
        rows: most of one run.
        embed_dim: numbers of an embedding.
        moved: called after each run.
    """

    def __init__(
        self,
        name: str,
        input_ops: list,
        feed: str,
        rows: int,
        embed_dim: int,
        moved: Callable[[], None],
    ):
        super().__init__(name=name, input_ops=input_ops)
        self.feed, self.rows, self.embed_dim, self.moved = feed, rows, embed_dim, moved

    def preprocess(self, input_dicts, data_id=0, log_id=0):
        (job,) = input_dicts.values()
        return {self.feed: job[self.name]}, False, None, ""

    def process(self, feed_batch, typical_logid=0):
        rows = feed_batch[0][self.feed]
        embeds = np.zeros([len(rows), self.embed_dim], np.float32)
        for part, width in self.parts(rows):
            feed = rows[part] if width is None else rows[part, :width]
            result, code, message = super().process([{self.feed: feed}], typical_logid)
            if code != 0:
                return None, code, message
            (embeds[part],) = result.values()
            self.moved()
        if not np.isfinite(embeds).all():
            return None, _UNKNOWN, f"{self.name} embeddings are not finite"
        return {f"{self.name}_embeds": embeds}, 0, ""

    def parts(self, rows: np.ndarray):
        """Indices of rows that run together, and their width in tokens if they are texts."""
        if self.name == "text":
            yield from by_length(rows, self.rows)
        else:
            for start in range(0, len(rows), self.rows):
                yield slice(start, start + self.rows), None

    def postprocess(self, input_data, fetch_data, data_id=0, log_id=0):
        (job,) = input_data.values()
        done = {key: value for key, value in job.items() if key != self.name}
        return {**done, **fetch_data}, None, ""


class Answer(pipeline.ResponseOp):
    """Writes err_no, err_msg, and keys with values, each value as JSON.

    image_embeds, text_embeds: a list of lists of numbers, null for a bad item.
    image_errors, text_errors: a list of strings, null for a good item.
    similarity: the cosine of each image (rows) with each text, null for a bad one.
    logit_scale: the model's factor on cosines.
    """

    def __init__(self, input_ops: list, logit_scale: float):
        super().__init__(input_ops)
        self.logit_scale = logit_scale

    def pack_response_package(self, channeldata):
        if channeldata.error_code != 0:
            return super().pack_response_package(channeldata)
        job, answer = channeldata.parse(), {}
        for tower in TOWERS:
            count, errors = job[f"{tower}_count"], job[f"{tower}_errors"]
            if count:
                embeds = job[f"{tower}_embeds"]
                answer[f"{tower}_embeds"] = _json_rows(embeds, count, errors)
                answer[f"{tower}_errors"] = json.dumps([errors.get(i) for i in range(count)])
        if job["similarity"]:
            table = job["image_embeds"] @ job["text_embeds"].T
            full = np.full([len(table), job["text_count"]], np.nan, np.float32)
            full[:, [i for i in range(job["text_count"]) if i not in job["text_errors"]]] = table
            rows = _json_rows(full, job["image_count"], job["image_errors"])
            answer["similarity"] = rows.replace("nan", "null")
        answer["logit_scale"] = json.dumps(self.logit_scale)
        return messages.Response(key=list(answer), value=list(answer.values()))


class _GivenZero(int):
    """0, which Paddle Serving passes on to Paddle only if it seems to be above 0.

    With any other capacity oneDNN keeps a copy of all weights for each of the last input shapes.
    """

    def __gt__(self, other) -> bool:
        return True


def _json_rows(rows: np.ndarray, count: int, errors: dict[int, str]) -> str:
    """float32 rows as JSON, null where there is an error; nine digits keep each number's value."""
    good = iter(rows.tolist())
    texts = (
        "null" if i in errors else f"[{','.join(map('{:.9g}'.format, next(good)))}]"
        for i in range(count)
    )
    return f"[{','.join(texts)}]"


class EmbeddingService(WebService):
    """The service of one artefact; see settings.py for its settings.

    Attributes:
        turns: of the requests.

    Raises:
        UserError: its embeddings are not the trained model's.
    """

    def __init__(self, artefact: Artefact, settings: dict, limits: Limits):
        artefact.check("serving_server")
        for tower in TOWERS:
            local = settings["op"][tower]["local_service_conf"]
            if local.get("precision") == "bf16" and not local.get("device_type"):
                processor.check("bf16", processor.flags())
        processor.keep_safe(inference)  # before Paddle Serving makes its predictors
        super().__init__(NAME)
        self.artefact, self.settings, self.limits = artefact, settings, limits
        self.turns = Turns(settings["worker_num"], limits.waiting, limits.seconds)
        self.prepare_pipeline_config(yml_dict=settings)
        for tower in self.towers:  # what Paddle Serving's YAML cannot say
            handler = tower._local_service_handler
            handler._mkldnn_bf16_op_list = BF16_OPERATORS  # Paddle wants a set
            handler._mkldnn_cache_capacity = _GivenZero()
        self.servicer = PipelineServicer(NAME, self._server._response_op, settings)
        self.verify()

    def prepare_pipeline_config(self, yml_file=None, yml_dict=None):
        request = Request(Reader(self.artefact, self.limits, self.turns.moved))
        last = self.get_pipeline_response(request)
        self._server.set_response_op(Answer([last], self.artefact.logit_scale))
        self._server.prepare_server(yml_file=yml_file, yml_dict=yml_dict)

    def get_pipeline_response(self, read_op):
        width, rows = self.artefact.embed_dim, self.limits.rows
        route = Route(name="route", input_ops=[read_op])
        moved = self.turns.moved
        image = Tower("image", [route], "pixel_values", rows, width, moved)
        text = Tower("text", [image], "input_ids", rows, width, moved)
        self.towers = image, text
        route.set_jump_to_ops([image])
        return text

    def answer(
        self, request: messages.Request, gone: Callable[[], bool] = lambda: False
    ) -> messages.Response:
        """The answer to a request, when it is its turn.

        Args:
            request: a message of Paddle Serving's pipeline.
            gone: whether its client has left.

        Raises:
            Busy: there is no room for it.
            Gone: its client has left.
        """
        kind = "image" if {"image", "images"} & set(request.key) else "text"
        with self.turns.turn(kind, gone):
            return self.servicer.inference(request, None)

    def verify(self) -> None:
        """Embed the golden inputs as a request would, and compare."""
        golden = self.artefact.golden()
        images = [base64.b64encode(image).decode() for image in golden.images]
        for tower, items, expected in (
            ("image", images, golden.image_embeds),
            ("text", golden.texts, golden.text_embeds),
        ):
            for item, row in zip(items, expected):
                if not item:  # a text that the model can embed and this service refuses
                    continue
                answer = self.answer(messages.Request(key=[tower], value=[item]))
                if answer.err_no:
                    raise UserError(f"the {tower} tower does not run: {answer.err_msg}")
                values = dict(zip(answer.key, answer.value))
                found = np.array(json.loads(values[f"{tower}_embeds"]), np.float32)
                local = self.settings["op"][tower]["local_service_conf"]
                least = None if local.get("precision", "fp32") == "fp32" else 0.99
                check_golden(str(self.artefact.folder), tower, found, row[None], least)
