"""Messages of gRPC that cost a server more than their client, to the real service."""

import json
import os
import subprocess

from tests.support.paddle_serving import PYTHON, marks

pytestmark = marks

RAW_CLIENT = """
import json, sys
import grpc
from paddle_serving_server.pipeline.proto import pipeline_service_pb2 as messages
path = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
call = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}").unary_unary(path)
good = messages.Request(key=["text"], value=["a red circle"]).SerializeToString()
for data in (
    good,
    b"\\x98\\x06\\x01" * (2 << 20) + good,  # field 99 is a 1, two million times
    b"\\x9b\\x06" * 5000,  # a group in a group
    b"\\x0a\\xff" + b"x",
    b"\\x0a" + b"\\xff" * 20,
    messages.Request(key=["text"] * 200, value=["x"] * 200).SerializeToString(),
    b"\\x0a\\x04text\\x12\\x02\\xff\\xfe",
    bytes(12 << 20),
):
    try:
        answer = messages.Response.FromString(call(data))
        print(json.dumps([answer.err_no, answer.err_msg]))
    except grpc.RpcError as error:
        print(json.dumps([error.code().name, error.details()]))
"""


def test_grpc_messages_that_cost_time(service, tmp_path):
    environment = {
        **os.environ,
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
        "SERVING_LOG_PATH": str(tmp_path),
    }
    done = subprocess.run(
        [PYTHON, "-c", RAW_CLIENT, str(service.rpc_port)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    good, *others = [json.loads(line) for line in done.stdout.splitlines()]
    assert good[0] == 0
    too_large = others.pop()
    assert (too_large[0], "larger than max" in too_large[1]) == ("RESOURCE_EXHAUSTED", True)
    for code, message in others:
        assert code == 51
        assert "fields" in message or "no Request" in message
