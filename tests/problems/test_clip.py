"""CLIP as a classifier: the library's logits, its preprocessing, learnable words, and LoRA."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T
from transformers import CLIPImageProcessor

from dtta.core.conditions import ClassMixture
from dtta.core.lora import add_lora, lora_updates, remove_lora
from dtta.core.parameters import select
from dtta.core.tta import DiffusionTTA
from dtta.methods.registry import build
from dtta.problems.networks.clip import MEAN, STD, ClipClassifier, prompt_embeddings, text_features, tokens


def pictures(n: int = 3, size: int = tiny.CLIP_SIZE, seed: int = 0) -> torch.Tensor:
    return tiny.images(n, seed, channels=3, size=size)


def sentences(names=tiny.THINGS, template="a photo of a {}"):
    return tokens(tiny.tokenizer(), [template.format(n) for n in names], tiny.LENGTH)


# --- the classifier -----------------------------------------------------------------------------------


def test_logits_are_the_librarys():
    clip, x = tiny.clip_model(), pictures()
    pixels = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = clip(sentences(), pixels).logits_per_image
    assert expected.std() > 0.1
    assert torch.allclose(tiny.clip_classifier()(x), expected, atol=1e-5)


def test_several_templates_are_averaged_on_the_sphere():
    clip, templates = tiny.clip_model(), ("a photo of a {}", "a {}", "red {}")
    each = [F.normalize(clip.get_text_features(sentences(template=t)).pooler_output, dim=1) for t in templates]
    expected = sum(each) / 3
    features = text_features(clip, tiny.tokenizer(), tiny.THINGS, templates)
    assert torch.allclose(features, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(text_features(clip, tiny.tokenizer(), tiny.THINGS, templates, batch=2), features, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (30, 50), (64, 33), (16, 16), (16, 28), (8, 12)])
def test_preprocessing_is_clips(height, width):
    """Against the library's, which rounds and cuts off to 8 bits after each of the two directions."""
    x = F.interpolate(pictures(1, 8), (height, width), mode="bicubic").clamp(0, 1)
    picture = T.to_pil_image(x[0])
    size = tiny.CLIP_SIZE
    library = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    expected = library(picture, return_tensors="pt").pixel_values
    pixels = tiny.clip_classifier().pixels(T.to_dtype(T.pil_to_tensor(picture), torch.float32, scale=True)[None])
    assert pixels.shape == expected.shape
    difference = (pixels - expected).abs()
    assert difference.mean() < 0.01 and (difference > 0.05).float().mean() < 0.01


def test_the_parameters_are_those_of_the_vision_tower():
    clip = tiny.clip_model()
    model = ClipClassifier(clip, tiny.tokenizer(), tiny.THINGS)
    text = {id(p) for p in [*clip.text_model.parameters(), *clip.text_projection.parameters()]}
    vision = {id(p) for p in model.parameters()}
    assert not vision & text
    assert vision | text == {id(p) for p in clip.parameters()}


def test_the_head_is_the_last_projection():
    model = tiny.clip_classifier()
    assert [p.shape for p in select(model, "head")] == [model.visual_projection.weight.shape]


@pytest.mark.parametrize(
    ("names", "words"),
    [*((bad, "two class names or more") for bad in (["one"], "red ball", ["a", " "], [1, 2])),
     (["red ball", "box", "red ball"], "repeated: red ball")],
)  # fmt: skip
def test_bad_names_are_refused(names, words):
    with pytest.raises(ValueError, match=words):
        ClipClassifier(tiny.clip_model(), tiny.tokenizer(), names)


def test_a_name_that_would_be_cut_off_is_refused():
    with pytest.raises(ValueError, match=r"'a photo of a xylophonist' has \d+ tokens, the text encoder takes 12"):
        ClipClassifier(tiny.clip_model(), tiny.tokenizer(), ["red ball", "xylophonist"])


# --- words as a condition -----------------------------------------------------------------------------


def test_prompt_embeddings_are_the_text_encoders_last_hidden_states():
    clip = tiny.clip_model()
    embeddings = prompt_embeddings(clip.text_model, tiny.tokenizer(), tiny.THINGS, batch=2)
    assert embeddings.shape == (5, tiny.LENGTH, 16)
    assert torch.allclose(embeddings, clip.text_model(sentences()).last_hidden_state, atol=1e-6)


def test_a_one_hot_mixture_is_the_single_prompt():
    clip, phi = tiny.clip_model(), tiny.text_unet()
    l = prompt_embeddings(clip.text_model, tiny.tokenizer(), tiny.THINGS)
    c = ClassMixture(l)(200 * torch.eye(5)[[3]])
    assert torch.allclose(c, l[[3]], atol=1e-6)
    z0, noise, t = pictures(1), tiny.normal(1, 3, 16, 16), torch.tensor([400])
    assert torch.allclose(phi.loss(z0, t, noise, c), phi.loss(z0, t, noise, l[[3]]), atol=1e-6)


