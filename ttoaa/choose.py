"""Let experiments choose by the study's reference model, before the plan is made.

  ttoaa train  --workdir=runs/mine --run=reference    where the study trains the model itself
  ttoaa choose --workdir=runs/mine

What each experiment chose is stored in the study's folder; from then on the plan needs no model.
"""

from collections.abc import Sequence

from ttoaa import command_line, study_flags


def main(argv: Sequence[str]) -> None:
    del argv
    study_flags.check_study()
    from ttoaa import choices, config
    from ttoaa.training.topology import pin_cores

    study, workdir = config.load_from_flags(), config.workdir_from_flags()
    pin_cores()
    config.cache_compilations(workdir)
    for line in choices.make_choices(study, workdir):
        print(f"choose: {line}", flush=True)


if __name__ == "__main__":
    command_line.run("choose", main, study_flags)
