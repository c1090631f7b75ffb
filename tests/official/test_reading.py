"""What an official checkpoint may lack, have too much of, or have wrong: one sentence that lists it all."""

import json

import numpy as np
import pytest

from simvq_jax import convert
from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.official import architecture_of


@pytest.fixture
def found(fixtures) -> dict[str, np.ndarray]:
    """The tiny image checkpoint's names, of zeros."""
    stored = json.loads((fixtures / "A_image_tiny_lightning_keys.json").read_text())["state_dict"]
    return {key: np.zeros(shape, dtype) for key, (shape, dtype) in stored.items()}


def refused(found, sentence: str, overrides=None, modality: str = "") -> str:
    with pytest.raises(WeightFileError, match=sentence) as error:
        convert.match(found, modality, None, overrides or {})
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


def test_missing_unknown_and_misshapen_tensors_are_listed_together(found):
    del found["decoder.conv_out.bias"], found["model_ema.encoderconv_outbias"]
    found["encoder.down.0.attn.0.q.weight"] = np.zeros((32, 32, 1, 1), np.float32)
    found["decoder.norm_out.weight"] = np.zeros((31,), np.float32)
    text = refused(found, r"decoder\.conv_out\.bias \(3,\) is missing")
    assert "model_ema.encoderconv_outbias (8,) is missing" in text
    assert "'encoder.down.0.attn.0.q.weight' is unknown" in text
    assert "decoder.norm_out.weight is (31,) instead of (32,)" in text


def test_a_long_list_is_cut_short_and_counted(found):
    kept = {key: value for key, value in found.items() if not key.startswith(("decoder.", "model_ema."))}
    assert "more missing" in refused(kept, r"decoder\.conv_in\.weight .* is missing")


def test_values_that_are_not_finite_and_types_that_are_no_floats_are_refused(found):
    found["encoder.conv_in.weight"][0, 0, 0, 0] = np.nan
    found["decoder.conv_in.bias"] = np.zeros((32,), np.int64)
    text = refused(found, "encoder.conv_in.weight has values that are not finite")
    assert "decoder.conv_in.bias is int64 instead of floats" in text


def test_float16_and_float64_become_float32_and_are_counted(found):
    found["decoder.conv_in.bias"] = np.full((32,), 0.1, np.float16)
    found["decoder.conv_out.bias"] = np.full((3,), 0.1, np.float64)
    official = convert.match(found, "", None, {}).official
    assert official.cast == {"float16": 1, "float64": 1}
    assert all(value.dtype == np.float32 for value in official.weights.values())
    np.testing.assert_array_equal(official.weights["decoder.conv_in.bias"], np.float32(np.float16(0.1)))


def test_a_number_beyond_float32_is_refused(found):
    found["decoder.conv_out.bias"] = np.full((3,), 1e300)
    refused(found, "decoder.conv_out.bias has values that are not finite")


def test_a_file_without_averages_or_discriminator_is_fine(found):
    plain = {key: value for key, value in found.items() if key.startswith(("encoder.", "decoder.", "quantize."))}
    conversion = convert.match(plain, "", None, {})
    assert conversion.official.average == {} and not conversion.config.discriminator.enabled
    assert conversion.networks.discriminator is None


def test_a_discriminator_may_be_left_behind_or_begun_anew(found):
    without = convert.match(found, "", None, {"discriminator.enabled": False})
    assert without.networks.discriminator is None
    assert without.official.left_out["discriminators, which the config leaves out"] == 7
    plain = {key: value for key, value in found.items() if not key.startswith("loss.discriminator")}
    anew = convert.match(plain, "", None, {"discriminator.enabled": True, "discriminator.width": 4})
    assert anew.networks.discriminator is not None and anew.config.discriminator.width == 4
    assert not any(link.part == "discriminator" for link in anew.links)


def test_another_project_s_checkpoint_is_told_so(found):
    text = refused({"a.b": np.zeros(3), "a.c": np.zeros(3)}, "holds 2 tensors")
    assert "no encoder.conv_in.weight and no encoder.model.0.conv.conv.weight_v" in text
    refused(found, "no encoder.model.0.conv.conv.weight_v; give", modality="speech")
    refused({"encoder.conv_in.weight": found["encoder.conv_in.weight"]}, "lacks quantize.embedding.weight")
    found["quantize.embedding.weight"] = np.zeros(3)
    refused(found, "tensors of other shapes")
    with pytest.raises(ValueError, match="modality is 'video' but must be one of image, speech"):
        architecture_of({}, "video")


def test_a_config_that_disagrees_with_the_shapes_is_refused(found):
    text = refused(found, "and the config disagree", {"model.width": 64, "quantizer.codebook_size": 8})
    assert "model.width is 64 but the file has 32" in text and "codebook_size is 8 but the file has 64" in text
    convert.match(found, "", None, {"model.width": 32})


def test_a_named_experiment_must_agree_too_and_keeps_its_other_keys(found):
    from configs import imagenet128_simvq

    config = imagenet128_simvq.get_config("1k,paper")
    with pytest.raises(WeightFileError, match=r"model\.width is 128 but the file has 32"):
        convert.match(found, "", config, {})
    agreeing = convert.match(found, "", None, {}).config
    agreeing.seed, agreeing.discriminator.enabled = 7, False
    conversion = convert.match(found, "", agreeing, {})
    assert conversion.config.seed == 7 and conversion.networks.discriminator is None
