"""The portraits and their words: held-out pairs, reproducible images, true captions, training losses."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtta.problems.scenes import clip, data, portraits, words
from dtta.problems.scenes.shifts import shift_image
from dtta.problems.scenes.words import HELD_OUT, KINDS, NAMES, SEEN, SYNONYMS, TEMPLATES, UNSEEN, VOCABULARY, WORDS
from dtta.problems.scenes.world import COLOURS, MATERIALS, SHAPES

CANONICAL = {synonym: word for word, synonym in SYNONYMS.items()} | {word: word for word in SYNONYMS}


def test_every_word_has_one_synonym():
    assert set(SYNONYMS) == {*MATERIALS, *COLOURS, *SHAPES}
    assert len({*SYNONYMS, *SYNONYMS.values()}) == 2 * len(SYNONYMS)


def test_held_out_pairs():
    assert set(KINDS) == set(SEEN) | set(UNSEEN) and not set(SEEN) & set(UNSEEN)
    assert (len(SEEN), len(UNSEEN)) == (96, 24)
    assert {kind[1:] for kind in UNSEEN} == set(HELD_OUT.items())
    assert not {kind[1:] for kind in UNSEEN} & {kind[1:] for kind in SEEN}
    for shape in SHAPES:  # each colour and each shape is seen, with most others
        assert len({c for _, c, s in SEEN if s == shape}) >= 6
    for colour in COLOURS:
        assert len({s for _, c, s in SEEN if c == colour}) == 4


def test_no_training_portrait_or_caption_shows_an_unseen_pair():
    for index in range(0, 16000, 61):
        thing = portraits.portrait("train", index).objects[0]
        assert HELD_OUT[thing.colour] != thing.shape
    rng = Random(0)
    pairs = set()
    for kind in SEEN:
        for _ in range(20):
            _, colour, shape = [CANONICAL[w] for w in words.caption(kind, "tiled", rng).split() if w in CANONICAL]
            pairs.add((colour, shape))
    assert len(pairs) == 32 and not pairs & set(HELD_OUT.items())


def test_the_vocabulary():
    assert len({label.name for label in VOCABULARY}) == len({label.kind for label in VOCABULARY}) == 50
    assert [label.seen for label in VOCABULARY] == [True, True, True, False, False] * 10
    for label in VOCABULARY:
        assert tuple(CANONICAL[word] for word in label.name.split()) == label.kind
    synonyms = set(SYNONYMS.values())
    assert sum(not synonyms.isdisjoint(label.name.split()) for label in VOCABULARY) > 25


def test_all_names():
    """The vocabulary, all other kinds, then synonyms: eight names of each kind, in words of the captions."""
    assert len({label.name for label in NAMES}) == len(NAMES) == 960 and NAMES[:50] == VOCABULARY
    assert len({label.kind for label in NAMES[:120]}) == 120
    for place, label in enumerate(NAMES):
        assert label.kind == NAMES[place % 120].kind
        assert tuple(CANONICAL[word] for word in label.name.split()) == label.kind
        assert set(label.name.split()) <= set(WORDS)


def test_captions_are_true():
    rng = Random(1)
    for kind in KINDS:
        text = words.caption(kind, "striped", rng)
        assert [CANONICAL[w] for w in text.split() if w in CANONICAL] == list(kind)
        assert text.endswith(" striped ground") or " on " not in text
    assert set(TEMPLATES) >= {"a {thing}", "a photo of a {thing}"}


def test_a_portrait_shows_an_object_of_its_kind():
    for index in range(6):
        scene = portraits.portrait("test", index, 20)
        (thing,) = scene.objects
        assert (thing.material, thing.colour, thing.shape) == VOCABULARY[index].kind
        drawn = data.draw([scene])
        share = (drawn.segmentation >= 2).float().mean()
        assert 0.04 < share < 0.8


def test_the_label_is_the_index_modulo_the_number_of_classes():
    for classes, index in ((20, 3), (20, 23), (5, 23), (50, 49), (120, 119), (480, 130)):
        image, label = portraits.shifted(classes, "test", index, "clean", 3, 0)
        assert label.item() == index % min(classes, 120) and image.shape == (3, 32, 32)
        thing = portraits.portrait("test", index, classes).objects[0]
        assert (thing.material, thing.colour, thing.shape) == NAMES[label].kind


def test_the_image_does_not_depend_on_the_number_of_classes():
    assert portraits.portrait("test", 3, 5) == portraits.portrait("test", 3, 50)


def test_shifts_of_image_and_world_apply():
    clean, _ = portraits.shifted(20, "test", 1, "clean", 3, 0)
    foggy, _ = portraits.shifted(20, "test", 1, "fog", 3, 7)
    assert torch.equal(foggy, shift_image(clean, "fog", 3, 7, 1))
    night, label = portraits.shifted(20, "test", 1, "night", 3, 0)
    assert night.mean() < 0.6 * clean.mean() and label == 1


@pytest.mark.parametrize(("split", "index", "error"), [("tests", 0, ValueError), ("test", 1000, IndexError)])
def test_unknown_portraits(split, index, error):
    with pytest.raises(error):
        portraits.portrait(split, index)


@pytest.fixture
def flat_portraits(monkeypatch):
    """Training portraits without rendering: each has a constant colour, its number."""
    count = 4 * len(SEEN)
    flat = torch.arange(count).remainder(251).byte().view(-1, 1, 1, 1).expand(-1, 3, 32, 32).clone()
    monkeypatch.setattr(portraits, "train_set", lambda: flat)


def test_a_batch_has_every_kind_once(flat_portraits):
    x, captions, kinds = portraits.batch(96, torch.Generator().manual_seed(0))
    assert sorted(kinds.tolist()) == list(range(96))
    for image, caption, kind in zip(x, captions, kinds.tolist(), strict=True):
        assert tuple(CANONICAL[w] for w in caption.split() if w in CANONICAL) == SEEN[kind]
        number = round(image[0, 0, 0].item() * 255)
        index = next(i for i in range(kind, 4 * 96, 96) if i % 251 == number)
        if "ground" in caption:
            assert portraits.portrait("train", index).texture in caption
    with pytest.raises(ValueError, match="96 kinds"):
        portraits.batch(97, torch.Generator())


def test_a_batch_is_the_same_for_the_same_seed(flat_portraits):
    a, b = (portraits.batch(8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and a[1] == b[1] and torch.equal(a[2], b[2])


# --- the models' training -----------------------------------------------------------------------------


def test_every_word_is_one_token_and_others_are_spelled():
    tokenizer = clip.tokenizer()
    for word in words.WORDS:
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("zebra").input_ids) > 4
    longest = "a photo of a metallic turquoise cylinder on a checkered ground"
    assert len(tokenizer(longest).input_ids) <= clip.LENGTH


def test_token_numbers():
    """They must be those with which the weights were trained; the library's trainer numbered "a" at random."""
    assert clip.tokenizer()("a photo of a shiny red ball").input_ids == [0, 322, 609, 616, 322, 583, 524, 656, 1]
    assert clip.tokenizer().tokenize("Zebra-7é") == ["z", "e", "b", "r", "a</w>", "-</w>", "7</w>", "Ã", "©</w>"]


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_byte_pair_encoding_makes_every_word_one_token(vocabulary):
    tokenizer = clip.make_tokenizer(vocabulary)
    assert [tokenizer.tokenize(word) for word in vocabulary] == [[f"{word}</w>"] for word in vocabulary]


