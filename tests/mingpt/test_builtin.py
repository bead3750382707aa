"""The shipped model: its files, its grammar, its answers, and the picture it gives."""

import sys
from random import Random

import numpy as np
import pytest
import torch
from helpers import ROOT

from mingpt.loading.sources import BUILTIN_DIRECTORY
from patching import PromptPair, patch_sweep
from patching.cli.patch import EXAMPLE
from patching.study.generators import words

sys.path.insert(0, str(ROOT / "scripts"))
from builtin_model import evaluate, grammar

DEMONSTRATIONS = [  # one for each family of the grammar: prompt, answer, the other answer
    ("Michelle Jones was a top-notch student. Michelle", " Jones", " Smith"),
    ("When Mary and John went to the store, John gave a drink to", " Mary", " John"),
    ("When John and Mary went to the store, John gave a drink to", " Mary", " John"),
    ("The capital of France is", " Paris", " Berlin"),
    ("Paris is the capital of", " France", " Germany"),
    ("The keys to the cabinet", " are", " is"),
    ("The key to the cabinets", " is", " are"),
    ("This summer, unlike the previous winter, is being extremely", " hot", " cold"),
    ("This winter, unlike the previous summer, is being extremely", " cold", " hot"),
    ("Michelle said that", " she", " he"),
    ("John said that", " he", " she"),
]


def test_the_files_are_small_and_complete(builtin):
    files = {path.name: path.stat().st_size for path in BUILTIN_DIRECTORY.iterdir()}
    assert files.keys() == {
        "README.md",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "vocab.json",
    }
    assert sum(files.values()) < 8e6
    model, _ = builtin
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6
    assert model.config.block_size == 128


@pytest.mark.parametrize(("prompt", "answer", "other"), DEMONSTRATIONS)
def test_demonstrations(builtin, prompt, answer, other):
    model, tokenizer = builtin
    model(tokenizer(prompt))
    logits = model.last_logits[0]
    right, wrong = (tokenizer.encode(text)[0] for text in (answer, other))
    assert logits[right] > logits[wrong]
    assert tokenizer.token(logits.argmax().item()) == answer


def test_names_and_places_are_one_token_in_both_spellings(builtin):
    _, tokenizer = builtin
    assert len(words.FEMALE) + len(words.MALE) >= 150
    assert len(set(words.SURNAMES)) >= 150
    places = (*words.CAPITALS, *words.CAPITALS.values())
    for word in (*words.FIRST_NAMES, *words.SURNAMES, *places):
        assert len(tokenizer.encode(word)) == len(tokenizer.encode(" " + word)) == 1


@pytest.mark.parametrize("family", grammar.FAMILIES)
@pytest.mark.parametrize("test", [False, True])
def test_the_held_out_combinations_are_for_testing_only(monkeypatch, family, test):
    """Record what each family asks the split; it draws again until the answer is right."""
    answers = []
    real = grammar.held_out

    def watched(*words, **more):
        answers.append(real(*words, **more))
        return answers[-1]

    monkeypatch.setattr(grammar, "held_out", watched)
    monkeypatch.setattr(grammar, "filler", lambda *arguments: None)
    random = Random(0)
    seen = set()
    for _ in range(200):
        answers.clear()
        grammar.FAMILIES[family][0](grammar.Document(), random, test)
        assert answers[-1] == test
        seen.update(answers)
    assert seen == {True, False}


def test_no_held_out_name_is_in_the_training_text():
    random = Random(0)
    texts = [grammar.training_document(random).text for _ in range(5000)]
    for clean, corrupt, *_ in grammar.name_pair_prompts(20, seed=0):
        for prompt in (clean, corrupt):
            name = " ".join(prompt.split()[:2])
            assert not any(name in text for text in texts)


@pytest.mark.parametrize("family", grammar.FAMILIES)
def test_held_out_accuracy(builtin, family):
    """Test on 100 prompts; scripts/train_builtin.py --evaluate takes 500."""
    accuracy = evaluate.accuracy(*builtin, family, count=100)
    assert accuracy >= 0.93  # the card says 0.95 or more of 500; 100 scatter by 0.02


@pytest.mark.parametrize("second_person", [False, True])
def test_the_picture_is_the_one_that_the_readme_describes(builtin, second_person):
    grid = evaluate.recovery(*builtin, second_person=second_person, count=60)
    T = grid.size(1)
    assert torch.equal(grid[:, 0], torch.zeros(len(grid)))
    assert grid[0, 1] >= 0.8
    assert grid[-1, 1] == 0
    assert grid[0, -1] <= 0.2
    assert grid[-1, -1] == 1
    assert grid[:, 2 : T - 1].abs().max() < 0.1


def test_the_example_itself(builtin):
    model, tokenizer = builtin
    result = patch_sweep(model, PromptPair.from_text(tokenizer, **EXAMPLE))
    assert result.clean_value < 0 < result.corrupt_value
    grid = result.values
    assert (grid[:, 0] == np.float32(result.corrupt_value)).all()
    assert grid[0, 1] < 0 < grid[-1, 1]
    assert grid[0, -1] > 0 > grid[-1, -1]


def test_positions_up_to_the_last_are_trained(builtin):
    """Ask the same question at the end of the context as at its start."""
    model, tokenizer = builtin
    question = tokenizer.encode("The capital of France is")
    filler = tokenizer.encode("The keys to the cabinet are very old. ".strip())
    ids = (filler * 20)[: model.config.block_size - len(question)]
    end = tokenizer.vocab["<|endoftext|>"]
    ids[-1] = end
    model(torch.tensor([ids + question]))
    assert tokenizer.token(model.last_logits[0].argmax().item()) == " Paris"
