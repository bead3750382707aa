"""The page of an explanation: what each word adds, where it goes, the lens, heads, attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patching.explanation.result import Explanation, target_minus_foil
from patching.head_scores import SCORES
from patching.page.attention_view import attention_view
from patching.page.charts import (
    JSON,
    bars,
    chart,
    field,
    heatmap,
    line,
    rows_of,
    shown,
    token_by_token,
    with_texts,
)
from patching.page.parts import charts, made, page, prompt, score_table, tables, token_labels
from patching.text import escaped, shortened, visible

MOST_TOKENS = 128  # of a prompt whose maps of tokens by tokens are shown
MOST_GOALS = 3  # positions and layers that a bar's tooltip names
LENS_CELL = 88  # pixels of a column of the lens, which shows tokens
LONGEST_TOKEN = 12  # characters of a token in a cell of the lens
BAR_NAMES = {"alti-logit": "ALTI-Logit", "logit": "logit"}
BARS = {
    "alti-logit": "what each token of the prompt adds",
    "logit": "what attention adds from each position that it reads",
}


def explanation_page(found: Explanation, command: str = "") -> JSON:
    """Return the page of an explanation.

    Args:
        command: the command line that repeats the run; "" if there is none.
    """
    target, foil = _answers(found)
    off = "" if found.ablated is None else f"; head {found.ablated[0]}.{found.ablated[1]} off"
    return page(
        f"Why {target} rather than {foil}?",
        f"model {found.model_name}; {_difference(found)} ="
        f" {float(target_minus_foil(found.logits)):.4f}; methods {', '.join(found.methods)}{off}",
        explanation_views(found),
        name="explanation",
        prompts=[prompt("prompt", _tokens(found), answers=(found.text_of(found.target),))],
        notes=[*found.notes, *_left_out(found)],
        command=command,
        provenance=made(
            found.model_name,
            found.checksum,
            found.created,
            seconds=f"{found.seconds:.2f}",
            **found.versions,
        ),
    )


def attention_page(found: Explanation, command: str = "") -> JSON:
    """Return the page of an explanation's attention alone, in which the answers play no part.

    Args:
        command: as explanation_page.
    """
    shown_page = explanation_page(found, command)
    return shown_page | {
        "title": "What each head reads",
        "subtitle": f"model {escaped(found.model_name)}",
        "prompts": [prompt("prompt", _tokens(found))],
        "views": [view for view in shown_page["views"] if view["kind"] != "tables"],
    }


def explanation_views(found: Explanation) -> list[JSON]:
    """Return the views of an explanation's page: those of its methods."""
    views = []
    if (by_words := _by_words(found)) is not None:
        views.append(by_words)
    is_short = len(found.ids) <= MOST_TOKENS
    if found.alti is not None and is_short:
        views.append(_alti(found, found.alti))
    if found.lens_ids is not None:
        views.append(_lens(found))
    if "direct" in found.methods:
        views.append(_direct(found))
    if found.pattern is not None and is_short:
        views.append(
            attention_view(found.pattern, token_labels(_tokens(found)), "What each head reads")
        )
    if found.head_scores is not None:
        views.append(_head_scores(found.head_scores))
    top, both = found.next.top, (*found.next.target, *found.next.foil)
    told = [score_table("after the prompt", top), score_table("target and foil", both)]
    return [*views, tables("Next tokens", told)]


def _left_out(found: Explanation) -> list[str]:
    """Return a note about the maps of tokens by tokens that a page of so many tokens lacks."""
    maps = {"ALTI": found.alti, "attention": found.pattern}
    names = [name for name, array in maps.items() if array is not None]
    if not names or len(found.ids) <= MOST_TOKENS:
        return []
    return [
        f"not shown: {' and '.join(names)} of {len(found.ids)} tokens; a page shows up to"
        f" {MOST_TOKENS}"
    ]


# --------------------------------------------------------------------- what words add


