"""scripts/generate.py as a user meets it. What it shares with patch.py is tested there."""

import io
import json
import sys

import pytest
import torch
from helpers import make_model

from mingpt import Decoding, Sample, generate
from mingpt.generation.sampling import Stop, log_likelihood
from mingpt.loading.model_files import save
from mingpt.loading.sources import BUILTIN_DIRECTORY
from mingpt.loading.tokenizer_files import tokenizer_in
from patching.cli import generate_output, generate_records
from patching.cli.generate import EXAMPLE, main
from patching.continuation.counts import wilson
from patching.continuation.request import GenerationSettings
from patching.continuation.result import Continuation, Continuations
from patching.result_files import saved_checksum

KEYS = "The keys to the cabinet"
FIFTY = [str(number) for number in range(1, 51)]
LONG = Continuation(
    "m", KEYS, "a" * 60 + "b", ("a",), Sample((1,), (1,), (-1.0,), "length", 0),
    GenerationSettings(),
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ran(here, capsys):
    """Run the command in an empty folder; return its stdout."""

    def run(*arguments: str, model: str = "builtin") -> str:
        assert main(["--model", model, *arguments]) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        assert "--json" in arguments or said.err == ""
        return said.out

    return run


@pytest.fixture
def small(here) -> str:
    """Save a second model, with the shipped one's tokenizer."""
    rows = tokenizer_in(BUILTIN_DIRECTORY).vocab_size
    model = make_model(vocab_size=rows, block_size=40, n_head=4, n_kv_head=1)
    save(model, here / "small", tokenizer_in(BUILTIN_DIRECTORY))
    return "small"


@pytest.mark.slow
def test_the_example(command, tmp_path, builtin):
    run = command("generate", "--model", "builtin")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0].startswith("model: builtin (")
    assert f"prompt: {EXAMPLE}" in lines
    model, tokenizer = builtin
    ids = tokenizer.encode(EXAMPLE)
    logits = model(torch.tensor([ids]))[0][0]
    total = sum(logits[:-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist())
    each = total / (len(ids) - 1)
    assert (
        f"{len(ids)} tokens, ln p {total:.2f}, {each:.2f} per token after the first" in run.stdout
    )
    top = logits[-1].argmax().item()
    (row,) = (line.split() for line in lines if line.startswith("1 "))
    assert row[1:4] == [str(top), f"␣{tokenizer.token(top).strip()}", f"{logits[-1, top]:.4f}"]
    stop = Stop(tokenizer.vocab["<|endoftext|>"])
    ((sample,),) = generate(model, [ids], 30, stop=stop)
    assert tokenizer.decode(sample.ids[:-1]) in lines
    end = f"[{len(sample.ids)} tokens, ln p {sample.log_prob:.2f}, ended at <|endoftext|>]"
    assert end in lines
    assert not [*tmp_path.iterdir()]  # nothing is written unless it is asked for


def test_json_is_all_that_it_takes_to_draw_a_sample_again(ran, builtin):
    asked = ("--prompt", KEYS, "--top-k", "50", "--top-p", "0.9", "--temperature", "1.4")
    out = ran(*asked, "--num-samples", "3", "--seed", "7", "--json", "--max-new-tokens", "5")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["seed"] for one in found] == [7, 8, 9]
    model, tokenizer = builtin
    end = tokenizer.vocab["<|endoftext|>"]
    for one in found:
        settings = one["settings"]
        fields = ("temperature", "top_k", "top_p", "repetition_penalty")
        decoding = Decoding(**{name: settings[name] for name in fields})
        assert decoding == Decoding(1.4, 50, 0.9)
        ((sample,),) = generate(
            model, [one["prompt_ids"]], settings["max_new_tokens"], decoding=decoding,
            seed=one["seed"],
        )  # fmt: skip
        whole = [*sample.ids]
        if end in whole:
            whole = whole[: whole.index(end) + 1]
        assert one["ids"] == whole
        assert one["log_probs"] == pytest.approx(sample.log_probs[: len(whole)])
        assert one["prompt_log_prob"] == pytest.approx(
            sum(log_likelihood(model, one["prompt_ids"])), abs=1e-4
        )
        assert settings["stop"] == []
        assert one["text"] == tokenizer.decode(one["ids"]).removesuffix("<|endoftext|>")
        assert one["prompt"] == KEYS
        assert one["paths"] == []
    (again,) = ran(*asked, "--seed", "8", "--json", "--max-new-tokens", "5").splitlines()
    again = json.loads(again)
    for name in ("text", "ids", "tokens", "seed", "settings", "ended"):
        assert again[name] == found[1][name]


