import numpy as np
import pytest
from compilation import snippets

from ttoaa.accelerators import Chip
from ttoaa.compilation import hlo
from ttoaa.compilation.collectives import collective_seconds, find_collectives, gib_by_kind

CHIP = Chip(1e12, 16.0, 1e12, 1e9, 1e9, 4)
W = 2 * 512 * 1024  # bytes of the whole weight


def test_bytes_sent_by_kind_counted_by_hand():
    found = find_collectives(hlo.parse(snippets.STEP), 4)
    gib = gib_by_kind(found)
    assert gib["all-gather"] == W / 2 / 2**30  # its half, to one other
    assert gib["reduce-scatter"] == W / 2 / 2**30  # the other's half
    assert gib["all-reduce"] == 2 * 4 * 3 / 4 / 2**30
    assert not any(each.hidden for each in found)


def test_those_started_apart_are_hidden_and_count_in_every_round_of_a_loop():
    found = find_collectives(hlo.parse(snippets.LOOPS), 4)
    assert [each.kind for each in found] == ["collective-permute"] * 2
    assert [each.times for each in found] == [12, 1]
    assert all(each.hidden and each.sent == 4 * 128 * 128 for each in found)


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 2, 1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_in_all_ways_of_writing_them(written, groups):
    text = snippets.STEP.replace("replica_groups=mesh['a'=2,'b'=2] {'b'}", written)
    gathered = next(c for c in find_collectives(hlo.parse(text), 4) if c.kind == "all-gather")
    members = [sorted(group) for group in gathered.groups.tolist()]
    assert members == [sorted(group) for group in groups]
    assert gathered.sent == W / 2 * (len(groups[0]) - 1)


def test_seconds_follow_the_links_that_a_group_spans():
    found = find_collectives(hlo.parse(snippets.STEP), 4)
    row = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # rows along the second axis, no ring
    waited, hidden = collective_seconds(found, row, CHIP)
    assert waited == pytest.approx((W / 2 + W / 2 + 6 / 2) / 1e9)  # the sum over all has two axes
    assert hidden == 0
    ring = row * [1, 3]  # an axis of four closes: both directions
    assert collective_seconds(found, ring, CHIP)[0] == pytest.approx((W / 2 + 6 / 3) / 1e9)


def test_what_runs_beside_arithmetic_is_not_waited_for():
    found = find_collectives(hlo.parse(snippets.LOOPS), 4)
    line = np.arange(4)[:, None]
    assert collective_seconds(found, line, CHIP) == (0, pytest.approx(13 * 4 * 128 * 128 / 2e9))
