"""What the report says about canaries: titles and units of their outcomes and conditions."""

import dataclasses

from ttoaa.experiments.report_labels import AUC, TPR, Label, ReportLabels

_ENDS = {
    "": "",
    "_by_control": ", loss relative to the control run",
    "_by_reference": ", loss relative to the reference model",
    "_host": ", host alone",
    "_suffix": ", suffix alone",
    "_in_place": ", in its place in training",
    "_unmatched": ", against plain non-members",
    r"_(\w+)": r", attack \1",
}

LABELS = ReportLabels(
    question="How well does the loss separate members of the training data from non-members?",
    method="Canaries are pieces of held-back text, some with a suffix. Members are inserted, and "
    "matched non-members of the same generator are not, so a score can only measure membership.",
    caption="Separation of members and non-members by repetitions in training, for each kind of "
    "canary and seed, with 95% intervals over documents. Dashed: chance.",
    outcomes={
        **{f"auc{e}": dataclasses.replace(AUC, title=f"AUC{t}") for e, t in _ENDS.items()},
        **{
            f"tpr_at_1pct_fpr{e}": dataclasses.replace(TPR, title=f"{TPR.title}{t}")
            for e, t in _ENDS.items()
        },
        "log_likelihood": Label("log-likelihood", "nats"),
        "log_likelihood_above_nonmembers": Label("log-likelihood above non-members", "nats"),
        "log_likelihood_suffix": Label("log-likelihood of the suffix", "nats"),
        "log_likelihood_suffix_above_nonmembers": Label(
            "log-likelihood of the suffix above non-members", "nats"
        ),
        r"(\w+)_above_nonmembers": Label(r"score of the attack \1 above non-members"),
        "in_place_gain": Label("gain in log-likelihood in its place in training", "nats"),
        "exposure": Label("exposure", "bits", help="1 bit or so without memorisation"),
        r"(\w+)": Label(r"score of the attack \1"),
    },
    conditions={
        "plain-0x.*": "plain, non-members",
        r"plain-(\d+)x": r"plain, \1 repetitions",
        r"(\w+)-(\d+)-0x": r"\1 suffix of \2 tokens, non-members",
        r"(\w+)-(\d+)-0x-of-(\d+)x": r"\1 suffix of \2 tokens, non-members of \3 repetitions",
        r"(\w+)-(\d+)-(\d+)x": r"\1 suffix of \2 tokens, \3 repetitions",
    },
)
