"""Check what is typed on the live page: tokens, what differs, and what is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mingpt.bpe import BPETokenizer
from mingpt.errors import TokenizerError
from mingpt.model import GPT
from patching.alignment import align, replaced_words, suggest
from patching.errors import PromptError
from patching.page.charts import JSON
from patching.page.live.request import RUNS, LiveRequest
from patching.page.parts import prompt
from patching.prompts import PromptPair, Question, answer_id
from patching.study.generators import words
from patching.sweep.metrics import METRICS
from patching.text import escaped, visible

MOST_SUGGESTED = 12  # words that fit
# Words of one kind each: one that is replaced is replaced by another of its kind.
KINDS = (words.FIRST_NAMES, words.SURNAMES, tuple(words.CAPITALS), tuple(words.CAPITALS.values()))


@dataclass(frozen=True)
class Loaded:
    """A model of the live page."""

    name: str  # as on the command line
    model: GPT
    tokenizer: BPETokenizer


@dataclass(frozen=True)
class Checked:
    """A request on one model: what can be run, and what is said beside the prompts."""

    said: JSON
    pair: PromptPair | None = None
    question: Question | None = None
    ids: tuple[int, ...] = ()  # of what else is read: one prompt, or both to show their tokens

    @property
    def is_ready(self) -> bool:
        """True if there is something to run."""
        return self.pair is not None or self.question is not None or bool(self.ids)


def check_prompts(loaded: Loaded, request: LiveRequest) -> Checked:
    """Tokenize what was typed, and say what is in the way of running it.

    Returns:
        `said` has "prompts" (as parts.prompt), "answers" (what target and foil are as tokens),
        "problems" (texts) and "words" (those that would make the prompts equally long).
    """
    ids: dict[str, list[int]] = {}
    problems = []
    for run in request.runs:
        try:
            ids[run] = _encoded(loaded, f"the {run} prompt", getattr(request, run))
        except PromptError as error:
            ids[run] = []
            problems.append(str(error))
    said: JSON = {"prompts": _aligned(loaded, ids), "answers": _answers(loaded, request)}
    found = Checked(said)
    if not problems:
        try:
            found = _experiment(loaded, request, ids, said)
        except PromptError as error:
            problems.append(str(error))
    fitting: list[JSON] = []
    if request.mode == "patch" and ids["clean"] and len(ids["clean"]) != len(ids["corrupt"]):
        fitting = fitting_words(loaded.tokenizer, request)
    said |= {"problems": [escaped(problem) for problem in problems], "words": fitting}
    return found


def _encoded(loaded: Loaded, name: str, text: str) -> list[int]:
    """Return a prompt's ids.

    Raises:
        PromptError: it is not valid Unicode, or longer than the model's context.
    """
    most = loaded.model.config.block_size
    try:
        ids = loaded.tokenizer.encode(text)
    except TokenizerError as error:
        raise PromptError(f"{name}: {error}") from None
    if len(ids) > most:
        raise PromptError(f"{name} has {len(ids)} tokens, the model reads at most {most}")
    return ids


def _aligned(loaded: Loaded, ids: dict[str, list[int]]) -> list[JSON]:
    """Return the tokens of the prompts that are read; of two, those that differ are marked."""
    marked: dict[str, list[int]] = {run: [] for run in ids}
    if len(ids) == len(RUNS):
        rows = align(*(ids[run] for run in RUNS))
        marked["clean"] = [row.a for row in rows if row.differs and row.a is not None]
        marked["corrupt"] = [row.b for row in rows if row.differs and row.b is not None]
    token = loaded.tokenizer.token
    return [prompt(run, [*map(token, ids[run])], marked=marked[run]) for run in ids]


def _answers(loaded: Loaded, request: LiveRequest) -> list[JSON]:
    """Return what target and foil are: a token each, or the pieces of one that is several."""
    found = []
    for name, typed in (("target", request.targets), ("foil", request.foils)):
        for word in typed:
            try:
                token = loaded.tokenizer.token(answer_id(loaded.tokenizer, word, name))
                found.append({"name": name, "text": visible(token), "is_token": True})
            except PromptError as error:
                found.append({"name": name, "text": escaped(str(error)), "is_token": False})
    return found


def _experiment(
    loaded: Loaded, request: LiveRequest, ids: dict[str, list[int]], said: JSON
) -> Checked:
    """Return what can be run.

    Raises:
        PromptError: what is in the way.
    """
    tokenizer = loaded.tokenizer
    if request.mode == "patch":
        needs_foil = METRICS[request.metric].needs_foil
        if not request.targets or (needs_foil and not request.foils):
            raise PromptError(
                "target and foil: give the words between which the model decides"
                if needs_foil
                else "target: give the word that the clean prompt asks for"
            )
        texts = (request.clean, request.corrupt, request.targets, request.foils)
        return Checked(said, pair=PromptPair.from_text(tokenizer, *texts))
    if request.mode == "tokens":
        return Checked(said, ids=(*ids["clean"], *ids["corrupt"]))
    if not ids[request.run]:
        raise PromptError(f"the {request.run} prompt is empty")
    if request.mode == "explain":
        if len(request.targets) != 1 or len(request.foils) != 1:
            raise PromptError("an explanation needs one target and one foil")
        answers = (request.targets[0], request.foils[0])
        question = Question.from_text(tokenizer, request.prompt, *answers)
        return Checked(said, question=question)
    return Checked(said, ids=tuple(ids[request.run]))


def fitting_words(tokenizer: BPETokenizer, request: LiveRequest) -> list[JSON]:
    """Return words that, in place of those that the corrupt prompt has instead, would fit.

    Returns:
        {"word", "prompt": the corrupt prompt with it} each; [] where no word can help.
    """
    try:
        replaced = replaced_words(request.clean, request.corrupt)
        both = {replaced.text, *(request.clean[slice(*span)] for span in replaced.clean_spans)}
        kinds: Sequence[Iterable[str]] = [kind for kind in KINDS if both & {*kind}] or KINDS
        candidates = [word for kind in kinds for word in kind if word not in request.clean]
        found = suggest(tokenizer, request.clean, request.corrupt, candidates)
    except PromptError:
        return []
    fits: list[JSON] = [{"word": one.word, "prompt": one.prompt} for one in found if one.fits]
    return fits[:MOST_SUGGESTED]
