import pathlib

import pytest

from ttoaa import config
from ttoaa.experiments.contamination import Contamination
from ttoaa.experiments.copies import copies

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "ablations" / "hundred.gin"
ONE = Contamination("questions", "accuracy_above_holdout/144x", 1)
OTHER = Contamination("others", "accuracy_above_holdout/4x", 1, groups=((0, 9), (4, 9)))


def test_copies_differ_in_their_names_alone():
    made = copies([ONE, OTHER], 2, once=[ONE])
    names = ["questions-1", "questions-2", "others-1", "others-2", "questions"]
    assert [each.name for each in made] == names
    assert {each.primary for each in made[:2]} == {ONE.primary}
    assert made[3].groups == OTHER.groups


@pytest.mark.parametrize("number", [0, -1, 2.0])
def test_a_number_below_one_is_refused(number):
    with pytest.raises(ValueError, match=r"copies\.number must be a whole number"):
        copies([ONE], number)


def test_one_hundred_experiments_come_from_a_config():
    study, resolved = config.load([CONFIG])
    assert len({each.name for each in study.experiments}) == 100
    assert "copies.number = 19" in resolved
