"""The API's documentation. Its pages load nothing from elsewhere and run no inline script."""

import json
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from taskflow_api.problems import NOT_FOUND, ProblemError

router = APIRouter(include_in_schema=False)

_ASSETS = Path(str(files("fastapi_offline"))) / "static"
_ASSET_NAMES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"})
_HEADERS = {
    # Both pages style themselves as they go; Redoc searches in a worker made from a blob.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:;"
    " style-src 'self' 'unsafe-inline'; worker-src blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TaskFlow API</title>
<link rel="icon" href="data:,">
{head}
</head>
<body>
{body}
</body>
</html>
"""
_SWAGGER = _PAGE.format(
    head='<link rel="stylesheet" href="docs-assets/swagger-ui.css">',
    body="""<div id="swagger-ui"></div>
<script src="docs-assets/swagger-ui-bundle.js"></script>
<script src="docs-assets/start-swagger.js"></script>""",
)
_REDOC = _PAGE.format(
    head="<style>body { margin: 0 }</style>",
    body="""<redoc spec-url="openapi.json"></redoc>
<script src="docs-assets/redoc.standalone.js"></script>""",
)
_SWAGGER_OPTIONS = {
    "url": "openapi.json",
    "dom_id": "#swagger-ui",
    "deepLinking": True,
    "displayRequestDuration": True,
    "validatorUrl": None,  # else a page that isn't on localhost shows the verdict of a service
}
_START_SWAGGER = f"SwaggerUIBundle({json.dumps(_SWAGGER_OPTIONS)});\n"


@router.get("/")
async def front_door() -> RedirectResponse:
    """Somebody who opens the address in a browser wants to see what is here."""
    return RedirectResponse("/docs")


@router.get("/docs")
async def swagger_page() -> HTMLResponse:
    """The operations, to be tried out."""
    return HTMLResponse(_SWAGGER, headers=_HEADERS)


@router.get("/redoc")
async def redoc_page() -> HTMLResponse:
    """The operations, to be read."""
    return HTMLResponse(_REDOC, headers=_HEADERS)


@router.get("/openapi.json")
async def openapi_document() -> Response:
    """The document that both pages show."""
    # Late, because the document is made from all routes, this one among them.
    from taskflow_api.openapi import openapi_json

    return Response(openapi_json(), headers=_HEADERS, media_type="application/json")


@router.get("/docs-assets/{name}")
async def asset(name: str) -> Response:
    """A script or style sheet of the two pages."""
    headers = {"Cache-Control": "public, max-age=86400"}
    if name == "start-swagger.js":
        return Response(_START_SWAGGER, headers=headers, media_type="text/javascript")
    if name not in _ASSET_NAMES:
        raise ProblemError(NOT_FOUND, "There is nothing at this address.")
    return FileResponse(_ASSETS / name, headers=headers)
