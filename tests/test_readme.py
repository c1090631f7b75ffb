"""The README's examples run as they stand."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def example_with(text: str) -> str:
    (code,) = [code for code in EXAMPLES if text in code]
    return code


def test_import_the_quantizer_and_train_it():
    names: dict = {}
    exec(example_with('method="lookup"'), names)
    assert np.isfinite(names["loss"])
    np.testing.assert_array_equal(names["codes"], names["out"].z_q)
    exec(example_with("generator_optimizer"), names)
    before, after = names["variables"]["params"]["transform"], names["params"]["transform"]
    moved = np.asarray(after["bias"] - before["bias"])
    assert np.all(np.abs(np.abs(moved[moved != 0]) - 1e-2) < 1e-3)  # Adam's first step is the rate
    assert names["stats"]["age"].min() == 0
    exec(example_with("nnx.bridge"), names)
    assert names["codes"].shape == names["z"].shape
    assert names["model"].quantizer.age[...].min() == 0


def test_use_a_trained_tokenizer(trained_run):
    names = {"images": np.zeros((2, 24, 24, 3), np.uint8)}
    exec(example_with("tokenizer.encode(images)").replace("runs/quickstart", str(trained_run)), names)
    assert names["indices"].shape == (2, 6, 6) and names["images"].shape == (2, 24, 24, 3)


def test_the_two_commands_stand_on_top():
    assert README.index("bash launch/quickstart.sh") < README.index("bash launch/test.sh") < 1200


def test_every_key_named_exists():
    from configs import common
    from simvq_jax.cli import flatten

    docs = Path(__file__).parents[1] / "docs"
    text = README + "".join((docs / name).read_text() for name in ("IMAGENET.md", "LIBRITTS.md", "TOKENIZERS.md"))
    named = set(re.findall(r"--config\.([a-z0-9_.]+)=", text)) - {"a.b"}
    assert named and named <= set(flatten(common.get_config()))
