"""The weight reader: every format against PyTorch's own files, and every way a file can be wrong."""

import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.models.pretrained.weights import (
    Published,
    read_published,
    read_weights,
    select_weights,
    sha256,
)


@pytest.fixture
def torch_files(fixtures: Path) -> Path:
    return fixtures / "pth"


def one_sentence(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text and text.endswith(".") and "; " in text
    return text


def safetensors(path: Path, header: dict, body: bytes) -> Path:
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    return path


def torch_zip(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, record in records.items():
            archive.writestr(f"archive/{name}", record)
    return path


def patched(source: Path, path: Path, old: bytes, new: bytes) -> Path:
    """A copy of a zip-format file whose pickle has `old` replaced by `new`."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as copy:
        for name in archive.namelist():
            record = archive.read(name)
            if name.endswith("data.pkl"):
                assert old in record
                record = record.replace(old, new)
            copy.writestr(name, record)
    return path


class Command:
    """Pickles as the call `os.mkdir(path)`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pth"])
def test_torch_tensors_of_every_kind(torch_files: Path, name: str) -> None:
    weights = read_weights(torch_files / name)
    with np.load(torch_files / "expected.npz") as expected:
        assert list(weights) == expected.files
        for key, value in expected.items():
            assert weights[key].dtype == value.dtype, key
            np.testing.assert_array_equal(weights[key], value, err_msg=key, strict=True)
    assert np.shares_memory(weights["shared"], weights["shared_slice"])
    assert not weights["shared"].flags.writeable


def test_torch_files_of_2017(torch_files: Path) -> None:
    weights = read_weights(torch_files / "early.pth")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(weights["rebuilt"], values)
    np.testing.assert_array_equal(weights["by_state"], values.T)
    np.testing.assert_array_equal(weights["parameter"], values[1])
    np.testing.assert_array_equal(weights["parameter_by_state"], values[:, 1])


def test_nested_entries_are_read_by_key_only(torch_files: Path) -> None:
    path = torch_files / "nested.ckpt"
    np.testing.assert_array_equal(read_weights(path, key="state_dict")["weight"], np.ones(2))
    with pytest.raises(WeightFileError, match=r"key= \('state_dict'\)") as unwrapped:
        read_weights(path)
    one_sentence(unwrapped.value)
    with pytest.raises(WeightFileError, match=r"no entry 'ema'.*'state_dict', 'epoch'") as absent:
        read_weights(path, key="ema")
    one_sentence(absent.value)
    with pytest.raises(WeightFileError, match="holds a int instead of a dict"):
        read_weights(path, key="epoch")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_forbidden_global_is_named_and_not_run(tmp_path: Path, zipped: bool) -> None:
    pickled = pickle.dumps({"weight": Command(tmp_path / "made")}, protocol=2)
    path = tmp_path / "weights.pth"
    if zipped:
        torch_zip(path, pickled)
    else:
        path.write_bytes(pickled)
    with pytest.raises(WeightFileError, match=rf"global {os.mkdir.__module__}\.mkdir, .* not run") as refused:
        read_weights(path)
    one_sentence(refused.value)
    assert not (tmp_path / "made").exists()
    pickle.loads(pickled)  # the same bytes do run in an ordinary unpickler
    assert (tmp_path / "made").exists()


def test_a_forbidden_global_is_not_imported(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "weights.pt", b"\x80\x02cantigravity\nfly\n.")
    with pytest.raises(WeightFileError, match=r"antigravity\.fly"):
        read_weights(path)
    assert "antigravity" not in sys.modules


def test_a_pickled_module_is_refused(torch_files: Path) -> None:
    with pytest.raises(WeightFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_weights(torch_files / "module.pth")


@pytest.mark.parametrize("admitted", ["torch._utils\n_rebuild_tensor_v2", "torch.nn.parameter\nParameter"])
def test_a_pickle_cannot_change_what_is_admitted(tmp_path: Path, torch_files: Path, admitted: str) -> None:
    state = b"(N}X\x0c\x00\x00\x00__defaults__Nst"  # the slot state {"__defaults__": None}
    path = torch_zip(
        tmp_path / "weights.pt", b"\x80\x02}X\x01\x00\x00\x00a" + f"c{admitted}\n".encode() + state + b"bs."
    )
    with pytest.raises(WeightFileError):
        read_weights(path)
    assert read_weights(torch_files / "early.pth")


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pth"])
def test_a_truncated_file_is_refused_at_any_length(tmp_path: Path, torch_files: Path, name: str) -> None:
    raw = (torch_files / name).read_bytes()
    path = tmp_path / name
    for length in [*range(0, len(raw), 23), len(raw) - 1]:
        path.write_bytes(raw[:length])
        with pytest.raises(WeightFileError) as truncated:
            read_weights(path)
        assert name in one_sentence(truncated.value)


def test_a_flipped_byte_in_a_zip_storage_is_refused(tmp_path: Path, torch_files: Path) -> None:
    raw = bytearray((torch_files / "zip.pt").read_bytes())
    raw[raw.index(np.float32(23 / 8).tobytes())] ^= 1
    (tmp_path / "weights.pt").write_bytes(raw)
    with pytest.raises(WeightFileError, match=r"corrupt.*CRC"):
        read_weights(tmp_path / "weights.pt")


def test_tensors_outside_their_storage_are_refused(tmp_path: Path, torch_files: Path) -> None:
    size = b"K\x02\x85"  # the size and the stride (1,) of the one tensor of two numbers
    for new in (b"K\x03\x85", b"J\xff\xff\xff\xff\x85"):
        path = patched(torch_files / "nested.ckpt", tmp_path / "weights.pt", size, new)
        with pytest.raises(WeightFileError, match=r"shape \(-?\d,\).* storage of 2") as outside:
            read_weights(path, key="state_dict")
        one_sentence(outside.value)
    numel = patched(torch_files / "nested.ckpt", tmp_path / "numel.pt", b"K\x02tq", b"K\x09tq")
    with pytest.raises(WeightFileError, match="8 bytes for 36 of a storage"):
        read_weights(numel, key="state_dict")


def test_zip_archives_of_other_origin_are_refused(tmp_path: Path) -> None:
    empty = pickle.dumps({}, protocol=2)
    assert read_weights(torch_zip(tmp_path / "good.pt", empty, byteorder=b"little")) == {}
    compressed = torch_zip(tmp_path / "compressed.pt", empty, zipfile.ZIP_DEFLATED)
    np.savez(tmp_path / "arrays.npz", a=np.ones(1))
    renamed = (tmp_path / "arrays.npz").rename(tmp_path / "arrays.pt")
    for path in (compressed, renamed):
        with pytest.raises(WeightFileError, match=r"torch\.save did not write"):
            read_weights(path)
    with pytest.raises(WeightFileError, match="big-endian"):
        read_weights(torch_zip(tmp_path / "big.pt", empty, byteorder=b"big"))


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(WeightFileError, match="neither a zip archive nor an older PyTorch file"):
        read_weights(path)
    with pytest.raises(WeightFileError, match="holds a list instead of a dict"):
        read_weights(torch_zip(path, pickle.dumps([1], protocol=2)))


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.arange(3), b=np.float16([[0.5]]))
    weights = read_weights(path)
    np.testing.assert_array_equal(weights["a"], np.arange(3), strict=True)
    np.testing.assert_array_equal(weights["b"], np.float16([[0.5]]), strict=True)
    np.savez(path, a=np.array(["text"]))
    with pytest.raises(WeightFileError, match="'a' of dtype <U4"):
        read_weights(path)
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(WeightFileError, match="allow_pickle=False"):
        read_weights(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(WeightFileError, match="corrupt") as corrupt:
        read_weights(path)
    one_sentence(corrupt.value)


def test_safetensors(tmp_path: Path) -> None:
    bfloat16 = (np.float32([1.0, -2.5]).view(np.uint32) >> 16).astype(np.uint16)
    parts = {
        "f32": ("F32", np.float32([[1, 2, 3]])),
        "f16": ("F16", np.float16([0.5])),
        "bf16": ("BF16", bfloat16),
        "i64": ("I64", np.int64(2**40)),
        "none": ("F32", np.zeros((0, 2), np.float32)),
    }
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in parts.items():
        end = len(body) + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), end]}
        body += array.tobytes()
    weights = read_weights(safetensors(tmp_path / "weights.safetensors", header, body))
    assert list(weights) == list(parts)
    np.testing.assert_array_equal(weights.pop("bf16"), np.float32([1.0, -2.5]), strict=True)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, parts[name][1], strict=True)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}, r"shape \(2,\) at bytes 0 to 12 of 8"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"shape \(3,\) at bytes 0 to 8 of 8"),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, r"shape \(-1, -2\)"),
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "dtype F8_E4M3"),
        ({"dtype": "F32"}, "corrupt"),
    ],
)
def test_bad_safetensors_are_refused(tmp_path: Path, entry: dict, reason: str) -> None:
    path = safetensors(tmp_path / "weights.safetensors", {"a": entry}, bytes(8))
    with pytest.raises(WeightFileError, match=reason) as bad:
        read_weights(path)
    one_sentence(bad.value)


