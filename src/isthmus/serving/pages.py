"""The page at `/`: three files of the package, given out as they are."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

KINDS = {"index.html": "text/html", "style.css": "text/css", "page.js": "text/javascript"}
HEADERS = {
    # Nothing from elsewhere, no inline code, no frame around it.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Answer `/` and the files that it names; they hold no data and need no token."""
    folder = files("isthmus.serving") / "page"
    content = {name: (folder / name).read_bytes() for name in KINDS}

    def answer(name: str) -> Response:
        return Response(content[name], media_type=f"{KINDS[name]}; charset=utf-8", headers=HEADERS)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @app.get("/page/style.css", include_in_schema=False)
    async def style() -> Response:
        return answer("style.css")

    @app.get("/page/page.js", include_in_schema=False)
    async def script() -> Response:
        return answer("page.js")