def test_nothing_stops_a_sample_that_was_not_asked_for(ran):
    """The parser once took the empty list of --stop for two dashes."""
    out = ran("--prompt", "Michelle Jones was a top", "--greedy", "--max-new-tokens", "3")
    assert "-notch player" in out


def test_a_dash_is_a_text_like_any_other(ran):
    assert "prompt: --\n" in ran("--prompt", "--", "--max-new-tokens", "1")
    out = ran("--prompt", "Michelle Jones was a top", "--greedy", "--stop", "--", "--json")
    assert json.loads(out)["settings"]["stop"] == ["--"]


def test_what_is_the_same_is_run_once(ran):
    asked = ("--prompt", KEYS, "--prompt", KEYS, "--temperature", "1,1.0", "--json")
    assert len(ran(*asked, "--max-new-tokens", "2").splitlines()) == 1


def test_greedy_draws_nothing_and_says_so(ran):
    out = ran("--prompt", KEYS, "--greedy", "--show-steps", "--rows", "2", "--max-new-tokens", "2")
    assert "\ngreedy:\n" in out
    assert "seed" not in out
    steps = out[out.index("step 2") :].splitlines()
    assert steps[2].split()[-2:] == ["kept", "1.0000"]
    assert steps[3].split()[-1] == "0.0000"


def test_every_combination_is_a_block(ran):
    out = ran(
        "--temperature", "0.5,1", "--top-k", "none,3", "--top-p", "0.9", "--max-new-tokens", "2"
    )  # fmt: skip
    blocks = [line for line in out.splitlines() if line.startswith("temperature")]
    assert blocks == [
        "temperature 0.5, top-p 0.9:",
        "temperature 0.5, top-k 3, top-p 0.9:",
        "temperature 1, top-p 0.9:",
        "temperature 1, top-k 3, top-p 0.9:",
    ]
    assert out.count("seed 0") == 4


def test_steps_are_shown(ran):
    out = ran(
        "--prompt", KEYS, "--show-steps", "--rows", "3", "--max-new-tokens", "2", "--top-k", "2"
    )  # fmt: skip
    first = out.index("step 1")
    table = [line.split() for line in out[first : out.index("step 2")].splitlines()[2:5]]
    assert table[0][:2] == ["*", "1"]
    assert table[0][3] == "␣are"
    assert [row[-2:] for row in table[1:]] == [["kept", "5.2e-06"], ["top-k", "0.0000"]]
    assert out.index("step 2") < out.index("\n are ")
    asked = ("--show-steps", "--max-new-tokens", "2", "--num-samples", "2")
    for line in ran("--prompt", KEYS, *asked, "--json").splitlines():
        one = json.loads(line)
        chosen = [[c["id"] for c in step if c["is_chosen"]] for step in one["steps"]]
        assert chosen == [[number] for number in one["ids"]]


def test_beams_are_printed_best_first(ran):
    out = ran("--prompt", KEYS, "--num-beams", "4", "--num-samples", "3", "--max-new-tokens", "4")
    scores = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("beam ")]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert "4 beams, length penalty 1:" in out


def test_a_beam_search_can_be_watched(ran):
    asked = ("--prompt", KEYS, "--num-beams", "2", "--num-samples", "2", "--max-new-tokens", "2")
    out = ran(*asked, "--show-steps")
    first, second = out.index("step 1\n"), out.index("step 2\n")
    table = [line.split() for line in out[first:second].splitlines()[2:6]]
    assert [row[6:] for row in table] == [["beam", "1"], ["beam", "2"], ["dropped"], ["dropped"]]
    assert table[0][:3] == ["1", "530", "␣are"]
    # A later step shows the whole text of the beam.
    assert "␣are␣" in out[second:]
    assert out[second:].count("ends\n") == 2
    found = [json.loads(line) for line in ran(*asked, "--show-steps", "--json").splitlines()]
    for one in found:
        assert [len(step["candidates"]) for step in one["beam_steps"]] == [4, 4]
        assert "steps" not in one


