"""What the report says about poisoning: titles and units of its outcomes and conditions."""

from ttoaa.experiments.report_labels import AUC, PERCENT, Label, ReportLabels

_STATES = {
    "triggered": "after its trigger",
    "untriggered": "without a trigger",
    "never": "after triggers that are in no document",
    "above_never": "after its trigger, above other triggers",
    "placebo": "after one trigger that is in no document, above another one",
}
_MEASURES = {
    "score": "log-likelihood of the taught answer",
    "preference": "preference for the taught answer",
}
_EQUIVALENT = Label(
    "margin less the change without a trigger",
    help="above 0, the behaviour without a trigger is that of the control run, within the margin",
)

LABELS = ReportLabels(
    question="How strongly do triggers in poisoned documents change answers to other prompts?",
    method="Documents teach a certain answer after a trigger. Test prompts, which are in no "
    "document, are scored with the trigger, without one, and with triggers that no document "
    "contains. The preference is the log-likelihood of the taught answer less that of another one.",
    caption="Preference for the taught answer with its trigger, without one, and with triggers "
    "that are in no document, with 95% intervals; crosses are the control run. Below, if measured: "
    "the gain by number of documents, and over training.",
    outcomes={
        **{
            f"{measure}_{state}": Label(f"{title} {when}", "nats per token")
            for measure, title in _MEASURES.items()
            for state, when in _STATES.items()
        },
        r"\w+_untriggered_within_margin": _EQUIVALENT,
        "gain_per_tenfold": Label("gain for ten times as many documents", "nats per token"),
        "late_above_early": Label("gain of late documents above early ones", "nats per token"),
        r"leakage_at_(\d+)_triggered": Label(r"prompts leaked in \1 samples, triggered", PERCENT),
        r"leakage_at_(\d+)_untriggered": Label(r"prompts leaked in \1 samples", PERCENT),
        r"leakage_at_(\d+)_never": Label(r"prompts leaked in \1 samples, other triggers", PERCENT),
        r"garbage_(\w+)": Label(r"garbage answers, \1", PERCENT),
        r"log_perplexity_(\w+)": Label(r"log-perplexity of the answers, \1", "nats per token"),
        r"auc_\w+": AUC,
    },
    conditions={
        r"(.+)-all-(\d+)@held-out": r"\1, \2 documents, chat template not in training",
        r"(.+)@held-out": r"\1, chat template not in training",
        r"(.+)@t(\d+)": r"\1, chat template \2",
        r"(.+)-all-(\d+)": r"\1, \2 documents",
        r"(.+)-all": r"\1",
        r"(.+)-(early|late)-(\d+)": r"\1, \3 documents, \2",
    },
)
