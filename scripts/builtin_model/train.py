"""Make the model that ships with the project from a seed.

    python scripts/train_builtin.py                 # trains, measures, writes mingpt/builtin/
    python scripts/train_builtin.py --evaluate      # measures the model in mingpt/builtin/

It trains a byte-level BPE vocabulary on the sentences of grammar.py, trains a
small GPT in two phases, measures it on held-out sentences (evaluate.py), and
writes config, float16 weights, tokenizer and a model card. It needs the extra
`train` (the tokenizers package, which trains the vocabulary).

Why two phases? Trained on the sentences alone, the model learns to copy the one
surname in the text in its first block, and nothing is left to patch. So phase 1
trains on rows of random names of which some are repeated, with the loss only on the
names that can be predicted. To predict them, a model must mark each token with
its predecessor and then look the predecessor up: the induction circuit (Elhage
et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al.
2022, arXiv 2209.11895). Phase 2 trains on the sentences, with phase 1's rows
mixed in so that the circuit stays.

Two details of phase 1 keep the heatmap clean. Without them, block 0 spread the
surname over all later tokens, and the differing token's column stayed empty.
First, names are spelt with and without the space before them, so that the "Michelle"
that begins a text is the same name as the later " Michelle". Second, half of the
rows repeat pairs in any order, so that only the name right before predicts the next.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mingpt
from builtin_model import grammar
from builtin_model.evaluate import evaluate
from mingpt.bpe import END_OF_TEXT, BPETokenizer
from mingpt.config import GPTConfig
from mingpt.files import replacing
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.model import GPT
from mingpt.trainer import LossFunction, Trainer, TrainerConfig
from mingpt.training.vocabulary import train_merges
from patching.study.generators import words

RAREST = 5  # occurrences of a pair of symbols that is merged
Rows = Iterator[tuple[list[int], list[bool]]]
Batch = tuple[Tensor, Tensor, Tensor]  # ids, next ids, True where the next is marked: each (B, T)


@dataclass(frozen=True)
class Recipe:
    """All settings. With the versions and the threads, they determine the weights' bytes."""

    seed: int = 0
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 128
    initializer_range: float = 0.08  # standard deviation of fresh weights (GPT-2's is 0.02)
    corpus_documents: int = 40_000  # documents that the vocabulary is trained on
    repeat_steps: int = 1600  # phase 1: the circuit forms between steps 1200 and 1500
    repeat_rows: int = 64  # sequences in a batch of phase 1
    repeat_length: int = 60  # tokens in a sequence of phase 1
    grammar_steps: int = 3300  # phase 2
    grammar_rows: int = 16  # sequences of sentences in a batch of phase 2
    mixed_rows: int = 6  # sequences of repeats in a batch of phase 2
    repeat_weight: float = 0.3  # factor of the repeats' loss in phase 2
    answer_weight: float = 1.0  # factor of the answers' loss, added to the loss on every token
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-5  # at the end of phase 2


# --------------------------------------------------------------------- data


def train_tokenizer(recipe: Recipe) -> BPETokenizer:
    """Train a byte-level BPE with one token for every name and place, with and without a space."""
    random = Random(f"corpus {recipe.seed}")
    texts = [grammar.training_document(random).text for _ in range(recipe.corpus_documents)]
    proper = [*words.FIRST_NAMES, *words.SURNAMES, *words.CAPITALS]
    proper += words.CAPITALS.values()
    texts += [f"{word} {word}" for word in proper for _ in range(RAREST)]
    # The size is never reached: training stops when every word is one token.
    symbols, merges = train_merges(texts, 20_000, min_frequency=RAREST)
    tokenizer = BPETokenizer({**symbols, END_OF_TEXT: len(symbols)}, merges)
    split = [
        text for word in proper for text in (word, " " + word) if len(tokenizer.encode(text)) > 1
    ]
    if split:
        raise SystemExit(f"more than one token: {', '.join(split)}")
    return tokenizer


def sentence_rows(tokenizer: BPETokenizer, random: Random, length: int) -> Rows:
    """Yield rows of `length` + 1 tokens of documents; True marks the answers.

    Every row begins with a document's first word, as a prompt does. As documents
    differ in length, the later ones in a row begin at every position.
    """
    end = tokenizer.vocab[END_OF_TEXT]
    while True:
        ids: list[int] = []
        marked: list[bool] = []
        while len(ids) <= length:
            document = grammar.training_document(random)
            starts = {start for start, _ in document.answers}
            at = 0
            for number in tokenizer.encode(document.text):
                ids.append(number)
                marked.append(at in starts)
                at += len(tokenizer.token(number))
            ids.append(end)
            marked.append(False)
        yield ids[: length + 1], marked[: length + 1]


