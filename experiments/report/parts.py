"""Parts of the report that one study brings: a result in a JSON file, put into words by a template of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.envs.errors import HandrailError

if TYPE_CHECKING:
    from markupsafe import Markup


def part(
    folder: Path,
    result: str,
    template: str,
    content: Callable[[Any], Mapping[str, Any] | None],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> Markup | None:
    """Return a part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.
        result: the file in it with what the study found; a run without it has no such part.
        template: file name of the template, beside this module.
        content: what the template is given, of what `result` holds; `None` if that makes no part.
        filters: of the template, by name.

    Raises:
        HandrailError: a file is damaged.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    path = folder / result
    if not path.is_file():
        return None
    try:
        given = content(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise HandrailError(
            f"{path}, or a file beside it that it belongs to, is damaged ({error!r}); restore it, or remove {result} "
            "for a report without this part"
        ) from error
    if given is None:
        return None
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters or {})
    text = files("handrail.experiments.report").joinpath(template).read_text(encoding="utf-8")
    return Markup(environment.from_string(text).render(given))
