"""The figures of an explanation: the numbers and words that patching/drawing draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mingpt.training.vocabulary import SEPARATOR
from patching.drawing import attention
from patching.drawing import explanation as drawing
from patching.drawing.ablation import AblatedParts, draw_ablated
from patching.drawing.style import LONGEST_PROMPT, check_cmap, token_label
from patching.errors import DrawingError, check_result
from patching.explanation.ablation import Ablation
from patching.explanation.request import FIGURES, figures_of
from patching.explanation.result import Explanation, target_minus_foil
from patching.head_scores import SCORES
from patching.text import counted, model_label, shortened


def draw_explanation(
    explanation: Explanation,
    path: str | Path | None = None,
    *,
    figure: str = "alti-logit",
    cmap: str | None = None,
    title: str | None = None,
    head: tuple[int, int] | None = None,
) -> Figure:
    """Draw one figure of an explanation.

    Args:
        explanation: must include the method that the figure shows.
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        figure: "alti", a heatmap of the share of each token in each position;
            "alti-logit" or "logit", bars of what each token adds to the logit
            difference; "alti-logit-layers" or "logit-layers", a heatmap of the same by
            layer; "lens", the predictions after each layer; "direct", what each head
            and each MLP adds by itself; "attention", the weights of all heads; "head-scores",
            what kinds of heads there are.
        cmap: a matplotlib colour map, for heatmaps.
        title: replaces the figure's own title.
        head: (layer, head), to draw the attention of this head alone, with its tokens. Of a
            model of pairs, what the target's positions read of the source.

    Raises:
        DrawingError: another suffix, no such figure, colour map or head, or the explanation
            does not include the figure's method.
    """
    check_result(explanation, Explanation, DrawingError)
    check_cmap(cmap)  # here too, because bars take no colour map
    known = figures_of(FIGURES)
    if figure not in known:
        raise DrawingError(f"no figure {figure!r}; there are {', '.join(known)}")
    there = figures_of(explanation.methods)
    if figure not in there:
        raise DrawingError(f"the explanation has no figure {figure}; it has {', '.join(there)}")
    match figure:
        case "alti":
            return drawing.draw_shares(_shares(explanation), path, cmap=cmap, title=title)
        case "alti-logit" | "logit":
            return drawing.draw_bars(_bars(explanation, figure), path, title=title)
        case "alti-logit-layers" | "logit-layers":
            by_layer = _by_layer(explanation, figure.removesuffix("-layers"))
            return drawing.draw_layers(by_layer, path, cmap=cmap, title=title)
        case "lens":
            return drawing.draw_lens(_lens(explanation), path, cmap=cmap, title=title)
        case "attention":
            panels = _attention(explanation, head)
            return attention.draw_attention(panels, path, cmap=cmap, title=title)
        case "head-scores":
            scores = _head_scores(explanation)
            return attention.draw_head_scores(scores, path, cmap=cmap, title=title)
        case _:
            return drawing.draw_direct(_direct(explanation), path, cmap=cmap, title=title)


def draw_ablation(
    found: Ablation,
    path: str | Path | None = None,
    *,
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what each head and MLP adds with all heads, with one switched off, and the change.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        cmap, title: as draw_explanation.

    Raises:
        DrawingError: another suffix, or no such colour map.
    """
    check_result(found, Ablation, DrawingError)
    return draw_ablated(_ablated(found), path, cmap=cmap, title=title)


def _ablated(found: Ablation) -> AblatedParts:
    choice, name = _choice(found.before), "{}.{}".format(*found.head)
    both = [
        np.column_stack([one.heads[0] - one.heads[1], target_minus_foil(one.mlp)])
        for one in (found.before, found.after)
    ]
    later = sum(part.change for part in found.parts())
    caption = (
        f"{choice.difference} changes by {found.total:z.4g}: head {name} added"
        f" {-found.direct:z.4g} by itself, later heads and MLPs change by {later:z.4g}, and the"
        f" other scale of the final layer norm changes {found.by_scale:z.4g}. The first panels are"
        " at each run's own scale, the changes at that of the run with all heads. Hatched: parts"
        " that write the same in both runs."
    )
    return AblatedParts(
        choice,
        heading=f"Head {name} switched off (framed): what each part adds to {choice.difference}",
        panels=(
            ("all heads", both[0]),
            (f"without {name}", both[1]),
            ("change", np.column_stack(found.changes())),
        ),
        head=found.head,
        caption=caption,
    )


def _shares(found: Explanation) -> drawing.TokenShares:
    heading = "ALTI: share of each token of the prompt in each position, after all blocks"
    return drawing.TokenShares(_choice(found), heading, _required(found.alti, "alti"))


def _bars(found: Explanation, method: str) -> drawing.TokenBars:
    choice, values = _choice(found), found.bars(method)
    headings = {
        "alti-logit": "ALTI-Logit: what each token of the prompt adds",
        "logit": "Logit: what each position that attention reads adds",
    }
    with_bars = ("attention", "embeddings", "rounding")
    without = sum(part for name, part in found.parts().items() if name not in with_bars)
    total, difference = float(values.sum()), float(target_minus_foil(found.logits))
    opposite = " (the opposite sign)" if total < 0 < difference or difference < 0 < total else ""
    caption = (
        f"{_sum_of_parts(found, choice)} The bars show attention and the embeddings (on the last"
        f" token); they sum to {total:.4g}{opposite}. MLPs and biases, {without:.4g} in all, have"
        f" no bars. Each bar is divided by the sum of absolute values, {np.abs(values).sum():.4g}."
    )
    return drawing.TokenBars(choice, f"{headings[method]} to {choice.difference}", values, caption)


