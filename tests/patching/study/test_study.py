"""Studies: their numbers against single sweeps, their folder, what is refused."""

import errno
import gc
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import last, make_model
from study_cases import answered, some_pairs, with_roles

from mingpt.errors import FileError
from patching import PromptPair, patch_sweep
from patching.errors import ResultError, StudyError
from patching.study import on_disk
from patching.study.align import common_keys, position_keys
from patching.study.comparison import compare_studies
from patching.study.request import StudyRequest, cut
from patching.study.result import Study
from patching.study.run import run_study

COLUMNS = ["site", "metric", "layer", "position", "n", "mean", "sd", "low", "high", "p"]


# --------------------------------------------------------------------- numbers


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "by_position"), [("resid_post", False), ("z", False), ("v", True), ("mlp_out", False)]
)
def test_cells_are_the_sweeps_of_each_pair(model, site, by_position, direction):
    pairs = some_pairs(7, lengths=(6, 5))
    study = run_study(
        model, pairs, site=site, by_position=by_position, direction=direction, batch=2,
        metric="logit_diff,kl", align="start", progress=False,
    )  # fmt: skip
    assert study.is_complete and len(study.batches) == 4
    for metric in ("logit_diff", "kl"):
        cells = study.cells(site, metric)
        sweeps = patch_sweep(
            model, pairs, site=site, by_position=by_position, direction=direction, metric=metric
        )
        for row, sweep in enumerate(sweeps):
            values = sweep.values[..., :5] if "position" in cells.axes else sweep.values
            base = {"denoise": sweep.corrupt_value, "noise": sweep.clean_value}[direction]
            assert cells.base[row] == pytest.approx(base, abs=1e-5)
            assert np.allclose(cells.effects[row], values.ravel() - base, atol=1e-5)
    tidy = study.to_frame(site, "kl")
    assert len(tidy) == sum(sweep.values.size for sweep in sweeps)
    ours = tidy[tidy["pair"] == 3]["value"].to_numpy()
    assert np.allclose(ours, sweeps[3].values.ravel(), atol=1e-5)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_summary_is_that_of_plain_means(model, direction):
    pairs = answered(model, some_pairs(12))
    study = run_study(
        model, pairs, metric="logit_diff,recovery", direction=direction, progress=False
    )
    table = study.summary(draws=200)
    assert list(table.columns) == [*COLUMNS, "p_corrected"]
    assert (table["n"] == 12).all() and len(table) == 2 * 3 * 6
    sweeps = patch_sweep(model, pairs, direction=direction)
    values = np.stack([one.values.ravel() for one in sweeps]).astype(float)
    clean, corrupt = (
        np.array([getattr(one, f"{run}_value") for one in sweeps]) for run in ("clean", "corrupt")
    )
    diff, recovery = (table[table["metric"] == name] for name in ("logit_diff", "recovery"))
    assert np.allclose(diff["mean"], values.mean(axis=0), atol=1e-5)
    assert np.allclose(diff["sd"], values.std(axis=0, ddof=1), atol=1e-5)
    ratio = (corrupt[:, None] - values).mean(axis=0) / (corrupt - clean).mean()
    assert np.allclose(recovery["mean"], ratio, atol=1e-5) and recovery["sd"].isna().all()
    for part in (diff, recovery):
        assert (part["low"] <= part["mean"] + 1e-12).all()
        assert (part["mean"] <= part["high"] + 1e-12).all()
    # Before the differing token, and in the last layer before the last position, nothing changes.
    constant = (table["position"] < 2) | ((table["layer"] == 2) & (table["position"] < 5))
    assert (table["p"].isna() == constant).all() and (table["p_corrected"].isna() == constant).all()
    still = recovery[constant[recovery.index]]
    neutral = {"denoise": 0, "noise": 1}[direction]
    assert (still[["mean", "low", "high"]] == neutral).all(axis=None)


