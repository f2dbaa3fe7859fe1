"""A Paddle Serving 0.9 Pipeline WebService: base64 images and strings in, embeddings out.

A request travels request -> route -> image -> text -> answer. `request` checks and prepares each
item in the thread of the call; `route` lets what has no image overtake those that wait for the
image tower; `image` and `text` run the towers, the items of several requests in one batch; `answer`
writes embeddings and each bad item's error. The protocol is described in `Reader` (request.py) and
`Answer`.

The towers are those of our Predictor. Paddle Serving's `local_predictor` knows no int8, ignores
the precision on a GPU without TensorRT, gives TensorRT 1 MiB to work in and builds its engines
while requests wait.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
from paddle_serving_server import pipeline
from paddle_serving_server.pipeline.pipeline_server import PipelineServicer
from paddle_serving_server.pipeline.proto import pipeline_service_pb2 as messages
from paddle_serving_server.web_service import WebService

from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.artefact.golden import check_golden
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.classification import probabilities
from ernie_vil2.serving.paddle_serving.request import Reader, RequestError
from ernie_vil2.serving.paddle_serving.settings import Settings
from ernie_vil2.serving.paddle_serving.turns import Turns
from ernie_vil2.serving.tower import Tower, TowerOptions, golden_bound

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


class TowerOp(pipeline.Op):
    """One tower, named "image" or "text", over the rows of several requests.

    Args:
        name, input_ops: as Paddle Serving has them.
        artefact: the exported model.
        options: how the tower runs, in the first, second, ... process of this op.
        moved: called after each run.
    """

    def __init__(
        self,
        name: str,
        input_ops: list,
        artefact: Artefact,
        options: list[TowerOptions],
        moved: Callable[[], None],
    ):
        super().__init__(name=name, input_ops=input_ops)
        self.artefact, self.options, self.moved = artefact, options, moved
        self.tower: Tower | None = None
        self.failure = ""

    def load(self, index: int = 0) -> None:
        """Load the tower of a process of this op. Raises UserError."""
        options = self.options[index % len(self.options)]
        tower = Tower(self.artefact, self.name, options)
        if options.device != "cpu":  # without TF32 too, which no request can be
            tower.verify()
        self.tower = tower

    # -- Called by Paddle Serving ------------------------------------------------------------------

    def init_from_dict(self, conf):
        super().init_from_dict({**conf, "local_service_conf": {}})
        self.with_serving = True  # `process` runs a model, though not one of Paddle Serving's

    def init_client(self, client_config, server_endpoints):
        return None

    def init_op(self):
        if self.tower is None:  # in a process of its own, which alone may use its GPU
            try:
                self.load(self.concurrency_idx)
            except UserError as error:  # Paddle Serving would pass over it
                self.failure = str(error)

    def preprocess(self, input_dicts, data_id=0, log_id=0):
        (job,) = input_dicts.values()
        return {self.name: job[self.name]}, False, None, ""

    def process(self, feed_batch, typical_logid=0):
        if self.tower is None:
            return None, _UNKNOWN, self.failure
        embeds = self.tower(feed_batch[0][self.name], self.moved)
        if not np.isfinite(embeds).all():
            return None, _UNKNOWN, f"{self.name} embeddings are not finite"
        return {f"{self.name}_embeds": embeds}, 0, ""

    def postprocess(self, input_data, fetch_data, data_id=0, log_id=0):
        (job,) = input_data.values()
        done = {key: value for key, value in job.items() if key != self.name}
        return {**done, **fetch_data}, None, ""


class Answer(pipeline.ResponseOp):
    """Writes err_no, err_msg, and keys with values, each value as JSON.

    image_embeds, text_embeds: a list of lists of numbers, null for a bad item.
    image_errors, text_errors: a list of strings, null for a good item.
    similarity: the cosine of each image (rows) with each text, null for a bad one.
    classes, probabilities: the exported classes' names, and for each image theirs, null for a bad.
    logit_scale: the model's factor on cosines.
    """

    def __init__(self, input_ops: list, artefact: Artefact):
        super().__init__(input_ops)
        self.logit_scale, self.classifier = artefact.logit_scale, artefact.classifier()

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
        if job["classify"]:
            cosine = job["image_embeds"] @ self.classifier.embeds.T
            rows = probabilities(cosine, self.logit_scale)
            answer["classes"] = json.dumps(self.classifier.names, ensure_ascii=False)
            answer["probabilities"] = _json_rows(rows, job["image_count"], job["image_errors"])
        answer["logit_scale"] = json.dumps(self.logit_scale)
        return messages.Response(key=list(answer), value=list(answer.values()))


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

    def __init__(self, artefact: Artefact, settings: Settings):
        super().__init__(NAME)
        self.artefact, self.settings, self.limits = artefact, settings, settings.limits
        for options in settings.towers.values():
            if options[0].precision in ("bf16", "fp16"):
                # ways to run fp32's program, here without having been measured too
                artefact.precisions.setdefault(options[0].precision, {})
        workers = settings.pipeline["worker_num"]
        self.turns = Turns(workers, self.limits.waiting, self.limits.seconds)
        self.prepare_pipeline_config(yml_dict=settings.pipeline)
        if settings.pipeline["dag"]["is_thread_op"]:
            for tower in self.towers:
                tower.load()
        # Else each process loads its own, and this one leaves Paddle alone: a GPU that was used
        # before a fork cannot be used in the child, and Paddle's import looks for GPUs.
        self.servicer = PipelineServicer(NAME, self._server._response_op, settings.pipeline)
        self.verify()

    def prepare_pipeline_config(self, yml_file=None, yml_dict=None):
        request = Request(Reader(self.artefact, self.limits, self.turns.moved))
        last = self.get_pipeline_response(request)
        self._server.set_response_op(Answer([last], self.artefact))
        self._server.prepare_server(yml_file=yml_file, yml_dict=yml_dict)

    def get_pipeline_response(self, read_op):
        options, moved = self.settings.towers, self.turns.moved
        route = Route(name="route", input_ops=[read_op])
        image = TowerOp("image", [route], self.artefact, options["image"], moved)
        text = TowerOp("text", [image], self.artefact, options["text"], moved)
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
                bound = golden_bound(self.artefact, self.settings.towers[tower][0])
                check_golden(str(self.artefact.folder), tower, found, row[None], bound)
