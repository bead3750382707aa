"""Every public name: a small call with it, and its type as type checkers see it."""

import ast
import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib.figure
import pytest
import torch
from helpers import make_model

import mingpt
import patching

PACKAGES = {"mingpt": mingpt, "patching": patching}


@pytest.fixture(scope="module")
def public() -> dict[str, dict[str, object]]:
    """Package -> its public names -> their objects after every submodule was imported."""
    for package in PACKAGES.values():
        for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(one.name)
    return {
        name: {one: getattr(package, one, None) for one in package.__all__}
        for name, package in PACKAGES.items()
    }


def studied(t: "Things") -> patching.Study:
    folder = t.directory / "study"
    rows = [("Michelle", "Anna"), ("Anna", "Mary"), ("Mary", "Michelle")]
    lines = [f"{a} Jones,{b} Jones,{a},{b}" for a, b in rows]
    (t.directory / "pairs.csv").write_text("\n".join(["clean,corrupt,target,foil", *lines]))
    pairs, _ = patching.read_pairs(t.tokenizer, t.directory / "pairs.csv")
    return patching.run_study(t.model, pairs, out=folder, progress=False)


def subjects(t: "Things"):
    path = t.directory / "facts.csv"
    path.write_text("clean,subject,target\nMichelle Jones,Michelle,Anna")
    return patching.read_pairs(t.tokenizer, path, subject="subject")[0]


