import pytest
from absl import flags

from ttoaa.study_flags import optional, parse_integers


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ([], None),
        (["--audit"], "10"),
        (["--audit=3"], "3"),
        (["--noaudit"], ""),
        (["--audit="], ""),
    ],
)
def test_a_flag_may_stand_without_a_value(given, value):
    values = flags.FlagValues()
    flags.DEFINE_flag(optional("audit", "10", "help"), values, "here")
    assert values(["command", *given]) == ["command"] and values.audit == value


def test_its_value_needs_the_sign():
    values = flags.FlagValues()
    flags.DEFINE_flag(optional("audit", "10", "help"), values, "here")
    assert values(["command", "--audit", "5"]) == ["command", "5"] and values.audit == "10"


def test_parse_integers_of_a_list():
    assert parse_integers("steps", ["1", " 12"]) == [1, 12] and parse_integers("steps", []) == []
    for wrong in ("x", "-1", "1.5", ""):
        with pytest.raises(ValueError, match=f"^--steps takes whole numbers, not '{wrong}'$"):
            parse_integers("steps", ["3", wrong])
