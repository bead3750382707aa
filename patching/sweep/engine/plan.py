"""What each patch can change, worked out from positions and token ids alone.

An experiment says: from block `stage` on, the residual stream at positions
>= `start` is something else than in the run that is patched. Two facts make it
exact. Below its layer a patched run is the unpatched one. And since a position
reads only those before it, nothing changes before the patched position.
"""

from __future__ import annotations

from dataclasses import dataclass

from patching.sweep.request import Cell, Grid

BASE = "base"  # the value of the run that is patched
SOURCE = "source"  # the value of the run whose activations are put in
READ_LATER = ("k", "v")  # what one position has of these, later ones read in the same block


@dataclass(frozen=True, slots=True)
class Experiment:
    """A cell whose value has to be worked out."""

    cell: Cell
    stage: int  # its stream joins on entering this block; n_layer: after the last block
    start: int  # the first position at which its stream is its own
    is_lone: bool  # whether as it joins its stream differs at `start` alone
    end: int  # a window: in the blocks stage <= l < end `start` is patched still; else stage


def experiment(grid: Grid, cell: Cell, differing: tuple[int, ...]) -> Experiment | str:
    """The cell's experiment; or whose value it has without any (BASE or SOURCE).

    Args:
        differing: the positions at which the two prompts' tokens differ, sorted.
    """
    n_layer = grid.sizes["layer"]
    layers = grid.layers_of(cell)
    stage = cell.layer if grid.site == "resid_pre" else layers[0] + 1
    at_top = stage == n_layer
    start = _first_changed(grid, cell, differing, at_top)
    if start is None:
        return BASE
    if at_top and grid.site in ("resid_mid", "resid_post"):
        return SOURCE  # resid_mid too: the MLP reads nothing but its own position
    is_lone = cell.position is not None and grid.site not in READ_LATER
    end = layers[-1] + 1 if grid.window > 1 else stage
    return Experiment(cell, stage, start, is_lone, end)


def _first_changed(grid: Grid, cell: Cell, differing: tuple[int, ...], at_top: bool) -> int | None:
    """The first position whose patched activation is another one, and is read; None: none is."""
    last = grid.T - 1
    made_of_token_alone = cell.layer == 0 and grid.site in ("resid_pre", "q", "k", "v")
    # Position 0 has one key, of weight 1 in every run; where T is 1, so has every query.
    lowest = {"q": 1, "pattern": 1, "k": 0 if last else 1}.get(grid.site, 0)

    def changes(position: int) -> bool:
        if made_of_token_alone:
            return position >= lowest and position in differing
        return position >= max(differing[0], lowest)  # equal tokens before: equal vectors

    # At the top only the last position is read; it reads others' keys and values.
    only_last = at_top and grid.site not in READ_LATER
    if cell.position is not None or only_last:
        position = last if cell.position is None else cell.position
        is_read = position == last or not only_last
        return position if is_read and changes(position) else None
    candidates = differing if made_of_token_alone else (max(differing[0], lowest),)
    return next((p for p in candidates if p <= last and changes(p)), None)
