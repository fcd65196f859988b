"""A sweep is one run: every variant of it has the records that an evaluation of that variant alone has."""

from __future__ import annotations

import json
import os

import pytest

from maxent_ts.cli import main
from maxent_ts.cli.sweep import build_sweep
from maxent_ts.config import MethodConfig, make_config
from maxent_ts.errors import SettingError
from maxent_ts.evaluate import Silent
from maxent_ts.records import read_run, read_tree
from maxent_ts.registry import METHODS_OF_ONE_COMPLETION, METHODS_WITHOUT_SEED, METHODS_WITHOUT_TILT
from maxent_ts.report.html import render_report
from maxent_ts.sweep import expand_variants, split_values

from .evaluation_fakes import NUM_ITEMS
from .toy_runs import FAKES, essence, make, run_toys

AXES = {"num_rollouts": [2, 4], "tilt": [1.0, 3.0], "seed": [0, 1]}
SETTINGS = {"maxent": {"num_parallel": [1, 3]}}


def labels(variants):
    return [MethodConfig(**one).label for one in variants]


def sweep(tmp_path, name="sweep", methods=("greedy", "sample", "best_of_n", "maxent"), axes=AXES, settings=SETTINGS, **changes):
    return make(tmp_path, name=name, methods=expand_variants(methods, axes, settings), **changes)


def test_an_axis_multiplies_only_the_methods_whose_result_it_changes():
    """Catches a greedy decoding that is paid for once per seed, and a method that misses an axis."""
    found = labels(expand_variants(("greedy", "sample", "best_of_n", "maxent"), AXES, SETTINGS))
    assert len(found) == len(set(found))
    assert [one for one in found if one.startswith("greedy")] == ["greedy"]
    assert [one for one in found if one.startswith("sample")] == ["sample[seed=0]", "sample[seed=1]"]
    assert sum(one.startswith("best_of_n") for one in found) == 4
    assert sum(one.startswith("maxent") for one in found) == 16
    assert "maxent[num_rollouts=2, tilt=3, num_parallel=1, seed=1]" in found


def test_a_single_value_is_no_axis():
    """Catches labels that say what is the same everywhere."""
    assert labels(expand_variants(("maxent",), {"tilt": [2.0]}, {"maxent": {"num_parallel": [8]}})) == ["maxent"]


def test_a_method_s_own_tilt_goes_before_the_axis():
    """Catches a setting that is taken for a keyword of the method, which has none of that name."""
    variants = expand_variants(("maxent", "best_of_n_softmax"), {"tilt": [1.0, 2.0]}, {"maxent": {"tilt": [4.0]}})
    assert [(MethodConfig(**one).label, one["tilt"]) for one in variants] == [
        ("maxent", 4.0),
        ("best_of_n_softmax[tilt=1]", 1.0),
        ("best_of_n_softmax[tilt=2]", 2.0),
    ]


@pytest.mark.parametrize(
    ("axes", "settings", "expected"),
    [
        ({"tilt": [1.0, 1.0]}, {}, "tilt = 1.0 twice"),
        ({}, {"maxent": {"num_parallel": [2, 2]}}, "num_parallel = 2 twice"),
        ({"num_rollouts": [1, 2]}, {"maxent": {"num_rollouts": [3]}}, "by --num-rollouts and by --set"),
    ],
)
def test_a_grid_that_names_a_variant_twice_is_refused(axes, settings, expected):
    """Catches two variants with one label, whose records would be each other's."""
    with pytest.raises(SettingError, match=expected):
        expand_variants(("maxent",), axes, settings)


def test_values_are_numbers_of_their_kind():
    """Catches half a rollout, and a text that reaches the configuration."""
    assert split_values("5,10,20", int, "--num-rollouts") == [5, 10, 20]
    assert split_values("0.5,2", float, "--tilt") == [0.5, 2.0]
    for text in ("5,", "2.5", "a", ""):
        with pytest.raises(SettingError, match="--num-rollouts takes numbers"):
            split_values(text, int, "--num-rollouts")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return run_toys(sweep(tmp_path_factory.mktemp("swept")), num_probe_items=2)


