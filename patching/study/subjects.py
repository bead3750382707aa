"""Subjects of prompts, whose embeddings get noise: read from a file, and given to a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patching.errors import PairsError, StudyError, SweepError
from patching.prompts import PromptPair, Tokenizer
from patching.study.roles import Roles
from patching.study.row_errors import MalformedCellError, UnusableRowError
from patching.study.rows import Row, Table, named_columns
from patching.sweep.gaussian import DRAWS, STD, Gaussian, gaussian

if TYPE_CHECKING:
    from patching.study.pairs_file import Pairs

SUBJECT = "subject"  # the column, or the role, that is read if there is no other choice


@dataclass(frozen=True)
class Subjects:
    """The column or role by which a file names each row's subject."""

    column: str | None  # its words, a part of the clean prompt; None: a role
    role: str = ""

    @classmethod
    def of(cls, table: Table, name: str, roles: str | None) -> Subjects:
        """Return the column of this name, or, where there is none, the role.

        Args:
            roles: where roles are read from; None for no roles.

        Raises:
            PairsError: the file has neither.
        """
        if name in table.columns:
            return cls(name)
        if roles is None:
            raise PairsError(
                f"{table.path} has no column {name!r:.60} of subjects, and no roles are read; found"
                f" {named_columns(table.columns)}"
            )
        return cls(None, name)

    def positions(
        self, tokenizer: Tokenizer, row: Row, clean: str, roles: Roles
    ) -> tuple[int, ...]:
        """Return the positions of the subject's tokens; of words, where the prompt has them first.

        Args:
            clean: the clean prompt, without marks.
            roles: the row's.

        Raises:
            UnusableRowError: the prompt has no such subject.
            MalformedCellError: the cell is no text.
        """
        if self.column is None:
            if self.role not in roles:
                raise UnusableRowError(
                    f"no role {self.role!r:.60}, whose tokens would get the noise"
                )
            return roles[self.role]
        words = row.cells.get(self.column)
        if not isinstance(words, str):
            raise MalformedCellError(f"a subject is a text, not {words!r:.40}")
        if not words.strip():
            raise UnusableRowError("no subject")
        try:
            return gaussian(tokenizer, clean, words).positions
        except SweepError:
            raise UnusableRowError("a subject that is no whole words of the prompt") from None


def noise_on_subjects(
    pairs: Pairs, *, std: str | float = STD, draws: int = DRAWS, seed: int = 0
) -> list[Gaussian]:
    """Return the noise on each pair's subject, for run_study(..., corrupt_by=...).

    Args:
        pairs: from read_pairs(..., subject="subject").
        std, draws, seed: as Gaussian.

    Raises:
        StudyError: the pairs were read without their subjects.
        SweepError: a number out of its range.
    """
    subjects = getattr(pairs, "subjects", None)
    if subjects is None:
        raise StudyError(
            "the pairs have no subjects: read them with read_pairs(..., subject=COLUMN), or make a"
            " list with gaussian(...) of each pair"
        )
    return [Gaussian(positions, std, draws, seed) for positions in subjects]


def settings_of(
    noise: Sequence[Gaussian] | None, pairs: Sequence[PromptPair]
) -> tuple[str | None, str, int, int]:
    """Return StudyRequest's corrupt_by, noise_std, noise_draws and noise_seed.

    Raises:
        StudyError: something else than a Gaussian for each pair, all with the same settings.
    """
    if noise is None:
        return None, STD, DRAWS, 0
    several: list[object] = list(noise) if isinstance(noise, Sequence) else [noise]
    if len(several) != len(pairs) or not all(isinstance(one, Gaussian) for one in several):
        raise StudyError(
            f"corrupt_by is a list with a Gaussian for each of the {len(pairs)} pairs, as"
            " noise_on_subjects(pairs) returns it"
        )
    settings = [(str(one.std), one.draws, one.seed) for one in noise]
    other = next((number for number, one in enumerate(settings) if one != settings[0]), None)
    if other is not None:
        raise StudyError(
            f"the noise of pair {other} (from 0) has another std, number of draws or seed than"
            " that of pair 0: a study has one"
        )
    return "gaussian", *settings[0]