class Things:
    """The objects that the calls below use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokenizer = mingpt.load_tokenizer("builtin")
        self.model = make_model(vocab_size=self.tokenizer.vocab_size)
        self.ids = self.tokenizer("Michelle Jones")
        texts = ("Michelle Jones", "Michelle Smith", "Jones", "Smith")
        self.pair = patching.PromptPair.from_text(self.tokenizer, *texts)

    def sweep(self, **how):
        return patching.patch_sweep(self.model, self.pair, **how)

    def edges(self, **how):
        return patching.patch_edges(self.model, self.pair, receivers="logits", **how)

    def explanation(self):
        question = patching.Question.from_ids(self.ids[0].tolist(), 5, 6)
        return patching.explain(self.model, question)

    def continuations(self, observe=None):
        settings = patching.GenerationSettings(max_new_tokens=2)
        return patching.continue_prompts(
            self.model, self.tokenizer, ["Michelle"], settings, observe=observe
        )

    def choice(self):
        from patching.continuation.step_candidates import step_candidates

        choices = []
        ((sample,),) = self.continuations(choices.append)
        return step_candidates(
            choices[0], sample.settings.decoding, 3, self.tokenizer.token, greedy=False
        ), [sample]

    def counts(self):
        from patching.continuation.counts import Pattern, count

        return [("random", count([Pattern("he")], "Michelle", ["he", "she"]))]


def is_figure(figure: object) -> bool:
    return isinstance(figure, matplotlib.figure.Figure)


def reads_back(result, directory: Path) -> bool:
    """Return True if a result is the same after saving and loading."""
    result.save(directory / "result")
    loaded = type(result).load(directory / "result")
    return json.dumps(loaded.to_dict()) == json.dumps(result.to_dict())


def recorded_everywhere(t: Things) -> bool:
    t.model(t.ids, record=reversed(mingpt.SITES))
    return [*t.model.recording] == [*mingpt.SITES]  # always in this order


def patched_with_itself(t: Things) -> bool:
    logits, _ = t.model(t.ids, record=True)
    return torch.equal(logits, t.model(t.ids, patch=mingpt.Patch("resid_post", 0))[0])


def largest(logits: torch.Tensor, readout: object) -> torch.Tensor:
    return logits.amax(-1)


def saved_and_loaded(t: Things) -> bool:
    mingpt.save(t.model, t.directory / "model", t.tokenizer)
    model, tokenizer = mingpt.load(t.directory / "model")
    return model.checksum() == t.model.checksum() and tokenizer.vocab == t.tokenizer.vocab


def trained(t: Things) -> bool:
    trainer = mingpt.Trainer(
        make_model(), mingpt.TrainerConfig(steps=1), iter([(torch.ones(1, 4).long(),) * 2])
    )
    trainer.run()
    return trainer.step == 1


def is_an_error(t: Things, package: ModuleType, name: str) -> bool:
    kind = getattr(package, name)
    return issubclass(kind, mingpt.MinGPTError) and str(kind("why")) == "why"


def error_calls(package: ModuleType, *names: str) -> dict[str, Callable[[Things], object]]:
    return {name: lambda t, name=name: is_an_error(t, package, name) for name in names}


# Public name -> a small call with it, whose result is true.
CALLS = {
    "mingpt": {
        "__version__": lambda t: mingpt.__version__.count(".") == 2,
        "GPT": lambda t: (
            mingpt.GPT(mingpt.GPTConfig.preset("gpt-nano"))(t.ids)[0].shape[:2] == t.ids.shape
        ),
        "GPTConfig": lambda t: mingpt.GPTConfig(n_head=4, n_embd=8).head_size == 2,
        "PRESETS": lambda t: mingpt.PRESETS["gpt2"].n_layer == 12,
        "SITES": recorded_everywhere,
        "Patch": patched_with_itself,
        "load": lambda t: mingpt.load("builtin")[0].name == "builtin",
        "load_tokenizer": lambda t: mingpt.load_tokenizer("builtin").vocab == t.tokenizer.vocab,
        "save": saved_and_loaded,
        "BPETokenizer": lambda t: (
            mingpt.BPETokenizer(t.tokenizer.vocab, t.tokenizer.merges).encode("Michelle")
            == t.tokenizer.encode("Michelle")
        ),
        "generate": lambda t: len(mingpt.generate(t.model, [[1, 2]], 3)[0][0].ids) == 3,
        "beam_search": lambda t: (
            len(mingpt.beam_search(t.model, [1, 2], 3, num_beams=2)[0].ids) == 3
        ),
        "Decoding": lambda t: (
            mingpt.Decoding(temperature=0.5).scores(torch.ones(1, 3), t.ids[:, :0]).amax() == 0
        ),
        "Stop": lambda t: mingpt.Stop(end=7).reason([3, 7]) == "end",
        "Sample": lambda t: mingpt.Sample((1,), (2, 3), (-0.5, -0.25), "length").log_prob == -0.75,
        "KVCache": lambda t: mingpt.KVCache(t.model.config, 2, 5, t.model.lm_head.weight).room == 5,
        "TrainerConfig": lambda t: mingpt.TrainerConfig(steps=1).learning_rate_at(0) > 0,
        "Trainer": trained,
        **error_calls(
            mingpt,
            "MinGPTError",
            "CheckpointError",
            "ConfigError",
            "DownloadError",
            "GenerationError",
            "PatchError",
            "TokenizerError",
        ),
    },
    "patching": {
        "PromptPair": lambda t: (
            patching.PromptPair.from_ids([1, 2], [1, 3], 4, 5).differing == (1,)
        ),
        "Question": lambda t: (
            patching.Question.from_text(t.tokenizer, "Michelle", "Jones", "Smith").ids
        ),
        "answer_id": lambda t: patching.answer_id(t.tokenizer, "Jones") == t.pair.target_ids[0],
        "METRICS": lambda t: "Jones" in patching.METRICS["log_prob"].describe(t.pair),
        "Metric": lambda t: "top" in t.sweep(metric=patching.Metric("top", largest)).metrics,
        "Gaussian": lambda t: patching.Gaussian([1, 0], 0.4).positions == (0, 1),
        "gaussian": lambda t: patching.gaussian(t.tokenizer, "A key", "key").draws == 10,
        "mean_over": lambda t: t.sweep(put=patching.mean_over([t.pair])).put == "mean",
        "resample_from": lambda t: patching.resample_from([t.pair], seed=3).seed == 3,
        "patch_sweep": lambda t: t.sweep().values.shape == (3, len(t.pair)),
        "SweepResult": lambda t: reads_back(t.sweep(), t.directory),
        "patch_paths": lambda t: patching.patch_paths(t.model, t.pair).values.shape == (3, 2),
        "patch_edges": lambda t: patching.patch_edges(t.model, t.pair, receivers="q").count > 0,
        "Receiver": lambda t: patching.Receiver("q", 2, 1).name == "a2.h1<q>",
        "PathResult": lambda t: "PathResult" in repr(patching.patch_paths(t.model, t.pair)),
        "EdgeResult": lambda t: t.edges().strongest(1)[0][1] == "logits",
        "compare_edges": lambda t: (
            patching.compare_edges(t.edges(method="eap"), t.edges())["logit_diff"].edges == 10
        ),
        "draw_paths": lambda t: isinstance(
            patching.draw_paths(t.edges()), matplotlib.figure.Figure
        ),
        "compare_sweeps": lambda t: (
            patching.compare_sweeps(t.sweep(method="attribution"), t.sweep())["logit_diff"].misses
        ),
        "explain": lambda t: t.explanation().logits.shape == (2,),
        "Explanation": lambda t: reads_back(t.explanation(), t.directory),
        "continue_prompts": lambda t: len(t.continuations()) == 1,
        "Continuation": lambda t: len(t.continuations()[0][0].to_dict()["ids"]) <= 2,
        "Continuations": lambda t: isinstance(t.continuations(), patching.Continuations),
        "GenerationSettings": lambda t: (
            patching.GenerationSettings(greedy=True).describe() == "greedy"
        ),
        "draw_heatmap": lambda t: is_figure(patching.draw_heatmap(t.sweep())),
        "draw_agreement": lambda t: is_figure(
            patching.draw_agreement(t.sweep(method="attribution"), t.sweep())
        ),
        "draw_explanation": lambda t: is_figure(patching.draw_explanation(t.explanation())),
        "draw_choice": lambda t: is_figure(
            patching.draw_choice(t.choice()[0], samples=t.choice()[1])
        ),
        "draw_counts": lambda t: is_figure(patching.draw_counts(t.counts(), title="How often")),
        "read_pairs": lambda t: len(studied(t).pairs["place"]) == 3,
        "run_study": lambda t: studied(t).is_complete,
        "noise_on_subjects": lambda t: len(patching.noise_on_subjects(subjects(t))) == 1,
        "draw_study": lambda t: is_figure(patching.draw_study(studied(t), draws=9)),
        "draw_study_pairs": lambda t: is_figure(patching.draw_study_pairs(studied(t), draws=9)),
        "Study": lambda t: len(patching.Study.load(studied(t).folder).summary(draws=9)) == 3 * 2,
        **error_calls(
            patching,
            "PairsError",
            "StudyError",
            "PromptError",
            "SweepError",
            "PathError",
            "ResultError",
            "DrawingError",
            "CountError",
            "ExplanationError",
        ),
    },
}
CASES = [pytest.param(package, name, id=name) for package, calls in CALLS.items() for name in calls]


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Things:
    return Things(tmp_path_factory.mktemp("things"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_call(package):
    assert {*CALLS[package]} == {*PACKAGES[package].__all__}


@pytest.mark.parametrize(("package", "name"), CASES)
def test_a_call_with_every_public_name(public, things, package, name):
    assert public[package][name] is not None
    assert CALLS[package][name](things)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_hidden_by_a_module_of_that_name(public, package):
    homes = PACKAGES[package]._HOME
    for name, value in public[package].items():
        assert not isinstance(value, ModuleType), name
        if name in homes:
            assert value is vars(importlib.import_module(homes[name]))[name]


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_names_in_the_same_modules(package):
    tree = ast.parse(Path(PACKAGES[package].__file__).read_text(encoding="utf-8"))
    (block,) = [
        node for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]  # fmt: skip
    seen = {}
    for node in block.body:
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name}: only `as` makes it public"
            seen[alias.name] = node.module
    assert seen == PACKAGES[package]._HOME


@pytest.mark.slow
def test_no_public_name_is_an_object_to_mypy(public, tmp_path):
    api = pytest.importorskip("mypy.api")
    names = [f"{package}.{name}" for package, names in public.items() for name in names]
    snippet = tmp_path / "snippet.py"
    lines = ["import mingpt", "import patching", *(f"reveal_type({name})" for name in names)]
    snippet.write_text("\n".join(lines), encoding="utf-8")
    options = ["--config-file=", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    told, errors, code = api.run([*options, str(snippet)])
    assert (code, errors) == (0, ""), told
    types = [line.split("Revealed type is ")[1] for line in told.splitlines()[:-1]]
    assert len(types) == len(names)
    for name, found in zip(names, types, strict=True):
        assert found not in ('"builtins.object"', '"object"', '"Any"'), name