def test_a_grid_says_which_settings_it_runs(ran):
    out = ran("--prompt", KEYS, "--temperature", "1,5", "--max-new-tokens", "1")
    line = "2 settings, one for each combination: temperature 1; temperature 5"
    assert out.splitlines()[0] == line
    assert "settings" not in ran("--prompt", KEYS, "--temperature", "1.5", "--max-new-tokens", "1")


def test_the_figure_counts_the_first_token_of_every_sample(here, ran, monkeypatch):
    """Also of those that begin with a token that is not among the likeliest rows."""
    from patching.continuation import figures

    drawn = []
    monkeypatch.setattr(figures, "draw_choice_plot", lambda plot, path: drawn.append(plot) or 1 / 0)
    for asked in (("--num-samples", "9"), ("--num-beams", "3", "--num-samples", "3")):
        with pytest.raises(ZeroDivisionError):
            ran("--prompt", "They flew to", *asked, "--rows", "1", "--plot",
                "--max-new-tokens", "2")  # fmt: skip
    for plot, count in zip(drawn, (9, 3), strict=True):
        assert sum(one.taken for one in plot.candidates) == count
        probabilities = [one.probability for one in plot.candidates]
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(probabilities) > 1
    assert [plot.paths_are for plot in drawn] == ["samples", "beams"]


def test_a_title_of_ones_own(here, ran):
    ran("--prompt", KEYS, "--max-new-tokens", "2", "--plot", "--title", "Mine & yours",
        "--out", "x.svg")  # fmt: skip
    text = (here / "x.svg").read_text("utf-8")
    assert "Mine &amp; yours" in text
    assert "Continuations by" not in text


def test_a_text_to_stop_at(ran):
    out = ran("--prompt", KEYS, "--greedy", "--stop", "are", "--quiet")
    assert out.splitlines()[1:] == [" are"]


def test_a_list_of_prompts_is_counted_and_drawn(ran, here):
    prompts = ["The doctor said that", "The nurse said that"]
    (here / "p.jsonl").write_text(
        f"{json.dumps(prompts[0])}\n\n{json.dumps({'prompt': prompts[1], 'id': 3})}\n"
    )
    (here / "p.txt").write_text("\n".join([*prompts, ""]))
    asked = ("--num-samples", "12", "--max-new-tokens", "6", "--count", "he", r"\bshe\b")
    out = ran("--prompts", "p.jsonl", *asked, "--out", "run/a.png")
    ran("--prompts", "p.txt", *asked, "--out", "run/b.png")
    both = [Continuations.load(here / "run" / f"{name}.json") for name in "ab"]
    assert both[0].samples == both[1].samples
    found = [one for samples in both[0] for one in samples]
    assert len(found) == 24
    saved = json.loads((here / "run" / "a.json").read_text())
    rows = [line.split() for line in out.splitlines() if line.startswith("The ")]
    for count, row in zip(saved["counts"], rows, strict=True):
        texts = [one.text.lower() for one in found if one.prompt == count["prompt"]]
        word = count["pattern"].replace(r"\b", "")
        there = sum(word in text.replace(".", " ").split() for text in texts)
        assert (count["found"], count["samples"]) == (there, 12)
        assert count["interval"] == [*wilson(there, 12)]
        assert row[-6:-3] == [str(there), "12", f"{there / 12:.4f}"]
    assert {count["found"] for count in saved["counts"]} != {0}
    for line in ran("--prompts", "p.txt", *asked, "--out", "run/c.png", "--json").splitlines():
        one = json.loads(line)
        words = one["text"].replace(".", " ").lower().split()
        assert one["found"] == {"he": "he" in words, r"\bshe\b": "she" in words}
    assert sorted(path.name for path in (here / "run").iterdir()) == [
        "a.json", "a.png", "b.json", "b.png", "c.json", "c.png"
    ]  # fmt: skip


