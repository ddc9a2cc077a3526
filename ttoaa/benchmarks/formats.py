"""Ten benchmarks as cloze texts, in the formats of OLMES v0.1 (Gu et al., 2024), without shots.

A record is a benchmark's own: a dict as TFDS yields it, bytes decoded, or a line of JSON with the
fields that the benchmark has on the Hugging Face hub. The texts equal those of OLMES's own requests
for the same records, with two reservations. TFDS has HellaSwag's context in one piece, where OLMES
capitalises the first word of its second part: here that is the first word of the last sentence,
and exact where the record has `ctx_a` and `ctx_b`. And OLMES may put a line that names the subject
before MMLU's shots, which is not done here.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttoaa.benchmarks.question import Question

Record = Mapping[str, Any]
Cloze = tuple[Sequence[str], Sequence[str], int]
"""(contexts, continuations, label) of a question's choices."""


def _asked(text: str, options: Sequence[str], label: int, lead: str = "Question: ") -> Cloze:
    contexts = [f"{lead}{text}\nAnswer:"] * len(options)
    return contexts, [f" {option}" for option in options], label


def _lettered(text: str, record: Record) -> Cloze:
    """Choices with letters (or, in TFDS, the letters' numbers), one of which is the key."""
    options, letters = record["choices"]["text"], list(record["choices"]["label"])
    key = record["answerKey"]
    return _asked(text, options, letters.index(key) if key in letters else -1)


def arc(record: Record) -> Cloze:
    return _lettered(record["question"], record)


def boolq(record: Record) -> Cloze:
    """SuperGLUE's: its passages begin with their title. The first choice is yes."""
    text = f"{record['question']}?"
    label = {1: 0, 0: 1}.get(int(record["label"]), -1)
    return _asked(text, ("yes", "no"), label, f"{record['passage']}\nQuestion: ")


def csqa(record: Record) -> Cloze:
    """The hub's commonsense_qa, or TFDS's cos_e, which has the same questions."""
    if "answerKey" in record:
        return _lettered(record["question"], record)
    options = list(record["choices"])
    label = options.index(record["answer"]) if record["answer"] in options else -1
    return _asked(record["question"], options, label)


def hellaswag(record: Record) -> Cloze:
    """An activity and the start of a text about it; the choices go on with it."""
    if "ctx_a" in record:
        start = f"{record['ctx_a']} {record['ctx_b'].capitalize()}"
    else:
        before, stop, last = record["context"].rpartition(". ")
        start = before + stop + last[:1].upper() + last[1:]
    context = _without_brackets(f"{record['activity_label']}: {start}")
    endings = [f" {_without_brackets(ending)}" for ending in record["endings"]]
    return [context] * len(endings), endings, int(record["label"])


def mmlu(record: Record) -> Cloze:
    return _asked(record["question"].strip(), record["choices"], int(record["answer"]))


def openbookqa(record: Record) -> Cloze:
    if "question_stem" in record:  # on the hub
        return _lettered(record["question_stem"], record)
    question = record["question"]
    options = [question[f"choice_{letter}"] for letter in "ABCD"]
    return _asked(question["stem"], options, int(record["answerKey"]))


def piqa(record: Record) -> Cloze:
    options = (record["sol1"], record["sol2"])
    return _asked(record["goal"], options, int(record["label"]), "Goal: ")


def socialiqa(record: Record) -> Cloze:
    options = [record[f"answer{letter}"] for letter in "ABC"]
    label = int(record["label"]) - 1
    return _asked(f"{record['context']} {record['question']}", options, label)


def winogrande(record: Record) -> Cloze:
    """The choices fill a blank, and what follows the blank is scored."""
    before, _, after = record["sentence"].partition("_")
    options = (record["option1"], record["option2"])
    label = int(record["answer"] or 0) - 1 if "answer" in record else int(record["label"])
    return [before + option for option in options], [f" {after.strip()}"] * 2, label


def _without_brackets(text: str) -> str:
    """WikiHow's [title] ends a sentence; its other marks, such as [step], say nothing."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    cloze: Callable[[Record], Cloze]
    outcome: str
    """The one of `ttoaa.scoring.choices` that OLMES reports for the cloze format."""
    unconditional: str | None = "Answer:"
    tfds: str | None = None
    """Dataset in TFDS with its version; None where it has none: RecordQuestions reads lines."""
    split: str = "validation"


BENCHMARKS: Mapping[str, Benchmark] = {
    "arc_easy": Benchmark(arc, "acc_norm", tfds="ai2_arc/ARC-Easy:1.0.0", split="test"),
    "arc_challenge": Benchmark(
        arc, "acc_mutual_info", tfds="ai2_arc/ARC-Challenge:1.0.0", split="test"
    ),
    "boolq": Benchmark(boolq, "acc", None, tfds="super_glue/boolq:1.0.2"),
    "csqa": Benchmark(csqa, "acc_mutual_info", tfds="cos_e:0.0.1"),
    "hellaswag": Benchmark(hellaswag, "acc_norm", tfds="hellaswag:1.1.0"),
    "mmlu": Benchmark(mmlu, "acc_norm"),
    "openbookqa": Benchmark(openbookqa, "acc_mutual_info", tfds="openbookqa:0.1.0", split="test"),
    "piqa": Benchmark(piqa, "acc_norm", tfds="piqa:1.0.0"),
    "socialiqa": Benchmark(socialiqa, "acc_norm"),
    "winogrande": Benchmark(winogrande, "acc", None, tfds="winogrande:1.2.0"),
}


def named(benchmark: str) -> Benchmark:
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no format is named {benchmark!r}: take one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[benchmark]


def question(benchmark: str, record: Record, number: int) -> Question:
    """Record `number` of a benchmark as a question; its benchmark is the subject's for MMLU.

    Raises ValueError for a field that is missing or empty and for a question without answer.
    """
    entry = named(benchmark)
    try:
        contexts, continuations, label = entry.cloze(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"has no {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
        raise ValueError(f"record {number} of {benchmark} {problem}") from error
    kind = f"mmlu_{record['subject']}" if benchmark == "mmlu" else benchmark
    return Question(
        f"{kind}-{number}",
        kind,
        tuple(contexts),
        tuple(continuations),
        label,
        entry.unconditional,
    )
