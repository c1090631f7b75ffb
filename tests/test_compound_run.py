"""A run whose quantizer has several stages: built from the config, trained, evaluated, loaded."""

import numpy as np
import pytest
from tiny import tiny_config

from simvq_jax import build, load, train
from simvq_jax.drawing.curves import read_metrics
from simvq_jax.evaluate import evaluate_run
from simvq_jax.quantize import ProductQuantizer, ResidualQuantizer, SimVQ
from simvq_jax.report import write_report

STAGES = 3


def config_of(**quantizer):
    fields = {f"quantizer__{key}": value for key, value in {"stages": STAGES, **quantizer}.items()}
    small = {"model__multipliers": (1, 1), "data__size": 8, "discriminator__enabled": False}
    return tiny_config(steps=2, eval_every=2, checkpoint_every=2, **small, **fields)


@pytest.mark.slow
def test_a_residual_run_trains_is_evaluated_by_stage_and_loads(tmp_path):
    state = train.train(config_of(dropout=0.5), tmp_path / "run")
    assert int(state.skipped) == 0
    numbers = read_metrics(tmp_path / "run").numbers
    assert 0 < numbers["train/codebook_utilization_least"][2] <= numbers["train/codebook_utilization"][2]
    metrics = evaluate_run(tmp_path / "run").metrics
    of_stages = [metrics[f"eval/codebook_utilization_stage{i}"] for i in range(STAGES)]
    np.testing.assert_allclose(metrics["eval/codebook_utilization"], np.mean(of_stages), rtol=1e-6)
    tokenizer = load(tmp_path / "run")
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    indices = tokenizer.encode(x)
    assert indices.shape == (2, 4, 4, STAGES) and len(tokenizer.codebook()) == STAGES
    out = tokenizer.autoencoder.apply(tokenizer.variables, x / np.float32(127.5) - 1)
    np.testing.assert_allclose(tokenizer.decode(indices), out.reconstruction, atol=1e-5)
    with pytest.raises(ValueError, match=r"must be whole numbers \(b, h, w, 3\)"):
        tokenizer.decode(indices[..., 0])


@pytest.mark.slow
def test_a_product_run_has_a_report(tmp_path):
    train.train(config_of(stages=2, compound="product"), tmp_path / "run")
    evaluation = evaluate_run(tmp_path / "run")
    assert evaluation.tokens.shape[1] == evaluation.codes.shape[1] == 2
    assert write_report(tmp_path / "run", evaluation).stat().st_size > 1000


def test_stages_are_built_of_the_kind_named():
    residual = build.build_quantizer(config_of(dropout=0.25), None)
    assert isinstance(residual, ResidualQuantizer) and residual.dropout == 0.25
    assert all(isinstance(stage, SimVQ) and stage.dim == 4 for stage in residual.stages)
    product = build.build_quantizer(config_of(stages=2, compound="product"), None)
    assert isinstance(product, ProductQuantizer) and [stage.dim for stage in product.stages] == [2, 2]


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        ({"compound": "product"}, "quantizer.stages is 3 but does not divide quantizer.dim = 4"),
        ({"compound": "sum"}, "quantizer.compound is 'sum' but must be one of residual, product"),
        ({"estimator": "rotation"}, "quantizer.estimator is 'rotation' but the gradient passes straight through"),
        ({"basis_seed": 7}, "quantizer.basis_seed 7 and basis_file '', but stages of one seed or file"),
        ({"basis_file": "a.npy"}, "basis_file 'a.npy', but stages of one seed or file"),
        ({"stages": 2, "compound": "product", "dropout": 0.1}, "quantizer.dropout is 0.1 but only residual stages"),
        ({"stages": 1, "dropout": 0.1}, "quantizer.dropout is 0.1 but only residual stages"),
    ],
)
def test_stages_that_cannot_be_get_one_sentence(quantizer, sentence):
    with pytest.raises(ValueError, match=sentence):
        build.build_quantizer(config_of(**quantizer), None)