def test_every_variant_has_the_records_it_has_alone(swept, tmp_path):
    """Catches a budget, λ, seed or setting of one variant that leaks into another, or is recorded and not used."""
    whole = essence(swept, ("variant",))
    assert len(whole) == NUM_ITEMS * 23
    for index, (method, values) in enumerate(
        [
            ({"name": "maxent", "settings": {"num_parallel": 3}}, {"num_rollouts": 4, "tilt": 3.0, "seed": 1}),
            ({"name": "maxent", "settings": {"num_parallel": 1}}, {"num_rollouts": 2, "tilt": 1.0, "seed": 0}),
            ({"name": "best_of_n"}, {"num_rollouts": 4, "tilt": 3.0, "seed": 0}),
            ({"name": "sample"}, {"num_rollouts": 5, "tilt": 3.0, "seed": 1}),
            ({"name": "greedy"}, {"num_rollouts": 5, "tilt": 3.0, "seed": 0}),
        ]
    ):
        alone = essence(run_toys(make(tmp_path, name=str(index), methods=(method,), **values)), ("variant",))
        shown = [f"{name}={value:g}" for name, value in values.items()]
        (label,) = [
            variant.label
            for variant in swept.info.variants
            if variant.name == method["name"]
            and all(
                part in shown or part.startswith("num_parallel")
                for part in variant.label.partition("[")[2][:-1].split(", ")
                if part
            )
            and variant.settings == method.get("settings", {})
        ]
        for (task, _, example_id), values_alone in alone.items():
            assert whole[task, label, example_id] == values_alone


def test_records_say_what_each_variant_was_told(swept):
    """Catches a table in which the axes of the sweep cannot be told apart."""
    for record in swept.records:
        if record.method in ("greedy", "sample"):
            assert record.max_generated_tokens == record.max_new_tokens == 6
        else:
            assert f"num_rollouts={record.num_rollouts}" in record.variant
            assert record.max_generated_tokens == 6 * record.num_rollouts
        if "seed=" in record.variant:
            assert f"seed={record.seed[0]}]" in record.variant
        if record.method == "maxent":
            assert f"tilt={record.tilt:g}, num_parallel={record.settings['num_parallel']}" in record.variant


def test_a_stopped_sweep_goes_on_where_it_was(swept, tmp_path):
    """Catches a probe or a seed that is missing from the key: records lost, doubled or mixed."""

    class Impatient(Silent):
        num = 0

        def recorded(self, record):
            self.num += 1
            if self.num % 60 == 0:
                raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_toys(sweep(tmp_path), watcher=Impatient(), num_probe_items=2)
    run = run_toys(sweep(tmp_path), num_probe_items=2)
    assert essence(run) == essence(swept)
    assert (run.path / "samples.jsonl").read_bytes().count(b"\n") == len(run.records)


def test_the_estimate_comes_from_the_first_two_items_of_every_variant(tmp_path):
    """Catches an estimate of what is over already, and one beyond the bound."""
    seen = []

    class Watcher(Silent):
        num = 0

        def recorded(self, record):
            self.num += 1

        def estimated(self, estimate):
            seen.append((estimate, self.num))

    methods = ("greedy", "best_of_n")
    run = run_toys(sweep(tmp_path, methods=methods, settings={}), watcher=Watcher(), num_probe_items=2)
    ((estimate, num_recorded),) = seen
    assert num_recorded == estimate.num_searches == 2 * 5
    assert estimate.num_left == (NUM_ITEMS - 2) * 5
    first = {example_id for _, example_id in list(run.examples)[:2]}
    probe = [one.usage["generated_tokens"] for one in run.records if one.example_id in first]
    assert estimate.generated_tokens == pytest.approx(sum(probe) / 2 * (NUM_ITEMS - 2))
    assert estimate.generated_tokens <= estimate.generated_tokens_at_most == (NUM_ITEMS - 2) * (6 + 2 * 12 + 2 * 24)
    run_toys(sweep(tmp_path, methods=methods, settings={}), watcher=Watcher(), num_probe_items=2)
    assert len(seen) == 1, "nothing was left to estimate"


