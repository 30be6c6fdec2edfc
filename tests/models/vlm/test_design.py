"""The tiny LLaVA, what it is asked, and what is refused."""

import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from models import build_elastic, elastic_design, learned_state
from models.elastic import Shape, SliceMap, axes_of
from models.vlm import base
from models.vlm.base import Source, base_of, checkpoint_of
from models.vlm.question import answers_of, ask
from protocol.errors import SettingsError
from tests.support.vlm import CLASSES, vlm_settings, write_checkpoint

IMAGES = (1, 64, 64)


def network(shape=None, images=IMAGES, seed=0, **changes):
    design = elastic_design("elastic-vlm", vlm_settings(**changes))
    return build_elastic(design, images, CLASSES, seed, shape or design.preset[-1])


@pytest.mark.slow
def test_levels_are_quarters_of_the_layers_with_ranks_of_8_to_64():
    design = elastic_design("elastic-vlm", vlm_settings(lora__rank=64))
    quarters = [design.depth * i // 4 for i in (1, 2, 3, 4)]
    assert [shape.exits for shape in design.preset] == [tuple(quarters[:i]) for i in (1, 2, 3, 4)]
    ranks = []
    for shape in design.preset:
        axes = axes_of(design.on_meta(IMAGES, CLASSES, shape))
        ranks.append({len(axis) for of in axes.values() for axis in of if axis is not None})
    assert ranks == [{8}, {16}, {32}, {64}]


def test_a_level_is_the_leading_slice_of_every_adapter():
    design = elastic_design("elastic-vlm", vlm_settings())
    whole, part = (axes_of(design.on_meta(IMAGES, CLASSES, design.preset[i])) for i in (3, 0))
    state = learned_state(network())
    cut = SliceMap(whole, part).extract(state)
    for name, tensor in cut.items():
        rows, columns = (1 if ".lora_A." in name else None), (1 if ".lora_B." in name else None)
        expected = state[name] if tensor.dim() < 2 else state[name][:rows, :columns]
        assert torch.equal(tensor, expected)


def test_the_scale_of_an_adapter_does_not_depend_on_its_rank():
    for shape in elastic_design("elastic-vlm", vlm_settings()).preset:
        adapted = [module for module in network(shape).modules() if hasattr(module, "lora_A")]
        assert {module.scaling["default"] for module in adapted} == {2.0}


def test_initial_weights_follow_from_the_seed_alone_and_b_begins_at_zero():
    first, again, other = (learned_state(network(seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = [name for name in first if ".lora_A." in name]
    assert [name for name in down if not torch.equal(first[name], other[name])] == down
    assert all(not tensor.any() for name, tensor in first.items() if ".lora_B." in name)


def test_its_own_loss_makes_the_whole_vocabularys_cross_entropy_of_the_answer():
    built = network().train()
    images, target = torch.rand(2, *IMAGES), torch.tensor([3, 1])
    classes = [F.cross_entropy(z, target) for z in built.exits(images)]
    own = built.own_loss()
    assert built.own_loss() is None

    question = built._question
    with torch.no_grad():
        hidden = built._hidden(images)
        losses = []
        for norm, h in zip(built._norms(), hidden, strict=True):
            spoken = F.log_softmax(built.base.lm_head(norm(h)), dim=2)
            answer = spoken[torch.arange(2), -1, question.answers[target]]
            begun = spoken[:, -2, question.tokens[-1]]
            losses.append(-(answer + begun).mean())
    assert question.told == 1
    torch.testing.assert_close(torch.stack(classes).mean() + own, torch.stack(losses).mean())


def test_without_training_there_is_no_own_loss():
    built = network().eval()
    built.exits(torch.rand(2, *IMAGES))
    assert built.own_loss() is None


@pytest.mark.slow
def test_written_as_a_checkpoint_the_tiny_llava_is_the_one_made_in_memory(tmp_path):
    subprocess.run([sys.executable, "-m", "models.vlm.tiny", str(tmp_path)], check=True, capture_output=True)
    images = torch.rand(2, *IMAGES)
    made, read = network(), network(pretrained=str(tmp_path))
    with torch.no_grad():
        assert torch.equal(made.eval()(images), read.eval()(images))


def test_a_base_in_bfloat16_has_adapters_norms_and_a_projector_in_float32():
    built = network(precision="bf16").train()
    frozen = {p.dtype for p in built.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {tensor.dtype for tensor in learned_state(built).values()} == {torch.float32}
    logits = built.exits(torch.rand(2, *IMAGES))
    F.cross_entropy(logits[-1], torch.tensor([0, 1])).backward()
    assert all(z.dtype == torch.float32 for z in logits)
    built.describe(torch.rand(1, *IMAGES), "Describe the image.", most=2)


def test_answers_of_a_base_in_bfloat16_are_told_apart_by_more_digits_than_it_has():
    """Around 20, where bfloat16 has steps of an eighth, answers would tie, and the lower grade would win."""
    built = network(precision="bf16").eval()
    end, answers = torch.randn(8, 64).bfloat16(), built._question.answers
    exact = end.double() @ built.base.lm_head.weight[answers].double().T
    torch.testing.assert_close(built._tokens(end, answers).double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_deeper_base_is_read_when_the_one_before_is_gone(monkeypatch, tmp_path):
    write_checkpoint("llava", tmp_path)
    source = Source(str(tmp_path))
    before = weakref.ref(base_of(source, 1).lm_head.weight)
    load, gone = base._load, []

    def note(*arguments):
        gc.collect()
        gone.append(before() is None)
        return load(*arguments)

    monkeypatch.setattr(base, "_load", note)
    base_of(source, 2)
    assert gone == [True]


def test_images_that_fit_a_tile_are_not_blown_up_to_be_split(tmp_path):
    checkpoint = checkpoint_of(str(write_checkpoint("idefics3", tmp_path)))
    small, large = (ask(checkpoint, "What?", (), (1, side, side)) for side in (28, 56))
    assert small.sample["pixel_values"].shape[1] == 1
    assert large.sample["pixel_values"].shape[1] == 5


# --- answers -----------------------------------------------------------------------------------------


def test_answers_are_a_template_with_the_class_or_a_list():
    assert answers_of("KL {}", 3) == ["KL 0", "KL 1", "KL 2"]
    assert answers_of("none, mild ,severe", 3) == ["none", "mild", "severe"]


@pytest.mark.parametrize("answers", ["KL", "none,mild", "none,,mild,severe,worst", ""])
def test_answers_that_are_not_one_a_class_are_refused(answers):
    with pytest.raises(SettingsError, match=r"vlm.answers = .*5 answers"):
        network(vlm__answers=answers)


def test_answers_that_no_single_token_tells_apart_are_refused_by_name():
    with pytest.raises(SettingsError, match=r"'none at all' and 'none today' are not told apart"):
        network(vlm__answers="none at all,none today,mild,moderate,severe")


def test_an_answer_with_which_another_begins_is_refused():
    with pytest.raises(SettingsError, match=r"'KL' is how another answer begins"):
        network(vlm__answers="KL,KL 1,KL 2,KL 3,KL 4")


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(SettingsError, match=r"vlm.prompt is empty"):
        network(vlm__prompt=prompt)


def test_a_prompt_with_an_image_of_its_own_is_refused():
    with pytest.raises(SettingsError, match=r"vlm.prompt = .*cannot write it"):
        network(vlm__prompt="<image> and?")


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_another_mode_are_refused(channels):
    with pytest.raises(SettingsError, match=rf"images of {channels} channels: .*data.channels = 1 or 3"):
        network(images=(channels, 64, 64))


def test_images_scaled_by_their_own_mean_are_refused():
    with pytest.raises(SettingsError, match=r'data.normalisation = "public": .*allowed is "none"'):
        network(data__source="/somewhere/train.parquet")


def test_a_rank_that_a_layer_cannot_have_is_refused():
    with pytest.raises(SettingsError, match=r"lora.rank: 65 is more than 'layers.0.self_attn.q_proj' can"):
        network(lora__rank=65)


def test_a_target_that_the_decoder_has_not_is_refused():
    with pytest.raises(SettingsError, match=r"lora.targets = .*no 'query'; there are down_proj, .*q_proj"):
        network(lora__targets="query")


def test_an_unknown_family_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SettingsError, match=r"the family 'bert'; those known to work are llava, .*qwen2_vl"):
        network(pretrained=str(tmp_path))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"pretrained = .*cannot be read"):
        network(pretrained=str(tmp_path))


def test_a_checkpoint_without_a_processor_is_refused(tmp_path):
    write_checkpoint("llava", tmp_path)
    for file in [*tmp_path.glob("*processor*"), *tmp_path.glob("tokenizer*"), *tmp_path.glob("chat*")]:
        file.unlink()
    with pytest.raises(SettingsError, match=r"pretrained = .*has no processor that can be used"):
        network(pretrained=str(tmp_path))


def test_a_checkpoint_with_a_tokeniser_alone_is_refused(tmp_path):
    write_checkpoint("llava", tmp_path)
    for file in [*tmp_path.glob("*processor*"), *tmp_path.glob("chat*")]:
        file.unlink()
    with pytest.raises(SettingsError, match=r"pretrained = .*processor"):
        network(pretrained=str(tmp_path))


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    write_checkpoint("llava", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"its weights cannot be read"):
        network(pretrained=str(tmp_path))


@pytest.mark.parametrize(
    ("renamed", "lacking"),
    [
        (lambda name: f"module.{name}", r"its weights lack .*; \d\d+ in all"),
        (lambda name: name.replace("lm_head.", "head."), r"its weights lack lm_head.weight; 1 in all"),
    ],
)
def test_a_checkpoint_whose_weights_have_other_names_is_refused(renamed, lacking, tmp_path):
    """Transformers would draw them at random, for each party others."""
    write_checkpoint("llava", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({renamed(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(SettingsError, match=lacking):
        network(pretrained=str(tmp_path))


def test_four_bits_without_bitsandbytes_or_a_gpu_are_refused(tmp_path):
    write_checkpoint("llava", tmp_path)
    with pytest.raises(SettingsError, match=r'vlm.quantisation = "4bit": needs'):
        network(pretrained=str(tmp_path), vlm__quantisation="4bit")


def test_a_shape_on_the_meta_device_takes_no_memory():
    design = elastic_design("elastic-vlm", vlm_settings())
    assert all(p.is_meta for p in design.on_meta(IMAGES, CLASSES, Shape(1.0, (1,))).parameters())


def test_a_place_may_begin_with_a_home_folder(tmp_path, monkeypatch):
    write_checkpoint("llava", tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    design = elastic_design("elastic-vlm", vlm_settings(pretrained="~/model"))
    assert len(build_elastic(design, IMAGES, CLASSES, 0, None).exits(torch.rand(1, *IMAGES))) == 1