# --- learnable words ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [1, 4])
def test_learnable_words_start_as_the_template(words):
    model, x = tiny.clip_classifier(), pictures()
    prompted = model.prompted(words)
    assert torch.allclose(prompted(x), model(x), atol=1e-5)
    assert prompted.context.shape == (words, 16)


def test_of_several_templates_learnable_words_start_as_the_first():
    clip, x, templates = tiny.clip_model(), pictures(), ("a photo of a {}", "red {}")
    both = ClipClassifier(clip, tiny.tokenizer(), tiny.THINGS, templates)
    first = ClipClassifier(clip, tiny.tokenizer(), tiny.THINGS, templates[:1])
    assert both.templates == templates and both.template == templates[0]
    assert torch.allclose(both.prompted()(x), first(x), atol=1e-5)
    assert not torch.allclose(both(x), first(x), atol=1e-3)


def test_the_output_depends_on_the_learnable_words():
    prompted, x = tiny.clip_classifier().prompted(), pictures(1)
    y = prompted(x)
    (grad,) = torch.autograd.grad(y.softmax(1)[0, 0], prompted.context)
    assert grad.abs().sum(1).min() > 0
    with torch.no_grad():
        prompted.context += tiny.normal(4, 16)
    assert not torch.allclose(prompted(x), y, atol=1e-3)


def test_the_end_token_of_openais_configuration_is_the_highest_number():
    """It says 2, and the library then uses the highest token number of the sentence instead."""
    clip = tiny.clip_model()
    high = len(tiny.tokenizer()) - 1
    clip.text_model.config.eos_token_id = clip.text_model.eos_token_id = 2
    model = ClipClassifier(clip, tiny.tokenizer(), tiny.THINGS)
    prompted = model.prompted()
    ids = sentences()
    ids[ids == tiny.tokenizer().eos_token_id] = high
    prompted.ids.copy_(ids)
    expected = F.normalize(clip.get_text_features(ids).pooler_output, dim=1)
    assert torch.allclose(prompted.text(), expected, atol=1e-5)


def test_more_words_than_the_template_has_are_refused():
    with pytest.raises(ValueError, match="the first 5 words of the sentences differ"):
        tiny.clip_classifier().prompted(5)


# --- LoRA ---------------------------------------------------------------------------------------------


def test_lora_is_added_to_queries_and_values_of_the_vision_tower_only():
    clip = tiny.clip_model()
    model, x = ClipClassifier(clip, tiny.tokenizer(), tiny.THINGS), pictures()
    before = model(x)
    add_lora(model, rank=3)
    names = {n for n, _ in model.named_parameters() if "lora_" in n}
    assert len(names) == 2 * 2 * 2  # layers, q and v, A and B
    assert all("vision_model" in n and ("q_proj" in n or "v_proj" in n) for n in names)
    assert not any("lora_" in n for n, _ in clip.text_model.named_parameters())
    assert sum(p.numel() for p in select(model, "lora")) == 2 * 2 * 2 * 3 * 16
    assert torch.equal(model(x), before)
    assert not model.training


def test_lora_updates_are_the_changes_of_the_weights():
    model, x = tiny.clip_classifier(), pictures()
    plain = copy.deepcopy(model)
    add_lora(model, rank=2)
    with torch.no_grad():
        for p in select(model, "lora"):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    for name, update in lora_updates(model).items():
        assert torch.linalg.matrix_rank(update) == 2
        plain.get_submodule(name).weight.data += update
    assert torch.allclose(model(x), plain(x), atol=1e-5)


def test_lora_depends_on_its_seed_and_not_on_the_global_random_state():
    state = torch.get_rng_state()
    first, second, third = (add_lora(tiny.clip_classifier(), rank=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (select(m, "lora")[0] for m in (first, second, third))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_lora_can_be_removed_and_added_again():
    model, x = tiny.clip_classifier(), pictures()
    before, names = model(x), [n for n, _ in model.named_parameters()]
    add_lora(model, rank=2)
    with torch.no_grad():
        for p in select(model, "lora"):
            p.add_(1)
    add_lora(model, rank=1, layers=[1])
    assert {n.split(".layers.")[1][0] for n, _ in model.named_parameters() if "lora_" in n} == {"1"}
    assert torch.equal(model(x), before)
    remove_lora(model)
    assert [n for n, _ in model.named_parameters()] == names
    assert torch.equal(model(x), before)


def test_lora_takes_whole_names_only():
    """peft takes a name in a list for the end of a name, too: "head.fc" for "fc"."""
    network = torch.nn.ModuleDict(
        {"fc": torch.nn.Linear(4, 4), "head": torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})}
    )
    add_lora(network, targets="fc")
    assert list(lora_updates(network)) == ["fc"]


