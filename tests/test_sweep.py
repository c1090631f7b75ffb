"""launch/sweep.py: the runs of a file, what is left of them, failures, and lines for a cluster."""

import copy
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from simvq_jax import build
from simvq_jax.experiment import Run, is_finished, planned_runs

ROOT = Path(__file__).parents[1]
OF_ONE_SIZE = ("headline", "largest")  # studies
WRONG_NAMES = ("", ".", "../a", "/a", "a//b", "a/", "a/../b")
spec = importlib.util.spec_from_file_location("sweep", ROOT / "launch/sweep.py")
sweep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sweep)


@pytest.fixture
def experiment(tmp_path):
    """Writes an experiment over the tiny config, with the given body of sweep(add)."""

    def write(*body):
        file = tmp_path / "experiment.py"
        lines = ["from tiny import tiny_config as get_config", *body]
        file.write_text("\n".join(lines) + "\n")
        return str(file)

    return write


TWO_RUNS = (
    "def sweep(add):",
    "    add('small', {})",
    "    add('large', {'quantizer.codebook_size': 128, 'data.crop_scale': (0.2, 1.0)})",
)


def finish(trained_run, folder, **changes):
    """A finished run of the tiny config, made out of the shared one."""
    shutil.copytree(trained_run, folder)
    config = tiny_config()
    config.update_from_flattened_dict(changes)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    figures = {"eval/codebook_utilization": 0.5, "eval/codebook_perplexity": 3.0, "eval/psnr": 20.0}
    (folder / "evaluation.json").write_text(json.dumps({"data": "photos", **figures}))


def test_the_study_s_runs_build():
    studies = [file for file in (ROOT / "configs/study").glob("[!_]*.py") if file.stem not in ("base", "whole")]
    sized = [f"{file}:{size}" for file in studies if file.stem not in OF_ONE_SIZE for size in ("reduced", "full")]
    quantizers = {}
    for argument in [*sized, *(str(ROOT / f"configs/study/{name}.py") for name in OF_ONE_SIZE)]:
        runs, original = planned_runs(argument), sweep.cli.load_config(argument)[1]
        assert len(runs) > 1
        for run in runs:
            config = copy.deepcopy(original)
            config.update_from_flattened_dict(run.changes)
            build.check_ranges(config)
            build.build_networks(config)
            quantizers[str(config.quantizer)] = config
    for config in quantizers.values():  # whose fields are checked against each other only where tokens come
        tokens = jnp.zeros((1, 2, config.quantizer.dim))
        jax.eval_shape(build.build_quantizer(config, None).init, jax.random.key(0), tokens)


@pytest.mark.parametrize("size", ["reduced", "full"])
def test_all_studies_in_one_sweep_have_the_runs_and_folders_of_each(size):
    whole = str(ROOT / f"configs/study/whole.py:{size}")
    in_one, planned = {}, planned_runs(whole)
    common = sweep.cli.flatten(sweep.cli.load_config(whole)[1])
    for run in planned:
        in_one[run.name] = {**common, **run.changes}
    names = {run.name.partition("/")[0] for run in planned}
    alone = {}
    for study in names:
        argument = str(ROOT / f"configs/study/{study}.py:{size}")
        config = sweep.cli.flatten(sweep.cli.load_config(argument)[1])
        alone |= {f"{study}/{run.name}": {**config, **run.changes} for run in planned_runs(argument)}
    assert in_one == alone
    if size == "reduced":  # none is made twice; at full size some rates of W are a recipe's
        assert len({str(sorted(config.items())) for config in in_one.values()}) == len(in_one)
    files = {file.stem for file in (ROOT / "configs/study").glob("[!_]*.py")}
    assert files - names == {"base", "whole", *OF_ONE_SIZE}


def test_a_line_for_each_run_that_is_left(experiment, tmp_path, trained_run, capsys):
    file = experiment(*TWO_RUNS)
    finish(trained_run, tmp_path / "runs/small")
    sweep.main(file, str(tmp_path / "runs"), 1, "", True, "")
    (line,) = capsys.readouterr().out.splitlines()
    folder = tmp_path / "runs/large"
    changes = ["--config.quantizer.codebook_size=128", "--config.data.crop_scale=(0.2,1.0)"]
    assert shlex.split(line) == [
        *["python", "-m", "simvq_jax.train", "--evaluate", "--stopped_status=75"],
        f"--config={file}",
        f"--workdir={folder}",
        *changes,
    ]


