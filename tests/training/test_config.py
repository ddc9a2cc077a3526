import dataclasses

from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.training.config import Training
from ttoaa.training.lr_schedules import ConstantLinear, Cosine
from ttoaa.training.optimizer import AdamW
from ttoaa.training.skip_policy import Guard


def test_numerics_names_what_moves_bits_and_nothing_else():
    training = Training(AdamW(Cosine(1.0, 1)))
    same = [
        *({"checkpoint_every": 7}, {"validate_every": 7}, {"max_arms": 7}),
        {"guard": Guard("skip", 6.0)},
    ]
    other = [
        {"z_loss": 0.0},
        {"loss_divisor": "tokens"},
        {"repetition_filter": RepetitionFilter()},
        {"optimizer": AdamW(Cosine(2.0, 1))},
        {"optimizer": AdamW(ConstantLinear(1.0, 1))},
        {"optimizer": AdamW(Cosine(1.0, 1), beta2=0.99)},
    ]
    for changes, equal in ((same, True), (other, False)):
        for change in changes:
            changed = dataclasses.replace(training, **change).numerics()
            assert (changed == training.numerics()) is equal, change
