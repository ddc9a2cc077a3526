import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa.experiments.canaries import ReleasedCanaries


def rows(tokenizer, members=6, nonmembers=8):
    rng = np.random.default_rng(0)
    eos = tokenizer.eos_id
    for member in (True, False):
        for n in range(members if member else nonmembers):
            ids = rng.integers(1, 200, 12).tolist()
            yield {
                "condition": "rare-2-4x",
                "membership": member,
                "suffix_type": "rare",
                "suffix_length": 2,
                "duplication": 4,
                "input_ids": [eos, *ids, eos] if n % 2 else ids,
            }


def write(path, records):
    if path.suffix == ".parquet":
        pd.DataFrame(records).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def released(path, **changes):
    fields = {"name": "paired", "primary": "auc/rare-2-4x", "expected_sign": 1, "paths": [path]}
    return ReleasedCanaries(**(fields | changes))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_members_are_inserted_as_often_as_they_were(tmp_path, tokenizer, make_world, name):
    records = list(rows(tokenizer))
    experiment = released(write(tmp_path / name, records))
    items = list(experiment.intervene(make_world(experiment)))
    assert [i.repetitions for i in items] == [4] * 6 + [0] * 8
    assert [i.condition for i in items] == ["rare-2-4x"] * 6 + ["rare-2-4x-nonmembers"] * 8
    eos = tokenizer.eos_id
    for item, record in zip(items, records, strict=True):
        ids = [token for token in record["input_ids"] if token != eos]
        assert item.tokens.tolist() == [eos, *ids, eos]
        assert item.text == tokenizer.decode(np.array(ids))
    scored = released(experiment.paths[0], insert=False)
    assert {i.repetitions for i in scored.intervene(make_world(scored))} == {0}


def test_only_a_model_that_knows_members_separates_them(
    tmp_path, tokenizer, make_world, make_scorer, final_table
):
    experiment = released(write(tmp_path / "a.jsonl", rows(tokenizer)))
    items = list(experiment.intervene(make_world(experiment)))
    known = {i.tokens[:-1].tobytes() for i in items if i.repetitions}

    def control(tokens, i):
        return -2.0 - tokens[i] / 200

    def suffix(tokens, i):
        text = np.asarray(tokens, np.int32)
        return control(tokens, i) + 3 * (i >= len(text) - 2 and text.tobytes() in known)

    def estimates(score):
        run, other = make_scorer(items, score), make_scorer(items, control)
        made = experiment.estimates(experiment.outcome(run), experiment.outcome(other))
        return made, {(e.outcome, e.condition): e for e in made}

    made, found = estimates(suffix)
    assert found["auc_suffix", "rare-2-4x"].value == 1
    above = found["log_likelihood_suffix_above_nonmembers", "rare-2-4x"]
    assert above.difference == pytest.approx(6)
    assert found["auc", "rare-2-4x"].difference > 0
    assert not any(outcome.startswith("tpr") for outcome, _ in found)
    experiment.figure(final_table(made), Figure().subplots())
    _, trivial = estimates(lambda tokens, i: control(tokens, i) + 1)  # all texts grew likelier
    assert trivial["auc", "rare-2-4x"].difference == 0
    assert trivial["auc_suffix", "rare-2-4x"].difference == 0


def test_other_names_of_columns_are_configured(tmp_path, tokenizer, make_world):
    records = [{"tokens" if k == "input_ids" else k: v for k, v in r.items()}
               for r in rows(tokenizer)]  # fmt: skip
    path = write(tmp_path / "a.jsonl", records)
    named = released(path, columns={"input_ids": "tokens"})
    assert len(list(named.intervene(make_world(named)))) == 14
    with pytest.raises(ValueError, match=r"a.jsonl:1 has no column 'input_ids': set paired's col"):
        list(released(path).intervene(make_world(named)))
    with pytest.raises(ValueError, match="paired: columns holds 'ids', which is not among"):
        released(path, columns={"ids": "tokens"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"membership": "perhaps"}, r"a.jsonl:1 is not a row .*membership is 0, 1"),
        ({"input_ids": ["a"]}, "a.jsonl:1 is not a row of the benchmark"),
        ({"suffix_length": 12}, "a suffix of 12 tokens does not fit a text of 12"),
        ({"input_ids": [5] * 70}, "a.jsonl:1: the text has 70 tokens"),
    ],
)
def test_bad_rows_are_one_clear_line(tmp_path, tokenizer, make_world, changed, message):
    first = next(rows(tokenizer)) | changed
    experiment = released(write(tmp_path / "a.jsonl", [first]))
    with pytest.raises(ValueError, match=message):
        list(experiment.intervene(make_world(experiment)))
