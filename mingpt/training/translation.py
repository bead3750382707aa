"""Translate with a model of pairs, and score the translations."""

from __future__ import annotations

from collections.abc import Sequence

from mingpt.bpe import END_OF_TEXT, BPETokenizer
from mingpt.generation.sampling import Stop, generate
from mingpt.model import GPT
from mingpt.training.vocabulary import SEPARATOR

LONGEST = 64  # tokens of a translation


def translate(model: GPT, tokenizer: BPETokenizer, sources: Sequence[str]) -> list[str]:
    """Return the likeliest translation of each source, token by token (greedy).

    Args:
        model: trained on pairs.

    Raises:
        ConfigError: a source is longer than the model's context.
    """
    ids = [[*tokenizer.encode(one), tokenizer.vocab[SEPARATOR]] for one in sources]
    stop = Stop(tokenizer.vocab[END_OF_TEXT])
    found = generate(model, ids, LONGEST, greedy=True, stop=stop)
    texts = []
    for ((sample),) in found:
        written = sample.ids[:-1] if sample.ended == "end" else sample.ids
        texts.append(tokenizer.decode(written).strip())
    return texts


def score(found: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Return the share of translations that are exactly the wanted ones, BLEU and chrF.

    BLEU (Papineni et al. 2002) and chrF (Popovic 2015) are sacrebleu's, from 0 to 100; they
    are left out where the package is not installed.
    """
    exact = sum(one == other for one, other in zip(found, wanted, strict=True))
    scores = {"pairs": float(len(wanted)), "exact": exact / len(wanted)}
    try:
        import sacrebleu
    except ImportError:
        return scores
    references = [list(wanted)]
    return scores | {
        "bleu": sacrebleu.corpus_bleu(list(found), references).score,
        "chrf": sacrebleu.corpus_chrf(list(found), references).score,
    }
