"""Count the multiply-adds that no exact sweep can do without."""

from __future__ import annotations

from mingpt.config import GPTConfig
from patching.prompts import PromptPair
from patching.sweep.engine.plan import Experiment, plan_cell
from patching.sweep.metrics import METRICS
from patching.sweep.request import Request


def floor(config: GPTConfig, pair: PromptPair, request: Request, metric: str = "logit_diff") -> int:
    """Return the multiply-adds of an exact sweep that computes nothing twice.

    Counted are:

    - the base run and the source run;
    - each experiment's own rows in the blocks that they pass. In the first of these,
      the rows after a single patched vector need no query, key or value of their own;
    - the rows that each patch changes in the patched block (see site_rules.py);
    - in the last block, keys and values of an experiment's rows, and everything else
      for the last position only;
    - the rows of the unembedding that the metric reads.

    Layer norms, activation functions and softmaxes are not counted.
    """
    grid = request.grid(config, len(pair))
    cells = [plan_cell(grid, cell, pair.differing) for cell in grid.cells()]
    experiments = [cell for cell in cells if isinstance(cell, Experiment)]
    T, L, C = len(pair), config.n_layer, config.n_embd
    read = 2 * C if METRICS[metric].answers_only else config.vocab_size * C
    sums = _passing(config, T, 0, L) + _passing(config, T, pair.differing[0], L) + 2 * read
    for one in experiments:
        blocks = L - one.first_block
        sums += _passing(config, T, one.first_position, blocks, one.single_position) + read
        sums += _joining(config, request.site, one, pair)
    return sums


def _passing(config: GPTConfig, T: int, first: int, blocks: int, is_single: bool = False) -> int:
    """Return the multiply-adds of one run's rows in the last `blocks` blocks.

    Args:
        first: the first position at which the run has rows of its own.
        blocks: the number of blocks that the rows pass.
        is_single: True if only the first row differs at the input of the first block.
    """
    if blocks == 0:
        return 0
    C, rows = config.n_embd, T - first
    mlp = 2 * C * config.inner_size
    attention = 2 * C * sum(range(first + 1, T + 1))  # position t reads t + 1 keys
    whole = rows * (4 * C * C + mlp) + attention
    last = rows * 2 * C * C + 2 * C * C + 2 * C * T + mlp
    shared = 0
    if is_single:  # in the first block
        shared = (rows - 1) * 3 * C * C
        if blocks == 1:  # of queries, only the last position's is needed there
            shared = (rows - 1) * 2 * C * C + (C * C if rows > 1 else 0)
    return (blocks - 1) * whole + last - shared


def _joining(config: GPTConfig, site: str, one: Experiment, pair: PromptPair) -> int:
    """Return the multiply-adds of the rows that the patch changes, in the patched block."""
    C, last = config.n_embd, len(pair) - 1
    mlp = 2 * C * config.inner_size
    if site in ("resid_pre", "resid_mid", "resid_post", "mlp_out"):
        return 0  # base and source run give them
    if site == "attn_out":
        return mlp
    end = one.first_position + 1 if one.single_position else last + 1
    changed = list(range(one.first_position, end))
    if one.first_block == config.n_layer:
        changed = [last]
    elif site == "q" and one.cell.layer == 0:
        # These queries depend on one token each, and only their own position reads them.
        changed = [position for position in changed if position in pair.differing]
    hs = C // config.n_head
    sums = 0
    for position in changed:
        keys = position + 1
        # If a head's keys or values are patched at all positions, those from the first
        # difference on change.
        others = 1 if one.cell.position is not None else keys - one.first_position
        scores = {"q": keys, "k": others}.get(site, 0)
        mixing = {"z": 0, "v": others}.get(site, keys)
        sums += hs * (scores + mixing) + hs * C + mlp  # the head's part of c_proj, then the MLP
    return sums
