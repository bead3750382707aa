"""The plan: which cells can change anything, as a table and by hand."""

import pytest

from mingpt.config import GPTConfig
from mingpt.sites import HEAD_SITES, SITES
from patching.sweep.engine.plan import BASE, SOURCE, Experiment, changed_positions, plan_cell
from patching.sweep.request import Request

CONFIG = GPTConfig(n_layer=3, n_head=2, n_embd=8, vocab_size=40, block_size=8)
# Of 5 tokens, 0 and 3 differ. Sites -> patched positions that can change anything, in the
# first block, a middle block and the last block.
TABLE = {
    ("resid_pre",): ("0 3", "0 1 2 3 4", "0 1 2 3 4"),
    ("resid_mid", "resid_post", "attn_out", "mlp_out", "z"): ("0 1 2 3 4", "0 1 2 3 4", "4"),
    ("q",): ("3", "1 2 3 4", "4"),
    ("pattern",): ("1 2 3 4", "1 2 3 4", "4"),
    ("k", "v"): ("0 3", "0 1 2 3 4", "0 1 2 3 4"),
}
ROWS = [(site, row) for sites, row in TABLE.items() for site in sites]


def test_the_table_is_the_docstrings_and_has_every_site():
    assert sorted(site for site, _ in ROWS) == sorted(SITES)
    documented = {}
    for line in changed_positions.__doc__.splitlines():
        if line.startswith(" " * 8) and not line.strip().startswith("site "):
            sites, *row = (part for part in line.strip().split("  ") if part)
            for site in sites.split(", "):
                documented[site] = tuple(cell.strip() for cell in row)
    assert documented == dict(ROWS)


@pytest.mark.parametrize(("site", "row"), ROWS, ids=[site for site, _ in ROWS])
def test_which_patched_positions_change(site, row):
    by_position = [True] if site in HEAD_SITES else []
    for request in [Request(site), *(Request(site, by_position=one) for one in by_position)]:
        grid = request.grid(CONFIG, 5)
        for cell in grid.cells():
            positions = [int(number) for number in row[cell.layer].split()]
            if cell.position is not None:
                positions = [cell.position] if cell.position in positions else []
            assert list(changed_positions(grid, cell, (0, 3))) == positions
            planned = plan_cell(grid, cell, (0, 3))
            if not positions:
                assert planned == BASE
            elif cell.layer == 2 and site in ("resid_mid", "resid_post"):
                assert planned == SOURCE
            else:
                single = cell.position is not None and site not in ("k", "v")
                after = cell.layer + (site != "resid_pre")
                assert planned == Experiment(cell, after, positions[0], single, after)


@pytest.mark.parametrize("site", ["q", "k", "pattern", "v", "z"])
def test_one_token_has_one_key_whose_weight_is_1(site):
    grid = Request(site).grid(CONFIG, 1)
    fates = {isinstance(plan_cell(grid, cell, (0,)), Experiment) for cell in grid.cells()}
    assert fates == {site in ("v", "z")}


def test_a_window_patches_its_later_blocks_too():
    grid = Request("mlp_out", window=2).grid(CONFIG, 5)
    planned = {cell.index: plan_cell(grid, cell, (1,)) for cell in grid.cells()}
    cells = {index: one for index, one in planned.items() if isinstance(one, Experiment)}
    assert planned[0, 2] == Experiment(cells[0, 2].cell, 1, 2, True, 1)  # layer -1 is cut off
    assert planned[1, 2] == Experiment(cells[1, 2].cell, 1, 2, True, 2)
    assert planned[2, 2] == Experiment(cells[2, 2].cell, 2, 2, True, 3)


def test_the_packages_example():
    grid = Request("resid_post").grid(CONFIG, 4)
    planned = {cell.index: plan_cell(grid, cell, (1,)) for cell in grid.cells()}
    assert planned[0, 0] == planned[2, 2] == BASE
    assert planned[2, 3] == SOURCE
    assert (planned[0, 2].first_block, planned[0, 2].first_position) == (1, 2)


def test_which_cells_cannot_change(model, pair):
    """Worked out by hand for tokens that differ at position 2 of 7, in 3 layers."""

    def fates(request: Request, wanted: object) -> list[tuple[int, ...]]:
        grid = request.grid(model.config, len(pair))
        return [
            cell.index for cell in grid.cells() if plan_cell(grid, cell, pair.differing) == wanted
        ]

    before = [(layer, position) for layer in range(3) for position in range(2)]
    at_the_end = [(2, position) for position in range(7) if position != 6]
    first_row = [(0, position) for position in range(7) if position != 2]
    for site in ("attn_out", "resid_mid", "mlp_out", "resid_post"):
        assert fates(Request(site), BASE) == sorted({*before, *at_the_end})
    assert fates(Request("resid_pre"), BASE) == sorted({*before, *first_row})
    assert fates(Request("resid_post"), SOURCE) == [(2, 6)]
    assert fates(Request("resid_mid"), SOURCE) == [(2, 6)]
    for site in ("resid_pre", "attn_out", "mlp_out", "z"):
        assert fates(Request(site), SOURCE) == []
    for site in ("z", "pattern", "k", "v"):
        assert fates(Request(site), BASE) == []
    by_head = sorted((a, h, p) for h in range(2) for a, p in {*before, *at_the_end})
    assert fates(Request("z", by_position=True), BASE) == by_head
    by_head = sorted((a, h, p) for h in range(2) for a, p in {*before, *first_row})
    assert fates(Request("v", by_position=True), BASE) == by_head
    # A window that begins before the last layer reaches it from other positions too.
    assert fates(Request("mlp_out", window=3), BASE) == before
