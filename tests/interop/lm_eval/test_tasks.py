"""Local tasks of lm-evaluation-harness itself, item by item against our own primitives."""

import functools
import json
import sys

import datasets
import lm_eval
import lm_eval.tasks
import numpy as np
import pytest
from interop.lm_eval.torch_model import TEXT, loud_params, write_checkpoints
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ttoaa.benchmarks.question import Question
from ttoaa.interop.lm_eval import __main__ as harness
from ttoaa.interop.lm_eval.model import CheckpointLM, cut_at_stops
from ttoaa.scoring.generation import generate
from ttoaa.scoring.likelihood import log_likelihoods
from ttoaa.scoring.multiple_choice import accuracies, score_questions
from ttoaa.scoring.requests import Sampling

LENGTH = 64
METRICS = ("acc", "acc_norm", "acc_mutual_info")
NEW_TOKENS = 8
COMMON = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
"""
CHOOSE = """
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_mutual_info}]
"""
WRITE = f"""
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{wanted}}}}"
generation_kwargs: {{until: [" a"], max_gen_toks: {NEW_TOKENS}, do_sample: null}}
metric_list: [{{metric: exact_match}}]
"""
ROLL = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
"""


def words(rng, low, high):
    return " ".join(rng.choice(TEXT.split(), rng.integers(low, high)))


@pytest.fixture(scope="module")
def root(make_workdir):
    workdir = make_workdir()
    write_checkpoints(workdir, loud_params())
    return workdir.root


@pytest.fixture(scope="module")
def lm(root):
    return CheckpointLM(workdir=str(root), max_length=LENGTH)


@pytest.fixture(scope="module")
def questions():
    rng = np.random.default_rng(0)
    made = []
    for number in range(20):
        options = sorted({words(rng, 1, 4) for _ in range(4)})
        context = f"{words(rng, 2, 8)}\nAnswer:"
        continuations = tuple(f" {option}" for option in options)
        label = int(rng.integers(len(options)))
        one = Question(str(number), "local", (context,) * len(options), continuations, label)
        made.append(one)
    return made


@pytest.fixture(scope="module")
def texts():
    """Shorter than a window, about one, and several with a rest."""
    rng = np.random.default_rng(1)
    return [words(rng, n, n + 1) for n in (1, 9, 14, 22, 40, 61)]


@pytest.fixture(scope="module")
def written(lm, texts):
    """What greedy decoding makes of each text, by our own means."""
    model, tokenizer = lm.model, lm.model.tokenizer
    prompts = [tokenizer.encode(text)[-(LENGTH - NEW_TOKENS) :] for text in texts]
    ends = ((tokenizer.eos_id,), tuple(lm.tok_encode(" a")))
    new = generate(model.config, model.params, prompts, Sampling(NEW_TOKENS, stop=ends))
    return [cut_at_stops(tokens, tokenizer, [" a"]) for tokens in new]


@pytest.fixture(scope="module")
def tasks(questions, texts, written, tmp_path_factory):
    """A folder of three tasks; offline, with the harness's copies in a folder of their own."""
    folder = tmp_path_factory.mktemp("tasks")
    bare = [[option.removeprefix(" ") for option in q.continuations] for q in questions]
    docs = {
        "choose": (
            CHOOSE,
            [
                {"context": q.contexts[0], "choices": choices, "gold": q.label}
                for q, choices in zip(questions, bare, strict=True)
            ],
        ),
        "write": (
            WRITE,
            [
                {"prompt": text, "wanted": made if number % 2 else f"{made}?"}
                for number, (text, made) in enumerate(zip(texts, written, strict=True))
            ],
        ),
        "roll": (ROLL, [{"text": text} for text in texts]),
    }
    for name, (yaml, rows) in docs.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(COMMON.format(name=name, path=path) + yaml)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield folder


@pytest.fixture(scope="module")
def found(lm, tasks):
    """By task, (results, samples in order)."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = ["choose", "write", "roll"]
    options = {"bootstrap_iters": 0, "num_fewshot": 0, "log_samples": True}
    out = lm_eval.simple_evaluate(model=lm, tasks=names, task_manager=manager, **options)
    by_number = {n: sorted(out["samples"][n], key=lambda s: s["doc_id"]) for n in names}
    return {name: (out["results"][name], by_number[name]) for name in names}


def answers(samples):
    return [sample["filtered_resps"] for sample in samples]


def test_choices_are_ours_item_by_item(lm, questions, found):
    results, samples = found["choose"]
    model = lm.model
    table = score_questions(
        lambda requests: log_likelihoods(model.config, model.params, requests),
        model.tokenizer,
        questions,
        unconditional="",
    )
    for (_, rows), sample in zip(table.groupby("item", sort=False), samples, strict=True):
        wanted = [*rows["log_likelihood"], *rows["unconditional"]]
        assert [answer[0] for answer in sample["filtered_resps"]] == wanted
    right = accuracies(table).pivot(index="item", columns="outcome", values="value")
    right = right.loc[[q.id for q in questions]]
    for metric in METRICS:
        assert [sample[metric] for sample in samples] == right[metric].tolist()
        assert results[f"{metric},none"] == right[metric].mean()
    assert 0 < right["acc"].mean() < 1 and (right["acc"] != right["acc_norm"]).any()


def test_texts_are_ours_item_by_item(written, found):
    results, samples = found["write"]
    assert [sample["filtered_resps"] for sample in samples] == [[text] for text in written]
    assert len(set(written)) > 3
    assert [sample["exact_match"] for sample in samples] == [0.0, 1.0] * 3
    assert results["exact_match,none"] == 0.5


def test_whole_texts_are_scored_in_the_harness_own_windows(lm, texts, found):
    _, samples = found["roll"]
    model = lm.model
    lengths = []
    for text, sample in zip(texts, samples, strict=True):
        ids = lm.tok_encode(text)
        lengths.append(len(ids))
        pairs = get_rolling_token_windows(ids, lm.prefix_token_id, LENGTH, context_len=1)
        requests = [
            (np.array([*head, *tail]), len(head)) for head, tail in map(make_disjoint_window, pairs)
        ]
        scores = log_likelihoods(model.config, model.params, requests)
        assert sum(map(len, scores)) == len(ids)
        total = sum(float(score.sum(dtype=float)) for score in scores)
        assert sample["filtered_resps"] == [pytest.approx(total, rel=1e-6)]
    assert min(lengths) < LENGTH < 2 * LENGTH < max(lengths)


def test_the_command_runs_a_task(tasks, root, found, tmp_path, monkeypatch, capsys):
    """As python -m ttoaa.interop.lm_eval does, of a folder whose name is a number."""
    (tmp_path / "2024").symlink_to(root / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttoaa.training.topology.pin_cores", lambda: None)
    # To read the harness's own thousands of tasks takes long.
    quick = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", quick)
    options = [f"--include_path={tasks}", "--tasks=choose", "--limit=5", "--output_path=out"]
    arguments = ["--folder=2024", f"--max_length={LENGTH}", *options, "--log_samples"]
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    harness.main()
    assert "choose" in capsys.readouterr().out
    (path,) = (tmp_path / "out").rglob("samples_choose_*.jsonl")
    rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["doc_id"])
    wanted = [[value for value, _ in each] for each in answers(found["choose"][1][:5])]
    assert [[float(value) for value, _ in each] for each in answers(rows)] == wanted
