"""What is put in: zeros, in place of the other run's activation."""

import numpy as np
import pytest
import torch
from helpers import last

from mingpt.config import GPTConfig
from mingpt.sites import Patch
from patching import SweepResult, patch_sweep
from patching.cli.patch import main
from patching.errors import SweepError
from patching.page.sweep_page import sweep_page
from patching.sweep.engine.plan import BASE, Experiment, plan_cell
from patching.sweep.figures import title_lines
from patching.sweep.hand_in import caption
from patching.sweep.request import Request


def test_a_head_s_output_of_zeros_is_a_run_without_it(model, pair):
    result = patch_sweep(model, pair, site="z", direction="noise", put="zero")
    zero = torch.zeros(())
    for layer, head in np.ndindex(result.values.shape):
        logits = last(model, pair.clean_ids, patch=[Patch("z", layer, head=head, value=zero)])
        value = float(logits[pair.foil_ids[0]] - logits[pair.target_ids[0]])
        assert result.values[layer, head] == pytest.approx(value, abs=1e-5)


def test_without_the_last_stream_only_the_final_bias_speaks(model, pair):
    result = patch_sweep(model, pair, put="zero")
    with torch.no_grad():
        logits = model.lm_head(model.transformer.ln_f.bias)
    value = float(logits[pair.foil_ids[0]] - logits[pair.target_ids[0]])
    assert result.values[-1, -1] == pytest.approx(value, abs=1e-5)
    base = result.corrupt_value
    assert (result.values[-1, :-1] == pytest.approx(base)) and (result.values[0, 0] != base)


def test_every_position_can_change_but_those_that_nothing_reads():
    config = GPTConfig(n_layer=3, n_head=2, n_embd=8, vocab_size=40, block_size=8)

    def experiments(site: str, **how) -> set[tuple[int, ...]]:
        grid = Request(site, put="zero", **how).grid(config, 4)
        planned = {cell.index: plan_cell(grid, cell, (2,)) for cell in grid.cells()}
        assert {*map(type, planned.values())} <= {Experiment, str}
        assert {one for one in planned.values() if isinstance(one, str)} <= {BASE}
        return {index for index, one in planned.items() if isinstance(one, Experiment)}

    for site in ("resid_post", "mlp_out"):
        below = {(layer, position) for layer in range(2) for position in range(4)}
        assert experiments(site) == below | {(2, 3)}
    assert (0, 0, 0) not in experiments("q", by_position=True)  # one key has all the weight
    assert (0, 0, 0) in experiments("pattern", by_position=True)


def test_what_does_not_go_together_is_refused(model, pair):
    for how, words in (
        ({"put": "mean"}, "choose recorded or zero"),
        ({"put": "zero", "method": "attribution"}, "not attribution"),
        ({"put": "zero", "method": "loop", "patches": lambda cell: []}, "leave put at recorded"),
    ):
        with pytest.raises(SweepError, match=words):
            patch_sweep(model, pair, **how)


def test_titles_and_files_say_what_was_put_in(model, pair, tmp_path):
    result = patch_sweep(model, pair, site="z", direction="noise", put="zero")
    assert title_lines(result, [])[0].startswith(
        "Zero ablation of z of a head, all positions at once, clean run (noise); model"
    )
    assert "z of the clean run is set to zero" in caption(result, "logit_diff")
    assert caption(result, "logit_diff").startswith("Zero ablation in")
    assert sweep_page(result)["title"] == "Zero ablation of z, clean run"
    assert "z, zeros into clean" in repr(result)
    result.save(tmp_path / "x")
    assert SweepResult.load(tmp_path / "x").put == "zero"


def test_the_command_ablates_and_names_its_files_apart(tmp_path, capsys):
    base = ["--model", "builtin", "--site", "z", "--direction", "noise", "--out", f"{tmp_path}/"]
    assert main([*base, "--quiet"]) == 0
    assert main([*base, "--quiet", "--put", "zero"]) == 0
    assert len([*tmp_path.glob("*.npz")]) == 2
    assert {SweepResult.load(path).put for path in tmp_path.glob("*.npz")} == {"recorded", "zero"}
    capsys.readouterr()
    assert main([*base, "--put", "zero", "--method", "attribution"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
