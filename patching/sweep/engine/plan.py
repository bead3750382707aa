"""Plan each cell: find the part of its run that must be computed, or the run it equals.

The base run is patched with activations of the source run, or with other values. The plan follows
from positions and token ids alone, and touches no tensor. It is exact for two reasons:
below the patched block the patched run equals the base run, and before the patched
position too, because a position reads no later ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from patching.sweep.request import Cell, Grid

BASE = "base"  # the cell has the base run's value
SOURCE = "source"  # the cell has the source run's value
OF_ONE_TOKEN = ("resid_pre", "q", "k", "v")  # in block 0 these depend on one token alone
READ_LATER = ("k", "v")  # later positions read these in the same block


@dataclass(frozen=True, slots=True)
class Experiment:
    """A cell whose patched run has to be computed.

    The run's residual stream differs from the base run's from the input of
    `first_block` on, at positions >= `first_position`.
    """

    cell: Cell
    first_block: int  # n_layer if only the last block's output differs
    first_position: int
    single_position: bool  # at the input of first_block, only first_position differs
    window_end: int  # blocks first_block <= l < window_end patch first_position again


def plan_cell(grid: Grid, cell: Cell, differing: tuple[int, ...]) -> Experiment | str:
    """Return the cell's experiment; or BASE or SOURCE, where the cell has that run's value.

    Args:
        differing: the positions at which the two prompts' tokens differ, sorted; none only
            where values are put in.
    """
    layers = grid.layers_of(cell)
    first_block = _first_block(grid, cell)
    first_position = next(changed_positions(grid, cell, differing), None)
    if first_position is None:
        return BASE
    at_the_end = first_block == grid.sizes["layer"] and grid.site in ("resid_mid", "resid_post")
    if at_the_end and grid.put == "recorded":
        return SOURCE  # resid_mid too: after it comes only the MLP, which reads one position
    return Experiment(
        cell,
        first_block,
        first_position,
        single_position=cell.position is not None and grid.site not in READ_LATER,
        window_end=layers[-1] + 1 if grid.window > 1 else first_block,
    )


def changed_positions(grid: Grid, cell: Cell, differing: tuple[int, ...]) -> Iterator[int]:
    """Yield the patched positions whose new activation differs and is read later, in order.

    With 5 tokens that differ at positions 0 and 3, a cell that patches every
    position yields these:

        site                        block 0      middle       last block
        resid_pre                   0 3          0 1 2 3 4    0 1 2 3 4
        resid_mid, resid_post       0 1 2 3 4    0 1 2 3 4    4
        attn_out, mlp_out, z        0 1 2 3 4    0 1 2 3 4    4
        q                           3            1 2 3 4      4
        pattern                     1 2 3 4      1 2 3 4      4
        k, v                        0 3          0 1 2 3 4    0 1 2 3 4

    A cell that patches one position yields that position if its row has it, and
    nothing otherwise. In a model of one block, a cell yields the positions that both
    block 0 and the last block have in the table: q yields nothing.
    A prompt of one token has one key, of weight 1, so there k yields nothing.

    Zeros and other values differ from the base run at every position, as if all tokens
    differed; a pattern of zeros at position 0 too, where every recorded pattern is 1.
    """
    last = grid.T - 1
    of_one_token = cell.layer == 0 and grid.site in OF_ONE_TOKEN
    only_last = _first_block(grid, cell) == grid.sizes["layer"] and grid.site not in READ_LATER
    # Position 0 has one key, whose weight is 1 in every run.
    is_value = grid.put != "recorded"
    of_weights = ("q",) if is_value else ("q", "pattern")
    has_choice = 1 if grid.site in of_weights or (grid.site == "k" and last == 0) else 0
    for position in range(grid.T) if cell.position is None else (cell.position,):
        # Before the first differing token both runs are the same.
        if is_value:
            differs = True
        else:
            differs = position in differing if of_one_token else position >= differing[0]
        if differs and position >= has_choice and (position == last or not only_last):
            yield position


def _first_block(grid: Grid, cell: Cell) -> int:
    return cell.layer if grid.site == "resid_pre" else grid.layers_of(cell)[0] + 1
