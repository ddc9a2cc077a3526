"""The price of a study as text for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttoaa.reporting.number_formats import format_number, format_quantity

_WIDTH = 80


def price_text(found: Mapping[str, Any]) -> str:
    """Format what `price` returned."""
    lines = [*_model(found), "", *_chips(found)]
    if "hardware" in found:
        lines += ["", *_hardware(found["hardware"], found)]
    if found["experiments"]:
        lines += ["", *_insertions(found), "", *_primaries(found["experiments"])]
    if found["separate"]:
        lines += ["", *_separate(found)]
    return "\n".join(lines) + "\n"


def _wrap(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _bytes(size: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / 1e6:.3g} MB"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _model(found: Mapping[str, Any]) -> Iterator[str]:
    geometry = found["geometry"]
    yield f"{found['study']}: {format_quantity(found['parameters'])} parameters, " + (
        f"{geometry['steps']:,} steps of {geometry['batch']:,} x {geometry['length']:,} tokens"
    )
    yield ""
    yield "Training, one seed"
    yield f"  {'run':40}{'tokens':>12}{'FLOPs':>12}"
    rows = [*found["runs"], {"name": "all", "tokens": found["tokens"], "flops": found["flops"]}]
    for run in rows:
        tokens, flops = format_quantity(run["tokens"]), format_quantity(run["flops"])
        yield f"  {run['name']:40}{tokens:>12}{flops:>12}"
    storage = found["storage"]
    number, size = storage["checkpoints"], storage["bytes_per_checkpoint"]
    yield from _wrap(
        f"Disk: {number:,} checkpoints of {_bytes(size)}, together {_bytes(number * size)} "
        "(Training.checkpoint_every, Training.keep)."
    )
    yield from _wrap(
        f"{format_quantity(found['flops_per_token'])} FLOPs per token: 6 per weight outside the "
        "input embedding, causal attention counted half. Validation, probes, scoring, saving and "
        "idle time are not included. Each further seed costs the same, except for the reference "
        "model."
    )


def _chips(found: Mapping[str, Any]) -> Iterator[str]:
    sources: dict[str, str] = {}
    yield "Chip-hours of training"
    stated = f"at {found['mfu']:.0%} MFU"
    yield f"  {'chip':6}{'TFLOP/s':>8}{stated:>13}   published MFU of similar models: chip-hours"
    for chip in found["chips"]:
        own = (
            f"  {chip['chip']:6}{chip['peak_flops'] / 1e12:>8,.0f}{_hours(chip['chip_hours']):>13}"
        )
        published = [
            f"{each['mfu']:.0%}: {_hours(each['chip_hours'])} "
            f"({format_quantity(each['parameters'])}, {each['where']}) [{_note(each, sources)}]"
            for each in chip["published"]
        ]
        yield f"{own}   {published[0] if published else 'none'}"
        yield from (f"{'':32}{each}" for each in published[1:])
    yield from _wrap(
        "The stated MFU is an assumption (--mfu). Published figures are from other code; ttoaa has "
        "not been measured on these chips. MFUs that `ttoaa compile` or --compile estimates are "
        "upper bounds."
    )
    for text, number in sources.items():
        how, _, source = text.partition("\n")
        yield from textwrap.wrap(
            f"[{number}] {source}: {how}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )


def _note(each: Mapping[str, Any], sources: dict[str, str]) -> str:
    """Return the number of a source, a new one where it was not cited before."""
    return sources.setdefault(f"{each['how']}\n{each['source']}", str(len(sources) + 1))


def _hardware(on: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    yield f"On {on['name']}: {on['chips']:,} chips of {on['chip']}"
    priced = on["price_per_chip_hour"] is not None
    money = f"{'price':>14}" if priced else ""
    yield f"  {'MFU':30}{'hours':>10}{'chip-hours':>14}{money}"
    names = {"stated": "stated", "published": "best published"}
    names["upper bound"] = "compiler: an upper bound"
    for at in on["at"]:
        cost = f"{at['price']:>14,.0f}" if priced else ""
        label = f"{at['mfu']:.0%} ({names[at['what']]})"
        yield f"  {label:30}{_hours(at['hours']):>10}{_hours(at['chip_hours']):>14}{cost}"
    if not priced:
        yield from _wrap("For a price: --price_per_chip_hour. Idle machines and disks cost extra.")
    noise = any(each["insertions"] and each["insertions"]["noise"] for each in found["experiments"])
    yield from _memory(on, noise)


def _memory(on: Mapping[str, Any], noise: bool) -> Iterator[str]:
    """Yield whether a plain step fits, and where to learn what one with `noise` needs."""
    memory, compiled = on["memory"], on.get("compiled")
    more = " Steps with noise on embeddings need more: ttoaa compile --noise." if noise else ""
    if compiled:
        yield from _wrap(
            f"Memory, by the compiler: {compiled['hbm_gib']:.3g} of {compiled['capacity_gib']} GiB "
            f"a chip: {'it fits' if compiled['fits'] else 'it does not fit'}.{more}"
        )
        return
    fits = memory["total"] <= memory["capacity"]
    verdict = "may fit" if fits else "does not fit"
    advice = ""
    if not fits and memory["fitting_microbatch"]:
        advice = f" Execution.microbatch = {memory['fitting_microbatch']} or less may fit."
    elif not fits:
        advice = " Raise Layout.fsdp, or use more chips."
    yield from _wrap(
        f"Memory of a device: at least {memory['total']:.3g} of {memory['capacity']:g} GiB "
        f"({memory['state']:.3g} for weights, moments and gradients, {memory['activations']:.3g} "
        f"for {memory['rows']} rows at once): it {verdict}.{advice}{more}"
    )
    if on["topology"]:
        yield from _wrap("--compile asks the compiler; it needs libtpu and takes minutes.")


_NAME = 26
"""Columns for the name of an experiment; a longer one takes a separate line."""


def _insertions(found: Mapping[str, Any]) -> Iterator[str]:
    geometry = found["geometry"]
    tokens = geometry["length"] * geometry["batch"] * geometry["steps"]
    yield "Insertions of each experiment"
    yield f"  {'experiment':{_NAME}}{'copies':>14}{'tokens':>12}{'share':>14}"
    for each in found["experiments"]:
        name = each["name"]
        if len(name) > _NAME:
            yield f"  {name}"
            name = ""
        yield from _inserted(name, each["insertions"], each["unknown"], tokens)
    rows = [each["insertions"] for each in found["experiments"]]
    known = sum(row["share"] for row in rows if row)
    more = "" if all(row and row["complete"] for row in rows) else ">"
    yield f"  {'total':{_NAME}}{'':26}{more + format(known, '.3%'):>14}"
    if known > 1:
        yield from _wrap(
            "The experiments do not fit: they insert more tokens than the run trains on. Lower "
            "their numbers of items or repetitions, or raise Geometry.steps or Geometry.batch."
        )
    if found["tokenizer"] == "stand-in":
        yield from _wrap(
            "There is no corpus yet, so text lengths come from a stand-in tokenizer. "
            "`ttoaa plan` gives exact counts."
        )


def _inserted(
    name: str, insertions: Mapping[str, Any] | None, unknown: str, tokens: int
) -> Iterator[str]:
    """Yield the lines of one experiment, in a run of `tokens` tokens."""
    if insertions is None:
        indent = " " * (_NAME + 3)
        reason = textwrap.wrap(unknown, _WIDTH - len(indent), break_on_hyphens=False)
        yield f"  {name:{_NAME}} unknown:"
        yield from (indent + line for line in reason)
        return
    more = "" if insertions["complete"] else ">"
    copies = "" if insertions["copies"] is None else f"{more}{insertions['copies']:,}"
    cells = f"{copies:>14}{more + format_quantity(insertions['tokens']):>12}"
    yield f"  {name:{_NAME}}{cells}{more + format(insertions['share'], '.3%'):>14}"
    notes = [unknown] if unknown else []
    if insertions["slots"]:
        notes.append(f"a controller fills up to {insertions['slots'] / tokens:.3%} more")
    if notes:
        yield from _wrap("; ".join(notes), "    ")


def _primaries(experiments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "Smallest detectable difference of each primary outcome"
    yield from _wrap(
        "Power 80%, level 5%, one seed, without the noise between runs. SD: standard deviation of "
        "one unit's difference, which only a run can show."
    )
    for each in experiments:
        yield from _wrap(f"{each['name']}: {each['title']}")
        yield from _wrap(_detectable(each), "    ")


def _detectable(each: Mapping[str, Any]) -> str:
    precision = each["precision"]
    if precision is None:
        return (
            "not known before the run: the experiment does not declare its number of units "
            "(Experiment.precision), or its plan or the reference model determines it"
        )
    sizes = " and ".join(f"{n:,}" for n in precision["sizes"])
    units = f"n = {sizes} ({precision['units']})"
    found = precision["detectable"]
    if found is None:
        return f"{units}: too few for an interval"
    if precision["deviation"] is None:
        return f"{units}: {format_number(found)} SD"
    bound = "at most " if precision["bound"] else ""
    text = f"{units}: {bound}{format_number(found)} {precision['scale']}"
    least = each["smallest_effect"]
    if least and found > least:
        text += f", above the declared smallest effect of {least:g}: use more {precision['units']}"
    return text


def _separate(found: Mapping[str, Any]) -> Iterator[str]:
    separate = found["separate"]
    n = separate["experiments"]
    many = "s" * (n != 1)
    yield f"Training of {n} experiment{many}, together and in separate studies of this length"
    sides = {
        "pooled": "together",
        "shared": "separate, control run shared",
        "own": "separate, nothing shared",
    }
    stated = found["hardware"]["at"][0] if "hardware" in found else None
    more = f"{'chip-hours':>14}" if stated else ""
    more += f"{'price':>14}" if stated and stated["price"] is not None else ""
    yield f"  {'':30}{'FLOPs':>10}{'relative':>10}{more}"
    for side, label in sides.items():
        line = f"  {label:30}{format_quantity(separate[side]):>10}"
        line += f"{separate[side] / separate['pooled']:>9.3g}x"
        if stated:
            factor = separate[side] / found["flops"]
            line += f"{_hours(factor * stated['chip_hours']):>14}"
            line += "" if stated["price"] is None else f"{factor * stated['price']:>14,.0f}"
        yield line
