"""GPT-2 124M itself, where its weights are in the cache: pytest -m gpt2"""

import numpy as np
import pytest

from patching import PromptPair, patch_sweep
from patching.verification.published import read_figures
from patching.verification.run import run_verification

pytestmark = pytest.mark.gpt2

CLEAN = "Michelle Jones was a top-notch student. Michelle"
# The 20 likeliest next tokens, as the course's assignment prints them.
COURSE_TABLE = [
    (373, 0.1634), (5437, 0.1396), (338, 0.0806), (550, 0.0491), (318, 0.0229), (290, 0.0227),
    (11, 0.0222), (531, 0.0134), (468, 0.0120), (635, 0.0117), (1625, 0.0091), (1297, 0.0084),
    (1422, 0.0070), (2993, 0.0067), (1816, 0.0061), (561, 0.0061), (3111, 0.0055), (750, 0.0054),
    (2486, 0.0053), (2492, 0.0050),
]  # fmt: skip
SMITH = "Michelle Smith was a top-notch student. Michelle"
PAIRS = [  # clean, corrupt, target, foil
    (CLEAN, SMITH, "Jones", "Smith"),
    (SMITH, CLEAN, "Smith", "Jones"),
    (CLEAN, "Jessica Jones was a top-notch student. Michelle", "Jones", "Smith"),
    (CLEAN, "Michelle Smith was a top-notch student. Jessica", "Jones", "Smith"),
]


def test_the_courses_table(gpt2):
    model, tokenizer = gpt2
    model.generate(tokenizer(CLEAN), 1, record=True)
    top = model.last_logits[0].double().softmax(-1).topk(20)
    assert top.indices.tolist() == [number for number, _ in COURSE_TABLE]
    assert [round(p, 4) for p in top.values.tolist()] == [p for _, p in COURSE_TABLE]


@pytest.mark.parametrize("texts", PAIRS[:2])
def test_the_sign_pattern(gpt2, texts):
    model, tokenizer = gpt2
    result = patch_sweep(model, PromptPair.from_text(tokenizer, *texts))
    grid, corrupt = result.values, np.float32(result.corrupt_value)
    assert result.clean_value < 0 < result.corrupt_value
    assert (grid[:, 0] == corrupt).all()
    assert (grid[-1, :-1] == corrupt).all()
    assert grid[-1, -1] == np.float32(result.clean_value)
    assert grid[0, 1] < 0 < grid[-2, 1]
    assert grid[0, -1] > 0 > grid[-2, -1]
    swing = corrupt - np.float32(result.clean_value)
    assert np.abs(grid[:, 2:-1] - corrupt).max() < 0.5 * swing


@pytest.mark.parametrize("texts", PAIRS)
def test_the_identities_on_all_four_sentences(gpt2, texts):
    model, tokenizer = gpt2
    pair = PromptPair.from_text(tokenizer, *texts)
    result = patch_sweep(model, pair)
    first = pair.differing[0]
    assert (result.values[:, :first] == np.float32(result.corrupt_value)).all()
    assert (result.values[-1, :-1] == np.float32(result.corrupt_value)).all()
    assert result.values[-1, -1] == np.float32(result.clean_value)


def test_it_has_the_published_sizes(gpt2):
    model, tokenizer = gpt2
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    assert tokenizer.vocab_size == model.config.vocab_size == 50257
    assert not model.training


def test_the_published_figures(gpt2):
    """The same code as mingpt-verify's."""
    model, _ = gpt2
    found = run_verification(model, figures=read_figures("gpt2"), progress=False)
    assert found.off == ()
