"""Read articles and questions in the file layout of MUSE."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.benchmarks.question import read_records, text_field
from ttoaa.config_fields import Name, config_class
from ttoaa.experiments.muse.articles import (
    FORGET,
    SETS,
    Article,
    ArticleSets,
    QuestionAnswer,
)
from ttoaa.json_io import read_json

_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet", "-*.parquet")


@gin.configurable
@config_class
class MuseFiles:
    """Articles and questions from a folder in the layout of MUSE (Shi et al. 2024).

    Files are named without their ending: `.json` (a list of objects), `.jsonl`, `.jsonl.gz`,
    `.parquet`, or the `-*.parquet` of the Hugging Face hub. Articles have the field `text`;
    questions have `question` and `answer`, and may have `article`, the number of the article's row
    in its set, from 0. Without it, a question is about the article that contains the answer and
    most different words of the question; if none contains the answer, the question is left out.
    """

    folder: Name
    sets: Mapping[str, Name] = dataclasses.field(
        default_factory=lambda: {name: f"raw/{name}" for name in SETS}
    )
    """The file of each set, in the folder."""
    questions: Mapping[str, Name] = dataclasses.field(
        default_factory=lambda: {FORGET: "knowmem/forget_qa"}
    )
    """The file of the questions about a set; the sets that are not named have none."""
    examples: str = "knowmem/forget_qa_icl"
    """The file of solved questions that precede each question; empty: none."""

    def __post_init__(self) -> None:
        if set(self.sets) != set(SETS):
            raise ValueError(f"MuseFiles.sets must name a file of each of {SETS}: {self.sets!r}")
        if unknown := sorted(self.questions.keys() - set(SETS)):
            raise ValueError(f"MuseFiles.questions has {unknown[0]!r}, which is not in {SETS}")

    def read(self, members: int, held_out: int, rng: np.random.Generator) -> ArticleSets:
        """Return all articles, in the order of the files."""
        articles = {}
        for name in SETS:
            found = [
                Article(f"{name}-{k}", _field(record, "text", place))
                for k, (place, record) in enumerate(self._records(self.sets[name]))
            ]
            asked = self._questions(self.questions[name], found) if name in self.questions else {}
            articles[name] = [Article(a.id, a.text, tuple(asked.get(a.id, ()))) for a in found]
        examples = self._records(self.examples) if self.examples else ()
        return ArticleSets(articles, [_question(place, record) for place, record in examples])

    def _questions(
        self, file: str, articles: Sequence[Article]
    ) -> Mapping[str, list[QuestionAnswer]]:
        """Return the questions about each article by its id."""
        about: dict[str, list[QuestionAnswer]] = collections.defaultdict(list)
        texts = [article.text.lower() for article in articles]
        for place, record in self._records(file):
            question = _question(place, record)
            number = record.get("article")
            if number is None:
                number = _find_article(question, texts)
            elif not isinstance(number, int) or not 0 <= number < len(articles):
                raise ValueError(
                    f"{place}: article must be a row number below {len(articles)}, not {number!r}"
                )
            if number is not None:
                about[articles[number].id].append(question)
        return about

    def _records(self, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the place and the fields of each row of a set or a file of questions."""
        for path in self._files(name):
            if path.suffix == ".json":
                rows = read_json(path, list[dict[str, Any]])
                yield from ((f"{path}, row {k}", row) for k, row in enumerate(rows))
            else:
                yield from read_records(path)

    def _files(self, name: str) -> list[pathlib.Path]:
        """Return the one file of this name, or its parts in order."""
        for suffix in _SUFFIXES:
            if found := sorted(pathlib.Path(self.folder).glob(name + suffix)):
                return found
        raise ValueError(
            f"MuseFiles: {self.folder} has no file {name} with one of the endings "
            f"{', '.join(_SUFFIXES)}: set folder, sets, questions or examples"
        )


def _question(place: str, record: Mapping[str, Any]) -> QuestionAnswer:
    return QuestionAnswer(*(_field(record, name, place) for name in ("question", "answer")))


def _field(record: Mapping[str, Any], name: str, place: str) -> str:
    try:
        return text_field(record, name).strip()
    except KeyError:
        raise ValueError(f"{place} has no field {name!r}") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _find_article(question: QuestionAnswer, texts: Sequence[str]) -> int | None:
    """Return the number of the lower-cased text that the question is about; None: of none."""
    answer = question.answer.lower().rstrip(".")
    there = [k for k, text in enumerate(texts) if answer in text]
    asked = set(re.findall(r"\w+", question.question.lower()))
    known = {k: len(asked & set(re.findall(r"\w+", texts[k]))) for k in there}
    return max(there, key=lambda k: known[k], default=None)