def _by_layer(found: Explanation, method: str) -> drawing.TokensByLayer:
    choice = _choice(found)
    if method == "alti-logit":
        name, columns = "ALTI-Logit", "token of the prompt"
        values = _required(found.alti_logit_layers, "alti_logit_layers")[2]  # (L, T)
    else:
        name, columns = "Logit", "position that attention reads"
        values = found.logit_layers[2]
    return drawing.TokensByLayer(
        choice,
        heading=f"{name} by layer: what each layer's attention adds to {choice.difference}",
        values=values,
        name=name,
        columns=columns,
        caption=f"The cells sum to {values.sum():.4g}. The embeddings, which no layer"
        f" writes, are not shown; they add {target_minus_foil(found.initial):.4g} on the last"
        " token.",
    )


def _lens(found: Explanation) -> drawing.LensPredictions:
    heads = found.heads[0] - found.heads[1]  # (L, nh)
    with np.errstate(all="ignore"):  # after an early layer, a wild model's logits can overflow
        trajectory = target_minus_foil(_required(found.trajectory, "trajectory"))
    return drawing.LensPredictions(
        _choice(found),
        heading="Logit lens: the likeliest next token if the model stopped after a layer",
        tokens=[
            [found.text_of(number) for number in row]
            for row in _required(found.lens_ids, "lens_ids")
        ],
        probabilities=_required(found.lens_probabilities, "lens_probabilities"),
        trajectory=trajectory,
        attention=heads.sum(-1) + target_minus_foil(found.bias),
        mlp=target_minus_foil(found.mlp),
        caption="Lower panel (last position): the lens normalises with each layer's own"
        " statistics, the bars with the final ones. So the bars do not add up to the steps of"
        " the line.",
    )


def _direct(found: Explanation) -> drawing.DirectParts:
    choice, (error, allowed) = _choice(found), found.worst()
    limit = f"allowed: {allowed:.2g}" if math.isfinite(allowed) else "not checked in half precision"
    return drawing.DirectParts(
        choice,
        heading="Direct logit attribution: what each head and each MLP adds by itself to"
        f" {choice.difference}",
        heads=found.heads[0] - found.heads[1],
        mlp=target_minus_foil(found.mlp),
        caption=f"{_sum_of_parts(found, choice)} The terms add up to the model's logits"
        f" to within {error:.2g} ({limit}).",
    )


def _attention(found: Explanation, head: tuple[int, int] | None) -> attention.Attention:
    pattern = _required(found.pattern, "pattern")  # (L, nh, T, T)
    labels = tuple(token_label(found.text_of(number)) for number in found.ids)
    rows, columns = slice(None), slice(None)
    if head is None:
        chosen = [(layer, one) for layer in range(len(pattern)) for one in range(pattern.shape[1])]
        heading = "Attention of every head: what each position (row) reads"
    else:
        layer, one = head
        if not (0 <= layer < len(pattern) and 0 <= one < pattern.shape[1]):
            raise DrawingError(
                f"no head {layer}.{one}: there are {len(pattern)} layers of"
                f" {counted(pattern.shape[1], 'head')}"
            )
        chosen, heading = [head], f"Attention of head {layer}.{one}: what each position reads"
        if SEPARATOR in labels[:-1]:
            at = labels.index(SEPARATOR)
            rows, columns = slice(at, None), slice(0, at)
            heading = (
                f"Attention of head {layer}.{one} from the target to the source: a row's position"
                " predicts the next word"
            )
    return attention.Attention(
        panels=tuple(
            (f"{layer}.{one}", pattern[layer, one][rows, columns]) for layer, one in chosen
        ),
        rows=labels[rows],
        columns=labels[columns],
        abreast=pattern.shape[1],
        title=_lines(found, heading),
    )


def _head_scores(found: Explanation) -> attention.HeadScores:
    scores = _required(found.head_scores, "head_scores")
    heading = "Scores of the heads on random tokens that are repeated: mean attention weight"
    return attention.HeadScores(
        tuple(zip((name.replace("_", " ") for name in SCORES), scores, strict=True)),
        _lines(found, heading),
    )


def _lines(found: Explanation, heading: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the lines of a title, and the notes, which stay if the title is replaced."""
    model = (
        f"model {model_label(found.model_name)}; prompt: {shortened(found.text, LONGEST_PROMPT)}"
    )
    return (heading, model), found.notes


def _choice(found: Explanation) -> drawing.Choice:
    return drawing.Choice(
        prompt=found.text,
        tokens=tuple(found.text_of(number) for number in found.ids),
        target=found.text_of(found.target),
        foil=found.text_of(found.foil),
        model_name=found.model_name,
        notes=found.notes,
    )


def _sum_of_parts(found: Explanation, choice: drawing.Choice) -> str:
    parts = [f"{name} {value:.4g}" for name, value in found.parts().items()]
    total = target_minus_foil(found.logits)
    return f"{choice.difference} = {total:.4g}, of which {', '.join(parts)}."


def _required(array: np.ndarray | None, name: str) -> np.ndarray:
    """Return `array`, which an explanation with the figure's method must have.

    Raises:
        DrawingError: the array is missing, as in a result that was edited.
    """
    if array is None:
        raise DrawingError(f"the explanation has no {name}")
    return array
