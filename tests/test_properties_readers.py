"""Checkpoints and image files, for any content and any damage: read back identical, or refused in one line."""

import gzip
import json
import struct
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradlab
from gradlab import checkpoints, datasets, networks
from gradlab.datasets import cifar10, svhn
from gradlab.errors import BadFile

from .damage import damaged, examples, one_line
from .idx_files import peak_of
from .test_datasets_cifar10 import batch, in_folder, tar
from .test_datasets_svhn import made, mat

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.characters(exclude_categories=["Cs"])
SIDES = st.integers(1, 5)
VAES = st.fixed_dictionaries(
    {
        "latents": st.integers(1, 3),
        "categories": st.integers(2, 4),
        "hidden": st.lists(st.integers(1, 5), max_size=3),
        "image_shape": st.lists(SIDES, min_size=1, max_size=3),
    }
)
AUTOENCODERS = st.fixed_dictionaries(
    {
        "width": st.integers(1, 2),
        "depth": st.integers(0, 1),
        "units": st.integers(1, 2),
        "grid": st.just(2),
        "image_shape": st.tuples(st.integers(1, 3), st.integers(5, 8), st.integers(5, 8)).map(list),
    }
)
MODELS = st.tuples(st.just("categorical-vae"), VAES) | st.tuples(st.just("binary-autoencoder"), AUTOENCODERS)


def refused(read, path):
    """Whether reading refuses the file, in one line that names it; anything else that is raised is let through."""
    try:
        read(path)
    except BadFile as error:
        refusal = error
    else:
        return False
    one_line(refusal, path)
    return True


# --- checkpoints ---


@examples(30)
@given(model=MODELS, seed=st.integers(0, 2**64 - 1), provenance=st.dictionaries(st.text(TEXT, max_size=8), JSON))
def test_any_built_in_model_is_read_back(tmp_path, model, seed, provenance):
    saved = networks.build(*model, seed=seed)
    saved.provenance = provenance
    gradlab.save(saved, tmp_path / "a.safetensors")
    found = gradlab.load(tmp_path / "a.safetensors")
    assert (found.architecture, found.config) == model
    assert found.provenance == provenance
    weights = found.state_dict()
    assert list(weights) == list(saved.state_dict())
    for name, tensor in saved.state_dict().items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)


def checkpoint():
    config = {"latents": 1, "categories": 2, "hidden": [], "image_shape": [2]}
    return networks.build("categorical-vae", config, seed=0)


@pytest.fixture
def content(tmp_path):
    gradlab.save(checkpoint(), tmp_path / "whole.safetensors")
    return (tmp_path / "whole.safetensors").read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


@examples(200)
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_or_a_model(content, path, data):
    path.write_bytes(data.draw(damaged(content)))
    refused(gradlab.load, path)


@examples(200)
@given(data=st.data())
def test_a_damaged_header_of_the_right_size_is_refused_or_a_model(content, path, data):
    size = int.from_bytes(content[:8], "little")
    header = data.draw(damaged(content[8 : 8 + size]))
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    refused(gradlab.load, path)


OFFSETS = st.one_of(st.integers(-1, 64), st.sampled_from([2**31, 2**53, 2**63, 2**64 - 1, 2**64, None, "0", 0.5]))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "F8_E4M3", "I64", "BOOL", "F4", "U8", "", None, 3]),
        "shape": st.lists(OFFSETS, max_size=4) | st.just([2**32, 2**32]) | st.just([1] * 10**4),
        "data_offsets": st.lists(OFFSETS, min_size=1, max_size=3),
    }
)


