import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.elastic.channels import Channels, axes_of, scaled
from models.elastic.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear

IMAGE = Channels.of("image", 3)
STEM = Channels.of("stem", 8)


@pytest.mark.parametrize(
    ("size", "width", "kept"),
    [(16, 0.7, 11), (64, 0.75, 48), (128, 0.65, 83), (16, 1.0, 16), (100, 0.29, 29), (100, 0.57, 57)],
)
def test_a_width_keeps_its_share_of_the_channels_rounded_down(size, width, kept):
    assert scaled(size, width) == kept


@given(st.integers(1, 4096), st.integers(1, 100))
def test_shares_in_hundredths_are_rounded_as_exact_fractions_are(size, hundredths):
    assert scaled(size, hundredths / 100) == max(1, size * hundredths // 100)


def test_one_channel_remains_however_small_the_width():
    assert scaled(3, 0.01) == 1


def test_channels_count_those_of_all_their_groups():
    assert len(Channels((("a", 3), ("b", 4)))) == 7


def test_concatenated_channels_keep_their_groups_in_order():
    assert (IMAGE + STEM + STEM).groups == (("image", 3), ("stem", 8), ("stem", 8))


def test_channels_of_equal_size_but_other_name_differ():
    assert Channels.of("a", 3) != Channels.of("b", 3)


def test_axes_are_named_as_the_parameters_are_and_in_their_order():
    model = nn.Sequential(
        ElasticConv2d(IMAGE, STEM, 3, width=1), nn.Sequential(ElasticBatchNorm2d(STEM), nn.ReLU())
    )

    axes = axes_of(model)

    assert list(axes) == [name for name, _ in model.named_parameters()]
    assert axes == {"0.weight": (STEM, IMAGE, None, None), "1.0.weight": (STEM,), "1.0.bias": (STEM,)}


def test_axes_of_a_layer_by_itself_have_no_prefix():
    assert axes_of(ElasticLinear(STEM, IMAGE)) == {"weight": (IMAGE, STEM), "bias": (IMAGE,)}


def test_axes_of_a_parameter_that_a_layer_does_without_are_left_out():
    layer = ElasticConv2d(IMAGE, STEM, 3, width=1)
    layer.axes["bias"] = (STEM,)

    assert list(axes_of(layer)) == ["weight"]


def test_a_layer_that_states_no_axes_is_refused_by_its_parameters_name():
    model = nn.Sequential(ElasticConv2d(IMAGE, STEM, 3, width=1), nn.Conv2d(8, 4, 1, bias=False))

    with pytest.raises(ValueError, match=r"'1\.weight' has no axes.*models\.elastic\.layers"):
        axes_of(model)


@pytest.mark.parametrize(
    "axes",
    [(STEM, STEM), (IMAGE, STEM), (STEM,), (STEM, IMAGE, None), ()],
    ids=["size", "order", "missing", "surplus", "none"],
)
def test_axes_that_do_not_fit_the_shape_are_refused_by_the_parameters_name(axes):
    layer = ElasticLinear(IMAGE, STEM)
    layer.axes["weight"] = axes

    with pytest.raises(ValueError, match=r"'head\.weight' has shape \(8, 3\)"):
        axes_of(nn.ModuleDict({"head": layer}))
