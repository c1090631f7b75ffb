"""Command lines: flags, experiment configs, and errors in one sentence instead of a traceback."""

import difflib
import errno
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

REQUIRED = object()  # default of a flag that must be given
INTERRUPTED = 130  # exit status after the keyboard's interrupt, as shells have it
FAILED = 2  # exit status after a mistake
DEFAULTS = Path(__file__).resolve().parent.parent / "configs/common.py"  # by its place: others have a `configs` too
NAMING = ("--config=", "-config=")  # what begins an argument that names an experiment
MISTAKES = (ValueError, OSError, RuntimeError, ModuleNotFoundError)  # raised with a sentence meant for the user

MENDS = {  # what to do about what the system says
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EROFS: "give a place that can be written to",
    errno.EACCES: "change its rights, or give another place",
    errno.EPERM: "change its rights, or give another place",
    errno.EEXIST: "give another name",
    errno.ENOTDIR: "give a folder",
    errno.EISDIR: "give a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "look whether that path is right",
}


class Chosen(NamedTuple):
    """What a command line says of a config. config: the experiment's, None if none is named; overrides: by key."""

    config: ml_collections.ConfigDict | None
    overrides: dict[str, Any]


def run_main(
    main: Callable, defaults: dict, help: dict[str, str], *, config: bool = False, optional_config: bool = False
) -> None:
    """Parses flags and calls `main(**flags)`; a mistake prints one sentence and exits with 2.

    defaults: flag name -> default, or REQUIRED; the default's type is the flag's. help: a line for each.
    config: also take `--config=configs/NAME.py[:argument]` and `--config.key=value`; main gets `config`.
    optional_config: the same, but the experiment may be left out; main gets `config` as `Chosen`.
    `--verbosity=1` shows the log and, after a mistake, the traceback.
    """
    for name, default in defaults.items():
        _define(name, default, help[name])
    takes_config, named = config or optional_config, False
    if takes_config:
        defaults = {"config": REQUIRED, **defaults}
        help = {"config": "experiment, configs/NAME.py or configs/NAME.py:argument", **help}
        config_flags.DEFINE_config_file("config", None, help["config"])
    for name in defaults:  # --help lists the flags of the script started, and those are defined here
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

    def parse(argv):
        nonlocal named
        if takes_config:
            named = any(argument.startswith(NAMING) for argument in _joined(argv))
            defaulted = [] if named or not optional_config else [f"--config={DEFAULTS}"]
            argv = _check_config([*argv[:1], *defaulted, *argv[1:]])
        try:
            rest = flags.FLAGS(argv)
        except flags.UnrecognizedFlagError as error:
            fail(f"--{error.flagname} is no flag{_nearest(error.flagname, flags.FLAGS)}.")
        except flags.Error as error:
            fail(f"{error}")
        for name, default in defaults.items():
            if default is REQUIRED and not getattr(flags.FLAGS, name):
                fail(f"--{name} is missing: give --{name}=..., the {help[name]}.")
        if len(rest) > 1:
            fail(f"{rest[1]!r} is no flag: write --name=value.")
        return rest

    def guarded(_):
        wordy = flags.FLAGS.verbosity > 0
        logging.set_verbosity(logging.INFO if wordy else logging.WARNING)
        try:
            values = {name: _at_home(getattr(flags.FLAGS, name)) for name in defaults}
            main(**values | ({"config": _chosen(named)} if optional_config else {}))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except MISTAKES as error:
            if wordy:
                raise
            fail(_sentence(error))

    app.run(guarded, flags_parser=parse)


def _at_home(value):
    """A flag's value, where the shell has left ~ as it is: behind `=` it does, and behind commas."""
    if not isinstance(value, str):
        return value
    return ",".join(str(Path(part).expanduser()) if part.startswith("~/") else part for part in value.split(","))


def _sentence(error: Exception) -> str:
    """The sentence of a mistake; of what the system refused, with the place and what to do."""
    if not isinstance(error, OSError) or not error.errno or not str(error).startswith("[Errno"):
        return f"{error}"
    mend = MENDS.get(error.errno, "--verbosity=1 shows where")
    if not isinstance(error.filename, str | bytes):
        return f"{error.strerror}: {mend}."
    place = Path(os.fsdecode(error.filename))
    for part in [place, *place.parents]:
        if part.name.startswith(".") and part.suffix == ".tmp":  # a name of our own, for what was to be written
            place = part.parent
    return f"{place}: {error.strerror}: {mend}."


def _chosen(named: bool) -> Chosen:
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    return Chosen(flags.FLAGS.config if named else None, dict(overrides))


def fail(sentence: str) -> None:
    """Prints one line to standard error and exits with 2."""
    tell(sentence)
    sys.exit(FAILED)


def tell(sentence: str) -> None:
    """Prints a mistake as one line to standard error."""
    print(f"error: {' '.join(sentence.split()).replace('?.', '?')}", file=sys.stderr, flush=True)


