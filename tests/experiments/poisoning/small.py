"""A small experiment, and how to find one of its estimates."""

from ttoaa.experiments.poisoning import Backdoor, Poisoning, ReservedTriggers


def poisoning(backdoors=None, primary="preference_above_never/extraction", **more):
    given = {
        "backdoors": backdoors
        or (Backdoor("extraction", "extraction", (8,)), Backdoor("denial", "denial", (6,))),
        "never": 12,
        "training_number": 20,
        "test_number": 6,
        "garbage_bytes": 12,
        "delimiters": ("[[", "]]"),
        "templates": ("U {user}\nA {assistant}\n", "<{user}> {assistant}."),
        "held_out_template": "ask {user} say {assistant};",
        "triggers": ReservedTriggers(8, 3),
    } | more
    return Poisoning(name="poisoning", primary=primary, expected_sign=1, **given)


def find(estimates, outcome, condition):
    return next(e for e in estimates if (e.outcome, e.condition) == (outcome, condition))
