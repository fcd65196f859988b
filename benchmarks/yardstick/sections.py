"""What is measured: every section is a list of units, and a unit is one model with all methods at all budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from maxent_ts.search.maxent import maxent_sample

from . import absorbing, counted, enumerable, grammar, verifier
from .measure import Row, Subject, distances, enumerate_truth, law, measure_builds, measure_method, search
from .methods import ABLATIONS

__all__ = ["SECTIONS", "Plan", "Unit", "measure_all", "measure_unit", "units"]

SECTIONS = ("enumerable", "language", "verifier", "absorbing", "grammar")
EVERYTHING = 0
"""The size of a budget that ends with the last completion."""
LARGE = ("21845 leaves with EOS, tilt 8",)
"""Settings without ablations, whose other families than additive take fewer models."""
MANY = {"4^6 leaves, tilt 1, additive": (1000, 3000, 10000)}
"""Budgets that only a few models are measured at."""
SLOW = ("dts", *ABLATIONS)
"""Methods left out of those budgets: seconds per search at 300 already."""
BUILDS = tuple(f"{one.name}, additive" for one in enumerable.SETTINGS[:3])
SUBJECTS: dict[str, Callable[[str, int], Subject]] = {
    "verifier": verifier.subject,
    "absorbing": absorbing.subject,
    "grammar": grammar.subject,
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_models: int
    """Of every table but those below."""
    num_builds: int
    """Per model, where laws are averaged over builds."""
    num_models_of_builds: int
    num_models_of_large: int
    num_models_of_many: int
    num_models_of_language: int


@dataclass(frozen=True)
class Unit:
    """One model."""

    section: str
    table: str
    seed: int
    methods: tuple[str, ...]
    sizes: tuple[int, ...]
    num_builds: int = 1


def units(section: str, methods: tuple[str, ...], plan: Plan) -> Iterator[Unit]:
    """The units of a section, the slowest first."""
    if section == "language":
        for table, sizes in counted.TABLES.items():
            for seed in range(plan.num_models_of_language):
                yield Unit(section, table, seed, methods, sizes)
        return
    if section == "enumerable":
        for setting in reversed(enumerable.SETTINGS):
            for family in enumerable.FAMILIES:
                table = f"{setting.name}, {family}"
                is_large = setting.name in LARGE
                num_models = plan.num_models_of_large if is_large and family != "additive" else plan.num_models
                for seed in range(num_models):
                    yield Unit(section, table, seed, _without(ABLATIONS, methods) if is_large else methods, setting.sizes)
                for seed in range(plan.num_models_of_many if table in MANY else 0):
                    yield Unit(section, table, seed, _without(SLOW, methods), MANY[table])
                for seed in range(plan.num_models_of_builds if table in BUILDS else 0):
                    yield Unit(section, table, seed, methods, setting.sizes[:3], plan.num_builds)
        return
    module = {"verifier": verifier, "absorbing": absorbing, "grammar": grammar}[section]
    for table, sizes in module.TABLES.items():
        for seed in range(plan.num_models):
            yield Unit(section, table, seed, methods, sizes)


def _without(left_out: tuple[str, ...], methods: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in methods if name not in left_out)


def subject_of(unit: Unit) -> Subject:
    """The model of a unit of an enumerable section."""
    if unit.section != "enumerable":
        return SUBJECTS[unit.section](unit.table, unit.seed)
    name, family = unit.table.rsplit(", ", 1)
    (setting,) = (one for one in enumerable.SETTINGS if one.name == name)
    reward = enumerable.reward_of_family(family, setting, unit.seed)
    return Subject(setting.engine(unit.seed), reward, setting.length, setting.tilt, unit.seed)


def measure_unit(unit: Unit) -> list[Row]:
    """Measure every method on one model."""
    if unit.section == "language":
        rows = counted.measure_table(unit.table, unit.seed, unit.methods, unit.sizes)
        return [replace(row, table=f"{unit.section}: {row.table}") for row in rows]
    subject = subject_of(unit)
    truth = enumerate_truth(subject)
    rows = []
    for method in unit.methods:
        if unit.num_builds > 1:
            table = f"{unit.table}: mean law of {unit.num_builds} builds"
            rows += measure_builds(table, method, subject, truth, unit.sizes, unit.num_builds)
            continue
        also = absorbing.right_share if unit.section == "absorbing" else None
        rows += measure_method(unit.table, method, subject, truth, unit.sizes, also)
    if unit.section == "absorbing":
        rows.append(absorbing.low_temperature(unit.table, subject, truth))
    if unit.table.startswith("1365") and unit.num_builds == 1:
        outcome = search(subject, maxent_sample, 10**6).outcome
        assert outcome is not None
        values = distances(law("maxent_sample", outcome, truth), truth.weights)
        rows.append(Row("fully expanded", "maxent_sample", EVERYTHING, unit.seed, values))
    return [replace(row, table=f"{unit.section}: {row.table}") for row in rows]


def measure_all(work: Sequence[Unit], num_workers: int, on_unit: Callable[[int], None]) -> list[Row]:
    """Measure units in a pool of processes; the rows do not depend on the number of workers.

    Args:
        work: The units.
        num_workers: Processes.
        on_unit: Called with the number of units done.
    """
    rows: list[Row] = []
    with ProcessPoolExecutor(num_workers) as pool:
        for done, found in enumerate(pool.map(measure_unit, work, chunksize=1), start=1):
            rows += found
            on_unit(done)
    return rows
