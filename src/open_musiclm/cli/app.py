"""`open-musiclm app`: a page on which everything can be tried."""

from __future__ import annotations

import argparse

from .serve import add_server_arguments, address_of, api_key, listen, listening_socket, start_engines

EPILOG = """examples:
  open-musiclm app                                     (the model in the box at http://127.0.0.1:7860)
  open-musiclm app --model me/my-musiclm --device cuda
  open-musiclm app --model mini --model my-coarse      (two models, to be compared)
  open-musiclm app --host 0.0.0.0 --api-key secret     (for others: the user is “music”, the key the password)

Create, tell stories, continue and edit recordings, make loops, compare: what the model has no stream for is not shown. The
address of a piece holds its settings; a file made here gives them back when it is dropped on the page. It needs no network.
The HTTP interface of `open-musiclm serve` is there too, under /v1 and /docs.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "app",
        help="open a page on which everything can be tried",
        description="Open a page on which everything can be tried, in a browser.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_server_arguments(parser, port=7860)
    parser.add_argument(
        "--share", action="store_true", help="also at a public address of Gradio's, through its servers"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..extras import require

    require("gradio")
    place = listening_socket(args)
    engines, key = start_engines(args), api_key(args)

    from ..serving.app import create_page_app

    app = create_page_app(engines, key)
    address = address_of(place)
    if args.share:
        import secrets

        from gradio.networking import setup_tunnel

        print(
            f"{setup_tunnel(args.host, place.getsockname()[1], secrets.token_urlsafe(32), None, None)}  (for everybody)",
            flush=True,
        )
    if args.open:
        import threading
        import webbrowser

        threading.Timer(1.0, webbrowser.open, [address]).start()
    return listen(app, place, f"{address}  ({', '.join(engines)}; Ctrl-C stops it)")