def test_an_item_that_fails_in_the_probe_is_not_tried_again_in_the_same_start(tmp_path):
    """Catches two records of one failure."""
    run = run_toys(
        make(tmp_path, methods=("sample",), rewards=(f"{FAKES}:fails_on_ee",), max_new_tokens=20), num_probe_items=NUM_ITEMS
    )
    assert any(one.error is not None for one in run.records)
    assert (run.path / "samples.jsonl").read_bytes().count(b"\n") == NUM_ITEMS


def test_the_summary_averages_over_seeds_and_pairs_what_is_alike(swept):
    """Catches a mean over another variant's seeds, and a comparison at different budgets."""
    rows, groups = swept.summary["tasks"]["letters"], swept.summary["over_seeds"]["letters"]
    assert len(rows) == 23
    assert set(groups) == {label.replace(", seed=0", "").replace("[seed=0]", "") for label in rows if "seed=0" in label}
    one, other = (rows[f"best_of_n[num_rollouts=4, seed={seed}]"]["reward"]["mean"] for seed in (0, 1))
    found = groups["best_of_n[num_rollouts=4]"]
    assert found["num_seeds"] == 2
    assert found["reward"]["mean"] == pytest.approx((one + other) / 2)
    assert found["reward"]["standard_deviation"] == pytest.approx(abs(one - other) / 2**0.5)
    pairs = {(one["method"], one["baseline"]) for one in swept.summary["comparisons"]}
    assert len(pairs) == 8 * 3  # greedy, and sample and best_of_n with the same budget, seeds averaged within an item
    for method, baseline in pairs:
        for part in baseline.partition("[")[2][:-1].split(", "):
            assert part in method
    assert swept.summary["budget_per_item"] == {
        "generated_tokens": None,
        "num_rollouts": None,
        "max_new_tokens": 6,
        "tilt": None,
        "seed": None,
    }


def build(**changes):
    values = {"tasks": ["t"], "methods": ["maxent", "best_of_n"], "settings": [], "axes": {}, "num_parallel": None, "values": {}}
    return build_sweep(**{**values, "reward_weights": None, **changes})


