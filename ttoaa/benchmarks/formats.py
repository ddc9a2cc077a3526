"""Ten benchmarks as cloze texts, in the formats of OLMES v0.1 (Gu et al., 2024), without shots.

A record is a dict as TFDS yields it (bytes decoded), or a line of JSON with the benchmark's fields
on the Hugging Face hub. Each format documents the fields that it reads.

The texts are those of OLMES's code (allenai/OLMo-Eval, olmes_v0_1) with two exceptions. TFDS joins
the two parts of HellaSwag's context, so the boundary is a guess (see `hellaswag`). OLMES starts
MMLU's contexts with a line that names the subject; we do not.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from ttoaa.benchmarks.question import Question, Record, integer_field, text_field, texts_field

Cloze = tuple[Sequence[str], Sequence[str], int]
"""(contexts, continuations, label) of a question."""


def _asked(asked: str, options: Sequence[str], label: int, lead: str = "Question: ") -> Cloze:
    contexts = [f"{lead}{asked}\nAnswer:"] * len(options)
    return contexts, [f" {option}" for option in options], label


def _lettered(asked: str, record: Record) -> Cloze:
    """Format choices labelled with letters (in TFDS: their numbers); answerKey is one label."""
    options = texts_field(record["choices"], "text")
    letters, key = list(record["choices"]["label"]), record["answerKey"]
    key = key.strip() if isinstance(key, str) else key
    return _asked(asked, options, letters.index(key) if key in letters else -1)


def arc(record: Record) -> Cloze:
    """Format the fields question, choices {text, label}, answerKey."""
    return _lettered(text_field(record, "question"), record)


def boolq(record: Record) -> Cloze:
    """Format the fields passage, question, and label (SuperGLUE, TFDS) or answer (google/boolq).

    OLMES uses SuperGLUE, whose passages start with their title. The first choice is yes.
    """
    asked = f"{text_field(record, 'question')}?"
    name = "answer" if "answer" in record else "label"
    yes = int(record[name]) if isinstance(record[name], bool) else integer_field(record, name)
    label = {1: 0, 0: 1}.get(yes, -1)
    return _asked(asked, ("yes", "no"), label, f"{text_field(record, 'passage')}\nQuestion: ")


def csqa(record: Record) -> Cloze:
    """Format the hub's commonsense_qa: question, choices {text, label}, answerKey.

    TFDS has the same questions as cos_e: question, choices (a list), answer (a text).
    """
    asked = text_field(record, "question")
    if "answerKey" in record:
        return _lettered(asked, record)
    options, answer = texts_field(record, "choices"), text_field(record, "answer")
    return _asked(asked, options, options.index(answer) if answer in options else -1)


def hellaswag(record: Record) -> Cloze:
    """Format activity_label, endings, label, and ctx_a and ctx_b (hub) or context and source_id.

    OLMES applies `str.capitalize` to ctx_b. WikiHow's texts have no ctx_b; in other texts it ends
    TFDS's context, and we take it to be the part after the last full stop.
    """
    if "ctx_a" in record:
        start = text_field(record, "ctx_a")
        rest = text_field(record, "ctx_b", may_be_empty=True)
    elif text_field(record, "source_id").startswith("wikihow"):
        start, rest = text_field(record, "context"), ""
    else:
        before, stop, rest = text_field(record, "context").rpartition(". ")
        start = before + stop.rstrip()
    activity = text_field(record, "activity_label")
    context = _without_brackets(f"{activity}: {start} {rest.capitalize()}")
    endings = texts_field(record, "endings")
    continuations = [f" {_without_brackets(ending)}" for ending in endings]
    return [context] * len(endings), continuations, integer_field(record, "label")


def _without_brackets(words: str) -> str:
    """Replace WikiHow's [title] with a full stop and remove its other marks, such as [step]."""
    sentences = re.sub(r"\.? \[title\]", ". ", words.strip())
    return re.sub(r"\[.*?\]", "", sentences).replace("  ", " ")


def mmlu(record: Record) -> Cloze:
    """Format question, choices (a list), answer (an index); subject names the benchmark."""
    options = texts_field(record, "choices")
    return _asked(text_field(record, "question").strip(), options, integer_field(record, "answer"))


def openbookqa(record: Record) -> Cloze:
    """Format the hub's question_stem, choices {text, label}, answerKey.

    TFDS has question {stem, choice_A, …, choice_D}, answerKey (a number).
    """
    if "question_stem" in record:
        return _lettered(text_field(record, "question_stem"), record)
    question = record["question"]
    options = [text_field(question, f"choice_{letter}") for letter in "ABCD"]
    return _asked(text_field(question, "stem"), options, integer_field(record, "answerKey"))


def piqa(record: Record) -> Cloze:
    """Format goal, sol1, sol2, label."""
    options = [text_field(record, name) for name in ("sol1", "sol2")]
    return _asked(text_field(record, "goal"), options, integer_field(record, "label"), "Goal: ")


def socialiqa(record: Record) -> Cloze:
    """Format context, question, answerA, answerB, answerC, label (from 1)."""
    options = [text_field(record, f"answer{letter}") for letter in "ABC"]
    asked = f"{text_field(record, 'context')} {text_field(record, 'question')}"
    return _asked(asked, options, integer_field(record, "label") - 1)


def winogrande(record: Record) -> Cloze:
    """Format sentence, option1, option2, and answer (hub, from 1) or label (TFDS, from 0).

    The choices fill a blank, _, and the text after the blank is scored.
    """
    before, blank, after = text_field(record, "sentence").partition("_")
    if not blank:
        raise ValueError("'sentence' must have a blank, _")
    options = [text_field(record, name) for name in ("option1", "option2")]
    label = (
        integer_field(record, "answer") - 1
        if "answer" in record
        else integer_field(record, "label")
    )
    return [before + option for option in options], [f" {after.strip()}"] * 2, label


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """The format of one benchmark."""

    cloze: Callable[[Record], Cloze]
    outcome: str
    """The outcome of `ttoaa.scoring.multiple_choice` that OLMES reports for the cloze format."""
    unconditional: str | None = "Answer:"
    tfds: str | None = None
    """TFDS dataset and version; None: not in TFDS, read JSON lines with RecordQuestions."""
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


def get_benchmark(benchmark: str) -> Benchmark:
    """Return a benchmark by name; ValueError if there is none."""
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no format is named {benchmark!r}: use one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[benchmark]


def reported_outcome(benchmark: str) -> str:
    """Return the outcome that OLMES reports for `benchmark`, also for one subject of MMLU.

    Accepts the names in the files of Bordt et al. (2025): arc-easy, social_i_qa.
    """
    name = benchmark.replace("-", "_").replace("social_i_qa", "socialiqa")
    return get_benchmark("mmlu" if name.startswith("mmlu_") else name).outcome


def format_question(benchmark: str, record: Record, place: int) -> Question:
    """Format record number `place` of a benchmark as a question; MMLU's benchmark is the subject.

    Raises ValueError for a missing or empty field and for a question without an answer.
    """
    entry = get_benchmark(benchmark)
    try:
        contexts, continuations, label = entry.cloze(record)
        kind = f"mmlu_{text_field(record, 'subject')}" if benchmark == "mmlu" else benchmark
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"has no {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
        raise ValueError(f"record {place} of {benchmark} {problem}") from error
    return Question(
        f"{kind}-{place}",
        kind,
        tuple(contexts),
        tuple(continuations),
        label,
        entry.unconditional,
    )
