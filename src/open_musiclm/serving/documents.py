"""/docs: the OpenAPI description as one page, without scripts and without anything from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #1c2330; background: #fff }
code, pre { font: 0.9em ui-monospace, monospace } pre { background: #f3f5f8; padding: 0.8rem; overflow-x: auto; border-radius: 6px }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: 0.3rem 0.6rem;
border-bottom: 1px solid #dde2ea } section { margin-top: 2.5rem } .verb { background: #1f6f54; color: #fff; padding: 0.1rem 0.5rem;
border-radius: 4px; font-size: 0.85em } @media (prefers-color-scheme: dark) { body { background: #14181f; color: #e6eaf0 }
pre { background: #1f2530 } td, th { border-color: #333c4a } a { color: #8fc7ff } }
"""
EXAMPLES = {
    "/v1/audio/speech": {
        "input": "a calm piano melody in a minor key",
        "duration": 10,
        "seed": 0,
        "response_format": "wav",
    },
    "/v1/audio/edits": {"audio": "<base64>", "way": "continue", "duration": 10, "seed": 0},
}


def page_of(description: dict[str, Any]) -> str:
    """The page."""
    info = description["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        '<p>The description for programs is <a href="openapi.json">openapi.json</a>. A request that is refused is answered with '
        "<code>{&quot;error&quot;: {&quot;message&quot;: …}}</code>.</p>",
    ]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation, description))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}: HTTP</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any], description: dict[str, Any]) -> str:
    told = f'<section><h2><span class="verb">{method.upper()}</span> <code>{escape(path)}</code></h2>'
    told += f"<p>{escape(operation.get('summary', ''))}</p>"
    body = operation.get("requestBody")
    if body is not None:
        schema = _resolved(body["content"]["application/json"]["schema"], description)
        rows = "".join(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(field, description))}</td>"
            f"<td>{escape(json.dumps(field['default']) if 'default' in field else '')}</td>"
            f"<td>{escape(field.get('description', ''))}</td></tr>"
            for name, field in schema["properties"].items()
        )
        told += f"<table><tr><th>field</th><th>takes</th><th>default</th><th></th></tr>{rows}</table>"
        if path in EXAMPLES:
            example = json.dumps(EXAMPLES[path])
            told += (
                f"<pre>curl http://127.0.0.1:8000{escape(path)} -H 'Content-Type: application/json' \\\n"
                f"  -d '{escape(example)}' -o song.wav</pre>"
            )
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    return f"{told}<table><tr><th>answer</th><th></th></tr>{answers}</table></section>"


def _resolved(schema: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    found: Any = schema
    if "$ref" in schema:
        found = description
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return found


def _kind(field: dict[str, Any], description: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(field["enum"])
    if "anyOf" in field:
        kinds = [_kind(each, description) for each in field["anyOf"]]
        return " or ".join(kind for kind in kinds if kind != "null")
    return str(field.get("type", ""))