@examples(200)
@given(data=st.data())
def test_a_header_that_lies_is_refused(content, path, data):
    """Offsets that overlap, turn round or leave the file, absurd shapes, unknown types."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = data.draw(st.sampled_from([name for name in header if name != "__metadata__"]))
    lie = data.draw(ENTRIES)
    wrong = header[name] | {key: lie[key] for key in data.draw(st.sets(st.sampled_from(sorted(lie)), min_size=1))}
    if wrong == header[name]:
        return
    text = json.dumps(header | {name: wrong}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert refused(gradlab.load, path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 10**5,
        b"[" * 10**6,
        b'{"__metadata__":{' + b",".join(b'"%d":""' % k for k in range(10**5)) + b"}}",
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(10**4)) + b"}",
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    ],
    ids=["nested objects", "nested lists", "much metadata", "many tensors", "a name twice"],
)
def test_a_header_that_is_a_bomb_is_refused(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert peak_of(lambda: refused(gradlab.load, path)) < 2**26
    assert refused(gradlab.load, path)


@examples(60)
@given(config=st.dictionaries(st.sampled_from(["latents", "categories", "hidden", "image_shape", "own"]), JSON))
def test_any_configuration_is_a_model_or_refused(path, config):
    about = {"format": checkpoints.FORMAT, "architecture": "categorical-vae", "config": json.dumps(config)}
    text = json.dumps({"__metadata__": about}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert refused(gradlab.load, path)  # it has no tensors


# --- images ---


@examples(60)
@given(pixels=hnp.arrays("u1", hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_any_images_are_read_back(tmp_path, pixels):
    wanted = torch.from_numpy(pixels)[:, None]
    datasets.write_idx(tmp_path / "a.gz", wanted)
    assert torch.equal(datasets.read_idx(tmp_path / "a.gz")[0], wanted)


PIXELS = b"\0\0\x08\x03" + struct.pack(">III", 2, 3, 4) + bytes(range(24))
PACKINGS = {"plain": bytes, "zipped": gzip.compress}
DAMAGES = {"inside": lambda pack, draw, body: pack(draw(body)), "outside": lambda pack, draw, body: draw(pack(body))}
in_and_out = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@in_and_out
@pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS)
@examples(100)
@given(data=st.data())
def test_a_damaged_idx_file_is_refused_or_read(tmp_path, pack, damage, data):
    path = tmp_path / "a"
    path.write_bytes(damage(pack, lambda body: data.draw(damaged(body)), PIXELS))
    if not refused(datasets.read_idx, path):
        pixels, _ = datasets.read_idx(path)
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 4
        assert 0 < pixels.numel() <= 2**16


def archive():
    return tar(in_folder(data_batch_1=batch(1, 0), test_batch=batch(1, 1)))


def packed(body):
    return gzip.compress(body, 1)


@in_and_out
@pytest.mark.parametrize("split", datasets.SPLITS)
@examples(60)
@given(data=st.data())
def test_a_damaged_cifar10_archive_is_refused_or_read(tmp_path, split, damage, data):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(damage(packed, lambda body: data.draw(damaged(body)), archive()))
    if not refused(lambda path: cifar10.read(path, split), path):
        pixels = cifar10.read(path, split)
        assert pixels.shape[1:] == cifar10.SHAPE
        assert 0 < len(pixels) < 10


def unpacked(body):
    return body


def element(body):
    """The first variable of an uncompressed file, compressed: what damage there was is behind a right checksum."""
    size = int.from_bytes(body[132:136], "little")
    zipped = zlib.compress(body[128 : 136 + size])
    return body[:128] + struct.pack("<II", 15, len(zipped)) + zipped + body[136 + size :]


@pytest.mark.parametrize("pack", [unpacked, element], ids=["plain", "zipped"])
@in_and_out
@examples(60)
@given(data=st.data())
def test_a_damaged_svhn_file_is_refused_or_read(tmp_path, pack, damage, data):
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(damage(pack, lambda body: data.draw(damaged(body)), mat(do_compression=False, **made(1, 0))))
    if not refused(svhn.read, path):
        pixels = svhn.read(path)
        assert pixels.shape[1:] == (3, 32, 32)
        assert 0 < len(pixels) < 10


@pytest.mark.deep
@pytest.mark.parametrize("pack", [unpacked, element], ids=["plain", "zipped"])
@in_and_out
@examples(3000)
@given(data=st.data())
def test_a_damaged_svhn_file_is_refused_or_read_in_depth(tmp_path, pack, damage, data):
    """scipy's reader is in C, too."""
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(damage(pack, lambda body: data.draw(damaged(body, 2)), mat(do_compression=False, **made(1, 0))))
    refused(svhn.read, path)


FOREIGN_PIECES = [b"\x1f\x8b", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x04", b"MATLAB 5.0", b"\0\0\x08\x03", b"{}"]
READERS = {
    "checkpoint": gradlab.load,
    "idx": datasets.read_idx,
    "cifar10": lambda path: cifar10.read(path, "test"),
    "svhn": svhn.read,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@examples(100)
@given(begins=st.sampled_from([b"", *FOREIGN_PIECES]), rest=st.binary(max_size=700))
def test_whatever_is_no_such_file_is_refused(tmp_path, read, begins, rest):
    (tmp_path / "a").write_bytes(begins + rest)
    assert refused(read, tmp_path / "a")
