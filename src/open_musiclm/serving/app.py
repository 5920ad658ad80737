"""The page and the HTTP interface in one application."""

from __future__ import annotations

from typing import Any

from .engine import Engine
from .http import create_app

#: what a key is asked for; the page itself asks for it as a password
GUARDED = ("/v1", "/metrics", "/docs", "/openapi.json")
USER = "music"


def create_page_app(engines: dict[str, Engine], api_key: str | None = None) -> Any:
    """A FastAPI application with the page at `/` and the interface of [`create_app`] beside it.

    Args:
        engines: by the models' names.
        api_key: what the interface asks for; on the page it is the password of the user `music`.
    """
    import gradio as gr

    from .page.page import Page, head, theme
    from .page.routes import routes_of
    from .page.shelf import Shelf

    shelf = Shelf(engines)
    app = create_app(engines, api_key, GUARDED)
    app.include_router(routes_of(shelf))
    blocks = Page(shelf).blocks().queue(default_concurrency_limit=32)
    limits = next(iter(engines.values())).limits
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        auth=None if api_key is None else (USER, api_key),
        max_file_size=limits.upload_bytes,
        show_error=True,
        ssr_mode=False,
        theme=theme(),
        head=head(),
        allowed_paths=[],
    )
