"""The example of docs/extending/controller.md is a working experiment."""

import pathlib
import re

import gin
import numpy as np
import pandas as pd
import pytest

from ttoaa.experiments import controllers as control
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.injection import SlotOverlay
from ttoaa.planning.items import Intervention

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs/extending/controller.md"


@pytest.fixture(scope="module")
def guide():
    """What the guide's file defines."""
    (text,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    defined = {"__name__": "lighthouse"}
    with gin.unlock_config():
        exec(compile(text, "lighthouse.py", "exec"), defined)
    return defined


def test_its_controller_is_one_that_a_run_takes(guide, make_world):
    experiment = guide["Lighthouse"]("lighthouse")
    world = make_world(experiment, steps=50)
    controllers = [("lighthouse", c) for c in experiment.controllers(world)]
    control.check_controllers(controllers, world.tokenizer.vocab_size)
    control.controllers_fingerprint(controllers)
    done = {"lighthouse": Intervention(experiment.intervene(world), world.windows)}
    plan = compile_plan(done, world.geometry, world.tokenizer.vocab_size, {"seed": 0})
    filled = SlotOverlay(plan, control.slot_texts(controllers))
    assert filled.per_interval == [4]
    ((_, controller),) = controllers
    assert world.tokenizer.decode(controller.texts[0]) == guide["SENTENCE"] + guide["ANSWER"]
    measured = controller.measured
    target = measured.tokens_NxL[0, measured.start[0] : measured.stop[0]]
    assert world.tokenizer.decode(target) == guide["ANSWER"]
    chosen, state = controller.decide(controller.start(), 0, np.array([-5.0]))
    assert filled.validate(0, 0, chosen) == [0] * 4 and state == {"exposures": 4}
    assert controller.decide(state, 1, np.array([-0.5])) == ([], {"exposures": 4})


def test_its_outcome_reads_what_was_measured(guide, make_scorer):
    table = {"interval": [0, 1], "log_p": [[-3.0], [-1.0]]}
    scorer = make_scorer([])
    scorer.decisions = pd.DataFrame(table)
    found = guide["Lighthouse"]("lighthouse").outcome(scorer)
    assert found["item"].tolist() == ["interval-0", "interval-1"]
    assert found["value"].tolist() == [-3.0, -1.0]
