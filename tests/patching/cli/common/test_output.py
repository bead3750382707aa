"""The names of a command's files."""

import pytest

from patching.cli.common.output import run_name, slug


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("東京", "prompt"), ("", "prompt"), ("../../etc/ $(rm) é Jones", "etc-rm-jones"),
        ("Michelle Jones", "michelle-jones"), ("x" * 50, "x" * 40), ("ab " * 20, "ab-" * 13 + "a"),
    ],
)  # fmt: skip
def test_a_name_is_safe_whatever_the_prompt(text, name):
    assert slug(text) == name


def test_what_defines_a_run_is_in_its_name():
    one, two = (run_name("A b", "z", defining={"seed": seed}) for seed in (0, 1))
    assert one != two
    assert one.startswith("a-b-z-")
    assert one == run_name("A b", "z", defining={"seed": 0})
