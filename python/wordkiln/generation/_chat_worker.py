"""Renders chat templates in a process of its own, which its caller may kill. A script that `_chat_process.py` starts.

Takes the most bytes of memory as its argument, and a line of JSON for each template from standard input (template,
variables, most characters of text, most seconds); writes {"text": ...} or {"error": ...}, a line each, and dies of
SIGALRM where the time is over. Knows nothing but jinja2: the sandbox stops a template's way out, the process what it
may use up.
"""

from __future__ import annotations

import datetime
import json
import signal
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


def answer(request: dict[str, Any], memory: int) -> dict[str, str]:
    """The text of a request's template, or what is wrong with it."""
    # Whatever it is in the middle of then, the process ends: nothing here takes the signal.
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        text = render(request["template"], request["variables"])
    except MemoryError:
        return {"error": f"takes more than {memory >> 20} MB of memory"}
    except RecursionError:
        return {"error": "calls itself too deeply"}
    except Exception as error:  # whatever a template may raise is its author's to read
        line = getattr(error, "lineno", None)
        return {"error": f"{type(error).__name__}{f' in line {line}' if line else ''}: {error}"[:1000]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    most = request["characters"]
    return {"text": text} if len(text) <= most else {"error": f"gives {len(text)} characters: must be at most {most}"}


def main() -> None:
    """See above."""
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401  (while nobody waits yet)

    memory = int(sys.argv[1])
    limit_memory(memory)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line), memory)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
