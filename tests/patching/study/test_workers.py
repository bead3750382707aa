"""Studies on Ray workers: a real cluster of two nodes, from which a worker and a node are taken."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import make_model
from study_cases import some_pairs

from patching import Gaussian, PromptPair
from patching.errors import StudyError
from patching.study import workers
from patching.study.request import Workers
from patching.study.run import run_study

HOW = {"batch": 2, "site": "resid_post,z", "draws": 50}


def test_without_ray_a_study_says_what_to_install(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"pip install 'patched-mingpt\[cluster\]'"):
        run_study(model, some_pairs(3), workers=2, out=tmp_path / "s", progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "workers must be a whole number"),
        ({"count": 1.5}, "workers must be a whole number"),
        ({"gpus": -1}, "gpus_per_worker is 0 or more"),
        ({"gpus": 1.5}, "gpus_per_worker is a part of one GPU or whole ones"),
    ],
)
def test_numbers_of_workers_out_of_range_are_refused(settings, message):
    with pytest.raises(StudyError, match=message):
        Workers(**settings)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1': Connection refused"),
        ("nowhere", "a Ray cluster's address is auto or host:port, not 'nowhere'"),
        ("host:99999", "a Ray cluster's address is"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(model, address, message):
    pytest.importorskip("ray", reason="needs Ray: pip install '.[cluster]'")
    with pytest.raises(StudyError, match=message):
        run_study(model, some_pairs(3), ray=address, progress=False)


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes with one CPU each."""
    pytest.importorskip("ray", reason="needs Ray: pip install '.[ci]'")
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds a node's processes in /proc, which is Linux's")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    started.second = started.add_node(num_cpus=1)
    yield started
    started.shutdown()


@pytest.fixture
def pools(monkeypatch) -> list:
    """The pools of workers that a test starts. They give out nothing before all have started."""
    found = []
    begin, give_out = workers._Pool.__post_init__, workers._Pool.give_out

    def noted(pool):
        begin(pool)
        found.append(pool)

    def given_out(pool, jobs):
        if pool.running or pool.failures or len(pool.handles) == pool.workers.count:
            give_out(pool, jobs)

    monkeypatch.setattr(workers._Pool, "__post_init__", noted)
    monkeypatch.setattr(workers._Pool, "give_out", given_out)
    return found


def parent_of(process: int) -> int:
    """Return the number of a process's parent."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def studied(pairs, folder, progress=False, **more):
    """Run a study in a folder; return its table of every pair."""
    draws = HOW["draws"]
    how = {name: value for name, value in HOW.items() if name != "draws"}
    study = run_study(make_model(), pairs, out=folder, progress=progress, **how, **more)
    frame = study.to_frame()
    assert sorted(set(frame["pair"])) == list(range(len(pairs)))  # none is missing
    assert not frame.duplicated([name for name in frame.columns if name != "value"]).any()
    return frame, study.summary(draws=draws)


@pytest.mark.slow
def test_workers_die_and_nodes_vanish_and_the_numbers_are_the_same(cluster, pools, tmp_path):
    pairs = some_pairs(200, lengths=(6, 7, 9))
    _, alone = studied(pairs, tmp_path / "alone")
    stopped, killed = [], []

    def stop(process: int) -> None:
        """Stop a worker, so that it keeps the next batches that it is given."""
        stopped.append(process)
        os.kill(process, signal.SIGSTOP)

    def kill_one(done, total):
        if not stopped and done:
            stop(pools[-1].handles[0].process)
        elif not killed and done >= total / 4:
            killed.append(done)
            os.kill(stopped[0], signal.SIGKILL)

    def remove_node(done, total):
        if not stopped and done:
            node = cluster.second.all_processes["raylet"][0].process.pid
            on_node = [one for one in pools[-1].handles if parent_of(one.process) == node]
            stop(on_node[0].process)
        elif not killed and done >= total / 4:
            killed.append(done)
            cluster.remove_node(cluster.second, allow_graceful=False)
            os.kill(stopped[0], signal.SIGCONT)  # it sees that its node is gone, and ends

    frames = []
    for number, progress in enumerate((False, kill_one, remove_node)):
        stopped.clear()
        killed.clear()
        frame, table = studied(
            pairs, tmp_path / str(number), progress, workers=2, ray=cluster.address
        )
        frames.append(frame)
        numbers = ["mean", "sd", "low", "high"]
        np.testing.assert_allclose(table[numbers], alone[numbers], rtol=0, atol=1e-5)
        if progress:
            (done,) = killed
            assert done < len(pairs)  # in mid-run
            assert sum(pools[-1].failures.values()) > 0  # a batch was lost, and run again
            print(f"{progress.__name__} after {done} of {len(pairs)} pairs:"
                  f" {sum(pools[-1].failures.values())} batches run again")  # fmt: skip
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_error_of_a_batch_is_raised_here(cluster):
    model = make_model()
    model.transformer.ln_f.weight.data.fill_(float("nan"))
    with pytest.raises(Exception, match="logits are not finite"):
        run_study(model, some_pairs(4), workers=2, ray=cluster.address, progress=False)


@pytest.mark.slow
def test_workers_put_in_the_mean_of_the_whole_study(cluster, tmp_path):
    pairs = some_pairs(6)
    _, alone = studied(pairs, tmp_path / "alone", put="mean")
    _, together = studied(pairs, tmp_path / "b", put="mean", workers=2, ray=cluster.address)
    np.testing.assert_allclose(together["mean"], alone["mean"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_workers_draw_the_same_noise(cluster, tmp_path):
    pairs = [
        PromptPair.from_ids(p.clean_ids, None, p.target_ids, p.foil_ids) for p in some_pairs(6)
    ]
    noise = [Gaussian((1, 2), draws=3)] * 6
    _, alone = studied(pairs, tmp_path / "alone", corrupt_by=noise)
    how = {"workers": 2, "ray": cluster.address}
    _, together = studied(pairs, tmp_path / "b", corrupt_by=noise, **how)
    np.testing.assert_allclose(together["mean"], alone["mean"], rtol=0, atol=1e-5)
