"""`explain` against its definition, in batches, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from explanation_definition import ask, cases, reference
from helpers import make_model
from hypothesis import given, settings

from patching import (
    Explanation,
    ExplanationError,
    PromptError,
    Question,
    explain,
)
from patching.explanation import alti, logit_attribution, logit_lens


@settings(max_examples=40)
@given(case=cases())
def test_it_is_the_definition(case):
    model, question = case
    found = explain(model, question, rows=5)
    for name, expected in reference(model, question).items():
        np.testing.assert_allclose(
            getattr(found, name), expected, rtol=1e-9, atol=1e-10, err_msg=name
        )
    assert (found.error <= found.tolerance).all()
    assert (found.tolerance < 1e-9).all()


def test_only_what_is_asked_for_is_worked_out(model, monkeypatch):
    whole = explain(model, ask(range(5)))
    monkeypatch.setattr(alti, "contributions", None)
    found = explain(model, ask(range(5)), methods=["direct", "lens"])
    assert found.methods == ("lens", "direct")
    assert found.alti_logit is found.alti_logit_layers is found.contributions is None
    assert found.rollout is found.alti is None
    np.testing.assert_array_equal(found.lens_ids, whole.lens_ids)
    monkeypatch.undo()
    monkeypatch.setattr(logit_lens, "logit_lens", None)
    found = explain(model, ask(range(5)), methods="alti, direct")
    assert found.methods == ("alti", "direct")
    assert found.lens_ids is found.lens_probabilities is found.trajectory is None
    for method in ("alti", "alti-logit"):
        found = explain(model, ask(range(5)), methods=method)
        np.testing.assert_array_equal(found.alti_logit, whole.alti_logit)
    np.testing.assert_array_equal(found.alti, whole.rollout[-1])


def test_progress_adds_up_over_prompts_of_several_lengths(model):
    for methods, total in (("direct", 3 * 13), ("lens,alti", 2 * 3 * 13)):
        seen = []
        questions = [ask(range(5)), ask(range(3)), ask(range(5, 10))]
        explain(model, questions, methods=methods, progress=lambda *x, seen=seen: seen.append(x))
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == ((0, total), (total, total))


def test_the_text_of_tokens(builtin):
    model, tokenizer = builtin
    text = "The keys to the cabinet"
    question = Question.from_text(tokenizer, text, "are", "is")
    found = explain(model, question)
    assert found.text == text
    assert found.text_of(found.target) == " are"
    assert [found.text_of(number) for number in found.ids] == tokenizer.tokens(text)
    assert found.next.top[0].token == " are"
    assert {*found.lens_ids.ravel().tolist()} <= {*found.tokens}
    are, ids = question.target_id, question.ids
    bare = explain(model, Question.from_ids(ids, are, question.foil_id))
    assert bare.text_of(found.target) == f"id:{are}"
    assert bare.text.startswith(f"id:{ids[0]} id:")
    some = dict.fromkeys(ids, "x") | {are: "y"}
    partly = explain(model, Question.from_ids(ids, are, ids[0], some))
    assert partly.text_of(are) == "y"
    others = {*partly.tokens} - {*some}
    assert others
    assert all(partly.text_of(number) == f"id:{number}" for number in others)


def test_several_questions_are_what_each_is_alone(model, monkeypatch):
    numbers = torch.Generator().manual_seed(0)
    lengths = (7, 4, 7, 1, 4, 7)
    questions = [
        Question.from_ids(torch.randint(40, (T,), generator=numbers), number + 1, 9)
        for number, T in enumerate(lengths)
    ]
    stream, batches = model.stream, []
    monkeypatch.setattr(
        model, "stream", lambda ids, tap: batches.append(tuple(ids.shape)) or stream(ids, tap)
    )
    together = explain(model, iter(questions))
    assert sorted(batches) == [(1, 1), (2, 4), (3, 7)]  # prompts of one length in one run
    assert [found.ids.tolist() for found in together] == [[*one.ids] for one in questions]
    for found, question in zip(together, questions, strict=True):
        alone = explain(model, question)
        for f in dataclasses.fields(Explanation):
            got, value = getattr(found, f.name), getattr(alone, f.name)
            assert type(got) is type(value)
            if f.name in ("error", "tolerance"):
                assert got.shape == value.shape
            elif isinstance(value, np.ndarray):
                assert got.shape == value.shape
                np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5, err_msg=f.name)
                assert got.base is None or got.base.nbytes == got.nbytes  # a copy
            elif f.name not in ("seconds", "created"):
                assert got == value, f.name
    assert explain(model, []) == []
    assert len(explain(model, questions[:1])) == 1


def test_the_model_stays_as_it_was(model):
    model(torch.arange(4)[None], record="z")
    recording, logits = model.recording, model.last_logits
    model.train()
    found = explain(model, ask(range(5)))
    assert model.recording is recording
    assert model.last_logits is logits
    assert model.training
    assert found.checksum == model.checksum()
    expected = model.eval()(torch.arange(5)[None])[0][0, -1, [1, 2]].detach()
    np.testing.assert_allclose(explain(model, ask(range(5))).logits, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ids", "target", "foil", "message"),
    [
        (torch.empty(0, dtype=torch.long), 1, 2, "the prompt is empty"),
        (torch.ones(3), 1, 2, "ids must be whole numbers, not tensor"),
        ("the keys", 1, 2, "ids must be whole numbers, not 'the keys'"),
        (torch.ones(3).bool(), 1, 2, "ids must be whole numbers, not tensor"),
        (torch.arange(3), True, 2, "target_id must be whole numbers"),
        (torch.arange(3), " are", 2, r"target_id must be whole numbers, not \(' are'"),
        (torch.arange(3), 1, 1.7, r"foil_id must be whole numbers, not \(1\.7"),
        (torch.ones(1, 3).long(), 1, 2, "ids must be whole numbers"),
        (torch.tensor([-1]), 1, 2, "ids must be 0 or more"),
        (torch.arange(3), 1, -1, "foil_id must be 0 or more"),
        (torch.arange(3), 1, 1, "the same token"),
        (torch.arange(3), [1, 2], 3, "target_id must be whole numbers"),
    ],
)
def test_what_is_no_question(ids, target, foil, message):
    with pytest.raises(PromptError, match=message):
        Question.from_ids(ids, target, foil)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ask(range(13)), "13 tokens, the model reads at most 12"),
        (ask([40]), "ids must be from 0 to 39"),
        (ask([10**30]), "ids must be from 0 to 39"),
        (ask(range(3), 40, 2), "target and foil must be from 0 to 39"),
        (ask(range(3), 10**30, 2), "target and foil must be from 0 to 39"),
        # Made without from_ids, which refuses such questions.
        (Question("", (), 1, 2), "the prompt is empty"),
        (Question("x", (-1,), 1, 2), "ids must be from 0 to 39"),
        (Question("x", (1,), 1, -2), "target and foil must be from 0 to 39"),
        (Question("x", (1,), 1, 1), "the same token"),
    ],
)
def test_what_the_model_cannot_read(model, monkeypatch, question, message):
    monkeypatch.setattr(model, "stream", None)  # a run would fail
    with pytest.raises(ExplanationError, match=message):
        explain(model, question)
    with pytest.raises(ExplanationError, match=rf"^question 1 \(from 0\): .*{message}"):
        explain(model, [ask(range(3)), question])


@pytest.mark.parametrize("wrong", [torch.arange(3), "the keys", 3, None, [1, 2], [ask([1]), None]])
def test_what_is_not_made_by_question(model, wrong):
    with pytest.raises(ExplanationError, match="expected a Question"):
        explain(model, wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": "alti,lense"}, "no method 'lense'; there are alti, alti-logit, logit, lens,"),
        ({"methods": ""}, "no method ''"),
        ({"methods": []}, "no method; there are"),
        ({"methods": None}, "methods are names, not None"),
        ({"methods": [1]}, "no method 1; there are"),
        ({"rows": 0}, "rows must be a whole number of at least 1, not 0"),
        ({"rows": 2**63}, "rows must be a whole number of at least 1, not 9223372036854775808"),
        ({"rows": "x"}, "rows must be a whole number of at least 1, not 'x'"),
    ],
)
def test_bad_settings(model, settings, message):
    with pytest.raises(ExplanationError, match=message):
        explain(model, ask(range(3)), **settings)


def test_too_little_memory_is_an_error_with_advice_that_helps(model, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(alti, "contributions", fail)
    with pytest.raises(ExplanationError, match="ask for fewer methods"):
        explain(model, ask(range(3)))


def test_another_tokens_logit_that_overflows_is_an_error_too():
    model = make_model(tie_word_embeddings=False).half()
    with torch.no_grad():
        x = model.stream(torch.arange(3)[None], lambda layer, site, x: x)
        model.lm_head.weight[7] = 6e4 * model.transformer.ln_f(x[0, -1]).sign()
    with pytest.raises(ExplanationError, match=r"not finite in torch\.float16; use a wider dtype"):
        explain(model, ask(range(3)))


def test_logits_that_overflow_are_an_error(model):
    with torch.no_grad():
        model.transformer.ln_f.weight *= 1e38
    with pytest.raises(ExplanationError, match="not finite"):
        explain(model, ask(range(3)))


def test_an_error_in_a_batch_names_its_question(monkeypatch):
    model = make_model(tie_word_embeddings=False)
    questions = [ask([3, 4]), ask([5]), ask([3, 7])]
    right = logit_attribution.logit_terms

    def wrong(*arguments):
        terms = right(*arguments)
        last_off = terms.mlp + torch.eye(2)[-1][: terms.mlp.size(1), None] * 1e-3  # (L, B, 2)
        return dataclasses.replace(terms, mlp=last_off)

    with monkeypatch.context() as patch:
        patch.setattr(logit_attribution, "logit_terms", wrong)
        with pytest.raises(ExplanationError, match=r"^question 2 \(from 0\): the terms do not add"):
            explain(model, questions)
    with torch.no_grad():
        model.transformer.wte.weight[7] = torch.nan
    with pytest.raises(ExplanationError, match=r"^question 2 \(from 0\): the model's logits are"):
        explain(model, questions)
    with pytest.raises(ExplanationError, match=r"^the model's logits are not finite"):
        explain(model, questions[2])


@pytest.mark.gpt2
def test_the_figures_of_the_authors_notebook(gpt2):
    model, tokenizer = gpt2
    text = "a 12th-century commentary on periegetes by eustathius of thessalonica also"
    question = Question.from_text(tokenizer, text, " compares", " compare")
    assert len(question.ids) == 22
    found = explain(model, question)
    got = [
        *found.logits, found.initial[0], found.bias[:, 0].sum(), found.mlp[:, 0].sum(),
        found.logit[0].sum(), found.final_bias[0],
    ]  # fmt: skip
    expected = [-103.9822, -107.001, 0.9604, -1.72398, -46.90461, -46.2542, -10.0599]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3)