def repeated_rows(spaced: Sequence[int], bare: Sequence[int], random: Random, length: int) -> Rows:
    """Yield rows of `length` + 1 random names; True marks those that can be predicted.

    Half of the rows hold pieces of 6 to 26 names, each followed by itself. The others
    repeat pairs of names in any order, with other names between them, so that only
    the name right before predicts the next, as with people's names.

    Args:
        spaced, bare: ids of the same names with and without the space before. A
            name's first mention may be either; the repeated ones are spaced.
        random: draws the names.
        length: tokens of a row, minus one.
    """
    count = len(spaced)

    def write(ids: list[int], numbers: Sequence[int]) -> None:
        ids += [bare[n] if random.random() < 0.25 else spaced[n] for n in numbers]

    while True:
        ids: list[int] = []
        marked: list[bool] = []
        in_pairs = random.random() < 0.5
        cast = random.sample(range(count), 2 * random.randint(2, 5))
        seen: set[int] = set()
        while len(ids) <= length:
            if in_pairs:
                other = random.choices(range(count), k=random.randrange(4))
                first = 2 * random.randrange(len(cast) // 2)
                write(ids, other)
                if first in seen:
                    ids += [spaced[n] for n in cast[first : first + 2]]
                else:
                    write(ids, cast[first : first + 2])
                marked += [False] * (len(other) + 1) + [first in seen]
                seen.add(first)
            else:
                other = random.choices(range(count), k=random.randrange(20))
                piece = random.choices(range(count), k=random.randint(6, 26))
                write(ids, other + piece)
                ids += [spaced[n] for n in piece]
                marked += [False] * (len(other) + len(piece) + 1) + [True] * (len(piece) - 1)
        yield ids[: length + 1], marked[: length + 1]


def batches(rows: Rows, count: int) -> Iterator[Batch]:
    """Yield batches of `count` rows: ids, next ids and marks, each a tensor (count, length)."""
    while True:
        ids, marked = (
            torch.tensor(part) for part in zip(*(next(rows) for _ in range(count)), strict=True)
        )
        yield ids[:, :-1], ids[:, 1:], marked[:, 1:]


# --------------------------------------------------------------------- training


def losses(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of every token, in nats (B, T).

    Matrix products run in bfloat16, which is about twice as fast on processors that
    have it. Weights and losses stay in float32.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(ids)
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


def repeat_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of phase 1: the mean over the marked tokens only."""
    ids, targets, marked = batch
    return losses(model, ids, targets)[marked].mean()


def fresh_model(recipe: Recipe, vocab_size: int) -> GPT:
    """Return an untrained model of the recipe's shape, without dropout, as no row is seen twice."""
    return GPT(
        GPTConfig(
            n_layer=recipe.n_layer,
            n_head=recipe.n_head,
            n_embd=recipe.n_embd,
            vocab_size=vocab_size,
            block_size=recipe.block_size,
            initializer_range=recipe.initializer_range,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def run_phase(
    name: str, model: GPT, config: TrainerConfig, data: Iterator, loss_function: LossFunction
) -> None:
    """Train `model` for one phase, and print a line every 100 steps."""
    started = time.perf_counter()

    def report(trainer: Trainer) -> None:
        if trainer.step % 100 == 0:
            seconds = time.perf_counter() - started
            print(
                f"{name}: step {trainer.step}, loss {trainer.loss:.3f}, {seconds:.0f} s", flush=True
            )

    trainer = Trainer(model, config, data, loss_function=loss_function)
    trainer.callbacks.append(report)
    trainer.run()


def train(recipe: Recipe, tokenizer: BPETokenizer) -> GPT:
    """Return a model trained in both phases."""
    names = [*words.FIRST_NAMES, *words.SURNAMES]
    spaced, bare = ([tokenizer.encode(before + name)[0] for name in names] for before in (" ", ""))
    torch.manual_seed(recipe.seed)
    # Phase 1 uses a vocabulary of the names alone, numbered 0, 1, 2, ...: the whole
    # vocabulary's unembedding would take most of the time.
    count = len(names)
    small = fresh_model(recipe, 2 * count)
    rows = repeated_rows(
        range(count), range(count, 2 * count), Random(f"names {recipe.seed}"), recipe.repeat_length
    )
    run_phase(
        "names",
        small,
        TrainerConfig(
            recipe.repeat_steps, recipe.learning_rate, recipe.learning_rate, seed=recipe.seed
        ),
        batches(rows, recipe.repeat_rows),
        repeat_loss,
    )

    model = fresh_model(recipe, tokenizer.vocab_size)
    weights = small.state_dict()
    embedding = model.transformer.wte.weight.detach().clone()
    embedding[spaced + bare] = weights["transformer.wte.weight"]
    weights["transformer.wte.weight"] = weights["lm_head.weight"] = embedding
    model.load_state_dict(weights)

    def mixed_loss(model: nn.Module, both: tuple[Batch, Batch]) -> Tensor:
        ids, targets, marked = (torch.cat(parts) for parts in zip(*both, strict=True))
        each = losses(model, ids, targets)
        shares = [recipe.grammar_rows, recipe.mixed_rows]
        (text, repeats), (answers, copies) = each.split(shares), marked.split(shares)
        loss = text.mean() + recipe.answer_weight * text[answers].mean()
        return loss + recipe.repeat_weight * repeats[copies].mean()

    sentences = sentence_rows(tokenizer, Random(f"sentences {recipe.seed}"), recipe.block_size)
    repeats = repeated_rows(spaced, bare, Random(f"mixed {recipe.seed}"), recipe.block_size)
    run_phase(
        "sentences",
        model,
        TrainerConfig(
            recipe.grammar_steps,
            recipe.learning_rate,
            recipe.final_learning_rate,
            seed=recipe.seed,
        ),
        zip(
            batches(sentences, recipe.grammar_rows),
            batches(repeats, recipe.mixed_rows),
            strict=False,  # both are endless
        ),
        mixed_loss,
    )
    return model.eval()


# --------------------------------------------------------------------- the command

CARD = """\
# builtin

A GPT-2 of {layers} layers, {heads} heads and width {width}, {parameters} parameters, context
{context}, trained from scratch by `scripts/train_builtin.py` on synthetic English sentences
(`scripts/builtin_model/grammar.py`). It exists to have activations worth patching where there is no
network. It knows the sentences of its grammar and nothing else.

Weights are float16, the vocabulary has {vocabulary} byte-level BPE tokens. Measured on these
files by `python scripts/train_builtin.py --evaluate`:

{measured}

Made in {minutes:.0f} minutes with Python {python}, PyTorch {torch}, {threads} threads, by

    python scripts/train_builtin.py --seed {seed}

Recipe: {recipe}
"""


def write(model: GPT, tokenizer: BPETokenizer, directory: Path) -> tuple[GPT, BPETokenizer]:
    """Save model and tokenizer, in float16; return them as a user will load them."""
    mingpt.save(model.half(), directory, tokenizer)
    return mingpt.load(directory)


def main() -> int:
    """Train, measure and write the model; with --evaluate, only measure the one in --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=BUILTIN_DIRECTORY, metavar="DIR")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--evaluate", action="store_true", help="measure only")
    arguments = parser.parse_args()
    if arguments.evaluate:
        print(evaluate(*mingpt.load(arguments.out)))
        return 0
    started = time.perf_counter()
    recipe = Recipe(seed=arguments.seed)
    tokenizer = train_tokenizer(recipe)
    model, tokenizer = write(train(recipe, tokenizer), tokenizer, arguments.out)
    minutes = (time.perf_counter() - started) / 60
    measured = evaluate(model, tokenizer)
    print(measured)
    card = CARD.format(
        layers=recipe.n_layer,
        heads=recipe.n_head,
        width=recipe.n_embd,
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        context=recipe.block_size,
        vocabulary=f"{tokenizer.vocab_size:,}",
        measured=measured,
        minutes=minutes,
        python=platform.python_version(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        seed=recipe.seed,
        recipe=", ".join(f"{name} {value}" for name, value in asdict(recipe).items()),
    )
    with replacing(arguments.out / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    print(f"wrote {arguments.out} after {minutes:.1f} minutes")
    return 0