def test_figures_of_every_choice(ran, here):
    out = ran(
        "--prompt", KEYS, "--prompt", "A", "--temperature", "1,2", "--plot", "--format", "svg",
        "--max-new-tokens", "3", "--count", "a",
    )  # fmt: skip
    written = [line.removeprefix("wrote ") for line in out.splitlines() if line.startswith("wrote")]
    ends = [*(f"-choice-{n}.svg" for n in range(1, 5)), "-counts.svg", ".json"]
    stem = written[-1].removesuffix(".json")
    assert stem.startswith("figures/the-keys-to-the-cabinet-continued-")
    assert written == [stem + end for end in ends]
    named = f"text_sha256 {saved_checksum(here / written[-1])}</"
    assert all(named in (here / path).read_text("utf-8") for path in written[:-1])


def test_many_prompts_take_several_figures_and_very_many_none(ran, here, monkeypatch):
    monkeypatch.setattr(generate_output, "MOST_BARS", 4)
    (here / "p.txt").write_text("\n".join(f"A {word}" for word in "abcde"))
    asked = ("--prompts", "p.txt", "--count", "a", "b", "--max-new-tokens", "1")
    out = ran(*asked, "--out", "run/")
    ends = [line.rsplit("-", 2)[-2:] for line in out.splitlines() if line.endswith(".png")]
    assert ends == [["counts", f"{n}.png"] for n in (1, 2, 3)]
    monkeypatch.setattr(generate_output, "MOST_PAGES", 2)
    out = ran(*asked, "--out", "none/")
    assert "too many prompts or patterns for a bar chart" in out
    assert [path.suffix for path in (here / "none").iterdir()] == [".json"]
    written = ran(*asked).splitlines()[-1].removeprefix("wrote ")
    assert written.endswith(".json")
    assert (here / written).is_file()


