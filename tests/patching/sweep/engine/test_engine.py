"""The fast sweep against the plain loop, for every site; and the identities that it must keep."""

import itertools

import numpy as np
import pytest
import torch
from helpers import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from mingpt.config import FLAGS
from mingpt.sites import HEAD_SITES, SITES
from patching import PromptPair, SweepError, patch_sweep
from patching.sweep.engine import measure
from patching.sweep.engine.forward import bytes_needed
from patching.sweep.engine.packing import spans
from patching.sweep.engine.plan import BASE, SOURCE, experiment
from patching.sweep.request import WINDOW_SITES, Request

METRICS = ["logit_diff", "target_logit", "log_prob", "prob_diff", "kl"]


@st.composite
def shapes(draw) -> dict:
    n_head = draw(st.sampled_from([1, 2, 3, 4]))
    return {
        "seed": draw(st.integers(0, 99)),
        "n_layer": draw(st.integers(1, 4)),
        "n_head": n_head,
        "n_kv_head": draw(st.sampled_from([n for n in (1, 2, 3, 4) if n_head % n == 0])),
        "n_embd": n_head * draw(st.sampled_from([4, 6])),
        "activation": draw(st.sampled_from(["gelu_new", "gelu", "relu"])),
        **{flag: draw(st.booleans()) for flag in FLAGS},
    }


@st.composite
def pairs(draw) -> PromptPair:
    """Prompts of 1 to 12 tokens that differ at one place or several, often at the first."""
    T = draw(st.sampled_from([1, 2, 3, 5, 8, 12]))
    clean = draw(st.lists(st.integers(0, 39), min_size=T, max_size=T))
    changed = draw(st.sets(st.integers(0, T - 1), min_size=1, max_size=min(T, 3)))
    corrupt = [
        (token + 1 + draw(st.integers(0, 37))) % 40 if p in changed else token
        for p, token in enumerate(clean)
    ]
    return PromptPair.from_ids(clean, corrupt, *draw(st.permutations(range(40)))[:2])


def variants(site: str) -> list[dict]:
    if site in HEAD_SITES:
        return [{"site": site}, {"site": site, "by_position": True}]
    windows = [2, 3] if site in WINDOW_SITES else []
    return [{"site": site}, *({"site": site, "window": n} for n in windows)]


VARIANTS = [variant for site in SITES for variant in variants(site)]


def both(model, pair, **request):
    return (patch_sweep(model, pair, method=method, **request) for method in ("fast", "loop"))


def base_of(result, name: str) -> float:
    """The metric of the run that was patched, as the grid's dtype has it."""
    found = result.metrics[name]
    return found.values.dtype.type(found.corrupt if result.direction == "denoise" else found.clean)


@pytest.mark.parametrize("request_", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@settings(max_examples=6)
@given(shape=shapes(), pair=pairs(), direction=st.sampled_from(["denoise", "noise"]))
def test_the_fast_sweep_is_the_loop(request_, shape, pair, direction):
    model = make_model(**shape).double()
    quick, slow = both(model, pair, metric=METRICS, direction=direction, **request_)
    assert quick.values.shape == slow.values.shape
    for name in METRICS:
        got, expected = quick.metrics[name], slow.metrics[name]
        np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got[1:], expected[1:], rtol=0, atol=1e-9)
        # Whatever the loop leaves bit for bit as it was has no value of its own here either.
        unchanged = expected.values == base_of(slow, name)
        assert (got.values[unchanged] == base_of(quick, name)).all()


