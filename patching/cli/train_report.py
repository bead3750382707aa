"""mingpt-train's output as text for a terminal, while the model learns and at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mingpt.training.result import ENDS, TrainingResult
from patching.cli.common.tables import table
from patching.text import counted, escaped, readable

if TYPE_CHECKING:
    from mingpt.training.comparison import Comparison
    from mingpt.training.request import TrainingRequest
    from mingpt.training.run import Run

SAMPLE_TOKENS = 60  # of the sample after an evaluation
DEFAULT_PROMPT = "\n"  # of a text's sample


class Report:
    """The lines that are printed while a model learns.

    Args:
        say: prints a line.
        request: of the run.
        prompt: what the samples begin with; None for an end of line, and for no samples of
            pairs.
        samples: draw a sample after each evaluation.
    """

    def __init__(
        self,
        say: Callable[..., None],
        request: TrainingRequest,
        prompt: str | None,
        *,
        samples: bool = True,
    ) -> None:
        self.say, self.request, self.prompt, self.samples = say, request, prompt, samples

    def started(self, run: Run) -> None:
        """Print what is trained on what."""
        config, tokens = run.model.config, run.tokens
        count = sum(parameter.numel() for parameter in run.model.parameters())
        self.say(
            f"model: {config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, context"
            f" {config.block_size}, {count:,} parameters; products in {run.request.precision} on"
            f" {run.model.device}"
        )
        asked = self.request.vocab
        size = config.vocab_size
        fewer = ""
        if asked.startswith("bpe:") and size < int(asked[4:]) and self.request.start is None:
            fewer = " (the text has no more merges)"
        self.say(f"vocabulary: {counted(size, 'token')}{fewer}")
        self.say(
            f"tokens: {tokens['train']:,} to train, {tokens['val']:,} to validate,"
            f" {tokens['test']:,} to test"
        )
        if run.step:
            self.say(f"going on after step {run.step} of {self.request.step_count}")

    def evaluated(self, run: Run) -> None:
        """Print a line with the losses, and a sample."""
        last = run.history[-1]
        best = min(one.val_loss for one in run.history)
        train = "" if last.train_loss is None else f" loss {last.train_loss:.3f},"
        line = (
            f"step {last.step} of {self.request.step_count}:{train}"
            f" validation {last.val_loss:.3f}{' (best)' if last.val_loss == best else ''}"
        )
        if run.steps_here and run.tokens_per_second > 0:
            rest = (self.request.step_count - run.step) * run.seen / run.steps_here
            minutes = rest / run.tokens_per_second / 60
            line += f"; {run.tokens_per_second:,.0f} tokens/s, {minutes:.1f} min left"
        self.say(line)
        if self.samples and (sample := self._sample(run)):
            self.say(f"    {sample}")

    def _sample(self, run: Run) -> str:
        """Return a continuation of the prompt in one line; "" for pairs without a prompt."""
        from mingpt.generation.sampling import generate

        prompt = self.prompt
        if prompt is None and self.request.pairs is not None:
            return ""
        ids = run.tokenizer.encode(DEFAULT_PROMPT if prompt is None else prompt)
        room = run.model.config.block_size
        ((sample,),) = generate(
            run.model, [ids[-room:]], SAMPLE_TOKENS, seed=run.step,
            greedy=self.request.pairs is not None,
        )  # fmt: skip
        text = readable((prompt or "") + run.tokenizer.decode(sample.ids))
        return escaped(" ".join(text.split()))


def comparison_table(found: Comparison) -> str:
    """Return the table of models that differ in one knob."""
    rows = [(found.knob, "parameters", "validation", "test", "cache", "ms", "ms, no cache",
             *(f"ln p {number}" for number in range(1, len(found.sentences) + 1)))]  # fmt: skip
    for one in found.models:
        rows.append(
            (
                str(one.value),
                f"{one.n_parameters:,}",
                f"{one.val_loss:.4f}",
                "" if one.test_loss is None else f"{one.test_loss:.4f}",
                f"{one.cache_bytes:,} B",
                f"{one.ms_cached:.2f}",
                f"{one.ms_uncached:.2f}",
                *(f"{value:.2f}" for value in one.log_likelihoods),
            )
        )
    lines = [table(rows, right=range(1, len(rows[0])))]
    lines += [f"ln p {n}: {escaped(text)}" for n, text in enumerate(found.sentences, 1)]
    return "\n".join(lines)


def summary(result: TrainingResult) -> str:
    """Return the lines at the end: why the run ended, and how good the kept weights are."""
    best = result.best
    lines = [
        f"ended at step {result.history[-1].step}: {ENDS[result.ended]}; kept the weights of step"
        f" {best.step}, validation loss {best.val_loss:.4f}"
    ]
    if result.test_loss is not None and result.test_perplexity is not None:
        lines.append(
            f"test part: loss {result.test_loss:.4f} nats a token, perplexity"
            f" {result.test_perplexity:.2f}, {result.test_bits_per_byte:.3f} bits a byte"
        )
    if result.translation is not None:
        found = result.translation
        line = f"{found['exact']:.1%} of {found['pairs']:.0f} test pairs translated exactly"
        if "bleu" in found:
            line += f", BLEU {found['bleu']:.1f}, chrF {found['chrf']:.1f}"
        else:
            line += " (pip install sacrebleu adds BLEU and chrF)"
        lines.append(line)
    return "\n".join(lines)
