"""Multiple-choice benchmarks as cloze texts; importing this package registers its sources."""

from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.benchmarks.question import PartOf
from ttoaa.benchmarks.readers import ParquetQuestions, RecordQuestions, RequestQuestions
from ttoaa.benchmarks.tasks import TaskQuestions

__all__ = [
    "GeneratedQuestions",
    "ParquetQuestions",
    "PartOf",
    "RecordQuestions",
    "RequestQuestions",
    "TaskQuestions",
]