@pytest.mark.parametrize("request_", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@settings(max_examples=4)
@given(shape=shapes(), pair=pairs(), direction=st.sampled_from(["denoise", "noise"]))
def test_float32_is_within_1e_5_of_the_largest_logit_read(request_, shape, pair, direction):
    model = make_model(**shape)

    def largest(logits):
        return logits.abs().max()

    asked = ["logit_diff", "target_logit", largest]
    quick, slow = both(model, pair, metric=asked, direction=direction, **request_)
    top = max(slow.metrics["largest"].values.max(), *slow.metrics["largest"][1:])
    for name in ("logit_diff", "target_logit"):
        apart = np.abs(quick.metrics[name].values - slow.metrics[name].values).max()
        assert apart <= 1e-5 * top


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_cells_that_cannot_change_have_the_unpatched_value_bit_for_bit(
    pair, dtype, direction, variant
):
    model = make_model().to(dtype)
    result = patch_sweep(model, pair, metric=METRICS, direction=direction, **variant)
    grid = Request(direction=direction, **variant).grid(model.config, len(pair))
    fates = {cell.index: experiment(grid, cell, pair.differing) for cell in grid.cells()}
    assert BASE in fates.values() or variant in ({"site": site} for site in HEAD_SITES)
    for name, (values, clean, corrupt) in result.metrics.items():
        base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
        for index, fate in fates.items():
            expected = {BASE: base, SOURCE: source}.get(fate, values[index])
            assert values[index] == values.dtype.type(expected), (name, index)
    if variant["site"] == "resid_post":
        for name, (values, clean, corrupt) in result.metrics.items():
            source = clean if direction == "denoise" else corrupt
            assert values[-1, -1] == values.dtype.type(source), name


def test_which_cells_cannot_change(model, pair):
    """Worked out by hand for tokens that differ at position 2 of 7, in 3 layers."""

    def fates(request: Request, wanted: object) -> list[tuple[int, ...]]:
        grid = request.grid(model.config, len(pair))
        return [
            cell.index for cell in grid.cells() if experiment(grid, cell, pair.differing) == wanted
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


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_what_tests_equal_is_left_out_on_the_cpu(pair, monkeypatch, variant):
    """Attention that adds nothing: no position but the differing one ever changes."""
    model = make_model()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
    carried = []
    monkeypatch.setattr(
        measure,
        "carry",
        lambda *a, carry=measure.carry, **k: carried.extend(c := carry(*a, **k)) or c,
    )
    quick, slow = both(model, pair, **variant)
    run = [e.cell for e in carried[0].experiments]
    left_out = [e.cell for e in carried[0].unchanged]
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
    carried = []
    monkeypatch.setattr(
        measure,
        "carry",
        lambda *a, carry=measure.carry, **k: carried.extend(c := carry(*a, **k)) or c,
    )
    for request in ({"site": "v"}, {"site": "v", "by_position": True}):
        carried.clear()
        result = patch_sweep(model, pair, **request)
        assert {e.cell.layer for e in carried[0].experiments} == {0, 2}
        assert {e.cell.layer for e in carried[0].unchanged} == {1}
        assert (result.values[1] == base_of(result, "logit_diff")).all()


@settings(max_examples=20)
@given(shape=shapes(), several=st.lists(pairs(), min_size=2, max_size=4), data=st.data())
def test_pairs_of_any_lengths_in_one_call_are_the_loop(shape, several, data):
    model = make_model(**shape).double()
    request = data.draw(st.sampled_from(VARIANTS))
    direction = data.draw(st.sampled_from(["denoise", "noise"]))
    together, looped = both(model, several, direction=direction, **request)
    for quick, slow in zip(together, looped, strict=True):
        np.testing.assert_allclose(quick.values, slow.values, rtol=0, atol=1e-9)


def test_every_block_sees_only_the_rows_that_are_somebodys(model, pair, monkeypatch):
    """Base run 7 rows, source run 5, and 5+4+3+2+1 more for each layer passed.

    Of those that have just joined, only the 5 patched ones need queries, keys
    and values of their own; in the last block, only last positions an MLP.
    """
    rows = {"c_attn": [], "c_fc": []}
    for block in model.transformer.h:
        for name, module in (("c_attn", block.attn.c_attn), ("c_fc", block.mlp.c_fc)):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: rows[name].append(len(inputs[0]))
            )
    patch_sweep(model, pair)
    assert rows["c_attn"] == [12, 12 + 5]  # the last block's are taken apart
    assert rows["c_fc"] == [12, 12 + 15, 2 + 2 * 5]


def test_progress_counts_rows_times_blocks(model, pair):
    seen = []
    patch_sweep(model, pair, progress=lambda *step: seen.append(step))
    assert seen == [(0, 81), (12, 81), (39, 81), (81, 81), (81, 81)]


# --------------------------------------------------------------------- several pairs, little memory


@pytest.fixture
def several() -> list[PromptPair]:
    """Lengths 7, 1, 12, 7 and 3, of which two agree."""
    generator = np.random.default_rng(0)
    made = []
    for T in (7, 1, 12, 7, 3):
        clean = generator.integers(0, 40, T)
        corrupt = clean.copy()
        corrupt[generator.integers(0, T)] += 1
        made.append(PromptPair.from_ids(clean, corrupt % 40, 11, 22))
    return made


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_pairs_in_one_call_are_as_each_alone(several, variant):
    model = make_model().double()
    together = patch_sweep(model, several, metric=METRICS, **variant)
    for pair, result in zip(several, together, strict=True):
        alone = patch_sweep(model, pair, metric=METRICS, **variant)
        assert result.pair == pair
        assert result.clean_next.top[0].id == alone.clean_next.top[0].id
        for name in METRICS:
            for got, expected in zip(result.metrics[name], alone.metrics[name], strict=True):
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_pairs_in_one_call_go_through_the_blocks_together(model, several):
    passes = []
    model.transformer.h[0].ln_1.register_forward_hook(lambda *_: passes.append(1))
    patch_sweep(model, several)
    assert len(passes) == 1


def test_a_list_of_one_gives_a_list_of_one(model, pair):
    (result,) = patch_sweep(model, [pair])
    assert np.array_equal(result.values, patch_sweep(model, pair).values)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_little_memory_means_several_passes_and_the_same_numbers(several, variant):
    model = make_model().double()
    passes = []
    model.transformer.h[0].ln_1.register_forward_hook(lambda *_: passes.append(1))
    wide = patch_sweep(model, several, **variant)
    assert len(passes) == 1
    heads = variant["site"] in HEAD_SITES
    enough = bytes_needed(model.config, 8, 12, 8, 60, 24, heads=heads)
    narrow = patch_sweep(model, several, max_memory=enough, **variant)
    assert len(passes) > 3
    for a, b in zip(wide, narrow, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=0, atol=1e-9)
        unchanged = a.values == base_of(a, "logit_diff")
        assert (b.values[unchanged] == base_of(b, "logit_diff")).all()


def test_a_chunk_never_holds_more_than_is_allowed(several):
    model = make_model()
    request = Request("v", by_position=True)
    tasks = [
        measure._Task.of(pair, request.grid(model.config, len(pair)), "denoise") for pair in several
    ]

    def needed(*size: int) -> int:
        return bytes_needed(model.config, 4, *size, heads=True)

    allowed = needed(12, 9, 50, 24)
    chunks = [*measure._chunks(tasks, needed, allowed, strict=True)]
    assert len(chunks) > 5
    for chunk in chunks:
        lengths = [len(tasks[number].pair) for number, _ in chunk]
        runs = sum(2 * len(tasks[n].pair) - tasks[n].job.start for n, _ in chunk)
        own = sum(len(tasks[n].pair) - e.start for n, part in chunk for e in part)
        sequences = sum(2 + len(part) for _, part in chunk)
        assert needed(max(lengths), sequences, runs + own, runs) <= allowed
    run = [(number, e.cell) for chunk in chunks for number, part in chunk for e in part]
    asked = [(number, e.cell) for number, task in enumerate(tasks) for e in task.job.experiments]
    assert run == asked


@pytest.mark.parametrize(
    "request_", [{"site": "resid_post"}, {"site": "v", "by_position": True, "layers": [1, 2]}]
)
def test_a_sweep_holds_no_more_than_it_says(request_, monkeypatch):
    """PyTorch's own count of what is allocated, at the worst moment."""
    for name in ("packing.ATTENTION_ROWS", "forward.ATTENTION_ROWS", "forward.MLP_ROWS"):
        monkeypatch.setattr(
            f"patching.sweep.engine.{name}", 512
        )  # so that the rows count, and not these
    model = make_model(n_layer=4, n_embd=64, n_head=4, block_size=128)
    ids = torch.randint(40, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    pair = PromptPair.from_ids([1, *ids], [2, *ids], 3, 4)
    patch_sweep(model, pair, **request_)
    for allowed in (8 * 2**20, 14 * 2**20):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            patch_sweep(model, pair, max_memory=allowed, **request_)
        held = most = 0
        for event in sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        assert allowed / 3 < most <= allowed


def test_too_little_memory_is_refused(model, pair):
    message = r"0\.25 MiB is too little memory: this sweep needs at least 0\.\d+ MiB"
    with pytest.raises(SweepError, match=message):
        patch_sweep(make_model(n_embd=256), pair, max_memory=2**18)
    assert patch_sweep(make_model(n_embd=256), pair, max_memory=2**20).cells == 21


def test_attention_in_parts(several, monkeypatch):
    """As many runs at a time as fit, down to one."""
    model = make_model().double()
    expected = patch_sweep(model, several)
    for rows in (1, 20, 50):
        monkeypatch.setattr("patching.sweep.engine.packing.ATTENTION_ROWS", rows)
        monkeypatch.setattr("patching.sweep.engine.forward.MLP_ROWS", rows)
        for a, b in zip(expected, patch_sweep(model, several), strict=True):
            np.testing.assert_allclose(a.values, b.values, rtol=0, atol=1e-9)


def test_spans():
    positions, owner = spans([2, 0, 3], 4)
    assert positions.tolist() == [2, 3, 0, 1, 2, 3, 3]
    assert owner.tolist() == [0, 0, 1, 1, 1, 1, 2]


# --------------------------------------------------------------------- on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_cuda_agrees_with_the_cpu_and_never_waits(several, variant):
    model = make_model()
    expected = patch_sweep(model, several, metric=METRICS, **variant)
    model = model.cuda()
    patch_sweep(model, several, metric=METRICS, **variant)  # the first call sets libraries up
    carry = measure.carry

    def strict(*args, **settings):
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return carry(*args, **settings)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "carry", strict)
        got = patch_sweep(model, several, metric=METRICS, **variant)
    for (a, b), name in itertools.product(zip(got, expected, strict=True), METRICS):
        np.testing.assert_allclose(
            a.metrics[name].values, b.metrics[name].values, rtol=1e-4, atol=1e-4
        )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_tf32_is_off_unless_it_is_asked_for(pair):
    model = make_model(n_embd=64).cuda()
    exact = patch_sweep(model, pair).values
    torch.set_float32_matmul_precision("high")
    try:
        assert np.array_equal(patch_sweep(model, pair).values, exact)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    rounded = patch_sweep(model, pair, tf32=True)
    assert rounded.tf32
    assert "TF32" in rounded.notes[0]
    assert not np.array_equal(rounded.values, exact)
