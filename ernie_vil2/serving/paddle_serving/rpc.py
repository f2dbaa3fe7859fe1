"""gRPC for the Paddle Serving service: the protocol of Paddle Serving's pipeline clients.

Paddle Serving's modules need protobuf's Python implementation, which takes microseconds for each
field: 5 MB of unknown fields kept a core busy for 14 s. So a message is looked at before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures

import grpc
from google.protobuf.message import DecodeError
from paddle_serving_server.pipeline.proto import pipeline_service_pb2 as messages

from ernie_vil2.errors import UserError
from ernie_vil2.serving.paddle_serving.request import RequestError
from ernie_vil2.serving.paddle_serving.settings import Limits
from ernie_vil2.serving.paddle_serving.turns import Busy, Gone

_SERVICE = "baidu.paddle_serving.pipeline_serving.PipelineService"
_MOST_FIELDS = 64  # of a message: five keys and values, and what says whose request it is
_TENSORS = messages.Request.DESCRIPTOR.fields_by_name["tensors"].number
_FIXED = {1: 8, 5: 4}  # bytes of the wire types whose length is no part of the message


def read_request(data: bytes) -> messages.Request:
    """A message from its bytes.

    Raises:
        RequestError: it has tensors or many fields, or is none.
    """
    position = fields = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            if tag >> 3 == _TENSORS:
                # their bytes would be unpickled, and what a client wrote there would run
                raise RequestError('tensors are not taken: expected strings in "key" and "value"')
            fields += 1
            if fields > _MOST_FIELDS:
                raise RequestError(f"the message has more than {_MOST_FIELDS} fields")
            position = _after(data, position, tag & 7)
        return messages.Request.FromString(data)
    except RequestError:
        raise
    except (ValueError, IndexError, DecodeError):  # UnicodeDecodeError too
        raise RequestError("the message is no Request of Paddle Serving's pipeline") from None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits in each, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than ten bytes")


def _after(data: bytes, position: int, wire_type: int) -> int:
    """The position behind a field's content."""
    if wire_type == 0:
        return _varint(data, position)[1]
    if wire_type == 2:
        length, position = _varint(data, position)
        return position + length
    if wire_type in _FIXED:
        return position + _FIXED[wire_type]
    raise ValueError("a group: its end is known only to who parses it")


def start(
    address: str,
    answer: Callable[[messages.Request, Callable[[], bool]], messages.Response],
    limits: Limits,
    most: int,
    connections: int,
) -> grpc.Server:
    """Listen and answer.

    Args:
        address: "host:port".
        answer: of a request, and of a function that says whether its client has gone.
        limits: of a message, and of a handshake's time.
        most: requests at a time.
        connections: at a time.

    Raises:
        UserError: the address cannot be listened on.
    """

    def inference(data: bytes, context) -> messages.Response:
        try:
            return answer(read_request(data), lambda: not context.is_active())
        except RequestError as error:
            return messages.Response(err_no=error.code, err_msg=str(error))
        except Busy as error:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except Gone:
            context.abort(grpc.StatusCode.CANCELLED, "the client went away")

    server = grpc.server(
        futures.ThreadPoolExecutor(most),  # a thread that waits for its turn costs little
        options=[
            ("grpc.max_receive_message_length", limits.rpc_mb << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", most),  # of a connection
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.server_handshake_timeout_ms", min(10, limits.seconds) * 1000),
            ("grpc.max_connection_idle_ms", 300_000),  # clients connect anew by themselves
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=most,
    )
    handler = grpc.unary_unary_rpc_method_handler(
        inference, response_serializer=messages.Response.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {"inference": handler}),)
    )
    if not server.add_insecure_port(address):
        raise UserError(f"{address} cannot be listened on: another host or port is needed")
    server.start()
    return server
