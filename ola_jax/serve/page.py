"""The web page that talks with the server: files of this package, the same for everyone."""

import importlib.resources
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.responses import Response

PAGE = "/"
FOLDER = "/page/"
TYPES: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "player.js": "text/javascript; charset=utf-8",
    "answer.js": "text/javascript; charset=utf-8",
    "conversation.js": "text/javascript; charset=utf-8",
}
PATHS = (PAGE, *(FOLDER + name for name in TYPES))
HEADERS = {
    # Nothing from elsewhere, and no other page around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data: blob:; media-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at / and its files below /page/."""
    folder = importlib.resources.files("ola_jax.serve") / "static"
    replies = {name: (folder / name).read_bytes() for name in TYPES}

    def serve(path: str, name: str) -> None:
        @app.get(path)
        async def file() -> Response:
            return Response(replies[name], headers=HEADERS, media_type=TYPES[name])

    serve(PAGE, "index.html")
    for name in TYPES:
        serve(FOLDER + name, name)