def test_a_mean_of_recoveries_leaves_out_and_counts_pairs_of_a_small_gap(model):
    pairs = some_pairs(12)
    study = run_study(model, pairs, metric="recovery", progress=False)
    table = study.summary(recovery="mean", draws=100)
    gap = study.unpatched("corrupt")["logit_diff"] - study.unpatched("clean")["logit_diff"]
    kept = np.abs(gap) >= 0.1 * np.abs(gap).mean()
    assert 2 < kept.sum() < 12 and (table["n"] == kept.sum()).all()
    last = table[(table["layer"] == 2) & (table["position"] == 5)]  # the clean run, in each pair
    assert last["mean"].item() == pytest.approx(1) and last["sd"].item() == pytest.approx(
        0, abs=1e-4
    )


def test_only_pairs_that_are_answered_rightly_can_be_chosen(model):
    pairs = some_pairs(20, at=5)
    for number, pair in enumerate(pairs[:10]):
        best = [int(last(model, ids).argmax()) for ids in (pair.clean_ids, pair.corrupt_ids)]
        if best[0] != best[1]:
            pairs[number] = PromptPair.from_ids(pair.clean_ids, pair.corrupt_ids, *best)
    study = run_study(model, pairs, progress=False)
    right = {}
    for run, answers in (("clean", ("target", "foil")), ("corrupt", ("foil", "target"))):
        right[run] = []
        for pair in pairs:
            logits = last(model, pair.ids(run))
            ours, theirs = (logits[getattr(pair, f"{answer}_ids")[0]] for answer in answers)
            right[run].append(bool(ours > theirs))
        assert study.accuracy()[run]["preferred"] == np.mean(right[run])
    both = np.logical_and(right["clean"], right["corrupt"])
    assert study.chosen("clean").tolist() == np.flatnonzero(right["clean"]).tolist()
    assert study.chosen("both").tolist() == np.flatnonzero(both).tolist()
    assert 0 < both.sum() < sum(right["clean"]) < 20
    assert (study.summary(only_correct="clean", draws=50)["n"] == sum(right["clean"])).all()


def test_maps_larger_than_the_memory_are_the_same(model):
    study = run_study(model, some_pairs(20), metric="kl,recovery", progress=False)
    whole, cut_up = study.summary(draws=100), study.summary(draws=100, max_memory=2_000)
    pd.testing.assert_frame_equal(whole, cut_up, rtol=1e-12)
    assert isinstance(study.cells("resid_post", "kl", max_memory=1).effects, np.memmap)


# --------------------------------------------------------------------- alignment


def test_positions_have_keys():
    assert position_keys("start", 3, [1], None) == [0, 1, 2]
    assert position_keys("end", 3, [1], None) == [-3, -2, -1]
    assert position_keys("first-diff", 4, [1, 2], None) == [-1, 0, 1, 2]
    assert position_keys("last-diff", 4, [1, 2], None) == [-2, -1, 0, 1]
    roles = {"IO": [1], "S": [3, 4]}
    expected = ["start", "IO", "IO+1", "S", "S", "S+1"]
    assert position_keys("roles", 6, [1], roles) == expected
    assert common_keys([expected, ["IO", "S", "S+1"]]) == ["IO", "S", "S+1"]
    with pytest.raises(StudyError, match="no position in common"):
        common_keys([["a"], ["b"]])
    with pytest.raises(StudyError, match="the pairs have no roles"):
        position_keys("roles", 3, [1], None)


def test_pairs_of_unequal_lengths_are_aligned_by_role_and_a_role_is_a_mean(model):
    pairs = some_pairs(4, lengths=(6, 8))
    roles = [{"S": (2, 3), "end": (len(pair) - 1,)} for pair in pairs]
    study = run_study(model, with_roles(pairs, roles), progress=False)
    assert study.align == "roles" and "have roles" in study.why
    cells = study.cells("resid_post", "logit_diff")
    assert cells.axes["role"][:5].tolist() == ["start", "start+1", "S", "S+1", "end"]
    for row, sweep in enumerate(patch_sweep(model, pairs)):
        effects = sweep.values - sweep.corrupt_value
        effects = np.column_stack([effects[:, :2], effects[:, 2:4].mean(1), effects[:, [4, -1]]])
        assert np.allclose(cells.effects[row], effects.ravel(), atol=1e-5)
    table = study.summary(draws=50)
    assert "position" not in table and table["role"][2] == "S"
    assert study.to_frame()["role"].tolist()[:6] == ["start", "start+1", "S", "S", "S+1", "end"]


