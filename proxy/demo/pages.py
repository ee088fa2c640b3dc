"""The pages that a person sees at the issuer: plain HTML, one style sheet, no script."""

from importlib.resources import files

from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse, Response

_TEMPLATES = Environment(loader=PackageLoader("proxy.demo"), autoescape=True)
_STYLE = files("proxy.demo").joinpath("templates", "demo.css")


def page(template: str, status: int = 200, forms_to: str = "", /, **values: object) -> Response:
    """Return a rendered page.

    `forms_to` is an origin besides our own that a form's answer may redirect to: browsers apply `form-action` to the
    redirect as well, so the sign-in of a native app needs its loopback origin there.
    """
    policy = [
        "default-src 'none'",
        "style-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        f"form-action 'self' {forms_to}".rstrip(),
    ]
    return HTMLResponse(
        _TEMPLATES.get_template(template).render(values),
        status,
        {
            "Cache-Control": "no-store",
            "Content-Security-Policy": "; ".join(policy),
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


def style_sheet() -> Response:
    return Response(_STYLE.read_bytes(), media_type="text/css", headers={"Cache-Control": "max-age=3600"})