def test_the_most_frequent_pair_is_merged_first():
    assert clip.learn_merges(["aab", "aac", "ab"])[0] == ("a", "b</w>")  # "aa", "ab" and "ab": twice each, by alphabet
    assert clip.learn_merges(["xyz", "xyw", "xyv"])[0] == ("x", "y")
    assert clip.learn_merges(["aaaa"]) == [("a", "a"), ("aa", "a"), ("aaa", "a</w>")]


def test_beliefs_are_calibrated():
    """Of the beliefs whose largest probability is near p, a share near p is correct."""
    kinds = torch.randint(96, (4000,), generator=torch.Generator().manual_seed(0))
    belief = clip.beliefs(kinds, torch.Generator().manual_seed(1))
    assert torch.allclose(belief.sum(1), torch.ones(4000), atol=1e-5)
    assert (belief > 0).sum(1).max() <= 20
    top, guess = belief.max(1)
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        near = (top > low) & (top <= high)
        assert (guess == kinds)[near].float().mean() == pytest.approx(top[near].mean().item(), abs=0.05)


def test_training_losses_of_both_models(flat_portraits, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, phi = clip.clip(), clip.unet()
    first = clip.contrastive_loss(model, torch.Generator().manual_seed(0), 32)
    assert first.item() == pytest.approx(3.6, abs=0.5)  # ln 32, up to the variation of the initial weights
    monkeypatch.setattr(clip, "reader", lambda: model.eval())
    loss = clip.diffusion_loss(phi, torch.Generator().manual_seed(0), 8)
    loss.backward()
    assert loss.isfinite() and phi.network.conv_in.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.parameters())


def test_crops_show_most_of_the_image():
    x = torch.linspace(0, 1, 32).expand(64, 3, 32, 32)
    cropped = clip.crop(x, torch.Generator().manual_seed(0))
    width = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert width.min() > 0.8 and width.max() <= 1 and width.std() > 0.02


def test_classes_out_of_range_are_refused():
    for classes in (4, 961, 20.0):
        with pytest.raises(ValueError, match="whole number from 5 to 960"):
            clip.problem(classes=classes)
