"""mingpt-study: make pairs, run them into a folder, show and compare; one line for bad input."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from patching import Study
from patching.cli import study_run
from patching.cli.study import main
from patching.study.pairs_file import read_rows
from patching.study.run import on_disk

QUICK = ["--model", "builtin", "--draws", "200", "--flips", "200"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pairs(here, capsys) -> Path:
    """A file of 8 pairs of the IOI family."""
    assert main(["make", "ioi", "--n", "8", "--model", "builtin", "--out", "ioi.csv"]) == 0
    capsys.readouterr()
    return here / "ioi.csv"


def error(capsys, *arguments: str) -> str:
    """Return the one line of stderr of a command line that is refused."""
    assert main([*arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_make_writes_different_pairs_and_says_how_many_there_are(here, capsys):
    wanted = ["make", "ioi", "--n", "5", "--model", "builtin", "--order", "ABBA", "--seed", "3"]
    assert main([*wanted, "--out", "a.csv"]) == 0
    out = capsys.readouterr().out
    assert "5 of 77,580,288 distinct pairs" in out
    assert "run it: mingpt-study run a.csv --model builtin" in out
    rows = read_rows("a.csv").rows
    assert len({row.cells["clean"] for row in rows}) == 5
    assert {row.cells["template"].split()[0] for row in rows} == {"ABBA"}
    assert main([*wanted, "--out", "b.csv"]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_a_study_is_run_shown_and_gone_on_with(pairs, capsys):
    command = ["run", "ioi.csv", *QUICK, "--metric", "logit_diff,recovery", "--site", "z",
               "--only-correct", "--out", "s"]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "8 rows read, 8 pairs" in out
    assert "aligned by roles" in out
    assert "the 2 maps are not corrected for one another" in out
    table = pd.read_parquet("s/summary.parquet")
    assert len(pd.read_csv("s/summary.csv")) == len(table)
    study = Study.load("s")
    wanted = study.summary(only_correct="clean", draws=200, flips=200)
    pd.testing.assert_frame_equal(table, wanted)
    largest = table[(table["site"] == "z") & (table["metric"] == "recovery")]
    first = largest.loc[largest["mean"].idxmax()]
    name = f"{first['layer']}.{first['head']}"
    assert out.split("z, recovery")[1].splitlines()[2].startswith(f"{name:>4}  {first['mean']:.4f}")
    assert "halves of the pairs agree by r = " in out
    templates = Counter(row.cells["template"] for row in read_rows("ioi.csv").rows)
    assert f"{len(templates)} templates (the commonest in {max(templates.values())} pair" in out

    figures = sorted(path.name for path in Path("s/figures").iterdir())
    assert figures == ["z-logit_diff-pairs.png", "z-logit_diff.png", "z-recovery.png"]

    shard = Path("s/shards/000000.parquet")
    before = shard.stat().st_mtime_ns
    Path("s/shards/000001.parquet").unlink()
    assert main(["show", "s", "--json", "--draws", "200"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "not run yet" not in found
    assert found["accuracy"]["clean"]["preferred"] == 1
    assert {row["n"] for row in found["summary"]} == {8 - len(study.batches[1])}
    assert main([*command, "--quiet"]) == 0
    assert shard.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(pd.read_parquet("s/summary.parquet"), wanted)


def test_a_dry_run_says_what_is_there_and_how_long_it_takes_and_writes_nothing(pairs, capsys):
    assert main(["run", "ioi.csv", *QUICK, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "8 rows read, 8 pairs" in out
    assert "for 8 pairs on cpu" in out
    assert [path.name for path in pairs.parent.iterdir()] == ["ioi.csv"]


def test_without_a_file_a_small_study_of_the_shipped_model_is_run(here, capsys, monkeypatch):
    monkeypatch.setattr(study_run, "EXAMPLE_PAIRS", 3)
    assert main(["run"]) == 0
    out = capsys.readouterr().out
    assert "model: builtin" in out
    assert "mingpt-study make ioi --n 3 --model builtin" in out
    assert "of 3 pairs the smallest p is 0.25" in out
    assert Study.load("runs/ioi-example").is_complete


@pytest.mark.slow
def test_two_studies_are_compared_pair_by_pair(pairs, capsys):
    for direction in ("denoise", "noise"):
        assert main(["run", "ioi.csv", *QUICK, "--direction", direction, "--out", direction]) == 0
    capsys.readouterr()
    assert main(["show", "--compare", "denoise", "noise", "--rows", "1", "--json"]) == 0
    streams = capsys.readouterr()
    assert "8 pairs that A and B share, compared pair by pair" in streams.err
    (found,) = json.loads(streams.out)["maps"]
    means = [Study.load(name).cells("resid_post", "logit_diff") for name in ("denoise", "noise")]
    apart = (means[0].effects - means[1].effects).mean(axis=0)
    assert [cell["difference"] for cell in found["cells"]] == pytest.approx(apart.tolist())
    assert Path("denoise/figures/resid_post-logit_diff-difference.png").exists()


def test_an_interrupted_run_says_how_to_go_on(pairs, capsys, monkeypatch):
    written = on_disk.write_tables

    def interrupted(path, *rest):
        if path.name == "000001.parquet":
            raise KeyboardInterrupt
        written(path, *rest)

    monkeypatch.setattr(on_disk, "write_tables", interrupted)
    assert main(["run", "ioi.csv", *QUICK, "--out", "s"]) == 130
    assert "mingpt-study run: the same command goes on with s" in capsys.readouterr().err
    assert Study.load("s").finished == [0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what to do is missing: make, run, show"),
        (["walk"], "no command 'walk'"),
        (["make"], "a family is missing; there are ioi,"),
        (["make", "agreement", "--order", "ABBA"], "agreement has no --order"),
        (["make", "ioi", "--out", "a.txt"], "a.txt: a file of pairs ends in .csv"),
        (["run", "none.csv"], "none.csv is missing"),
        (["run", "--strict"], "are for a file of pairs"),
        (["run", "ioi.csv", "--columns", "x"], "clean=sentence,target=answer"),
        (["run", "ioi.csv", "--site", "z,z"], "the site z is asked for twice"),
        (["run", "ioi.csv", "--out", "ioi.csv"], "ioi.csv: a file has this name"),
        (["run", "ioi.csv", "--confidence", "1"], "--confidence 1: a share between 0 and 1"),
        (["show"], "which study?"),
        (["show", "."], ". holds no study"),
        (["show", "--compare", "."], "--compare takes two folders"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(pairs, capsys, arguments, said):
    assert said in error(capsys, *arguments)
    assert [path.name for path in pairs.parent.iterdir()] == ["ioi.csv"]


def test_cells_are_chosen_and_figures_go_where_they_are_asked_to(pairs, capsys):
    assert main(["run", "ioi.csv", *QUICK, "--site", "z", "--out", "s"]) == 0
    shown = ["show", "s", "--draws", "100", "--cell", "1.2", "--out", "pdf", "--format", "pdf"]
    assert main(shown) == 0
    assert {path.suffix for path in Path("pdf").iterdir()} == {".pdf"}
    capsys.readouterr()
    assert main(["show", "s", "--cell", "9.9"]) == 2
    assert "no cell '9.9' in the map; a cell is written as 3.3" in capsys.readouterr().err


def test_a_single_pair_is_no_study_and_no_folder_is_made(here, capsys):
    lines = ["clean,corrupt,target,foil", "The keys,The key,are,is", "The keys,A,are,is"]
    (here / "one.csv").write_text("\n".join(lines))
    said = error(capsys, "run", "one.csv", "--model", "builtin", "--quiet")
    assert "a study needs 2 pairs, and there is 1: one.csv has 2 rows, and left out are" in said
    assert "prompts of unequal lengths (line 3)" in said
    assert not (here / "runs").exists()


def test_another_study_in_the_same_folder_is_refused(pairs, capsys):
    assert main(["run", "ioi.csv", *QUICK, "--out", "s"]) == 0
    capsys.readouterr()
    main(["run", "ioi.csv", *QUICK, "--site", "z", "--out", "s"])
    assert "(sites: resid_post there, z asked for)" in capsys.readouterr().err


def test_a_shell_completes_commands_and_their_options(monkeypatch, capsys):
    for words, wanted in (("mingpt-study s", "show"), ("mingpt-study run --al", "--align")):
        monkeypatch.setenv("_MINGPT_STUDY_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert main([]) == 0
        assert wanted in capsys.readouterr().out


@pytest.mark.slow
def test_little_memory_gives_the_same_statistics(pairs, capsys):
    for name, more in (("a", []), ("b", ["--max-memory", "1M"])):
        assert main(["run", "ioi.csv", *QUICK, "--out", name, "--quiet", "--json", *more]) == 0
    found = [json.loads(line)["summary"] for line in capsys.readouterr().out.splitlines()]
    pd.testing.assert_frame_equal(*map(pd.DataFrame, found), rtol=0, atol=1e-5)
    assert main(["show", "a", "--max-memory", "x"]) == 2
