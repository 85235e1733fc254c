"""The HTML templates, with the style and the script that every page carries inside."""

from importlib import resources
from typing import Any

from fithubert.errors import UserError
from fithubert.report import table


def render(template: str, **values: Any) -> str:
    """The page that `template` (a file of `assets`) makes of `values`.

    Raises UserError where Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise UserError("the page needs Jinja2: pip install fithubert[report]") from None
    assets = resources.files("fithubert.report") / "assets"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (assets / name).read_text()),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": table.format_count,
        "macs": table.format_macs,
        "share": table.format_share,
        "bytes": table.format_bytes,
        "duration": table.format_seconds,
    }
    environment.globals |= {
        "style": (assets / "page.css").read_text(),
        "script": (assets / "page.js").read_text(),
    }
    # A percent sign does not stand alone on a line.
    return environment.get_template(template).render(**values).replace(" %", "\N{NO-BREAK SPACE}%")
