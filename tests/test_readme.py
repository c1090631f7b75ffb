"""The README's examples run as they stand."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def example_with(text: str) -> str:
    (code,) = [code for code in EXAMPLES if text in code]
    return code


def test_import_the_quantizer():
    names: dict = {}
    exec(example_with("simvq_jax.SimVQ("), names)
    assert np.isfinite(names["loss"])
    np.testing.assert_array_equal(names["codes"], names["out"].z_q)


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
