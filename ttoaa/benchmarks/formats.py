"""Ten benchmarks as cloze texts, in the formats of OLMES v0.1 (Gu et al., 2024), without shots.

A record is a benchmark's own: a dict as TFDS yields it, bytes decoded, or a line of JSON with the
fields that the benchmark has on the Hugging Face hub. Each format names the fields that it reads.

The texts are those that OLMES's code (allenai/OLMo-Eval, olmes_v0_1) makes of the same records, but
for two things. TFDS has HellaSwag's context in one piece: where its second part begins is a guess
(see `hellaswag`). And OLMES opens MMLU's contexts with a line that names the subject, which is not
done here.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from ttoaa.benchmarks.question import Question
from ttoaa.benchmarks.records import Record, number, text, texts

Cloze = tuple[Sequence[str], Sequence[str], int]
"""(contexts, continuations, label) of a question's choices."""


def _asked(asked: str, options: Sequence[str], label: int, lead: str = "Question: ") -> Cloze:
    contexts = [f"{lead}{asked}\nAnswer:"] * len(options)
    return contexts, [f" {option}" for option in options], label


def _lettered(asked: str, record: Record) -> Cloze:
    """Choices with letters (or, in TFDS, the letters' numbers), one of which is the key."""
    options = texts(record["choices"], "text")
    letters, key = list(record["choices"]["label"]), record["answerKey"]
    key = key.strip() if isinstance(key, str) else key
    return _asked(asked, options, letters.index(key) if key in letters else -1)


def arc(record: Record) -> Cloze:
    """question, choices {text, label}, answerKey."""
    return _lettered(text(record, "question"), record)


def boolq(record: Record) -> Cloze:
    """passage, question, and label (SuperGLUE's, as in TFDS) or answer (google/boolq's).

    OLMES takes SuperGLUE's, whose passages begin with their title. The first choice is yes.
    """
    asked = f"{text(record, 'question')}?"
    yes = number(record, "answer" if "answer" in record else "label")
    label = {1: 0, 0: 1}.get(yes, -1)
    return _asked(asked, ("yes", "no"), label, f"{text(record, 'passage')}\nQuestion: ")


def csqa(record: Record) -> Cloze:
    """The hub's commonsense_qa: question, choices {text, label}, answerKey.

    Or TFDS's cos_e, which has the same questions: question, choices (a list), answer (a text).
    """
    asked = text(record, "question")
    if "answerKey" in record:
        return _lettered(asked, record)
    options, answer = texts(record, "choices"), text(record, "answer")
    return _asked(asked, options, options.index(answer) if answer in options else -1)


def hellaswag(record: Record) -> Cloze:
    """activity_label, endings, label, and ctx_a and ctx_b (the hub's) or context and source_id.

    The choices go on with a text about an activity. OLMES capitalises ctx_b as `str.capitalize`
    does. WikiHow's texts have none; of the others, TFDS's context ends with it, and it is taken to
    be what follows the last full stop.
    """
    if "ctx_a" in record:
        start = text(record, "ctx_a")
        rest = text(record, "ctx_b", may_be_empty=True)
    elif text(record, "source_id").startswith("wikihow"):
        start, rest = text(record, "context"), ""
    else:
        before, stop, rest = text(record, "context").rpartition(". ")
        start = before + stop.rstrip()
    activity = text(record, "activity_label")
    context = _without_brackets(f"{activity}: {start} {rest.capitalize()}")
    endings = texts(record, "endings")
    continuations = [f" {_without_brackets(ending)}" for ending in endings]
    return [context] * len(endings), continuations, number(record, "label")


def _without_brackets(words: str) -> str:
    """WikiHow's [title] ends a sentence; its other marks, such as [step], say nothing."""
    sentences = re.sub(r"\.? \[title\]", ". ", words.strip())
    return re.sub(r"\[.*?\]", "", sentences).replace("  ", " ")


def mmlu(record: Record) -> Cloze:
    """question, choices (a list), answer (the number of one); and subject, see `question`."""
    options = texts(record, "choices")
    return _asked(text(record, "question").strip(), options, number(record, "answer"))


def openbookqa(record: Record) -> Cloze:
    """The hub's: question_stem, choices {text, label}, answerKey.

    Or TFDS's: question {stem, choice_A, …, choice_D}, answerKey (a number).
    """
    if "question_stem" in record:
        return _lettered(text(record, "question_stem"), record)
    question = record["question"]
    options = [text(question, f"choice_{letter}") for letter in "ABCD"]
    return _asked(text(question, "stem"), options, number(record, "answerKey"))


def piqa(record: Record) -> Cloze:
    """goal, sol1, sol2, label."""
    options = [text(record, name) for name in ("sol1", "sol2")]
    return _asked(text(record, "goal"), options, number(record, "label"), "Goal: ")


def socialiqa(record: Record) -> Cloze:
    """context, question, answerA, answerB, answerC, label (from 1)."""
    options = [text(record, f"answer{letter}") for letter in "ABC"]
    asked = f"{text(record, 'context')} {text(record, 'question')}"
    return _asked(asked, options, number(record, "label") - 1)


def winogrande(record: Record) -> Cloze:
    """sentence, option1, option2, and answer (the hub's, from 1) or label (TFDS's, from 0).

    The choices fill a blank, _, and what follows the blank is scored.
    """
    before, blank, after = text(record, "sentence").partition("_")
    if not blank:
        raise ValueError("'sentence' must have a blank, _")
    options = [text(record, name) for name in ("option1", "option2")]
    label = number(record, "answer") - 1 if "answer" in record else number(record, "label")
    return [before + option for option in options], [f" {after.strip()}"] * 2, label


@dataclasses.dataclass(frozen=True)
class Benchmark:
    cloze: Callable[[Record], Cloze]
    outcome: str
    """The one of `ttoaa.scoring.multiple_choice` that OLMES reports for the cloze format."""
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


def outcome(benchmark: str) -> str:
    """What OLMES reports for a question of `benchmark`, be it MMLU's of one subject.

    Names may be as in the files of Bordt et al. (2025): arc-easy, social_i_qa.
    """
    name = benchmark.replace("-", "_").replace("social_i_qa", "socialiqa")
    return named("mmlu" if name.startswith("mmlu_") else name).outcome


def question(benchmark: str, record: Record, place: int) -> Question:
    """Record number `place` of a benchmark as a question; its benchmark is the subject's for MMLU.

    Raises ValueError for a field that is missing or empty and for a question without answer.
    """
    entry = named(benchmark)
    try:
        contexts, continuations, label = entry.cloze(record)
        kind = f"mmlu_{text(record, 'subject')}" if benchmark == "mmlu" else benchmark
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
