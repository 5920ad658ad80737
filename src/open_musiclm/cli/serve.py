"""`open-musiclm serve`: a model behind HTTP."""

from __future__ import annotations

import argparse
import os
import socket

from .loading import add_models_arguments

API_KEY = "OPEN_MUSICLM_API_KEY"
EPILOG = """examples:
  open-musiclm serve                                                   (the model in the box at http://127.0.0.1:8000)
  open-musiclm serve --model me/my-musiclm --device cuda --dtype bfloat16 --rows 64
  OPEN_MUSICLM_API_KEY=secret open-musiclm serve --host 0.0.0.0 --port 80

ask it:
  curl http://127.0.0.1:8000/v1/audio/speech -H "Content-Type: application/json" \\
    -d '{"input": "a calm piano melody", "duration": 10, "seed": 0}' -o song.wav
  curl http://127.0.0.1:8000/v1/models                                 (what each model can be asked for)
  http://127.0.0.1:8000/docs                                           (everything else)

Requests that come together are made together; the same seed gives the same bytes whatever else is made. Ctrl-C stops it
when what runs is finished, a second one at once. docs/serving.md says more.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="answer requests for music over HTTP",
        description="Answer requests for music over HTTP, in the form of OpenAI's speech interface.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_server_arguments(parser, port=8000)
    parser.set_defaults(run=run)


def add_server_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """What both ways of serving have."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=port, help="default: %(default)s")
    parser.add_argument("--api-key", metavar="KEY", help=f"what requests must bring (default: ${API_KEY}, else none)")
    group = parser.add_argument_group("limits")
    group.add_argument("--rows", type=int, default=16, help="waveforms made together (default: %(default)s)")
    group.add_argument("--queue", type=int, default=128, help="requests that may wait (default: %(default)s)")
    group.add_argument("--max-duration", type=float, default=120.0, metavar="SECONDS", help="default: %(default)g")
    group.add_argument(
        "--time-limit", type=float, default=300.0, metavar="SECONDS", help="of a request (default: %(default)g)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: the fastest number)")
    add_models_arguments(parser)


def run(args: argparse.Namespace) -> int:
    place = listening_socket(args)
    engines, key = start_engines(args), api_key(args)

    from ..serving.http import create_app

    said = f"{address_of(place)}/docs  ({', '.join(engines)}; Ctrl-C stops it)"
    return listen(create_app(engines, key), place, said)


def api_key(args: argparse.Namespace) -> str | None:
    return args.api_key or os.environ.get(API_KEY) or None


def start_engines(args: argparse.Namespace) -> dict:
    """An engine for each model, by its name."""
    from ..extras import require

    require("fastapi", "uvicorn", "prometheus_client")
    from ..decoding.threads import set_num_threads
    from ..serving.engine import Engine
    from ..serving.limits import Limits
    from ..serving.metrics import Metrics
    from .loading import load_pipeline, model_path, quiet_libraries

    limits = Limits(
        duration_in_s=args.max_duration,
        queue=args.queue,
        rows=args.rows,
        variants=min(Limits.variants, args.rows),
        request_time_in_s=args.time_limit,
    )
    models = args.model or ["mini"]
    if len(set(models)) < len(models):
        raise ValueError("--model names a model twice.")
    for model in models:
        model_path(model, args.revision)
    quiet_libraries()
    metrics, engines = Metrics(), {}
    for model in models:
        pipe = load_pipeline(model, args.device, args.dtype, args.revision)
        if pipe.device.type == "cpu":
            set_num_threads(tuple(pipe.chain.stages.values()), args.threads)
        engines[model] = Engine(pipe, model, limits, metrics)
    return engines


def listening_socket(args: argparse.Namespace) -> socket.socket:
    """A socket at the address that was asked for; port 0 takes a free one.

    Raises:
        OSError: it is taken, or not this machine's.
    """
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port must lie in [0, 65535], got {args.port}.")
    place = socket.socket(socket.AF_INET6 if ":" in args.host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((args.host, args.port))
    except OSError as error:
        place.close()
        raise OSError(
            f"Cannot listen at {args.host}, port {args.port}: {error.strerror or error}. Give another --port or --host."
        ) from error
    return place


def address_of(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(app, place: socket.socket, said: str) -> int:
    """Say where, and answer until the process is asked to stop; what runs is finished then."""
    import uvicorn

    place.listen(1024)  # who asks as soon as it is said is heard
    print(said, flush=True)

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[place])
    return 0 if server.started else 1
