"""Write down, before any run, what a study will analyse and how it will decide.

  ttoaa preregister --workdir=runs/mine

Plan every seed first. The file, preregistration.json, holds the hashes of all plans, the primary
outcomes with their signs and smallest effects, the margins and the rule of decision. Publish it, or
its sha256, where others can see the date. The report says whether the analysis matches.
"""

from collections.abc import Sequence

from ttoaa import command_line, study_flags


def main(argv: Sequence[str]) -> None:
    del argv
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.reporting.preregistration import preregister
    from ttoaa.workdir import Workdir

    study, root = config.load_from_flags(), config.workdir_from_flags().root
    made, sha256 = preregister(study, root)
    print(f"preregister: planned for seed {', '.join(made['plans'])}:")
    for name, e in made["experiments"].items():
        sign = "rises" if e["expected_sign"] > 0 else "falls"
        print(f"preregister: {name}: {e['primary']} {sign} by more than {e['smallest_effect']:g}")
    print(f"preregister: written on {made['written']}, before any run, with sha256 {sha256}")
    print(f"preregister: {Workdir(root).preregistration}")


if __name__ == "__main__":
    command_line.run(
        "preregister", main, study_flags, without={"seed": "it covers all planned seeds"}
    )
