"""Renders one chat template in a process of its own, which its caller may kill. Started as a script, by `_chat.py`.

Reads JSON from standard input (template, variables, most bytes of memory, most characters of text) and writes
{"text": ...} or {"error": ...}. Knows nothing but jinja2: the sandbox stops a template's way out, the
process what it may use up.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser


def limit_memory(limit: int) -> None:
    """No more address space than `limit`; where a system cannot limit it, the time limit alone rules."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def render(template: str, variables: dict[str, Any]) -> str:
    """The text of the template, with what Hugging Face's templates expect to find (`transformers`' chat templating)."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what the assistant wrote, for training: here its content stands for itself."""

        tags = {"generation"}  # noqa: RUF012  (jinja2 has it so)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        # Not jinja2's, which escapes for HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template).render(**variables)


def main() -> None:
    """See above."""
    request = json.load(sys.stdin)
    limit_memory(request["memory"])
    try:
        text = render(request["template"], request["variables"])
        most = request["characters"]
        too_long = {"error": f"gives {len(text)} characters: must be at most {most}"}
        answer = {"text": text} if len(text) <= most else too_long
    except MemoryError:
        answer = {"error": f"takes more than {request['memory'] >> 20} MB of memory"}
    except RecursionError:
        answer = {"error": "calls itself too deeply"}
    except Exception as error:  # whatever a template may raise is its author's to read
        line = getattr(error, "lineno", None)
        answer = {"error": f"{type(error).__name__}{f' in line {line}' if line else ''}: {error}"[:1000]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