def test_the_default_alignment_says_why(model):
    same = run_study(model, some_pairs(3), progress=False)
    assert (same.align, same.why.partition(" ")[0]) == ("start", "all")
    other = run_study(model, [*some_pairs(2), *some_pairs(2, at=3)], progress=False)
    assert other.align == "first-diff" and "no roles" in other.why
    assert other.cells("resid_post", "logit_diff").axes["position"][:5].tolist() == [*range(-2, 3)]
    assert run_study(model, some_pairs(3), align="end", progress=False).why == "as asked"


def test_sites_with_and_without_positions_share_a_table(model):
    study = run_study(model, some_pairs(5), site="attn_out,z", progress=False)
    table = study.summary(draws=50)
    assert list(table.columns) == [*COLUMNS[:3], "head", *COLUMNS[3:], "p_corrected"]
    assert table[table["site"] == "z"]["position"].isna().all()
    assert table[table["site"] == "attn_out"]["head"].isna().all()


# --------------------------------------------------------------------- the folder


def test_a_study_that_was_stopped_goes_on_and_is_the_undisturbed_one(model, tmp_path):
    pairs = some_pairs(11, lengths=(6, 7))
    whole = run_study(model, pairs, out=tmp_path / "whole", batch=2, progress=False)

    def stop(done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_study(model, pairs, out=folder, batch=2, progress=stop)
    part = Study.load(folder)
    assert not part.is_complete and 0 < len(part.finished) < len(part.batches)
    assert (part.summary(draws=50)["n"] == sum(len(part.batches[n]) for n in part.finished)).all()
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}
    again = run_study(model, pairs, out=folder, batch=2, progress=False)
    assert again.is_complete
    assert (
        before.items()
        <= {p.name: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}.items()
    )
    for path in sorted((tmp_path / "whole" / "shards").iterdir()):
        assert path.read_bytes() == (folder / "shards" / path.name).read_bytes()
    pd.testing.assert_frame_equal(
        whole.summary(draws=50), again.summary(draws=50), check_exact=True
    )
    assert not [*folder.rglob("*.part*")]


