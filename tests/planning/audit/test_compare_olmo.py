"""The audit on another run's token files in its own order: read as the formats are documented."""

import dataclasses
import json

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE
from ttoaa.planning.audit import compare
from ttoaa.planning.audit.compare import load_shares
from ttoaa.planning.audit.reference_reader import PlainReader, differences
from ttoaa.planning.items import Item
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir

LENGTH, TRAIN = 16, 48


@pytest.fixture(params=["raw uint16", "raw uint32", "npy uint32"])
def study_of_olmo(request, tmp_path, tiny_study):
    """(workdir, plan): three files of 40, 7 and 21 instances, 64 of them in the order."""
    kind, dtype = request.param.split()
    rng, files = np.random.default_rng(5), []
    (tmp_path / "tokenizer.json").write_bytes(TrainBPE(300, reserved=10).make(["some text"]))
    write = np.save if kind == "npy" else (lambda file, array: array.tofile(file))
    for size in (LENGTH * 40 + 3, LENGTH * 7, LENGTH * 21 + 15):
        files.append(str(tmp_path / f"part-{len(files)}.npy"))
        with open(files[-1], "wb") as file:
            write(file, rng.integers(0, 257, size).astype(dtype))
    with open(tmp_path / "global_indices.npy", "wb") as file:
        write(file, rng.permutation(68)[:64].astype(np.uint32))
    corpus = OlmoCorpus(
        files,
        str(tmp_path / "global_indices.npy"),
        ExistingTokenizer(str(tmp_path / "tokenizer.json")),
        eos_id=0,
        dtype=dtype,
        length=LENGTH,
        first=2,
        train_windows=TRAIN,
    )
    workdir = Workdir(tmp_path / "study")
    corpus.make(workdir.corpus)
    items = (Item("slot", "kept", 4, slot=5), Item("mark", "seen", 4, mark=6))
    study = dataclasses.replace(
        tiny_study,
        prepare=corpus,
        model=dataclasses.replace(tiny_study.model, vocab_size=384),
        geometry=Geometry(length=LENGTH, batch=4, steps=30),
        experiments=(Planted("planted", windows=3), Given("given", items=items)),
        validation_sequences=2,
    )
    return workdir, StudyHandle(study, workdir).make_plan()[0]


def changed(workdir, folder, **numbering):
    """The corpus with another numbering, for the loader alone."""
    manifest = json.loads((workdir.corpus / "manifest.json").read_text())
    manifest["numbering"].update(numbering)
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "tokenizer.json").write_bytes((workdir.corpus / "tokenizer.json").read_bytes())
    return Corpus.open(folder, verify=False)


def test_no_difference_in_any_epoch(study_of_olmo):
    workdir, plan = study_of_olmo
    assert plan.contents["order"]["first_in_order"] and plan.geometry.sequences > 2 * TRAIN
    assert compare.audit(workdir, 30, 0, hosts=[1, 3]).endswith("no difference")


def test_two_numbers_of_the_order_file_swapped_are_found(study_of_olmo, tmp_path):
    workdir, plan = study_of_olmo
    numbering = json.loads((workdir.corpus / "manifest.json").read_text())["numbering"]
    content = bytearray((tmp_path / "global_indices.npy").read_bytes())
    at = numbering["offset"] + 4 * (2 + 9)  # windows 9 and 10, that is rows 9 and 10 of epoch 0
    content[at : at + 8] = content[at + 4 : at + 8] + content[at : at + 4]
    (tmp_path / "swapped.npy").write_bytes(content)
    loader = changed(workdir, tmp_path / "other", file=str(tmp_path / "swapped.npy"))
    reader = PlainReader(workdir.corpus, workdir.plan)
    lines = list(differences(reader, load_shares(loader, plan, range(12))))
    rows = {line.partition(" token")[0] for line in lines}
    assert rows == {"step 2 row 1", "step 2 row 2"}


def test_a_beginning_off_by_one_is_found(study_of_olmo, tmp_path):
    workdir, plan = study_of_olmo
    loader = changed(workdir, tmp_path / "other", first=3)
    reader = PlainReader(workdir.corpus, workdir.plan)
    assert len(list(differences(reader, load_shares(loader, plan, [0])))) > 40
