"""How the yardstick measures: laws, distances, means over builds, and the gates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.yardstick import enumerable, measure
from benchmarks.yardstick.measure import Row, Subject, distances, enumerate_truth, law, measure_builds, measure_method, search
from benchmarks.yardstick.methods import OPTIMISERS, SAMPLERS
from benchmarks.yardstick.sections import Plan, Unit, measure_all, measure_unit, units
from benchmarks.yardstick.tables import Means, gates

from maxent_ts.registry import METHODS
from maxent_ts.search.exact import frozen_tree_law
from maxent_ts.tree import ROOT


def test_the_frozen_tree_law_is_read_off_node_by_node():
    """Against the walk written out: the vectorised law must stop at the last node that a completion shares with the tree."""
    setting = enumerable.SETTINGS[3]
    subject = Subject(setting.engine(4), enumerable.reward_of_family("additive", setting, 4), setting.length, setting.tilt, 4)
    truth = enumerate_truth(subject)
    tree = search(subject, "maxent_sample", 20).outcome.tree
    found = frozen_tree_law(tree, truth.outcome)
    for one in truth.outcome.completions[::13]:
        node = ROOT
        for token in one.tokens:
            if token not in tree.children[node]:
                break
            node = tree.children[node][token]
        assert found[one.tokens] == pytest.approx(np.exp(one.logprob + tree.log_value[node] - tree.log_value[ROOT]))
    assert sum(found.values()) == pytest.approx(1)


def test_laws_of_methods_are_distributions_and_their_distances_are_right():
    setting = enumerable.SETTINGS[1]
    subject = Subject(setting.engine(0), enumerable.reward_of_family("rugged", setting, 0), setting.length, setting.tilt, 0)
    truth = enumerate_truth(subject)
    for method in ("best_of_n_softmax", "maxent_sample"):
        assert law(method, search(subject, method, 10).outcome, truth).sum() == pytest.approx(1)
    assert distances(truth.weights, truth.weights) == {"tv": 0, "kl": 0}
    first, second = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert distances(first, second) == pytest.approx({"tv": 0.5, "kl": np.log(2)})


def test_the_mean_law_of_builds_is_nearer_than_that_of_one():
    """Averaging cannot move a law away from π on average: TV is convex."""
    setting = enumerable.SETTINGS[1]
    subject = Subject(setting.engine(0), enumerable.reward_of_family("additive", setting, 0), setting.length, setting.tilt, 0)
    truth = enumerate_truth(subject)
    (mean,) = measure_builds("t", "best_of_n_softmax", subject, truth, (10,), 20)
    outcomes = [search(subject, "best_of_n_softmax", 10, build).outcome for build in range(20)]
    alone = [distances(law("best_of_n_softmax", one, truth), truth.weights) for one in outcomes]
    assert mean.values["tv"] <= np.mean([one["tv"] for one in alone])
    assert mean.values["tv"] < min(one["tv"] for one in alone)


def test_a_search_that_fails_is_a_row_with_its_error():
    setting = enumerable.SETTINGS[1]
    subject = Subject(setting.engine(0), enumerable.reward_of_family("additive", setting, 0), setting.length, setting.tilt, 0)

    def broken(rng, target):
        raise ValueError("broken on purpose")
        yield

    truth = enumerate_truth(subject)
    (row,) = measure_method("t", broken, subject, truth, (10,))
    assert row.values == {}
    assert "on purpose" in row.error
    assert Means([row]).to_dict()["tables"] == {}


def test_results_do_not_depend_on_the_number_of_workers():
    plan = Plan(
        num_models=1, num_builds=2, num_models_of_builds=1, num_models_of_large=1, num_models_of_many=0, num_models_of_language=1
    )
    work = [replace(one, sizes=(3,)) for one in units("absorbing", ("best_of_n_softmax", "maxent_sample"), plan)]
    work += [Unit("enumerable", "4^5 leaves, tilt 3, sparse", seed, ("maxent_sample",), (5,)) for seed in range(2)]

    def timeless(rows: list[Row]) -> list[Row]:
        return [replace(row, values={key: value for key, value in row.values.items() if key != "seconds"}) for row in rows]

    alone = [row for unit in work for row in measure_unit(unit)]
    assert timeless(measure_all(work, 2, lambda done: None)) == timeless(alone)


def test_every_section_has_units_and_every_table_a_subject():
    plan = Plan(
        num_models=1, num_builds=2, num_models_of_builds=1, num_models_of_large=1, num_models_of_many=1, num_models_of_language=1
    )
    for section in ("enumerable", "language", "verifier", "absorbing", "grammar"):
        assert list(units(section, ("maxent_sample",), plan))


def test_gates_judge_ratios_and_name_the_cells_lost():
    rows = []
    for seed in range(2):
        for method, tv in (("dts", 0.5), ("maxent_sample", 0.2), ("smc", 0.1)):
            rows.append(Row("enumerable: 4^5 leaves, tilt 3, additive", method, 10, seed, {"tv": tv}))
    found = gates(Means(rows), ("dts", "maxent_sample", "smc"))
    ratio = found["TV ratio to dts, 4^5 leaves, tilt 3, additive, 10"]
    assert (ratio["value"], ratio["passed"]) == (pytest.approx(0.4), True)
    lost = found["cells of tilt 3 and 8 where maxent_sample has not the lowest TV"]
    assert (lost["value"], lost["passed"], lost["lost"][0]["winner"]) == (1, False, "smc")


def test_a_method_is_a_sampler_or_an_optimiser():
    assert not set(SAMPLERS) & set(OPTIMISERS)
    assert {"maxent_sample", "best_of_n_softmax"} <= set(SAMPLERS) & set(METHODS)
    assert measure.FROZEN_TREE_METHODS[1] in SAMPLERS
