"""Continue prompts with a model, and return the samples as text.

mingpt.generation chooses the tokens; this file turns texts into tokens and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mingpt.bpe import END_OF_TEXT
from mingpt.errors import GenerationError
from mingpt.generation.beams import BeamStep, beam_search
from mingpt.generation.sampling import Choice, Sample, Stop, check, generate
from patching.continuation.request import GenerationSettings, check_num_samples, encode_prompts
from patching.continuation.result import Continuation, Continuations
from patching.next_tokens import text_or_id
from patching.progress import Progress, progress_or_bar, steps
from patching.running import ready, versions

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer
    from mingpt.model import GPT

OUT_OF_MEMORY = "out of memory; ask for fewer tokens, or use a smaller model"


def continue_prompts(
    model: GPT,
    tokenizer: BPETokenizer,
    prompts: Sequence[str],
    settings: GenerationSettings | None = None,
    *,
    num_samples: int = 1,
    seed: int = 0,
    observe: Callable[[Choice], None] | None = None,
    observe_beams: Callable[[int, BeamStep], None] = lambda prompt, step: None,
    progress: Progress | bool | None = None,
) -> Continuations:
    """Continue each prompt with the model's own tokens.

    A sample depends on the model, its prompt, the settings and its own seed. It does not
    depend on the other prompts and samples of the call, but for the rounding of logits in
    half precision, which now and then changes a token.

    Args:
        model: runs in eval mode; afterwards its mode is restored.
        prompts: texts. "<|endoftext|>" in a prompt is ordinary text.
        settings: how tokens are chosen; None draws 30 tokens from the unchanged distribution.
        num_samples: samples of each prompt. Beam search returns the best ones, at most
            num_beams; greedy returns one.
        seed: of each prompt's first sample; the next samples have the next numbers.
        observe: called with each step of each sample. Beam search does not call it.
        observe_beams: called by beam search with the number of the prompt, from 0, and each
            step's candidates.
        progress: called with (tokens done, tokens in all) after each step; a sample that ends
            early counts as done. None: a bar on a terminal or in a notebook; False: no bar.

    Returns:
        The samples, result[prompt][sample]: in the order of their seeds, or from beam search
        the best first.

    Raises:
        PromptError: a prompt is empty or not valid Unicode.
        ConfigError: a prompt is longer than the model's context, or a number is out of its
            range.
        GenerationError: logits are not finite, or memory runs out.
    """
    settings = settings or GenerationSettings()
    check_num_samples(settings, num_samples)
    ids = encode_prompts(tokenizer, prompts, model.config.block_size)
    check(model.config, ids, settings.max_new_tokens, seed=seed, num_samples=num_samples)
    stop = Stop(tokenizer.vocab.get(END_OF_TEXT), settings.stop, tokenizer.decode)
    total = len(ids) * num_samples * settings.max_new_tokens
    with (
        progress_or_bar(progress, "generating") as report,
        ready(model, GenerationError(OUT_OF_MEMORY)),
    ):
        step = steps(report, total)
        width = settings.num_beams
        if width is None:
            found = _sample(model, ids, settings, num_samples, seed, stop, observe, step)
        else:
            found = _search(model, ids, settings, width, num_samples, stop, observe_beams, step)
    samples = _as_texts(model.name, tokenizer, prompts, found, settings)
    return Continuations(model.name, settings, samples, versions(model))


def _sample(
    model: GPT,
    ids: Sequence[Sequence[int]],
    settings: GenerationSettings,
    num_samples: int,
    seed: int,
    stop: Stop,
    observe: Callable[[Choice], None] | None,
    step: Callable[[int], None],
) -> list[list[Sample]]:
    """Draw samples, or take the likeliest tokens; call `step` with the tokens that are done."""
    most = settings.max_new_tokens

    def seen(choice: Choice) -> None:
        if observe is not None:
            observe(choice)
        step(1 if choice.ended is None else most - choice.step)

    return generate(
        model,
        ids,
        most,
        decoding=settings.decoding,
        greedy=settings.greedy,
        num_samples=num_samples,
        seed=seed,
        stop=stop,
        observe=seen,
    )


def _search(
    model: GPT,
    ids: Sequence[Sequence[int]],
    settings: GenerationSettings,
    num_beams: int,
    num_samples: int,
    stop: Stop,
    observe: Callable[[int, BeamStep], None],
    step: Callable[[int], None],
) -> list[list[Sample]]:
    """Search each prompt with beams; call `step` with the tokens that are done."""
    return [
        beam_search(
            model,
            one,
            settings.max_new_tokens,
            num_beams=num_beams,
            num_samples=num_samples,
            length_penalty=settings.length_penalty,
            repetition_penalty=settings.decoding.repetition_penalty,
            stop=stop,
            step=lambda tokens: step(num_samples * tokens),
            observe=partial(observe, number),
        )
        for number, one in enumerate(ids)
    ]


def _as_texts(
    name: str,
    tokenizer: BPETokenizer,
    prompts: Sequence[str],
    found: Sequence[Sequence[Sample]],
    settings: GenerationSettings,
) -> tuple[tuple[Continuation, ...], ...]:
    return tuple(
        tuple(_as_text(name, tokenizer, prompt, sample, settings) for sample in of_prompt)
        for prompt, of_prompt in zip(prompts, found, strict=True)
    )


def _as_text(
    name: str, tokenizer: BPETokenizer, prompt: str, sample: Sample, settings: GenerationSettings
) -> Continuation:
    ids = sample.ids[:-1] if sample.ended == "end" else sample.ids
    tokens = tuple(text_or_id(tokenizer.token, number) for number in sample.ids)
    return Continuation(name, prompt, tokenizer.decode(ids), tokens, sample, settings)
