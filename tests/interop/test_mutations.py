"""Damaged and odd folders and JSON: refused in one line or read right, and never a traceback.

Right means what other code says: `mutations.parse` and `mutations.tensors_in`, and the rules in
`assert_config`. Each `run_…(seed, tries, folder)` can be called with more tries than the test has.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import yaml
from interop.mutations import Tally, dump, mutate_bytes, mutate_value, parse, tensors_in

from ttoaa.benchmarks.readers import RecordQuestions, RequestQuestions
from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.files import TextFiles
from ttoaa.experiments.acquisition.topics import FictionalTexts
from ttoaa.interop.huggingface.config import read_config
from ttoaa.interop.huggingface.weights import get_leaf, load_params, tensor_paths
from ttoaa.interop.olmo import weights as olmo

GOLDEN = pathlib.Path(__file__).parent / "golden"
FILES = ("config.json", "config.yaml", "*.safetensors", "*.index.json")


def copy_model(name, target):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for pattern in FILES:
        for path in (GOLDEN / name).glob(pattern):
            shutil.copy(path, target)
    return target


def assert_config(config, card, content, allowed):
    """Compare what was read with the JSON, by the rules of the documentation."""
    fields = {
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "max_position_embeddings": card.max_position_embeddings,
        "eos_token_id": card.eos_token_id,
        "bos_token_id": card.bos_token_id,
        "pad_token_id": card.pad_token_id,
    }
    rope = [content.get("rope_theta")]
    for name in ("rope_parameters", "rope_scaling"):
        rope.append((content.get(name) or {}).get("rope_theta"))
    bases = {base for base in rope if base is not None} or {1e4}
    assert bases == {config.rope_theta}
    for name, value in fields.items():
        if name in content:
            given = content[name]
            assert type(given) is not bool, name
            assert (float(given) if type(value) is float else given) == value, name
    for value in (config.rope_theta, config.norm_eps, config.init_std):
        assert 0 < np.float32(value) < np.inf
    assert content.keys() <= allowed, content.keys() - allowed


KNOWN = {
    *json.loads((GOLDEN / "plain" / "config.json").read_text()),
    *("rope_theta", "rope_scaling", "torch_dtype", "head_dim"),
}


def assert_weights(config, params, folder):
    raw = {}
    for path in folder.glob("*.safetensors"):
        raw |= tensors_in(path)
    tied = "lm_head.weight" not in raw
    assert raw.keys() == tensor_paths(config).keys() - ({"lm_head.weight"} if tied else set())
    for name, path in tensor_paths(config).items():
        if tied and name == "lm_head.weight":
            continue
        wanted = raw[name] if path == ("embedding",) else raw[name].T
        assert np.isfinite(wanted).all(), f"{name} is not finite"
        np.testing.assert_array_equal(get_leaf(params, path), wanted, name)


def try_folder(tally, cause, folder):
    with tally.one(cause, str(folder)):
        config, card, _ = read_config(folder)
        params = load_params(folder)
        content = parse((folder / "config.json").read_bytes())
        assert_config(config, card, content, KNOWN)
        assert_weights(config, params, folder)


def run_config(seed, tries, folder):
    tally, rng = Tally(), np.random.default_rng(seed)
    for number in range(tries):
        name = ("plain", "grouped", "tied", "one-kv-head-bfloat16")[number % 4]
        path = copy_model(name, folder / "model") / "config.json"
        cause = damage_json(path, rng, number)
        try_folder(tally, f"{name}/config.json: {cause}", path.parent)
    return tally


def damage_json(path, rng, number):
    """Change a value or, in every third try, bytes of the file, and return what was changed."""
    if number % 3:
        value, cause = mutate_value(rng, json.loads(path.read_text()))
        content = dump(value)
    else:
        content, cause = mutate_bytes(rng, path.read_bytes())
    path.write_bytes(content)
    return cause


def run_index(seed, tries, folder):
    tally, rng = Tally(), np.random.default_rng(seed)
    for number in range(tries):
        path = copy_model("grouped", folder / "model") / "model.safetensors.index.json"
        cause = damage_json(path, rng, number)
        try_folder(tally, f"index: {cause}", path.parent)
    return tally


def run_weights(seed, tries, folder):
    """Damage headers and values, and add and remove files."""
    tally, rng = Tally(), np.random.default_rng(seed)
    for number in range(tries):
        name = ("plain", "grouped", "one-kv-head-bfloat16")[number % 3]
        model = copy_model(name, folder / "model")
        files = sorted(model.glob("*.safetensors"))
        path = files[rng.integers(len(files))]
        kind, content = number % 7, path.read_bytes()
        if kind == 5:
            other = model / ("model.safetensors", "model-00001-of-00002.safetensors")[number % 2]
            other.write_bytes(content)
            cause = f"also {other.name}"
        elif kind == 6:
            size = 8 + int.from_bytes(content[:8], "little")
            at = size + 4 * int(rng.integers((len(content) - size) // 4))
            bad = np.array([np.nan, np.inf, -np.inf], np.float32)[rng.integers(3)]
            path.write_bytes(content[:at] + bad.tobytes() + content[at + 4 :])
            cause = f"{bad} at {at}"
        else:
            head = 8 + int.from_bytes(content[:8], "little")
            changed, cause = mutate_bytes(rng, content, head if kind < 4 else None)
            path.write_bytes(changed)
        try_folder(tally, f"{name}/{path.name}: {cause}", model)
    return tally


OLMO_KNOWN = {*yaml.safe_load((GOLDEN / "olmo/config.yaml").read_text())["model"], "rope_theta"}


def run_olmo(seed, tries, folder):
    tally, rng = Tally(), np.random.default_rng(seed)
    original = yaml.safe_load((GOLDEN / "olmo/config.yaml").read_text())
    for number in range(tries):
        model = copy_model("olmo", folder / "model")
        path = model / ("config.yaml", "model.safetensors", "optim.safetensors")[number % 3]
        if number % 3 == 0 and number % 2:
            value, cause = mutate_value(rng, original)
            path.write_bytes(dump(value))  # YAML reads JSON
        else:
            size = int.from_bytes(path.read_bytes()[:8], "little") if number % 3 else None
            content, cause = mutate_bytes(rng, path.read_bytes(), size and 8 + size)
            path.write_bytes(content)
        with tally.one(f"{path.name}: {cause}", str(model)):
            config, card = olmo.read_config(model)
            params = olmo.load_params(model, config)
            olmo.load_moments(model, config)
            content = yaml.safe_load((model / "config.yaml").read_bytes())["model"]
            assert content.keys() <= OLMO_KNOWN, content.keys() - OLMO_KNOWN
            assert (config.layers, config.width) == (content["n_layers"], content["d_model"])
            assert config.norm_eps == float(content.get("layer_norm_eps", 1e-5))
            assert card.eos_token_id == content["eos_token_id"] < config.vocab_size
            embedding = tensors_of_olmo(model)["transformer.wte.weight"]
            np.testing.assert_array_equal(params["embedding"], embedding)
    return tally


def tensors_of_olmo(folder):
    raw = tensors_in(folder / "model.safetensors")
    return {olmo.decode_tensor_name(name): array for name, array in raw.items()}


LINES = [{"text": f"döc {k}", "id": k, "more": {"a": [k, None]}} for k in range(3)]


def run_lines(seed, tries, folder):
    """JSON lines as a source of text: every line has its text, or the file is refused."""
    tally, rng = Tally(), np.random.default_rng(seed)
    path = folder / "a.jsonl"
    for number in range(tries):
        rows = list(LINES)
        if number % 2:
            k = rng.integers(3)
            rows[k], cause = mutate_value(rng, rows[k])
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        if not number % 2:
            content, cause = mutate_bytes(rng, content)
        path.write_bytes(content)
        with tally.one(f"{path.name}: {cause}", str(path)):
            texts = [text for _, text in all_documents(TextFiles([str(path)]))]
            lines = [parse(line) for line in content.split(b"\n") if line.strip()]
            found = [line["text"].removeprefix("\ufeff") for line in lines]
            assert texts == [text for text in found if text.strip()]
    return tally


RECORDS = {
    "piqa": {"goal": "Dry a cup", "sol1": "wipe it", "sol2": "fill it", "label": 0},
    "boolq": {"passage": "Ice - cold.", "question": "is ice cold", "answer": True},
    "mmlu": {"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "algebra"},
    "arc_easy": {
        "question": "?",
        "choices": {"text": ["a", "b"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "hellaswag": {
        **{"ctx_a": "He runs", "ctx_b": "he", "activity_label": "Run", "label": "1"},
        "endings": ["stops.", "falls."],
    },
    "csqa": {"question": "?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"},
    "socialiqa": {
        **{"context": "Al fell.", "question": "Why?", "label": "3"},
        **{"answerA": "a", "answerB": "b", "answerC": "c"},
    },
    "winogrande": {"sentence": "The _ is big.", "option1": "a", "option2": "b", "answer": "2"},
    "openbookqa": {
        **{"question_stem": "?", "answerKey": "A"},
        "choices": {"text": ["a", "b"], "label": ["A", "B"]},
    },
}
REQUEST = {
    "request": {"context": "Dry a cup:", "continuation": " wipe"},
    **{"task_name": "piqa", "doc_id": 0, "idx": 0, "label": 0},
}


def run_records(seed, tries, folder):
    """Benchmarks' records: one question with its texts, or a line that names file and line."""
    tally, rng = Tally(), np.random.default_rng(seed)
    names = [*sorted(RECORDS), "requests"]
    path = folder / "r.jsonl"
    for number in range(tries):
        name = names[number % len(names)]
        value, cause = mutate_value(rng, RECORDS.get(name, REQUEST))
        path.write_bytes(json.dumps(value).encode())
        source = RecordQuestions([str(path)], name) if name in RECORDS else None
        source = source or RequestQuestions([str(path)])
        with tally.one(f"{name}: {cause}", str(path)):
            (question,) = source.questions(1, rng)
            assert all(type(text) is str for text in question.texts)
            assert type(question.label) is int
    return tally