def flatten(config, prefix: str = "") -> dict:
    """Nested config -> {"a.b": value}, lists as tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def default_config() -> ml_collections.ConfigDict:
    """Every key with its default, of configs/common.py."""
    return _config_of(DEFAULTS)


def load_config(argument: str) -> tuple[Path, ml_collections.ConfigDict]:
    """`FILE.py[:argument]` -> the file, found here or beside the installed package, and its config.

    Raises ValueError or FileNotFoundError with a sentence.
    """
    name, _, argument = _at_home(argument).partition(":")
    beside = Path(__file__).resolve().parent.parent / name
    file = next((f for f in (Path(name), beside) if f.is_file()), None)
    if file is None:
        folder = Path(__file__).resolve().parent.parent / "configs"
        known = [
            f"{folder.name}/{f.name}"
            for f in sorted(folder.glob("*.py"))
            if f.stem not in ("__init__", "common", "recipes")
        ]
        raise FileNotFoundError(f"--config={name} is no file; known are {', '.join(known)}.")
    return file, _config_of(file, *([argument] if argument else []))


def _config_of(file: Path, *argument: str) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location("experiment", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={file} is no Python file: give configs/NAME.py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if argument and not inspect.signature(module.get_config).parameters:
            raise ValueError(f"{file} takes no argument but was given {argument[0]!r}: leave out ':{argument[0]}'.")
        config = module.get_config(*argument)
        if not isinstance(config, ml_collections.ConfigDict):
            raise TypeError(f"get_config gives a {type(config).__name__}, not a ConfigDict")
        return config
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{file} is no usable config ({type(error).__name__}: {error}): mend the file.") from error


def _check_config(argv: list[str]) -> list[str]:
    """Checks every `--config...` argument against the config it changes; returns argv with the file's real path."""
    argv = _joined(argv)
    given = next((a for a in argv if a.startswith(NAMING)), None)
    if given is None:
        return argv
    try:
        file, config = load_config(given.partition("=")[2])
    except MISTAKES as error:
        fail(f"{error}")
    known = flatten(config)
    for override in (a for a in argv if a.startswith(("--config.", "-config."))):
        name, equals, text = override.lstrip("-").removeprefix("config.").partition("=")
        if name not in known:
            fail(f"config key {name!r} does not exist{_nearest(name, known, '')}.")
        if not equals:
            fail(f"--config.{name} has no value: write --config.{name}=..., a {_kind(known[name])}.")
        if not _fits(text, known[name]):
            fail(f"--config.{name}={text} does not fit: {name} is a {_kind(known[name])}, by default {known[name]!r}.")
    argument = given.partition("=")[2].partition(":")[2]
    resolved = f"--config={file}" + (f":{argument}" if argument else "")
    return [resolved if a == given else _with_home(a) for a in argv]


def _with_home(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return f"{name}{equals}{_at_home(value)}" if name.startswith(("--config.", "-config.")) else argument


def _joined(argv: list[str]) -> list[str]:
    """`--config X` and `--config.key X`, which absl takes as well, as one argument each."""
    joined: list[str] = []
    for argument in argv:
        open_flag = joined and joined[-1].lstrip("-").split(".")[0] == "config" and "=" not in joined[-1]
        if open_flag and joined[-1].startswith("-") and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _fits(text: str, default) -> bool:
    if isinstance(default, tuple):
        element = default[0] if default else 0.0  # every tuple of a config is of numbers
        return text.strip() == "()" or all(_fits(part.strip(), element) for part in text.strip("()[], ").split(","))
    if isinstance(default, bool):
        return text.lower() in ("true", "false", "1", "0")
    if isinstance(default, int | float):
        try:
            type(default)(text)
        except ValueError:
            return False
    return True


def check_types(values: dict[str, Any], known: dict[str, Any], where: str) -> None:
    """Raises ValueError unless each value is of its default's kind. values, known: by key. where: they come from."""
    for key, value in values.items():
        if not _is_alike(value, known[key]):
            raise ValueError(
                f"{where} has {key} = {value!r} but it must be a {_kind(known[key])}, like the default {known[key]!r}."
            )


def _is_alike(value, default) -> bool:
    if isinstance(default, tuple):
        element = default[0] if default else 0.0  # every tuple of a config is of numbers
        return isinstance(value, tuple | list) and all(_is_alike(part, element) for part in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return default is None or isinstance(value, type(default))


def _kind(value) -> str:
    names = {bool: "truth value", int: "whole number", float: "number", str: "text", tuple: "tuple"}
    return names.get(type(value), type(value).__name__)


def _define(name: str, default, line: str) -> None:
    kinds: dict[type, Callable] = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    kinds.get(type(default), flags.DEFINE_string)(name, None if default is REQUIRED else default, line)


def _nearest(name: str, known: Iterable[str], dashes: str = "--") -> str:
    """The hint of the nearest known name, or nothing. A key is also found by its last part alone."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    close = close or [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"; did you mean {dashes}{close[0]}?" if close else ""
