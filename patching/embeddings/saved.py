"""Tables of what the fields of saved embeddings must be. No file is read here."""

from __future__ import annotations

from patching.result_checks import finite, list_of, mapping_of, optional, record, text, whole

NEIGHBOUR = {"id": whole(0), "token": text, "cosine": finite}
TABLE = {
    "model_name": text,
    "cosine": list_of(list_of(finite), least=1),
    "components": list_of(list_of(finite), least=1),
    "explained": list_of(finite),
    "ids": list_of(whole(0)),
    "tokens": list_of(text),
    "neighbours": list_of(list_of(record(NEIGHBOUR))),
    "word_map": list_of(list_of(finite)),
    "word_map_explained": list_of(finite),
    "versions": mapping_of(text),
    "checksum": optional(text),
    "notes": list_of(text),
    "created": text,
}