def test_another_study_in_the_same_folder_is_refused_with_the_difference_named(model, tmp_path):
    pairs = some_pairs(4)
    run_study(model, pairs, out=tmp_path / "s", progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.*")}
    for how, message in (
        ({"direction": "noise"}, "direction: denoise there, noise asked for"),
        ({"site": "z"}, "sites: resid_post there, z asked for"),
        ({"batch": 3}, "batch: 64 there, 3 asked for"),
    ):
        with pytest.raises(StudyError, match=f"holds another study \\({message}"):
            run_study(model, pairs, out=tmp_path / "s", progress=False, **how)
    with pytest.raises(StudyError, match="model checksum: "):
        run_study(make_model(1), pairs, out=tmp_path / "s", progress=False)
    with pytest.raises(StudyError, match=r"pairs content: .*pairs count: 4 there, 3 asked for"):
        run_study(model, pairs[:3], out=tmp_path / "s", progress=False)
    assert before == {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.*")}


def test_others_read_the_folder_without_us(model, tmp_path):
    study = run_study(model, some_pairs(5), site="resid_post,z", out=tmp_path, progress=False)
    table = pd.read_parquet(tmp_path / "shards")
    assert tuple(table.columns) == on_disk.COLUMNS
    assert set(table["site"]) == {"clean", "corrupt", "resid_post", "z"}
    assert len(table[table["site"] == "resid_post"]) == 5 * 3 * 6
    parquet, csv, text = study.write_summary(draws=50)
    summary = study.summary(draws=50)
    assert len(pd.read_csv(csv)) == len(pd.read_parquet(parquet)) == len(summary)
    first = json.loads(text.read_text())[0]
    assert first["mean"] == pytest.approx(summary["mean"][0]) and first["p"] is None
    loaded = Study.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.summary(draws=50), summary, check_exact=True)
    assert "5 of 5 pairs, resid_post, z, logit_diff, clean into corrupt (denoise)" in repr(loaded)


def test_damaged_folders_are_refused_in_one_line(model, tmp_path):
    pairs = some_pairs(4)
    with pytest.raises(ResultError, match="holds no study"):
        Study.load(tmp_path / "nothing")
    run_study(model, pairs, out=tmp_path / "a", progress=False)
    run_study(model, pairs, out=tmp_path / "b", site="z", progress=False)
    shard, other = (on_disk.shard_path(tmp_path / name, 0) for name in "ab")
    good = shard.read_bytes()
    for data, message in (
        (good[: len(good) // 2], "cannot be read"),
        (b"", "cannot be read"),
        (other.read_bytes(), "is of another study"),
    ):
        shard.write_bytes(data)
        with pytest.raises(ResultError, match=message) as refused:
            Study.load(tmp_path / "a").summary(draws=10)
        assert "\n" not in str(refused.value)
    text = tmp_path / "a" / "study.json"
    text.write_text(text.read_text().replace("denoise", "noise"))
    with pytest.raises(ResultError, match="changed"):
        Study.load(tmp_path / "a")
    text.unlink()
    with pytest.raises(StudyError, match=r"has shards but no study\.json"):
        run_study(model, pairs, out=tmp_path / "a", progress=False)


def test_a_folder_that_cannot_be_made_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is not a folder"):
        run_study(model, some_pairs(3), out=tmp_path / "file" / "s", progress=False)


def test_a_full_disk_ends_the_run_and_damages_nothing(model, tmp_path, monkeypatch):
    pairs, how = some_pairs(6), {"batch": 2, "out": tmp_path / "s", "progress": False}
    whole = run_study(model, pairs, batch=2, progress=False).summary(draws=100)
    written, shards = Path.write_bytes, []

    def full(path, data):
        shards.append(path.parent.name == "shards")
        if sum(shards) == 2:
            written(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        run_study(model, pairs, **how)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "s" / "shards").iterdir()) == ["000000.parquet"]
    found = run_study(model, pairs, **how).summary(draws=100)
    pd.testing.assert_frame_equal(found, whole, check_exact=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_must_not_be_written_is_refused(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FileError):
        run_study(model, some_pairs(3), out=tmp_path / "s", progress=False)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path):
    """Run 400 and 4,000 pairs, each in a process of its own, and compare the peaks."""
    script = """
        import resource, sys, mingpt
        from patching import read_pairs, run_study
        from patching.study.generators.make import make_pairs, write_rows

        count, folder = int(sys.argv[1]), sys.argv[2]
        model, tokenizer = mingpt.load("builtin")
        write_rows(f"{folder}/{count}.csv", make_pairs("ioi", tokenizer, 4000).rows)
        pairs, _ = read_pairs(tokenizer, f"{folder}/{count}.csv", roles="roles")
        run_study(model, pairs[:count], out=f"{folder}/{count}", progress=False, batch=32)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    peaks = {}
    for count in (400, 4000):
        arguments = [sys.executable, "-c", textwrap.dedent(script), str(count), str(tmp_path)]
        peaks[count] = int(subprocess.run(arguments, capture_output=True, check=True).stdout)
    print(f"peak memory in MB, by pairs: {peaks}")
    assert peaks[4000] < peaks[400] + 30


def test_the_temporary_folder_vanishes_with_its_study(model):
    study = run_study(model, some_pairs(3), progress=False)
    folder = study.folder
    assert folder.exists()
    del study
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"site": "resid"}, "no site 'resid'"),
        ({"site": "z,z"}, "the site z is asked for twice"),
        ({"site": ()}, "no site"),
        ({"metric": "logit"}, "no metric 'logit'; there are logit_diff"),
        ({"metric": [len]}, "by its name"),
        ({"align": "middle"}, "no alignment 'middle'; there are start, end"),
        ({"align": "roles"}, "the pairs have no roles"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"by_position": True}, "by_position is for"),
    ],
)
def test_requests_that_cannot_be_run_are_refused_before_a_folder_is_made(
    model, tmp_path, how, message
):
    with pytest.raises(StudyError, match=message):
        run_study(model, some_pairs(3), out=tmp_path / "s", progress=False, **how)
    long = PromptPair.from_ids(range(20), [1, *range(1, 20)], 5, 6)
    with pytest.raises(StudyError, match=r"pair 3 \(from 0\): the prompts have 20 tokens"):
        run_study(model, [*some_pairs(3), long], out=tmp_path / "s", progress=False)
    with pytest.raises(StudyError, match="no pairs"):
        run_study(model, [], out=tmp_path / "s", progress=False)
    assert [*tmp_path.iterdir()] == []


def test_batches_hold_one_length_each():
    assert cut([5, 6, 5, 5, 6], 2) == [[0, 2], [3], [1, 4]]
    assert StudyRequest.from_dict(StudyRequest(sites=("z",)).to_dict()) == StudyRequest(
        sites=("z",)
    )


# --------------------------------------------------------------------- comparison


def test_studies_of_the_same_pairs_are_compared_pair_by_pair(model):
    pairs = some_pairs(15)
    a = run_study(model, pairs, progress=False)
    b = run_study(make_model(3), pairs[::-1], progress=False)
    table = compare_studies(a, b, site="resid_post", metric="logit_diff", draws=100)
    assert list(table.columns)[:4] == ["layer", "position", "n", "n_other"]
    cells = [one.cells("resid_post", "logit_diff").effects for one in (a, b)]
    assert np.allclose(table["difference"], (cells[0] - cells[1][::-1]).mean(axis=0))
    assert (table["n"] == 15).all() and table["p_corrected"].notna().any()
    other = run_study(model, some_pairs(9, seed=5), progress=False)
    apart = compare_studies(a, other, site="resid_post", metric="logit_diff", draws=100)
    assert apart["p"].isna().all() and (apart["n_other"] == 9).all()


# --------------------------------------------------------------------- kill -9


@pytest.mark.slow
def test_nothing_is_lost_or_repeated_when_the_process_is_killed(model, tmp_path):
    """A child process runs the study; it is killed at 50 random moments."""
    pairs = some_pairs(60, lengths=(6, 7, 9))
    how = {"batch": 2, "site": "resid_post,z", "progress": False}
    whole = run_study(model, pairs, out=tmp_path / "whole", **how)
    expected = {p.name: p.read_bytes() for p in (tmp_path / "whole" / "shards").iterdir()}
    draw, kills, folders, seen = random.Random(0), 0, 0, dict[str, int]()
    while kills < 50:
        folder = tmp_path / str(folders)
        child = os.fork()
        if child == 0:
            run_study(model, pairs, out=folder, **how)
            os._exit(0)
        time.sleep(draw.uniform(0, 0.12))
        os.kill(child, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        shards = folder / "shards"
        there = {p.name: p for p in shards.iterdir()} if shards.exists() else {}
        whole_ones = {n: p.stat().st_mtime_ns for n, p in there.items() if not n.startswith(".")}
        assert seen.items() <= whole_ones.items()  # none lost, none written again
        assert all(there[name].read_bytes() == expected[name] for name in whole_ones)
        seen = whole_ones
        if len(seen) == len(expected):
            found = run_study(model, pairs, out=folder, **how).summary(draws=100)
            pd.testing.assert_frame_equal(found, whole.summary(draws=100), check_exact=True)
            folders, seen = folders + 1, {}
    print(f"{kills} kills, {folders} studies finished")
    assert folders >= 2


def test_pairs_without_a_foil_serve_metrics_that_read_none(model):
    pairs = [PromptPair.from_ids(one.clean_ids, one.corrupt_ids, 7) for one in some_pairs(4)]
    study = run_study(model, pairs, metric="kl,log_prob", progress=False)
    assert len(study.summary(draws=50)) == 2 * 3 * 6
    assert np.isnan(study.accuracy()["clean"]["preferred"])
    assert 0 <= study.accuracy()["clean"]["top"] <= 1
    with pytest.raises(StudyError, match=r"pair 0 .*the pair has none"):
        run_study(model, pairs, metric="recovery", progress=False)
