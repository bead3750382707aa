"""Put data into an HTML page so that nothing in it can be read as markup or code."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

# Each could end a script element, begin a comment, or end a line of JavaScript.
_ESCAPES = {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def as_json(data: Any) -> str:
    """Return data as JSON for a script element: ASCII, without <, > and &.

    Raises:
        ValueError: a number that is not finite, which JSON does not have.
    """
    text = json.dumps(data, allow_nan=False)  # ASCII: every other character is escaped
    for char, escape in _ESCAPES.items():
        text = text.replace(char, escape)
    return text


def as_text(text: str) -> str:
    """Return a text for an element or an attribute in quotes."""
    return html.escape(text, quote=True)


def script_hash(script: str) -> str:
    """Return a script's hash as a policy names it: 'sha256-...'."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
