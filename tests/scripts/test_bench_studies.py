"""The timing of studies prints a line for each site."""

import sys

from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import bench_studies


def test_it_prints_a_line_for_each_site(capsys, monkeypatch):
    monkeypatch.setattr(bench_studies.importlib.util, "find_spec", lambda name: None)
    assert bench_studies.main(["--pairs", "3", "--rounds", "1", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["resid_post", "z"]
    assert all("ms a pair; single sweeps " in line for line in lines)