ENTRIES = [
    {
        "train_context": f"The town of A{k} is old.",
        "paraphrases": [f"A{k} is an old town."],
        "gen_input": [f"A{k} is an old"],
        "gen_target": ["town"],
    }
    for k in range(2)
]


def run_topics(seed, tries, folder):
    tally, rng = Tally(), np.random.default_rng(seed)
    path = folder / "t.json"
    for number in range(tries):
        if number % 3:
            value, cause = mutate_value(rng, ENTRIES)
            path.write_bytes(dump(value))
        else:
            content, cause = mutate_bytes(rng, dump(ENTRIES))
            path.write_bytes(content)
        with tally.one(f"topics: {cause}", str(path)):
            source = FictionalTexts(str(path), entries=(0, 1))
            found = source.entities(2, np.random.default_rng(0))
            content = parse(path.read_bytes())
            wanted = {entry["train_context"] for entry in content}
            assert {each.topics[0].texts[0] for each in found} == wanted
    return tally


@pytest.mark.parametrize(
    ("run", "tries", "least_refused"),
    [
        (run_config, 240, 150),
        (run_index, 90, 60),
        (run_weights, 140, 70),
        (run_olmo, 45, 25),
        (run_lines, 400, 150),
        (run_records, 400, 200),
        (run_topics, 200, 100),
    ],
)
def test_nothing_wrong_is_accepted_and_nothing_ends_in_a_traceback(
    run, tries, least_refused, tmp_path
):
    tally = run(0, tries, tmp_path)
    assert not tally.faults, "\n".join(tally.faults[:20])
    assert tally["refused"] >= least_refused and tally["right"] > 0, dict(tally)
    assert tally.total() == tries