def test_lora_leaves_out_layers_that_it_cannot_change():
    """peft refuses them, after it has changed those before them."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1), torch.nn.GELU())
    add_lora(network, targets=".*")
    assert list(lora_updates(network)) == ["0", "2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [(dict(rank=0), "rank must be"), (dict(rank=1.5), "rank must be"),
     (dict(layers=[7]), "no linear or convolution layers named .* in layers 7"),
     (dict(targets="nowhere"), "no linear or convolution layers named nowhere"),
     (dict(targets=r".*layer_norm\d"), "no linear or convolution layers named .*layer_norm")],
)  # fmt: skip
def test_bad_lora_options_are_refused_and_change_nothing(options, words):
    model = tiny.clip_classifier()
    with pytest.raises(ValueError, match=words):
        add_lora(model, **options)
    with pytest.raises(ValueError, match="no parameters of the kind 'lora'"):
        select(model, "lora")


def test_a_network_without_lora_targets():
    with pytest.raises(ValueError, match="has no lora_targets; give targets"):
        add_lora(tiny.classifier())


# --- the methods --------------------------------------------------------------------------------------

PARTS = ("lora", "all", "norm", "head", "prompt", "logits")
TTA = dict(steps=2, samples=3, optimizer="adam", lr=0.05)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("phi", [False, "lora", True])
def test_every_choice_of_parameters_adapts_and_is_reset_exactly(part, phi):
    problem, x = tiny.open_problem(), pictures(1)
    method = build(problem, "diffusion-tta", trainable=part, adapt_diffusion=phi, **TTA)
    assert isinstance(method, DiffusionTTA)
    everything = [*method.model.parameters(), *problem.diffusion.parameters()]
    kept = [p.detach().clone() for p in everything]
    before = problem.model(x)
    first = method(x, torch.Generator().manual_seed(0))
    assert (first - before).abs().max() > 1e-3
    assert all(torch.equal(p, k) for p, k in zip(everything, kept, strict=True))
    assert torch.equal(method(x, torch.Generator().manual_seed(0)), first)


@pytest.mark.parametrize("part", PARTS)
def test_only_the_chosen_parameters_change(part):
    problem, x = tiny.open_problem(), pictures(1)
    method = build(problem, "diffusion-tta", trainable=part, episodic=False, **TTA)
    before = [(p, p.detach().clone()) for module in (method.model, problem.diffusion) for p in module.parameters()]
    method(x, torch.Generator().manual_seed(0))
    moved = {id(p) for p, kept in before if not torch.equal(p, kept)}
    assert moved and moved <= {id(p) for p in method.adapted}


def test_lora_on_the_diffusion_model_is_on_its_attention():
    problem = tiny.open_problem()
    method = build(problem, "diffusion-tta", trainable="head", adapt_diffusion="lora", rank=2, lr_diffusion=0.1, **TTA)
    group = method.optimizer.param_groups[1]
    names = {id(p): n for n, p in problem.diffusion.named_parameters()}
    assert group["lr"] == 0.1 and len(group["params"]) > 0
    assert all("attn" in names[id(p)] and "lora_" in names[id(p)] for p in group["params"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [(dict(trainable="lora", rank=0), "rank must be"), (dict(adapt_diffusion="loar"), "adapt_diffusion must be"),
     (dict(trainable="prompt", words=9), "words of the sentences differ")],
)  # fmt: skip
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build(tiny.open_problem(), "diffusion-tta", **settings)


def test_prompts_need_a_network_with_text():
    with pytest.raises(ValueError, match="trainable='prompt' needs a network that reads"):
        build(tiny.problem(), "diffusion-tta", trainable="prompt")


@pytest.mark.parametrize(("name", "part"), [("tent", "lora"), ("tent", "norm"), ("tpt", "prompt"), ("tpt", "lora")])
def test_tent_and_tpt_with_every_choice_of_parameters(name, part):
    problem, x = tiny.open_problem(), pictures(1)
    before = problem.model(x)
    method = build(problem, name, trainable=part, lr=0.1, steps=2)
    everything = {n: t.detach().clone() for n, t in method.state_dict().items()}
    first = method(x, torch.Generator().manual_seed(0))
    assert not torch.allclose(first, before, atol=1e-3)
    method.reset()
    after = method.state_dict()
    assert after.keys() == everything.keys() and all(torch.equal(after[n], t) for n, t in everything.items())
    assert torch.equal(problem.model(x), before)
    assert torch.equal(method(x, torch.Generator().manual_seed(0)), first)
