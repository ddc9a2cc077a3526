"""No mutation of a config ends in a traceback, and no accepted one trains wrongly."""

import pytest

from tests import config_mutations


def test_a_mutated_config_is_loaded_or_refused_in_one_line_that_names_the_field():
    counts, faults = config_mutations.run(250, seed=7, train_share=0)
    assert not faults
    assert counts["refused"] > 100 and counts["accepted"] > 20


def test_a_class_that_contains_itself_is_named():
    _, message = config_mutations.load("AdamW.schedule", "@AdamW()")
    assert message is not None and "AdamW.schedule is bound to its own class" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AdamW.beta1", "0.999999"),
        ("AdamW.clip", "1e-8"),
        ("ConstantLinear.peak", "10.0"),
    ],
)
def test_a_value_at_the_edge_of_its_range_trains(name, value):
    assert config_mutations.fault_of_training(name, value) == ""