def _by_words(found: Explanation) -> JSON | None:
    """Return bars of what each token adds, and the same by layer; None without such methods."""
    of = []
    for method in ("alti-logit", "logit"):
        by_layer = found.alti_logit_layers if method == "alti-logit" else found.logit_layers
        if method in found.methods and by_layer is not None:
            of += [_bars(found, method, by_layer[2]), _by_layer(found, method, by_layer[2])]
    if not of:
        return None
    rest = ("attention", "embeddings", "rounding")
    without = sum(part for name, part in found.parts().items() if name not in rest)
    caption = (
        f"Above 0 favours {_answers(found)[0]}, below 0 {_answers(found)[1]}. The bars show"
        " attention, and the embeddings on the last token. MLPs and biases add"
        f" {without:.4f}, which has no bar."
    )
    return charts(
        f"What the words add to {_difference(found)}", of, choose="shown", caption=caption
    )


def _bars(found: Explanation, method: str, by_layer: np.ndarray) -> JSON:
    """Return a bar for each token.

    Args:
        by_layer: (L, T) in logits.
    """
    labels = token_labels(_tokens(found))
    values = found.bars(method)[None]  # (1, T)
    tooltip = [
        field("column_label", "token"),
        field("value", "adds", "+.4f"),
        field("layers", "most in the layers"),
    ]
    texts = {"layers": [_largest(of_token, _numbers(by_layer)) for of_token in by_layer.T]}
    if method == "alti-logit" and found.alti is not None:
        tooltip.append(field("goes", "goes to"))
        texts["goes"] = [_largest(shares, labels) for shares in found.alti.T]
    caption = f"{BAR_NAMES[method]}: {BARS[method]}, in logits"
    return chart(
        f"{BAR_NAMES[method]}, bars",
        bars(len(labels), columns_are="token", title="logits", tooltip=tooltip),
        rows_of(value=values),
        [shown("value", "value", caption, ends=[0.0])],
        rows=["adds"],
        columns=labels,
        rows_are="",
        columns_are="token",
        labels=texts,
        more={"link": "column"},
    )


def _largest(values: np.ndarray, names: Sequence[str]) -> str:
    """Return the names of the largest values by size, with the values.

    Example:
        _largest(np.array([0.1, -0.7, 0.0]), ["a", "b", "c"])  # "b -0.700, a +0.100"
    """
    order = np.argsort(-np.abs(values), kind="stable")[:MOST_GOALS]
    return ", ".join(f"{names[at]} {values[at]:+.3f}" for at in order if values[at] != 0)


def _by_layer(found: Explanation, method: str, values: np.ndarray) -> JSON:
    labels = token_labels(_tokens(found))
    tooltip = [field("row", "layer"), field("column_label", "token"), field("value", form="+.4f")]
    caption = f"{BAR_NAMES[method]}: {BARS[method]}, by layer, in logits; without the embeddings"
    return chart(
        f"{BAR_NAMES[method]}, by layer",
        heatmap(len(labels), rows_are="layer", columns_are="token", tooltip=tooltip,
                link=["column"]),
        rows_of(value=values),
        [shown("value", "value", caption, middle=0.0)],
        rows=_numbers(values),
        columns=labels,
        rows_are="layer",
        columns_are="token",
        more={"link": "column"},
    )  # fmt: skip


def _alti(found: Explanation, shares: np.ndarray) -> JSON:
    """Return ALTI's shares (T, T) as a heatmap: a row for each position."""
    labels = token_labels(_tokens(found))
    tooltip = [
        field("row_label", "position"),
        field("column_label", "token"),
        field("value", "share", ".4f"),
    ]
    earlier = np.where(np.tri(len(labels), dtype=bool), shares, np.nan)  # later tokens have none
    of = chart(
        "ALTI",
        token_by_token(len(labels), rows_are="position", columns_are="token", tooltip=tooltip,
                       link=["column", "row"]),
        rows_of(value=earlier),
        [shown("share", "value", "ALTI: share of each token in each position, after all blocks",
               ends=[0.0])],
        rows=labels,
        columns=labels,
        rows_are="position",
        columns_are="token",
        more={"link": "column"},
    )  # fmt: skip
    return charts("Where the words go", [of])


# --------------------------------------------------------------------- lens and heads


