"""What each patch can change, worked out from positions and token ids alone.

An experiment says: from block `stage` on, the residual stream at positions
>= `start` is something else than in the run that is patched. Two facts make it
exact. Below its layer a patched run is the unpatched one. And since a position
reads only those before it, nothing changes before the patched position.
"""

from __future__ import annotations

from dataclasses import dataclass

from patching.grid import Cell, Grid

BASE = "base"  # the value of the run that is patched
SOURCE = "source"  # the value of the run whose activations are put in


@dataclass(frozen=True)
class Experiment:
    """A cell whose value has to be worked out."""

    cell: Cell
    stage: int  # its stream joins on entering this block; n_layer: after the last block
    start: int  # the first position at which its stream is its own
    end: int  # blocks stage <= l < end are still patched, at `start` (a window); else stage


def experiment(grid: Grid, cell: Cell, differing: tuple[int, ...]) -> Experiment | str:
    """The cell's experiment; or whose value it has without any (BASE or SOURCE).

    Args:
        differing: the positions at which the two prompts' tokens differ, sorted.
    """
    n_layer, last = grid.sizes["layer"], grid.T - 1
    layers = grid.layers_of(cell)
    changed = _changed_positions(grid, cell, differing)
    stage = cell.layer if grid.site == "resid_pre" else layers[0] + 1
    if stage == n_layer:  # only the last position is read from here on
        changed = changed if grid.site in ("k", "v") else [p for p in changed if p == last]
    if not changed:
        return BASE
    if stage == n_layer and grid.site in ("resid_mid", "resid_post"):
        return SOURCE  # resid_mid too: the MLP reads nothing but its own position
    return Experiment(cell, stage, changed[0], end=max(layers[-1] + 1, stage))


def _changed_positions(grid: Grid, cell: Cell, differing: tuple[int, ...]) -> list[int]:
    """The positions at which the patched activation is another one than before."""
    site, of_token_alone = grid.site, cell.layer == 0
    if site in ("resid_pre", "q", "k", "v") and of_token_alone:
        changed = [*differing]
    else:
        changed = [*range(differing[0], grid.T)]  # equal tokens before: equal vectors
    if cell.position is not None:
        changed = [p for p in changed if p == cell.position]
    if site in ("q", "pattern"):
        changed = [p for p in changed if p > 0]  # position 0 has one key, of weight 1
    if site == "k" and grid.T == 1:
        changed = []
    return changed
