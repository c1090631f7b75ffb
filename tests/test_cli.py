"""Mistakes on a command line: one sentence that names the mend, exit code 2, no traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

from simvq_jax import cli

ROOT = Path(__file__).parents[1]
QUICKSTART = f"--config={ROOT / 'configs/quickstart.py'}"
SCRIPT = """
from simvq_jax import cli
def main(config, workdir, stop_at):
    print("ran", config.steps, config.model.multipliers, config.data.flip, config.quantizer.kind, workdir, stop_at)
    if stop_at == 13:
        raise ValueError("stop_at is 13:\\ngive another.")
    if stop_at == 15:
        open("/no/such/folder/file", "w")
    if stop_at == 14:
        raise KeyError("a fault of ours")
helps = {"workdir": "run folder", "stop_at": "last step"}
cli.run_main(main, {"workdir": cli.REQUIRED, "stop_at": 0}, helps, config=True)
"""


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script, *arguments, folder=ROOT):
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, cwd=folder)


def sentence_of(capsys, *arguments):
    """The one line that a mistake in the config's arguments prints, checked to be one and to end with code 2."""
    with pytest.raises(SystemExit) as left:
        cli._check_config(["script", *arguments])
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


# The config's arguments, in process


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("quantizer.codebok_size=3", "'quantizer.codebok_size' does not exist; did you mean quantizer.codebook_size?"),
        ("codebook_size=3", "config key 'codebook_size' does not exist; did you mean quantizer.codebook_size?"),
        ("quantizer=3", "config key 'quantizer' does not exist"),
        ("xyzzy=3", "config key 'xyzzy' does not exist."),
        ("steps=many", "--config.steps=many does not fit: steps is a whole number, by default "),
        ("steps=1.5", "--config.steps=1.5 does not fit: steps is a whole number"),
        ("steps=", "--config.steps= does not fit: steps is a whole number"),
        ("steps", "--config.steps has no value: write --config.steps=..., a whole number."),
        ("optimizer.b1=high", "optimizer.b1 is a number, by default "),
        ("data.flip=maybe", "data.flip is a truth value, by default "),
        ("model.multipliers=(1,x)", "model.multipliers is a tuple, by default ("),
        ("model.multipliers=1,2.5", "model.multipliers is a tuple"),
        ("model.multipliers=", "model.multipliers is a tuple"),
        ("data.crop_scale=(0.5,big)", "data.crop_scale is a tuple, by default (0.5, 1.0)."),
    ],
)
def test_a_wrong_key_or_value_gets_one_sentence(capsys, override, sentence):
    assert sentence in sentence_of(capsys, QUICKSTART, f"--config.{override}")


def test_tuples_may_be_emptied_and_empty_ones_filled_with_numbers(capsys):
    speech, key = "--config=configs/speech_quickstart.py", "--config.discriminator.band_sizes"
    assert cli.load_config(speech.partition("=")[2])[1].discriminator.band_sizes == ()
    for text in ("()", "(512,)", "512,256"):
        assert cli._check_config(["script", speech, f"{key}={text}"])[2] == f"{key}={text}"
    assert "band_sizes is a tuple, by default ()." in sentence_of(capsys, speech, f"{key}=(512,many)")


def test_the_file_may_come_after_its_overrides_and_with_a_blank(capsys):
    assert "'step' does not exist; did you mean steps?" in sentence_of(capsys, "--config.step=3", QUICKSTART)
    apart = QUICKSTART.split("=")
    assert "did you mean steps?" in sentence_of(capsys, *apart, "--config.step=3")
    assert "steps is a whole number" in sentence_of(capsys, *apart, "--config.steps", "many")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("configs/quickstrt.py", "--config=configs/quickstrt.py is no file; known are configs/"),
        ("/no/such.py", "--config=/no/such.py is no file; known are configs/"),
        ("", "--config= is no file; known are configs/"),
        ("configs", "--config=configs is no file"),
        ("configs/quickstart.py:vqq", "quickstart.py:vqq is unknown: use one of simvq, vq, paper."),
        ("configs/common.py:vq", "takes no argument but was given 'vq': leave out ':vq'."),
        ("pyproject.toml", "--config=pyproject.toml is no Python file: give configs/NAME.py."),
    ],
)
def test_a_file_that_is_no_config_gets_one_sentence(capsys, argument, sentence):
    err = sentence_of(capsys, f"--config={argument}")
    assert sentence in err
    assert "no file" not in err or "configs/quickstart.py" in err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "AttributeError"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def get_config():\n    return {}[1]", "KeyError"),
        ("def get_config():\n    pass", "TypeError: get_config gives a NoneType"),
    ],
)
def test_a_broken_config_file_is_named_with_its_fault(capsys, tmp_path, text, reason):
    file = tmp_path / "mine.py"
    file.write_text(text)
    err = sentence_of(capsys, f"--config={file}")
    assert f"{file} is no usable config ({reason}" in err and "mend the file" in err


def test_good_overrides_pass_unchanged_with_the_file_resolved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = ["script", "--config=configs/quickstart.py:vq", "--config.model.multipliers=(1,2)", "--config.data.flip=0"]
    assert cli._check_config(given) == [given[0], f"{QUICKSTART}:vq", *given[2:]]
    assert cli._check_config(["script", "--workdir=x"]) == ["script", "--workdir=x"]


