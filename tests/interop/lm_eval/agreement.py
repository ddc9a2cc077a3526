"""lm-evaluation-harness with torch, with our adapter, and our own choices: one JSON line a file.

    python -m tests.interop.lm_eval.agreement --workdir=runs/mine --run=control \\
        --requests=arc_easy_test_rc_5shot.jsonl.gz [--requests=…] [--limit=300]

(needs pip install 'ttoaa[hf]'). A run's checkpoint is exported to Hugging Face. The
questions of each file become a local multiple-choice task of the harness, which its own torch model
and the adapter answer; `ttoaa.scoring.multiple_choice` does so without the harness where no
context is cut.
Two answers to a question may differ only where torch's two best options lie within 1e-4: those are
listed, any other is a failure, and the exit code says so. The contexts also serve as whole texts
(rolling log-likelihood, in windows) and as prompts (greedy text up to the first line's end). The
harness refuses a continuation of more tokens than --max_length, the training rows' by default.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

import numpy as np

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import datasets
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    sys.exit(f"harness_agreement: {error.name} is missing: pip install 'ttoaa[hf]'")

from ttoaa.benchmarks.readers import RequestQuestions
from ttoaa.interop.convert import export_huggingface
from ttoaa.interop.lm_eval.model import CheckpointLM
from ttoaa.scoring.likelihood import log_likelihoods
from ttoaa.scoring.multiple_choice import accuracies, score_questions

METRICS = ("acc", "acc_norm", "acc_mutual_info")
NEAR = 1e-4
YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_mutual_info}}]
"""


def write_task(name, questions, folder):
    """A task of the harness; it puts one space between context and choice."""
    path = folder / f"{name}.jsonl"
    with open(path, "w") as file:
        for q in questions:
            choices = [text.removeprefix(" ") for text in q.continuations]
            assert len(set(q.contexts)) == 1 and [f" {c}" for c in choices] == [*q.continuations]
            doc = {"context": q.contexts[0], "choices": choices, "gold": q.label}
            file.write(json.dumps(doc) + "\n")
    (folder / f"{name}.yaml").write_text(YAML.format(name=name, path=path))


def samples(lm, name, folder):
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    options = {"task_manager": tasks, "bootstrap_iters": 0, "num_fewshot": 0, "log_samples": True}
    found = lm_eval.simple_evaluate(model=lm, tasks=[name], **options)["samples"][name]
    return sorted(found, key=lambda sample: sample["doc_id"])


def merits(sample):
    """By metric, what each option is chosen by."""
    raw = np.array([answer[0] for answer in sample["filtered_resps"]], float)
    choices = sample["doc"]["choices"]
    bound, free = raw[: len(choices)], raw[len(choices) :]
    assert len(free) == len(choices), "the harness gave no unconditional log-likelihoods"
    lengths = [len(choice) for choice in choices]
    return dict(zip(METRICS, (bound, bound / lengths, bound - free), strict=True))


def compare(theirs, right):
    """Of `theirs` samples and, by metric, whether each is right elsewhere."""
    equal, listed, wrong = dict.fromkeys(METRICS, 0), [], []
    for number, sample in enumerate(theirs):
        for metric, merit in merits(sample).items():
            second, best = np.sort(merit)[-2:]
            if right[metric][number] == sample[metric]:
                equal[metric] += 1
            else:
                (listed if best - second < NEAR else wrong).append([metric, number, best - second])
    return {"equal": equal, "near_ties": listed, "disagree": wrong}


def answers(found):
    return np.array([answer for sample in found for answer in sample["filtered_resps"]], float)


def own_choices(lm, questions):
    """(log-likelihoods as the harness orders them, right by metric) without the harness."""
    model = lm.model

    def score(requests):
        return log_likelihoods(model.config, model.params, requests)

    table = score_questions(score, model.tokenizer, questions, unconditional="")
    flat = [
        part[name].to_numpy()
        for _, part in table.groupby("item", sort=False)
        for name in ("log_likelihood", "unconditional")
    ]
    values = accuracies(table).pivot(index="item", columns="outcome", values="value")
    return np.concatenate(flat), values.loc[[q.id for q in questions]]


def texts(theirs, ours, contexts):
    """(largest difference of a text's log-likelihood a token, share of equal greedy texts)."""
    how = {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}
    kinds = {"loglikelihood_rolling": lambda c: (c * 3,), "generate_until": lambda c: (c, how)}
    made = {
        kind: [Instance(kind, {}, arguments(c), n) for n, c in enumerate(contexts)]
        for kind, arguments in kinds.items()
    }
    rolling, greedy = ([getattr(lm, kind)(made[kind]) for lm in (theirs, ours)] for kind in kinds)
    lengths = [len(ours.tok_encode(context * 3)) for context in contexts]
    error = np.abs(np.subtract(*rolling)) / lengths
    return float(error.max()), float(np.mean([a == b for a, b in zip(*greedy, strict=True)]))


def agree(path, theirs, ours, folder, limit, prompts):
    questions = RequestQuestions([path]).questions(1, np.random.default_rng(0))[:limit]
    name = pathlib.Path(path).name.split(".")[0]
    write_task(name, questions, folder)
    torch_samples, our_samples = (samples(lm, name, folder) for lm in (theirs, ours))
    pair = answers(torch_samples), answers(our_samples)
    right = {metric: [sample[metric] for sample in our_samples] for metric in METRICS}
    whole = [
        number
        for number, q in enumerate(questions)
        if max(len(ours.tok_encode(text)) for text in q.texts) <= ours.max_length + 1
    ]
    if not whole:
        sys.exit(f"harness_agreement: all contexts of {path} are cut: raise --max_length")
    own, own_right = own_choices(ours, [questions[number] for number in whole])
    uncut = answers([torch_samples[number] for number in whole])[:, 0]
    rolling, greedy = texts(theirs, ours, [q.contexts[0] for q in questions[:prompts]])
    return {
        "file": name,
        "items": len(questions),
        "log_likelihoods": len(pair[0]),
        "cut_items": len(questions) - len(whole),
        "accuracy": {m: float(np.mean([s[m] for s in torch_samples])) for m in METRICS},
        "adapter": compare(torch_samples, right),
        "adapter_log_likelihood": float(np.abs(pair[0][:, 0] - pair[1][:, 0]).max()),
        "adapter_greedy_differs": int((pair[0][:, 1] != pair[1][:, 1]).sum()),
        "own_items": len(whole),
        "own": compare([torch_samples[n] for n in whole], own_right.to_dict("list")),
        "own_log_likelihood": float(np.abs(own - uncut).max()),
        "rolling_log_likelihood_a_token": rolling,
        "greedy_texts_equal": greedy,
        "prompts": prompts,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--run", default="run")
    parser.add_argument("--step", type=int)
    parser.add_argument("--requests", action="append", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max_length", type=int)
    options = parser.parse_args()
    length = {"max_length": options.max_length}
    where = {"workdir": options.workdir, "run": options.run, "step": options.step}
    ours, failed = CheckpointLM(**where, **length), False
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        source = pathlib.Path(options.workdir) / options.run
        export_huggingface(source, folder / "hf", options.step, "float32", 10**10)
        torch = {"dtype": "float32", "device": "cpu", "batch_size": 4}
        theirs = HFLM(pretrained=str(folder / "hf"), **torch, **length)
        for path in options.requests:
            result = agree(path, theirs, ours, folder, options.limit, options.prompts)
            failed |= bool(result["adapter"]["disagree"] or result["own"]["disagree"])
            print(json.dumps(result), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
