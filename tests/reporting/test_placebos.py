from reporting.synthetic import Fake

from ttoaa.reporting.placebos import count_placebos


def row(experiment, seed, low, high, primary=True):
    bounds = {"placebo_ci_low": low, "placebo_ci_high": high}
    return {"experiment": experiment, "seed": seed, "primary": primary, **bounds}


def test_every_seed_of_every_experiment_counts_once():
    experiments = [Fake("a", "loss/x", -1, "loss/0x"), Fake("b", "loss/x", -1)]
    rows = [
        row("a", 0, -1.0, 1.0),
        row("a", 1, 0.1, 0.3),
        row("a", 2, None, None),
        row("a", 3, -0.3, -0.1),
        row("a", 4, 0.0, 0.2),
        row("a", "all", 0.1, 0.2),
        row("a", 0, 0.5, 0.6, primary=False),
        row("b", 0, None, None),
    ]
    found = count_placebos(rows, experiments)
    assert (found.containing, found.intervals, found.expected) == (2, 4, 0.95 * 4)
    assert found.excluding == ("a: loss (held out), seed 1", "a: loss (held out), seed 3")
    assert found.without_interval == ("a: loss (held out), seed 2",) and found.undeclared == ("b",)
