"""Each site's rule for the first rows of an experiment, and patches that change nothing."""

import numpy as np
import pytest
import torch
from engine_cases import VARIANTS, base_of, both, variant_id
from helpers import make_model

from mingpt.sites import HEAD_SITES, SITES
from patching import patch_sweep
from patching.sweep.engine import measure
from patching.sweep.engine.forward import PackedRuns
from patching.sweep.engine.packing import BlockRuns, Joining
from patching.sweep.engine.plan import plan_cell
from patching.sweep.engine.site_rules import RULES, new_rows
from patching.sweep.request import Request


def spy(monkeypatch) -> list[PackedRuns]:
    """Return a list to which every later pass of the engine appends its result."""
    ran = []
    run_packed = measure.run_packed

    def spied(*args, **settings):
        ran.extend(results := run_packed(*args, **settings))
        return results

    monkeypatch.setattr(measure, "run_packed", spied)
    return ran


def test_every_site_has_a_rule():
    assert set(RULES) == set(SITES)


@pytest.mark.parametrize("n_kv_head", [1, 2])
@pytest.mark.parametrize(
    "request_",
    [
        *(Request(site) for site in SITES if site != "resid_pre"),
        *(Request(site, by_position=True) for site in HEAD_SITES),
    ],
    ids=lambda r: f"{r.site}-{r.by_position}",
)
def test_a_rule_gives_the_stream_after_the_patched_block(pair, request_, n_kv_head):
    """Compare with GPT.forward patched in block 1 of 3: the same stream, cell by cell."""
    model = make_model(n_kv_head=n_kv_head).double()
    clean, corrupt = (torch.tensor([pair.ids(run)]) for run in ("clean", "corrupt"))
    model(corrupt, record=SITES)
    rows = {site: x[1, 0] for site, x in model.recording.items() if site != "pattern"}
    model(clean, record=SITES)
    source_rows = {site: x[1, 0] for site, x in model.recording.items() if site != "pattern"}
    stacked = {
        site: torch.cat([_flat(rows[site]), _flat(source_rows[site])[2:]]) for site in rows
    }  # the source run's rows from the first difference, position 2, on
    at = (np.array([one]) for one in (0, 1, 0, len(pair), 2))  # runs, first rows, first difference
    runs = BlockRuns(model.transformer.h[1], len(pair), False, stacked, *at)
    grid = request_.grid(model.config, len(pair))
    cells = [cell for cell in grid.cells() if cell.layer == 1]
    planned = [one for c in cells if not isinstance(one := plan_cell(grid, c, (2,)), str)]
    new = new_rows(request_.site, runs, Joining([0], planned, np.zeros(len(planned), dtype=int)))
    for one in planned:
        model(clean, record=SITES)
        model(corrupt, record="resid_post", patch=grid.patches(one.cell))
        expected = model.recording["resid_post"][1, 0, one.first_position :]
        torch.testing.assert_close(new[: len(expected)], expected, rtol=0, atol=1e-9)
        new = new[len(expected) :]
    assert planned
    assert len(new) == 0


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Put the heads side by side: (n, T, hs) -> (T, n hs)."""
    return x.transpose(0, 1).flatten(1) if x.dim() == 3 else x


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_what_tests_equal_is_left_out_on_the_cpu(pair, monkeypatch, variant):
    """If attention adds nothing, only the differing position ever changes."""
    model = make_model()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
    ran = spy(monkeypatch)
    quick, slow = both(model, pair, **variant)
    run = [e.cell for e in ran[0].experiments]
    left_out = [e.cell for e in ran[0].unchanged]
    if "window" not in variant:  # whose later layers are not looked at
        assert {cell.position for cell in run} <= {2, None}
    if variant["site"] in ("resid_pre", "resid_mid", "resid_post", "mlp_out"):
        assert {cell.position for cell in left_out} == {3, 4, 5, 6} or "window" in variant
    if variant["site"] in (*HEAD_SITES, "attn_out") and "window" not in variant:
        assert left_out
        assert not run
    np.testing.assert_allclose(quick.values, slow.values, atol=1e-5)
    if "window" not in variant:
        unchanged = slow.values == base_of(slow, "logit_diff")
        assert (quick.values[unchanged] == base_of(quick, "logit_diff")).all()


def test_a_window_is_run_though_its_first_vector_tests_equal(pair):
    """Without attention in block 0, its MLP gives equal tokens equal vectors; block 1's differ."""
    model = make_model()
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight.zero_()
    quick, slow = both(model, pair, site="mlp_out", window=2, layers=[1])
    assert (slow.values[1, 3:] != base_of(slow, "logit_diff")).all()
    np.testing.assert_allclose(quick.values, slow.values, atol=1e-5)


def test_a_vector_that_tests_equal_is_left_out_wherever_it_is(pair, monkeypatch):
    """The attention of the middle block reads values that are the same for every token."""
    model = make_model()
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[32:].zero_()  # of 3 x 16 rows the values'
    ran = spy(monkeypatch)
    for request in ({"site": "v"}, {"site": "v", "by_position": True}):
        ran.clear()
        result = patch_sweep(model, pair, **request)
        assert {e.cell.layer for e in ran[0].experiments} == {0, 2}
        assert {e.cell.layer for e in ran[0].unchanged} == {1}
        assert (result.values[1] == base_of(result, "logit_diff")).all()
