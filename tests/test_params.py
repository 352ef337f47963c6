"""How model_fn and input_fn read their params."""

import pytest
from ml_collections import ConfigDict

from tfbig.errors import UserError
from tfbig.params import read_data_params, read_params

DEFAULTS = {"width": 256, "layers": 4}


@pytest.mark.parametrize("kind", [dict, ConfigDict])
def test_params_override_defaults(kind):
    assert read_params(kind({"width": 64}), DEFAULTS, owner="f") == {"width": 64, "layers": 4}
    assert read_params(kind(), DEFAULTS, owner="f") == DEFAULTS


def test_without_params_the_defaults_hold_and_stay_untouched():
    read = read_params(None, DEFAULTS, owner="f")
    read["width"] = 1
    assert DEFAULTS["width"] == 256


def test_unknown_names_are_listed_with_the_known_ones_but_for_those_to_ignore():
    with pytest.raises(UserError) as caught:
        read_params({"wdith": 1, "depth": 2, "data": {}}, DEFAULTS, owner="f", ignore=("data",))
    assert str(caught.value) == (
        "unknown params of f: 'depth', 'wdith'; the known ones are: width, layers."
    )


@pytest.mark.parametrize("params", [[("width", 1)], 3, "width"])
def test_params_that_are_no_mapping_are_refused(params):
    with pytest.raises(UserError) as caught:
        read_params(params, DEFAULTS, owner="f")
    assert str(caught.value) == (
        f"params of f: expected a dict or a ConfigDict, received {params!r}; its fields are: "
        "width, layers."
    )


@pytest.mark.parametrize("kind", [dict, ConfigDict])
def test_data_params_are_those_under_data(kind):
    params = kind({"hidden": 3, "data": {"width": 1}})
    assert read_data_params(params, DEFAULTS, owner="f") == {"width": 1, "layers": 4}
    for absent in (None, kind(), kind({"hidden": 3})):
        assert read_data_params(absent, DEFAULTS, owner="f") == DEFAULTS


def test_an_unknown_data_param_says_where_it_was():
    with pytest.raises(
        UserError, match=r"^unknown params of f \(params.data\): 'batch'; the known"
    ):
        read_data_params({"data": {"batch": 3}}, DEFAULTS, owner="f")


@pytest.mark.parametrize("params", [3, [1], "data"])
def test_params_with_no_data_in_them_are_refused_in_words(params):
    with pytest.raises(UserError, match=r"^params of f: expected a dict or a ConfigDict, received"):
        read_data_params(params, DEFAULTS, owner="f")