def _lens(found: Explanation) -> JSON:
    ids, probabilities, trajectory = found.lens_ids, found.lens_probabilities, found.trajectory
    if ids is None or probabilities is None or trajectory is None:
        raise ValueError("an explanation without the lens")
    labels = token_labels(_tokens(found))
    data = rows_of(value=probabilities)
    data["fields"].append("text")
    for row in data["rows"]:
        token = visible(found.text_of(ids[row[0], row[1]]))
        row.append(shortened(token, LONGEST_TOKEN))
    tooltip = [
        field("row", "after layer"),
        field("column_label", "position"),
        field("text", "likeliest next token"),
        field("value", "probability", ".4f"),
    ]
    spec = heatmap(len(labels), rows_are="layer", columns_are="token", tooltip=tooltip,
                   link=["column"], width=LENS_CELL)  # fmt: skip
    grid = chart(
        "predictions",
        with_texts(spec, dark_above=0.5),
        data,
        [shown("probability", "value", "The likeliest next token if the model stopped after a"
               " layer; colour: its probability", ends=[0.0, 1.0], scheme="blues")],
        rows=_numbers(ids),
        columns=labels,
        rows_are="layer",
        columns_are="token",
        texts=True,
        more={"link": "column"},
    )  # fmt: skip
    with np.errstate(all="ignore"):
        values = target_minus_foil(trajectory)[None]  # (1, L + 1)
    steps = ["embeddings", *_numbers(ids)]
    difference = chart(
        "logit difference",
        line(len(steps), columns_are="after layer", title=_difference(found),
             tooltip=[field("column_label", "after"), field("value", form="+.4f")]),
        rows_of(value=values),
        [shown("value", "value", f"{_difference(found)} if the model stopped after a layer, at"
               " the last position")],
        rows=[_difference(found)],
        columns=steps,
        rows_are="",
        columns_are="after layer",
    )  # fmt: skip
    return charts("Logit lens", [grid, difference], choose="shown")


def _direct(found: Explanation) -> JSON:
    """Return direct logit attribution: a row for each layer, its heads and its MLP."""
    heads = found.heads[0] - found.heads[1]  # (L, nh)
    values = np.column_stack([heads, target_minus_foil(found.mlp)])  # (L, nh + 1)
    columns = [*map(str, range(heads.shape[1])), "MLP"]
    tooltip = [field("row", "layer"), field("column_label", "head"), field("value", form="+.4f")]
    of = chart(
        "direct",
        heatmap(len(columns), rows_are="layer", columns_are="head", tooltip=tooltip),
        rows_of(value=values),
        [shown("value", "value", "Direct logit attribution: what each head and each MLP adds by"
               f" itself to {_difference(found)}, in logits", middle=0.0)],
        rows=_numbers(values),
        columns=columns,
        rows_are="layer",
        columns_are="head",
    )  # fmt: skip
    return charts("What heads and MLPs write", [of])


def _head_scores(scores: np.ndarray) -> JSON:
    """Return the scores (3, L, nh) of what kinds of heads there are."""
    of = []
    for score, values in zip(SCORES, scores, strict=True):
        name = score.replace("_", " ")
        columns = list(map(str, range(values.shape[1])))
        tooltip = [field("row", "layer"), field("column_label", "head"), field("value", form=".4f")]
        caption = f"{name} score: mean attention weight on random repeated tokens"
        of.append(
            chart(
                name,
                heatmap(len(columns), rows_are="layer", columns_are="head", tooltip=tooltip),
                rows_of(value=values),
                [shown("score", "value", caption, ends=[0.0, 1.0])],
                rows=_numbers(values),
                columns=columns,
                rows_are="layer",
                columns_are="head",
            )
        )
    return charts("Kinds of heads", of, choose="score")


def _numbers(values: np.ndarray) -> list[str]:
    return [str(row) for row in range(len(values))]


def _tokens(found: Explanation) -> list[str]:
    return [found.text_of(number) for number in found.ids]


def _answers(found: Explanation) -> tuple[str, str]:
    target, foil = (visible(found.text_of(one)) for one in (found.target, found.foil))
    return target, foil


def _difference(found: Explanation) -> str:
    return "logit({}) - logit({})".format(*_answers(found))