def test_load_config_finds_the_project_s_configs_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file, config = cli.load_config("configs/quickstart.py:vq")
    assert file == ROOT / "configs/quickstart.py" and config.quantizer.kind == "vq"


def test_a_config_of_one_s_own_is_found_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs/quickstart.py"
    own.write_text(
        "from configs import common\ndef get_config():\n    c = common.get_config()\n    c.steps = 7\n    return c"
    )
    file, config = cli.load_config("configs/quickstart.py")
    assert file.resolve() == own and config.steps == 7


def test_the_defaults_are_ours_where_a_project_has_a_package_configs_too(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/__init__.py").write_text("")
    (tmp_path / "configs/common.py").write_text("def get_config():\n    return 7\n")
    code = "import simvq_jax, simvq_jax.cli as cli; simvq_jax.load; print(cli.default_config().quantizer.kind)"
    path = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert ended.stdout.strip() == "simvq", ended.stderr


def test_flatten_names_every_leaf_and_turns_lists_to_tuples():
    nested = {"a": 1, "b": {"c": [1, 2], "d": {"e": "x"}}}
    expected = {"a": 1, "b.c": (1, 2), "b.d.e": "x"}
    assert cli.flatten(nested) == cli.flatten(ml_collections.ConfigDict(nested)) == expected


def test_fail_prints_one_line_and_leaves_with_two(capsys):
    with pytest.raises(SystemExit) as left:
        cli.fail("two\n  lines; did you mean it?.")
    assert left.value.code == 2 and capsys.readouterr().err == "error: two lines; did you mean it?\n"


# Whole command lines


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([QUICKSTART], "--workdir is missing: give --workdir=..., the run folder."),
        (["--workdir=x"], "--config is missing: give --config=..., the experiment, configs/NAME.py"),
        ([QUICKSTART, "--wrkdir=x"], "--wrkdir is no flag; did you mean --workdir?"),
        ([QUICKSTART, "--workdir=x", "--stop_at=soon"], "--stop_at=soon: invalid literal"),
        ([QUICKSTART, "--workdir=x", "now"], "'now' is no flag: write --name=value."),
        ([QUICKSTART, "--workdir=x", "--config.step=1"], "config key 'step' does not exist; did you mean steps?"),
        ([QUICKSTART, "--workdir=x", "--stop_at=13"], "stop_at is 13: give another."),
        ([QUICKSTART, "--workdir=x", "--stop_at=15"], "/no/such/folder/file: No such file or directory: look whether"),
    ],
)
def test_a_mistake_exits_with_two_and_one_line(script, arguments, sentence):
    done = run(script, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_right_arguments_reach_main(script, tmp_path):
    """From another folder, with overrides of every type, and flags apart from their values."""
    overrides = ["--config.steps", "7", "--config.model.multipliers=1,3", "--config.data.flip=false"]
    done = run(script, "--config", "configs/quickstart.py:vq", "--workdir", "r", *overrides, folder=tmp_path)
    assert done.stderr == "" and done.stdout == "ran 7 (1, 3) False vq r 0\n"


def test_what_the_system_refuses_is_said_with_the_place_and_what_to_do():
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/a/.evaluation.json.vm.12.ab.tmp")
    assert cli._sentence(full) == "/runs/a: No space left on device: free some space, or write elsewhere."
    within = OSError(errno.EACCES, "Permission denied", "/runs/.out.vm.12.ab.tmp/deep/file")
    assert cli._sentence(within) == "/runs: Permission denied: change its rights, or give another place."
    assert cli._sentence(OSError(errno.EIO, "Input/output error")) == "Input/output error: --verbosity=1 shows where."
    assert cli._sentence(OSError(errno.ENOENT, "No such file", "/no/a.tmp")).startswith("/no/a.tmp: No such file: ")
    assert cli._sentence(FileNotFoundError("x is no file: give one.")) == "x is no file: give one."


def test_a_tilde_is_the_home_wherever_a_path_is_given(script, monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    assert cli._at_home("~/a,~/b,c~d") == "/homes/me/a,/homes/me/b,c~d" and cli._at_home(3) == 3
    path = cli._check_config(["script", QUICKSTART, "--config.losses.lpips_vgg=~/vgg.pth"])[-1]
    assert path == "--config.losses.lpips_vgg=/homes/me/vgg.pth"
    assert " /homes/me/runs " in run(script, QUICKSTART, "--workdir=~/runs").stdout


def test_our_own_faults_keep_their_traceback(script):
    done = run(script, QUICKSTART, "--workdir=x", "--stop_at=14")
    assert done.returncode == 1 and "Traceback" in done.stderr and "a fault of ours" in done.stderr


def test_verbosity_shows_the_traceback_of_a_mistake(script):
    done = run(script, QUICKSTART, "--workdir=x", "--stop_at=13", "--verbosity=1")
    assert done.returncode == 1 and "Traceback" in done.stderr and "stop_at is 13" in done.stderr


def test_help_lists_the_flags_with_their_lines(script):
    out = run(script, "--help").stdout
    assert "--workdir: run folder" in out and "--stop_at: last step" in out and "--config: experiment" in out
