"""TFDS's own builders over small files in the form of the originals: only the download is faked."""

import importlib.resources
import json
import pathlib
import sys
from unittest import mock

ARC = {
    "id": "a-1",
    "question": {
        "stem": "Which of these floats on water?",
        "choices": [
            {"text": "a stone", "label": "1"},
            {"text": "a cork", "label": "2"},
            {"text": "a key", "label": "3"},
        ],
    },
    "answerKey": "2",
}
FIVE = {
    "id": "c-1",
    "question": {
        "stem": "Where is bread baked?",
        "choices": [
            {"text": text, "label": label}
            for text, label in zip(("shed", "oven", "field", "mill", "lake"), "ABCDE", strict=True)
        ],
    },
    "answerKey": "B",
}
BOOK = {
    "id": "o-1",
    "question": {
        "stem": "Ice that gets warm",
        "choices": [{"text": text, "label": "A"} for text in ("melts", "burns", "grows", "sings")],
    },
    "answerKey": "A",
    "fact1": "heat melts ice",
    "humanScore": 1.0,
    "clarity": 2.0,
    "turkIdAnonymized": "t",
}
PASSAGE = {
    "passage": "Corks -- Corks are made of bark, and float.",
    "question": "do corks float",
    "idx": 0,
    "label": True,
}
SWAG = {
    "ctx": "A man stands at an oven. he",
    "endings": ["bakes a loaf.", "flies off.", "sinks [step] in water.", "melts."],
    "activity_label": "Baking",
    "label": 0,
    "split_type": "indomain",
    "source_id": "activitynet~v_1",
}
STEPS = {
    "ctx": "[header] How to bake [title] Heat the oven. [step] Wait for it.",
    "activity_label": "Food",
}
PIQA = {"id": "p-1", "goal": "Dry a cup", "sol1": "wipe it", "sol2": "fill it"}
GRANDE = {
    "qID": "w-1",
    "sentence": "The cup fell off the shelf because the _ was slippery.",
    "option1": "cup",
    "option2": "shelf",
    "answer": "2",
}


def _lines(path: pathlib.Path, *records: object) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def originals(root: pathlib.Path) -> None:
    """The files that the builders would download, unpacked."""
    for name in ("ARC-Easy", "ARC-Challenge"):
        for part in ("Train", "Dev", "Test"):
            _lines(root / f"ARC-V1-Feb2018-2/{name}/{name}-{part}.jsonl", ARC)
    for part in ("train", "dev", "test"):
        _lines(root / f"OpenBookQA-V1-Sep2018/Data/Additional/{part}_complete.jsonl", BOOK)
    for part in ("train", "dev"):
        _lines(root / f"physicaliqa-train-dev/{part}.jsonl", PIQA)
        _lines(root / f"physicaliqa-train-dev/{part}-labels.lst", 1)
    for part in ("train_xs", "train_s", "train_m", "train_l", "train_xl", "test", "dev"):
        _lines(root / f"winogrande_1.1/{part}.jsonl", GRANDE)
    for part in ("train", "val", "test"):
        _lines(root / f"BoolQ/{part}.jsonl", PASSAGE)
        _lines(root / f"hellaswag_{part}.jsonl", *_swag())
    for part in ("train_rand_split", "dev_rand_split", "test_rand_split_no_answers"):
        _lines(root / f"{part}.jsonl", FIVE)
    cose = {"id": "c-1", "explanation": {"open-ended": "ovens bake", "selected": "baked"}}
    for part in ("dev", "train"):
        _lines(root / f"cose_{part}_v1.11_processed.jsonl", cose)


def _swag() -> list[dict[str, object]]:
    """One for each split that TFDS makes: of each kind and source."""
    kinds = (SWAG, {**SWAG, **STEPS, "source_id": "wikihow~1"})
    return [{**kind, "split_type": part} for part in ("indomain", "zeroshot") for kind in kinds]


def build(name: str, raw: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Builds the TFDS dataset `name` from `originals(raw)`."""
    import tensorflow_datasets as tfds

    def local(_self: object, urls: object) -> object:
        if isinstance(urls, dict):
            return {key: local(_self, url) for key, url in urls.items()}
        if isinstance(urls, list):
            return [local(_self, url) for url in urls]
        file = raw / str(urls).rsplit("/", 1)[-1]
        return file if file.exists() else raw

    # TFDS 4.9.10 imports importlib_resources to build a dataset, but does not require it.
    sys.modules.setdefault("importlib_resources", importlib.resources)
    with mock.patch.object(tfds.download.DownloadManager, "download_and_extract", local):
        tfds.builder(name, data_dir=str(data_dir)).download_and_prepare()