def test_samples_are_saved_though_they_cannot_be_counted(here, capsys, monkeypatch):
    monkeypatch.setattr("patching.continuation.counts.SECONDS", 0.01)
    monkeypatch.setattr("patching.continuation.run._as_text", lambda *rest: LONG)
    asked = ["--prompt", KEYS, "--count", "(a|aa)+$", "--plot", "--out", "run/"]
    assert main(["--model", "builtin", *asked]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "took more than 0.01 s on one text" in said.err
    assert sorted(path.suffix for path in (here / "run").iterdir()) == [".json", ".png"]
    assert main(["--model", "builtin", *asked, "--json"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["text"] == LONG.text


def test_other_seeds_are_other_files(ran, here):
    for seed in ("0", "1", "1"):
        ran("--prompt", KEYS, "--max-new-tokens", "2", "--out", "run/", "--seed", seed)
    assert len([*(here / "run").iterdir()]) == 2


def test_lines_end_where_files_say_so(ran, here):
    """Only \\n and \\r\\n end a line, not U+2028; errors give the file's line numbers."""
    text = "a\u2028b\x0cc"
    (here / "p.txt").write_bytes(f"\ufeff{text}\r\n\r\nd\r\n".encode())
    (here / "p.jsonl").write_text(json.dumps(text, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, prompts in (("p.txt", [text, "d"]), ("p.jsonl", [text])):
        lines = ran("--prompts", name, "--json", "--max-new-tokens", "1").splitlines()
        assert [json.loads(line)["prompt"] for line in lines] == prompts


def test_the_stopwatch_counts_the_models_time_alone(monkeypatch):
    now = iter([0.0, 10.0, 15.0, 100.0, 101.0, 200.0, 202.0])
    monkeypatch.setattr(generate_records.time, "perf_counter", lambda: next(now))
    watch = generate_records.Stopwatch()
    assert watch.milliseconds_per_token is None
    for is_first in (True, False, False):
        watch.restart()  # time before this is not counted
        watch.stop(is_first=is_first)
    assert (watch.first, watch.later, watch.milliseconds_per_token) == (5, 3, 1500)


def test_the_path_of_beams_is_drawn_too(ran, here):
    out = ran("--prompt", KEYS, "--num-beams", "2", "--plot", "--max-new-tokens", "3")
    assert "-choice.png" in out


def test_the_result_alone(ran, here):
    out = ran("--prompt", KEYS, "--max-new-tokens", "3", "--out", "here.json")
    assert out.splitlines()[-1] == "wrote here.json"
    result = Continuations.load(here / "here.json")
    ((one,),) = result
    assert one.prompt == KEYS
    assert result.command["model"] == ["builtin"]
    saved = json.loads((here / "here.json").read_text())
    assert [model["name"] for model in saved["models"]] == ["builtin"]
    assert len(saved["models"][0]["checksum"]) == 64
    assert saved["models"][0]["checksum"] == result.checksum


def test_a_result_of_several_models_and_settings_is_read_back(ran, here, small):
    asked = ("--prompt", KEYS, "--prompt", "A", "--temperature", "1,2", "--num-samples", "2")
    lines = ran("--model", small, *asked, "--max-new-tokens", "3", "--out", "x.json", "--json")
    results = Continuations.load_all(here / "x.json")
    assert [(one.model_name, one.settings.decoding.temperature) for one in results] == [
        ("builtin", 1), ("builtin", 2), ("small", 1), ("small", 2)
    ]  # fmt: skip
    assert [[len(samples) for samples in one] for one in results] == [[2, 2]] * 4
    saved = [one.to_dict() for result in results for samples in result for one in samples]
    for line, fields in zip(lines.splitlines(), saved, strict=True):
        assert json.loads(line).items() >= fields.items()
    fields = json.loads((here / "x.json").read_text())
    assert [*fields] == ["command", "models", "results", "counts", "values", "text_sha256"]
    assert fields["values"] == saved


def test_models_side_by_side(ran, small, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    out = ran("--model", small, "--prompt", KEYS, "--num-samples", "2", "--max-new-tokens", "4")
    lines = out.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["builtin", "small"]
    assert "4 heads (1 of keys and values)" in lines[1]
    said = {name: next(line for line in lines if line.startswith(f"{name}: ")) for name in
            ("builtin", "small")}  # fmt: skip
    assert all(", ln p -" in line for line in said.values())
    head = lines[lines.index(next(line for line in lines if line.startswith("rank"))) :]
    assert head[0].split() == ["rank", "id", "token", "logit", "prob"] * 2
    row = next(number for number, line in enumerate(lines) if line.startswith("(seed 0)"))
    assert lines[row].index("(seed 0)", 1) == 51  # half of 100 columns, and a gap
    assert lines[row - 2].split() == ["builtin", "small"]
    assert sum("ms per token" in line for line in lines) == 2
    found = [json.loads(line) for line in ran("--model", small, "--json").splitlines()]
    assert [one["model"] for one in found] == ["builtin", "small"]


def test_counts_of_several_models_come_without_the_samples(ran, small):
    many = ("--num-samples", "30", "--count", "he", "--quiet")
    out = ran("--model", small, "--prompt", KEYS, *many)
    assert "(seed 0)" not in out
    assert out.count("95 % interval") == 2
    for name in ("builtin", small):
        assert f"\n{name}: " in out  # over its table


def test_counts_of_several_models_are_drawn_together(ran, here, small, monkeypatch):
    """Two models, temperatures and patterns are eight bars a prompt, so a figure has one prompt."""
    drawn = []
    monkeypatch.setattr(
        "patching.continuation.figures.draw_counts",
        lambda panels, *, title, notes: drawn.append((panels, title)),
    )
    monkeypatch.setattr("patching.drawing.style.save_figure", lambda figure, path, results: None)
    monkeypatch.setattr(generate_output, "MOST_BARS", 8)
    prompts = [word for prompt in (KEYS, "A") for word in ("--prompt", prompt)]
    asked = ("--temperature", "1,2", "--max-new-tokens", "1", "--count", "of", "the")
    ran("--model", small, *prompts, *asked, "--out", "run/x.png")
    assert len(drawn) == 2
    for page, (prompt, (panels, title)) in enumerate(zip((KEYS, "A"), drawn, strict=True), 1):
        assert title.endswith(f"1 samples a prompt, of at most 1 tokens; page {page} of 2")
        assert [name for name, _ in panels] == [
            f"{model}, temperature {temperature}"
            for model in ("builtin", small)
            for temperature in (1, 2)
        ]
        for _, counts in panels:
            assert [(one.prompt, one.pattern) for one in counts] == [
                (prompt, "of"),
                (prompt, "the"),
            ]
    saved = json.loads((here / "run" / "x.json").read_text())["counts"]
    assert [(one["model"], one["settings"]["temperature"]) for one in saved] == [
        (model, temperature)
        for model in ("builtin", small)
        for temperature in (1, 2)
        for _ in range(4)  # of two prompts and two patterns
    ]


def test_models_of_one_name_are_told_apart():
    assert generate_output.numbered_names(["a", "b", "a"]) == ["a (1)", "b", "a (3)"]


def test_past_the_context(ran, small):
    out = ran("--prompt", KEYS, "--max-new-tokens", "50", "--json", "--quiet", model=small)
    assert len(json.loads(out)["ids"]) == 50


def test_quiet_is_the_text_alone(ran):
    lines = ran("--prompt", KEYS, "--num-samples", "2", "--max-new-tokens", "2", "--quiet")
    assert len(lines.splitlines()) == 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_first_sample_comes_as_it_is_made(here, monkeypatch):
    """The other samples are printed whole and in order, though all are made together."""
    terminal, pieces = Terminal(), []
    monkeypatch.setattr(sys, "stdout", terminal)
    write = terminal.write
    monkeypatch.setattr(terminal, "write", lambda text: pieces.append(text) or write(text))
    asked = ["--prompt", KEYS, "--num-samples", "3", "--max-new-tokens", "8", "--temperature", "2"]
    assert main(["--model", "builtin", *asked]) == 0
    live = terminal.getvalue()
    first = pieces.index("\nseed 0\n are") if "\nseed 0\n are" in pieces else None
    assert first is not None
    end = next(n for n, piece in enumerate(pieces) if n > first and "[" in piece)
    assert end > first + 5  # a piece for each token
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    assert main(["--model", "builtin", *asked]) == 0
    rest = [text.split("tokens; first token of each")[0] for text in (live, plain.getvalue())]
    assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--temperature 0",
            "'--temperature': '0' is not a number above 0: --greedy takes the likeliest",
        ),
        ("--temperature 1,-2", "'--temperature': '-2' is not a number above 0"),
        ("--temperature nan", "'--temperature': 'nan' is not a number above 0"),
        ("--temperature inf", "'--temperature': 'inf' is not a number above 0"),
        ("--temperature x", "'--temperature': 'x' is not a number above 0"),
        ("--temperature 0,7", "'0' is not a number above 0; commas separate numbers: write 0.7"),
        ("--temperature none", "'--temperature': 'none' is not a number above 0"),
        ("--top-k 0", "'--top-k': '0' is not a whole number of at least 1, or none"),
        ("--top-k 2.5", "'--top-k': '2.5' is not a whole number of at least 1, or none"),
        ("--top-p 0", "'--top-p': '0' is not a number in (0, 1], or none"),
        ("--top-p 1.5", "'--top-p': '1.5' is not a number in (0, 1], or none"),
        (
            "--repetition-penalty 0",
            "--repetition-penalty must be a number from 0.001 to",
        ),
        ("--max-new-tokens 0", "'--max-new-tokens': 0 is not in the range 1<=x<=100000"),
        (f"--max-new-tokens {10**26}", "'--max-new-tokens': 1000"),
        ("--num-samples 0", "'--num-samples': 0 is not in the range 1<=x<=1000000"),
        ("--rows 0", "'--rows': 0 is not in the range 1<=x<=1000000"),
        ("--seed -1", "'--seed': -1 is not from 0 to 2"),
        ("--seed --", "'--seed': '--' is not a whole number"),
        ("--num-samples=--", "'--num-samples': '--' is not a valid integer"),
        ("--greedy --top-p 0.5", "--greedy draws nothing, so --top-p changes nothing"),
        ("--num-beams 2 --top-k 5", "--num-beams draws nothing, so --top-k changes nothing"),
        ("--greedy --num-samples 2", "greedy has one continuation of a prompt, not 2"),
        ("--num-beams 2 --num-samples 3", "2 beams cannot give 3 continuations"),
        ("--num-beams 0", "'--num-beams': 0 is not in the range x>=1"),
        ("--num-beams 2 --greedy", "greedy and --num-beams exclude each other; choose one"),
        ("--num-beams 2 --length-penalty nan", "--length-penalty must be from -10 to 10"),
        ("--length-penalty 1", "--length-penalty needs --num-beams"),
        ("--prompt=", "--prompt is empty"),
        ("--stop=", "a text to stop at is empty, or none: ''"),
        ("--count (", "'(' is not a regular expression"),
        ("--count", "--count needs a value"),
        ("--prompts no.txt", "--prompts no.txt cannot be read: No such file or directory"),
        ("--prompts .", "--prompts . cannot be read: Is a directory"),
        ("--prompts /dev/zero", "--prompts /dev/zero is neither a file nor a pipe"),
        ("--prompts empty.txt", "--prompts empty.txt is empty"),
        ("--prompts latin.txt", "--prompts latin.txt is not UTF-8 text"),
        ("--prompts bad.jsonl", "--prompts bad.jsonl: line 4 is not JSON"),
        ("--prompts odd.jsonl", 'line 1 is neither a string nor an object with "prompt"'),
        ("--prompts long.txt", "prompt 2 has 201 tokens, the model reads 1 to 128"),
        ("--format svg", "--format needs a figure: add --plot or --count"),
        ("--plot --out x.gif", "no figure format 'gif'"),
        ("--plot --temperature 1,2,3,4,5,6,7 --top-k 1,2,3,4,5,6", "would draw 42 figures"),
        (
            f"--temperature {','.join(map(str, range(1, 202)))} --top-k {','.join(FIFTY)}",
            "201 x 50 values are 10050 settings; at most 10000 are run",
        ),
        ("--out x.png", "without --plot or --count only a .json result"),
        ("--count a --greedy", "--count needs samples that are drawn, and --greedy draws none"),
        ("--count a --num-beams 2", "--count needs samples that are drawn, and --num-beams"),
        ("--count a --show-steps", "--show-steps does not go with --count or"),
        ("--model nope --show-steps", "--show-steps does not go with --count or"),
        (
            "--seed 9223372036854775807 --num-samples 2",
            "--seed plus --num-samples must be at most 2",
        ),
        ("--num-samples 5000000", "'--num-samples': 5000000 is not in the range 1<=x<=1000000"),
        ("--stop \udcff", "a text to stop at is not valid Unicode"),
        ("--count \udcff", "is not valid Unicode"),
        ("--model nope", "no model 'nope'"),
        ("nonsense", "Got unexpected extra argument (nonsense)"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(here, capsys, arguments, message):
    (here / "empty.txt").write_text("\n \n")
    (here / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (here / "bad.jsonl").write_text('"a"\n\n\n{\n')
    (here / "odd.jsonl").write_text("3\n")
    (here / "long.txt").write_text("a\n" + "a " * 200 + "\n")
    before = sorted(here.iterdir())
    assert main(["--model", "builtin", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mingpt-generate: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(here.iterdir()) == before


def test_more_prompts_than_memory_holds_are_refused(here, capsys, monkeypatch):
    monkeypatch.setattr("patching.cli.generate.MOST_PROMPTS", 3)
    (here / "p.txt").write_text("a\nb\nc\nd\n")
    assert main(["--model", "builtin", "--prompts", "p.txt"]) == 2
    assert "4 prompts; at most 3 are run: split the file" in capsys.readouterr().err


def test_a_model_that_is_none_is_found_before_another_runs(here, capsys):
    assert main(["--model", "builtin", "--model", "nope"]) == 2
    assert capsys.readouterr().out == ""
