"""The training data of the scenes: the data set, softened maps, disturbed depths, distorted colours."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from dtta.problems.scenes import data, depth, segmentation
from dtta.problems.scenes.training import distort, smooth_noise
from dtta.problems.scenes.world import CLASSES, FAR, HABITS, random_scene


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def scenes():
    return data.sample("validation", 24)


@pytest.fixture
def small_world(monkeypatch, tmp_path):
    """A training split of 60 scenes in a temporary cache."""
    monkeypatch.setenv("DTTA_CACHE", str(tmp_path))
    monkeypatch.setitem(data.SPLITS, "train", (0, 60))
    data.train_set.cache_clear()
    yield tmp_path
    data.train_set.cache_clear()


# --- the data set -------------------------------------------------------------------------------------


def test_splits_share_no_scene():
    spans = sorted((first, first + count) for first, count in data.SPLITS.values())
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))


def test_a_sample_has_the_images_and_maps_of_each_scene(scenes):
    for i in (0, 7, 23):
        image, classes = data.shifted("segmentation", "validation", i, "clean", 3, 0)
        assert torch.equal(image, scenes["image"][i]) and torch.equal(classes, scenes["segmentation"][i])
        assert torch.equal(data.shifted("depth", "validation", i, "clean", 3, 0)[1], scenes["depth"][i])


def test_depths_lie_in_their_range(scenes):
    assert scenes["depth"].min() > data.NEAR and scenes["depth"].max() <= FAR
    assert (scenes["depth"][:, 0][scenes["segmentation"] == 0] == FAR).all()  # the sky


def test_bad_scenes_are_refused():
    with pytest.raises(ValueError, match="unknown split 'tests'"):
        data.scene("tests", 0)
    for index in (-1, 500):
        with pytest.raises(IndexError, match="scenes 0 to 499"):
            data.scene("validation", index)


def test_the_training_set_is_rendered_once_and_again_if_damaged(small_world, capsys):
    first = data.train_set()
    assert first["image"].shape == (60, 3, 32, 32) and first["image"].dtype == torch.uint8
    (path,) = small_world.glob("scenes-60-32-*.safetensors")
    written = path.stat().st_mtime_ns
    data.train_set.cache_clear()
    assert all(torch.equal(value, data.train_set()[name]) for name, value in first.items())
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:1000])  # truncated
    data.train_set.cache_clear()
    assert torch.equal(data.train_set()["depth"], first["depth"])
    assert "damaged" in capsys.readouterr().out and load_file(path)


def test_batches_are_seeded_and_half_mirrored(small_world):
    (image, classes, depths), again = data.batch(40, generator(1)), data.batch(40, generator(1))
    assert torch.equal(image, again[0])
    stored = data.train_set()["image"].float() / 255
    same = sum(any(torch.equal(x, s) for s in stored) for x in image)
    mirrored = sum(any(torch.equal(x.flip(-1), s) for s in stored) for x in image)
    assert same + mirrored == 40 and min(same, mirrored) > 8
    k = next(i for i in range(40) if any(torch.equal(image[i].flip(-1), s) for s in stored))
    source = next(i for i, s in enumerate(stored) if torch.equal(image[k].flip(-1), s))
    assert torch.equal(classes[k].flip(-1), data.train_set()["segmentation"][source].long())
    assert torch.equal(depths[k].flip(-1), data.train_set()["depth"][source].float().clamp(data.NEAR, FAR))


def test_shapes_have_habits():
    objects = [o for i in range(400) for o in random_scene(3, i).objects]
    for shape, (colours, material) in HABITS.items():
        of = [o for o in objects if o.shape == shape]
        usual = sum(o.colour in colours for o in of) / len(of)
        assert 0.74 < usual < 0.92  # 0.8, and chance among the rest
        assert 0.8 < sum(o.material == material for o in of) / len(of) < 0.94
    free = [o for i in range(200) for o in random_scene(3, i, habit=0.0).objects if o.shape == "cone"]
    assert sum(o.colour == "green" for o in free) / len(free) < 0.3


# --- softened maps ------------------------------------------------------------------------------------


def test_softened_maps_are_beliefs_and_half_are_certain(scenes):
    classes = scenes["segmentation"].repeat(20, 1, 1)
    p = segmentation.soften(classes, generator())
    assert p.shape == (480, len(CLASSES), 32, 32)
    assert p.min() >= 0 and torch.allclose(p.sum(1), torch.ones(480, 32, 32), atol=1e-5)
    certain = (p.amax(1) > 1 - 1e-6).all((1, 2))
    assert 0.42 < certain.float().mean() < 0.58
    exact = F.one_hot(classes, len(CLASSES)).movedim(-1, 1).float()
    assert torch.equal(p[certain].argmax(1), exact[certain].argmax(1))


def test_softened_regions_stay_closest_to_the_truth():
    classes = torch.randint(len(CLASSES), (6000, 1, 1), generator=generator(1)).expand(-1, 9, 9).contiguous()
    p = segmentation.soften(classes, generator(2))[:, :, 4, 4]  # a map of one class: no edges
    truth = p.gather(1, classes[:, 4, 4, None])[:, 0]
    assert 0.15 < (truth < 0.98).float().mean() < 0.3  # a quarter are confused, some of them hardly
    assert (truth < 0.75).float().mean() > 0.03  # and some much
    assert (truth > 0.5).float().mean() > 0.98


# --- disturbed depths and distorted colours -----------------------------------------------------------


def test_disturbed_depths_stay_in_range_and_half_are_exact(scenes):
    c = depth.condition(scenes["depth"].repeat(20, 1, 1, 1))
    wrong = depth.disturb(c, generator())
    assert wrong.shape == c.shape and wrong.min() >= -1 and wrong.max() <= 1
    same = (wrong == c).flatten(1).all(1)
    assert 0.42 < same.float().mean() < 0.58
    assert 0.01 < (wrong - c)[~same].abs().mean() < 0.2


def test_distortion_changes_half_the_images_and_keeps_their_structure(scenes):
    x = scenes["image"].repeat(10, 1, 1, 1)
    y = distort(x, generator())
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    same = (y == x).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6
    grey = lambda image: image.mean(1).flatten(1)  # noqa: E731
    pairs = [(a, b) for a, b in zip(grey(x[~same]), grey(y[~same]), strict=True) if b.std() > 0.01]
    assert sum(torch.corrcoef(torch.stack(p))[0, 1] > 0.8 for p in pairs) > 0.9 * len(pairs)  # no edge moves


def test_smooth_noise_is_smooth_and_in_range():
    field = smooth_noise(50, 32, generator())
    assert field.shape == (50, 1, 32, 32) and field.min() >= 0 and field.max() <= 1
    assert field.diff(dim=-1).abs().max() < 0.25 and field.std() > 0.15