def test_options_become_the_grid():
    """Catches an option that goes nowhere, and a first value that the run's configuration does not have."""
    axes = {"num_rollouts": "5,10", "tilt": "2", "seed": None}
    config = build(axes=axes, num_parallel="2,4", settings=["maxent.selection=bound,improvement"])
    assert (config.num_rollouts, config.tilt, config.seed) == (5, 2.0, 0)
    assert len(config.methods) == 2 * 2 * 2 + 2
    assert config.methods[0].label == "maxent[num_rollouts=5, selection=bound, num_parallel=2]"
    assert str(config.output_dir).startswith("runs/sweep-t-")
    assert build(axes={"seed": "1,2"}).output_dir != build(axes={"seed": "1,3"}).output_dir


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--num-rollouts", "5,x"], "takes numbers"),
        (["--num-rollouts", "0,5"], "num_rollouts"),
        (["--tilt", "-1"], "tilt"),
        (["--method", "greedy", "--num-parallel", "2"], "setting of none"),
        (["--set", "maxent.num_parallel=2", "--num-parallel", "4"], "by --num-parallel and by --set"),
        (["--set", "maxent.num_paralel=2,4"], "Did you mean 'num_parallel'"),
    ],
)
def test_a_wrong_grid_is_one_clear_message(arguments, expected, capsys, tmp_path):
    """Catches a traceback, and a value that is wrong only when its turn comes."""
    command = ["sweep", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--method", "maxent", *arguments]
    if "greedy" in arguments:
        command.remove("maxent")
        command.remove("--method")
    with pytest.raises(SystemExit) as left:
        main([*command, "--output-dir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert expected in " ".join(error.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_the_command_runs_a_sweep_and_its_bounds_hold(capsys, tmp_path):
    """Catches a plan that is not what runs."""
    command = ["sweep", f"{FAKES}:LetterTask", "--engine", f"{FAKES}:make_engine", "--model", "toy", "--method", "maxent"]
    command += ["--method", "greedy", "--num-rollouts", "2,3", "--max-new-tokens", "4,6", "--seed", "0,1", "--limit", "4"]
    command += ["--output-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main([*command, "--dry-run", "--format", "json"])
    bounds = json.loads(capsys.readouterr().out)["bounds"]
    assert not os.path.exists(tmp_path / "run")
    with pytest.raises(SystemExit) as left:
        main(command)
    out, err = capsys.readouterr()
    assert left.value.code == 0
    run = read_run(tmp_path / "run")
    assert len(run.records) == bounds["searches"] == run.info.num_searches == 4 * (2 * 2 * 2 + 2)
    for label, tokens in bounds["generated_tokens_at_most_by_variant"].items():
        assert 0 < sum(one.usage["generated_tokens"] for one in run.records if one.variant == label) <= tokens
    assert "Estimate from 20 searches: the other 20" in err
    assert "mean over seeds" in out
    assert "maxent[num_rollouts=2, max_new_tokens=4, seed=0]" in out


def test_a_configuration_with_variants_reads_back_as_itself():
    """Catches a variant that changes on its way through run.json."""
    config = make_config(tasks=("t",), methods=tuple(expand_variants(("maxent",), AXES, SETTINGS)))
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert [config.resolved(one).generated_tokens for one in config.methods[:1]] == [2 * 50]


def test_the_page_shows_every_variant(swept):
    """Catches variants of a method that are thrown together, or labels that are lost."""
    page = render_report(swept)
    rows = {label: row for label, row in swept.summary["tasks"]["letters"].items() if "seed=" not in label}
    for label, row in {**rows, **swept.summary["over_seeds"]["letters"]}.items():
        assert label in page
        assert f"{row['reward']['mean']:.3f}" in page
    assert "ablation-1" in page, "quality over pairs of settings"


def test_trees_of_variants_are_kept_apart(tmp_path):
    """Catches the tree of one variant that overwrites another's."""
    run = run_toys(sweep(tmp_path, methods=("maxent",), axes={"num_rollouts": [2, 4]}, settings={}, limit=2))
    found = {variant: len(read_tree(file)["completions"]) for _, variant, file in run.trees()}
    assert set(found) == {"maxent[num_rollouts=2]", "maxent[num_rollouts=4]"}
    by_key = {one.key: one for one in run.records}
    for variant, num_completions in found.items():
        assert by_key["letters", variant, "item/0"].num_completions == num_completions


def answers(tmp_path, name, methods, **changes):
    run = run_toys(make(tmp_path, name=name, methods=sorted(methods), **changes))
    return {one.key: one.text for one in run.records}


def test_methods_said_not_to_depend_on_an_axis_do_not(tmp_path):
    """Catches a method that a sweep runs once although its answer changes along the axis."""
    assert answers(tmp_path, "0", METHODS_WITHOUT_TILT, tilt=0.0) == answers(tmp_path, "5", METHODS_WITHOUT_TILT, tilt=5.0)
    assert answers(tmp_path, "a", METHODS_WITHOUT_SEED) == answers(tmp_path, "b", METHODS_WITHOUT_SEED, seed=1)
    one = answers(tmp_path, "c", METHODS_OF_ONE_COMPLETION, num_rollouts=1)
    assert one == answers(tmp_path, "d", METHODS_OF_ONE_COMPLETION, num_rollouts=9)
