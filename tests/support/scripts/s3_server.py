"""moto's S3 on a free port of 127.0.0.1, which it prints; it ends with its standard input.

    s3_server.py LOG FAULTS

LOG gets a line for each request, "METHOD path?query". A file in the folder FAULTS makes every read
of the key with its name, "/" written as "_", fail with status 503.
"""

import sys
import threading
from pathlib import Path

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import MotoRequestHandler
from werkzeug.serving import make_server

log = open(sys.argv[1], "a", buffering=1)  # noqa: SIM115
faults = Path(sys.argv[2])
moto = DomainDispatcherApplication(create_backend_app)


def app(environ, start_response):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    log.write(f"{method} {path}?{environ['QUERY_STRING']}\n")
    key = path.split("/", 2)[2] if path.count("/") > 1 else ""
    if method == "GET" and key and (faults / key.replace("/", "_")).exists():
        start_response("503 Service Unavailable", [("Content-Length", "0")])
        return [b""]
    return moto(environ, start_response)


server = make_server("127.0.0.1", 0, app, True, request_handler=MotoRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