def test_cut_off_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for raw in (b"", b"\x00", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[}"):
        path.write_bytes(raw)
        with pytest.raises(WeightFileError, match=r"corrupt|cut off") as cut:
            read_weights(path)
        one_sentence(cut.value)


def test_missing_file_unknown_format_and_needless_key(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent\.npz") as missing:
        read_weights(tmp_path / "absent.npz")
    one_sentence(missing.value)
    other = tmp_path / "weights.h5"
    other.write_bytes(b"")
    with pytest.raises(WeightFileError, match=r"'\.h5'; give one of \.npz, \.safetensors, \.pth") as unknown:
        read_weights(other)
    one_sentence(unknown.value)
    np.savez(tmp_path / "flat.npz", a=np.ones(1))
    with pytest.raises(WeightFileError, match="leave key out"):
        read_weights(tmp_path / "flat.npz", key="state_dict")


def test_published_files_warn_once_where_bytes_differ(
    tmp_path: Path, torch_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = torch_files / "legacy.pth"
    published = Published("https://example.org/legacy.pth", sha256(path))
    with caplog.at_level("WARNING", logger="absl"):
        read_published(path, published)
        read_published(torch_files / "zip.pt", published, verify=False)
        assert not caplog.records
        read_published(torch_files / "zip.pt", published)
    (record,) = caplog.records
    for part in ("zip.pt", sha256(torch_files / "zip.pt"), published.sha256, published.url, "conversion"):
        assert part in record.getMessage()
    with pytest.raises(FileNotFoundError, match=rf"example\.org.*{published.sha256}"):
        read_published(tmp_path / "absent.pth", published)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_select_lists_every_fault_together() -> None:
    weights = {"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)}
    assert list(select_weights(weights, {"c": (1,), "a": (2,)}, "The weights")) == ["c", "a"]
    with pytest.raises(WeightFileError, match=r"d \(4,\) is missing, a is \(2,\) instead of \(5,\)") as faults:
        select_weights(weights, {"a": (5,), "b": (3,), "d": (4,)}, "The weights")
    one_sentence(faults.value)