def test_runs_are_done_and_failures_told(experiment, tmp_path, trained_run, monkeypatch, capsys):
    file, runs = experiment(*TWO_RUNS), tmp_path / "runs"
    finish(trained_run, runs / "small")

    def command_of(run, *_):
        code = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR']); raise SystemExit('no {} today')"
        return [sys.executable, "-c", code.format(run.name)]

    monkeypatch.setattr(sweep, "command_of", command_of)
    monkeypatch.setattr(sweep.accelerators, "extra_of", lambda: "")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    with pytest.raises(SystemExit) as ended:
        sweep.main(file, str(runs), 2, "", False, "")
    told = capsys.readouterr()
    assert ended.value.code == 1 and "1 of 2 runs failed: large" in told.err
    assert "2 runs, 1 of them finished already" in told.out
    assert "large: FAILED with exit status 1: no large today" in told.out
    assert "/sweep_" in (runs / "large.log").read_text()  # where compiled programs are shared
    assert (runs / "table.md").read_text().count("\n| small") == 1
    with pytest.raises(SystemExit):
        sweep.main(file, str(runs), 1, "large", False, "")
    assert (runs / "table.md").read_text().count("\n| small") == 1  # the table has all that is finished


def test_each_of_two_local_jobs_has_its_part_of_a_gpu_s_memory(experiment, tmp_path, monkeypatch):
    code = "import os; print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION']); raise SystemExit(1)"
    monkeypatch.setattr(sweep, "command_of", lambda *_: [sys.executable, "-c", code])
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    with pytest.raises(SystemExit):
        sweep.main(experiment(*TWO_RUNS), str(tmp_path / "runs"), 2, "", False, "")
    for name in ("small", "large"):
        assert "0.450\n" in (tmp_path / f"runs/{name}.log").read_text()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind processes to cores")
def test_local_jobs_share_cores_memory_and_compiled_programs(monkeypatch):
    names = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(sweep.accelerators, "extra_of", lambda: "")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    code = "import os; print(*sorted(os.sched_getaffinity(0)), os.path.isdir(os.environ['JAX_COMPILATION_CACHE_DIR']))"
    ready = threading.Barrier(2, timeout=60)  # so that each thread takes one

    def start(environment):
        ready.wait()
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        ).stdout

    whole = os.sched_getaffinity(0)
    with sweep.local_workers(2) as (pool, environment):
        told = [line.split() for line in pool.map(start, [environment] * 2)]
    cores = [{int(core) for core in line[:-1]} for line in told]
    if len(whole) > 1:
        assert cores[0] | cores[1] == whole and not cores[0] & cores[1]
    assert {line[-1] for line in told} == {"True"} and not Path(environment[names[1]]).exists()
    assert environment[names[0]] == "0.450" and os.sched_getaffinity(0) == whole
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    with sweep.local_workers(2) as (_, environment):
        assert environment["TF_CPP_MIN_LOG_LEVEL"] == "3"
    for name in (*names, "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "mine")
    with sweep.local_workers(2) as (_, environment):
        assert not environment
    monkeypatch.setattr(sweep.accelerators, "extra_of", lambda: "gpu")
    monkeypatch.delenv(names[1])
    with sweep.local_workers(1) as (_, environment):
        assert not environment
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5, 7, 9})
    assert sweep.cores_of(3) == [{0, 1}, {2, 4}, {5, 7, 9}]
    assert sweep.cores_of(1) == sweep.cores_of(8) == []


def test_a_finished_sweep_starts_nothing(experiment, tmp_path, trained_run, monkeypatch, capsys):
    file = experiment(*TWO_RUNS)
    finish(trained_run, tmp_path / "runs/small")
    monkeypatch.setattr(sweep, "perform", None)
    sweep.main(file, str(tmp_path / "runs"), 1, "small", False, "")
    assert "50.0%" in capsys.readouterr().out


def test_a_run_that_was_evaluated_before_its_last_step_is_not_finished(experiment, tmp_path, trained_run):
    file, folder = experiment(*TWO_RUNS), tmp_path / "runs/small"
    finish(trained_run, folder)
    run = planned_runs(file)[0]
    assert is_finished(run, file, tmp_path / "runs")
    figures = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(figures | {"provenance": {"step": 2}}))
    assert not is_finished(run, file, tmp_path / "runs")
    for other in ({"split": "train"}, {"limit": 5}):
        (folder / "evaluation.json").write_text(json.dumps(figures | {"provenance": {"step": 4, **other}}))
        assert not is_finished(run, file, tmp_path / "runs")
    (folder / "evaluation.json").write_text(json.dumps(figures | {"data": "folder:others"}))
    assert not is_finished(run, file, tmp_path / "runs")


