"""What the report says about acquisition: titles and units of its outcomes and conditions."""

from ttoaa.experiments.acquisition.outcomes import CURVES
from ttoaa.experiments.report_labels import PERCENT, Label, ReportLabels

_SHARE_OF_INTERVALS = "of the intervals of training"

LABELS = ReportLabels(
    question="Can a controller hold the probability of invented facts on a target?",
    method="Invented facts are inserted as often as a policy decides from probes of the live "
    "model. The error is the root mean square of log(probability / target) in the second half of "
    "training. It is compared with that of facts at a fixed rate of as many tokens, and with that "
    "by the target of another arm.",
    caption="Above: probability of the facts of each arm, and its target (dashed grey), over "
    "training. Below: texts inserted in each interval. Dotted: the same facts in the control run. "
    "Shaded: 95% intervals over facts.",
    outcomes={
        "log_probability": Label("log-probability of the facts", "nats"),
        "probability": Label("probability of the facts", PERCENT),
        "accuracy": Label("facts completed", PERCENT),
        "log_probability_above_never": Label(
            "log-probability of the facts above facts never inserted", "nats"
        ),
        "accuracy_above_never": Label("facts completed above facts never inserted", PERCENT),
        "log_probability_of_half_the_held_out": Label(
            "log-probability of half of the facts never inserted above the rest", "nats"
        ),
        "tracking_error_against_arm": Label(
            "error against the target", "nats", against="at the fixed rate"
        ),
        "tracking_error_against_target": Label(
            "error against the target", "nats", against="by the target of the other arm"
        ),
        "tracking_error": Label("error against the target, by fact, second half", "nats"),
        "topic_log_rmse": Label("error against the target, by fact", "nats"),
        "log_rmse": Label("error of the mean log-probability", "nats"),
        "log_rmse_second_half": Label("error of the mean log-probability, second half", "nats"),
        "log_rmse_of_mean_probability": Label("error of the mean probability", "nats"),
        "log_rmse_of_mean_probability_second_half": Label(
            "error of the mean probability, second half", "nats"
        ),
        "acquired": Label("facts acquired", PERCENT, help="that have met the criterion so far"),
        "steps_to_acquire": Label(
            "steps until a fact was acquired",
            "steps",
            help="all steps so far for a fact that was not acquired",
        ),
        "change_since_acquired": Label("change in log-probability since acquired", "nats"),
        "exposures": Label("texts inserted for each fact", "texts"),
        "tokens": Label("tokens inserted for each fact", "tokens"),
        "exposures_to_acquire": Label("median texts until a fact was acquired", "texts"),
        "tokens_to_acquire": Label("median tokens until a fact was acquired", "tokens"),
        "at_least": Label("intervals at the lowest rate", PERCENT, help=_SHARE_OF_INTERVALS),
        "at_most": Label("intervals at the highest rate", PERCENT, help=_SHARE_OF_INTERVALS),
        "turns": Label("intervals in which the rate reversed", PERCENT, help=_SHARE_OF_INTERVALS),
        "log_rate_moved": Label("mean change of the log-rate in an interval", "nats"),
        "effectivity": Label("gain in log-probability after an insertion", "nats"),
        "effectivity_above_never": Label(
            "gain in log-probability after an insertion, above facts never inserted", "nats"
        ),
        "retainability": Label("share of that gain retained", PERCENT),
        "retainability_above_never": Label(
            "share of that gain retained, above facts never inserted", PERCENT
        ),
        "value_at": Label("probability of the facts", PERCENT),
        "target_at": Label("target", PERCENT),
        "texts_at": Label("texts inserted in the interval", "texts"),
    },
    conditions={
        r"(.+)-vs-(.+)": r"arm \1 against \2",
        "never": "facts never inserted",
        r"(.+)@(\d+)": r"arm \1, step \2",
        r"(.+)": r"arm \1",
    },
    curves=tuple(f"{outcome}/.*" for outcome in CURVES),
)
