"""The command line and the lines of Python that do what the live page shows."""

from __future__ import annotations

from collections.abc import Sequence

from patching.page.live.request import LiveRequest
from patching.sweep.request import Request
from patching.text import shell_line

METHODS = {"explain": "alti,alti-logit,logit,lens,direct", "attention": "attention"}
SETTINGS = ("site", "direction", "metric")


def command_of(name: str, request: LiveRequest) -> str:
    """Return the command line that does the same.

    Args:
        name: of the model.
    """
    if request.mode == "patch":
        words = ["mingpt-patch", "--clean", request.clean, "--corrupt", request.corrupt]
        for option, texts in (("--target", request.targets), ("--foil", request.foils)):
            words += [part for text in texts for part in (option, text)]
        words += ["--model", name]
        for setting in SETTINGS:
            if getattr(request, setting) != getattr(Request, setting):
                words += [f"--{setting}", getattr(request, setting)]
        words += ["--window", str(request.window)] if request.window != 1 else []
        words += ["--by-position"] if request.by_position else []
        words += ["--heads", request.heads] if request.heads else []
    elif request.mode in METHODS:
        target, foil = _answers(request)
        words = ["mingpt-explain", "--text", request.prompt, "--target", target, "--foil", foil,
                 "--model", name, "--show", METHODS[request.mode]]  # fmt: skip
    elif request.mode == "tokens":
        given = filter(None, (request.clean, request.corrupt))
        words = ["mingpt-tokens", "--model", name, "--", *given]
    else:
        words = ["mingpt-generate", "--prompt", request.prompt, "--model", name,
                 "--max-new-tokens", "1", "--show-steps", "--seed", str(request.seed)]  # fmt: skip
        options = {"temperature": request.temperature, "top-k": request.top_k,
                   "top-p": request.top_p}  # fmt: skip
        for option, value in options.items():
            is_default = value is None or (option == "temperature" and value == 1)
            words += [] if is_default else [f"--{option}", repr(value)]
    return shell_line(words)


def python_of(name: str, request: LiveRequest, heads: Sequence[int] | None) -> str:
    """Return the lines of Python that do the same.

    Args:
        name: of the model.
        heads: those that are patched; None for all.
    """
    load = f"model, tokenizer = mingpt.load({name!r})"
    if request.mode == "patch":
        lines = _patch_lines(load, request, heads)
    elif request.mode in METHODS:
        target, foil = _answers(request)
        lines = [
            "import mingpt",
            "from patching import Question, explain",
            "",
            load,
            f"text = {request.prompt!r}",
            f"question = Question.from_text(tokenizer, text, {target!r}, {foil!r})",
            f"found = explain(model, question, methods={METHODS[request.mode]!r})",
        ]
    elif request.mode == "tokens":
        lines = [
            "import mingpt",
            "",
            f"tokenizer = mingpt.load_tokenizer({name!r})",
            f"texts = {[request.clean, request.corrupt]!r}",
            "[[tokenizer.token(number) for number in tokenizer.encode(text)] for text in texts]",
        ]
    else:
        cuts = f"{request.temperature!r}, {request.top_k!r}, {request.top_p!r}"
        lines = [
            "import mingpt",
            "from mingpt.generation.decoding import Decoding",
            "from patching.continuation.request import GenerationSettings",
            "from patching.continuation.run import continue_prompts",
            "",
            load,
            f"settings = GenerationSettings(max_new_tokens=1, decoding=Decoding({cuts}))",
            f"prompts = [{request.prompt!r}]",
            f"continue_prompts(model, tokenizer, prompts, settings, seed={request.seed})",
        ]
    return "\n".join(lines)


def _patch_lines(load: str, request: LiveRequest, heads: Sequence[int] | None) -> list[str]:
    names = (*SETTINGS, "window", "by_position")
    asked = {name: getattr(request, name) for name in names}
    extra = {name: value for name, value in asked.items() if value != getattr(Request, name)}
    if heads is not None:
        extra["heads"] = [*heads]
    keywords = "".join(f", {name}={value!r}" for name, value in extra.items())
    return [
        "import mingpt",
        "from patching import PromptPair, patch_sweep",
        "",
        load,
        f"clean = {request.clean!r}",
        f"corrupt = {request.corrupt!r}",
        f"target, foil = {[*request.targets]}, {[*request.foils]}",
        "pair = PromptPair.from_text(tokenizer, clean, corrupt, target, foil)",
        f"result = patch_sweep(model, pair{keywords})",
    ]


def _answers(request: LiveRequest) -> tuple[str, str]:
    """Return target and foil; for attention, which needs none, the tokens 0 and 1."""
    if request.mode == "attention":
        return "id:0", "id:1"
    return request.targets[0], request.foils[0]