def test_a_run_that_was_stopped_is_told_from_a_failure(tmp_path):
    told = []
    command = [sys.executable, "-c", "raise SystemExit(75)"]
    assert not sweep.perform(Run("of/one", {}), command, tmp_path, told.append, {})
    assert told == [f"of/one: started, {tmp_path / 'of/one.log'}", "of/one: stopped, to go on with the same sweep"]


def test_a_folder_with_a_run_of_another_config_is_no_finished_run(experiment, tmp_path, trained_run):
    finish(trained_run, tmp_path / "runs/small", **{"quantizer.beta": 0.5})
    with pytest.raises(ValueError, match=r"another config \(quantizer.beta: 0.5 -> 0.25\)"):
        sweep.main(experiment(*TWO_RUNS), str(tmp_path / "runs"), 1, "", False, "")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], r"has no function sweep\(add\)"),
        (["def sweep(add):", "    pass"], "adds no run"),
        (["def sweep(add):", "    add('a', {'quantizer.size': 3})"], r"unknown keys \(quantizer.size\)"),
        (["def sweep(add):", "    add('a', {})", "    add('a', {})"], "several runs named a"),
        (
            ["def sweep(add):", "    add('a', {'steps': 'abc'})"],
            "has steps = 'abc' but it must be a whole number, like the",
        ),
        (
            ["def sweep(add):", "    add('a', {'data.crop_scale': 0.5})"],
            r"has data.crop_scale = 0.5 but it must be a tuple, like",
        ),
        (["def sweep(add):", "    1 / 0"], r"sweep\(add\) of .* fails \(ZeroDivisionError: division by zero\)"),
        *((["def sweep(add):", f"    add({name!r}, {{}})"], "name a folder in the sweep's") for name in WRONG_NAMES),
        (["def sweep(add):", "    add('a', {})", "    add('a/b', {})"], "'a/b' in the folder of the run 'a'"),
    ],
)
def test_a_file_that_plans_no_sweep(experiment, body, sentence):
    with pytest.raises(ValueError, match=sentence):
        planned_runs(experiment(*body))


@pytest.mark.parametrize(("jobs", "only", "sentence"), [(0, "", "jobs is 0"), (1, "huge", "no run's name contains")])
def test_flags_that_do_not_fit(experiment, tmp_path, jobs, only, sentence):
    with pytest.raises(ValueError, match=sentence):
        sweep.main(experiment(*TWO_RUNS), str(tmp_path / "runs"), jobs, only, False, "")


def test_a_sweep_may_lie_in_a_bucket(experiment, tmp_path, monkeypatch):
    pytest.importorskip("gcsfs")
    given = []
    monkeypatch.setattr(sweep, "is_finished", lambda *_: False)
    monkeypatch.setattr(sweep, "perform", lambda run, command, workdir, say, environment: given.append(command) or True)
    sweep.main(experiment(*TWO_RUNS), "gs://bucket/study", 1, "small", False, "bash launcher")
    assert "--workdir=gs://bucket/study/small" in given[0]


def test_what_is_left_is_given_to_a_launcher(experiment, tmp_path, trained_run, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "")  # so that it is put back
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    file, launcher = experiment(*TWO_RUNS), tmp_path / "launcher"
    finish(trained_run, tmp_path / "runs/small")
    launcher.write_text('for word in "$XLA_PYTHON_CLIENT_MEM_FRACTION" "$@"; do echo "$word"; done > "${0%/*}/given"\n')
    sweep.main(file, str(tmp_path / "runs"), 2, "", False, f"bash {launcher}")
    assert (tmp_path / "given").read_text().splitlines() == [
        "",  # a job elsewhere has its GPU for itself
        f"--config={file}",
        f"--workdir={tmp_path / 'runs/large'}",
        "--config.quantizer.codebook_size=128",
        "--config.data.crop_scale=(0.2,1.0)",
    ]
    assert "large" not in (tmp_path / "runs/table.md").read_text()  # it is not finished, only started


def test_a_text_of_a_change_keeps_its_spaces_and_a_tuple_has_none():
    run = Run("a", {"quantizer.basis_file": "/my files/a.npy", "data.crop_scale": (0.2, 1.0)})
    _, _, *changes = sweep.training_flags(run, "b.py", Path("c"))
    assert changes == ["--config.quantizer.basis_file=/my files/a.npy", "--config.data.crop_scale=(0.2,1.0)"]
