"""Tables of what the fields of a saved verification must be. No file is read here."""

from __future__ import annotations

from patching.result_checks import (
    finite,
    flag,
    list_of,
    mapping_of,
    number,
    optional,
    record,
    text,
    whole,
)

ROW = {
    "what": text, "source": text, "place": list_of(whole(0)),
    "published": optional(number), "ours": optional(number), "difference": optional(number),
    "allowed": number, "because": text,
}  # fmt: skip
TABLE = {
    "ok": flag,
    "model_name": text,
    "identity": text,
    "rows": list_of(record({**ROW, "ok": flag})),
    "notes": list_of(text),
    "versions": mapping_of(text),
    "checksum": optional(text),
    "seconds": finite,
    "created": text,
}
