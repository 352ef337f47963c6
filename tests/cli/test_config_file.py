"""A config file is loaded, or its error is named; every field of it is a flag."""

import pytest
from absl import flags
from ml_collections import ConfigDict

from tfbig.cli.config_file import define_overrides, described_fields, load_config
from tfbig.errors import UserError

GOOD = """\
from ml_collections import ConfigDict

def get_config(size="8"):
    return ConfigDict({"model_fn": "m.build", "params": {"size": int(size), "rate": 0.5}})
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "c.py").write_text(text)
        return "c.py"

    return write


def overridden(fields: dict, *words: str) -> ConfigDict:
    """The config after a command line with these words."""
    config, values = ConfigDict(fields), flags.FlagValues()
    define_overrides(config, list(words), values)
    values(["tfbig", *words])
    return config


def test_a_config_is_what_get_config_returns(config_file):
    path = config_file(GOOD)
    assert load_config(path).params.to_dict() == {"size": 8, "rate": 0.5}


def test_the_text_after_a_colon_is_the_argument_of_get_config(config_file):
    assert load_config(config_file(GOOD) + ":32").params.size == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef get_config(:\n", "c.py, line 2: SyntaxError: invalid syntax"),
        ("import no_such_thing", "c.py, line 1: ModuleNotFoundError: No module named 'no_such_"),
        ("x = 1", "c.py has no function get_config()"),
        ("def get_config():\n\n    return 1 / 0\n", "c.py, line 3: ZeroDivisionError: division by"),
        ("def get_config():\n    open('no/file')\n", "c.py, line 2: FileNotFoundError: "),
        ("def get_config():\n    int('x')\n", "c.py, line 2: ValueError: invalid literal"),
        ("def get_config():\n    pass\n", "c.py: get_config() returned a NoneType; return an ml_"),
        (GOOD.replace("params", "parms"), "c.py: unknown config field 'parms'; the fields are: m"),
    ],
)
def test_an_error_in_a_config_file_names_the_file_and_the_line(config_file, text, message):
    with pytest.raises(UserError) as caught:
        load_config(config_file(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_config_file_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"--config=no/such.py: there is no such file"):
        load_config("no/such.py")


def test_a_config_of_tfbig_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("digits_mlp").model_fn == "tfbig.models.mlp.build"
    with pytest.raises(UserError, match=r"--config=digits_mpl: .* it has digits_cnn, digits_mlp, "):
        load_config("digits_mpl")


def test_a_file_of_the_users_comes_before_a_config_of_tfbig(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_mlp").write_text("")
    with pytest.raises(UserError, match=r"expected a Python file"):
        load_config("digits_mlp")


def test_flags_change_fields_and_keep_their_types():
    config = overridden(
        {"params": {"rate": 0.5, "size": 8, "name": "a", "flat": False, "units": (1, 2)}},
        "--config.params.rate=1e-3",
        "--config.params.size=16",
        "--config.params.name",
        "12",
        "--config.params.flat",
        "--config.params.units=(3,)",
    )
    expected = {"rate": 0.001, "size": 16, "name": "12", "flat": True, "units": (3,)}
    assert config.params.to_dict() == expected


def test_fields_without_a_type_take_any_literal():
    config = overridden(
        {"params": {"limit": None, "sizes": [1]}, "max_steps": 5},
        "--config.params.limit=7",
        "--config.params.sizes=[2, 3]",
        "--config.max_steps=9",
    )
    assert config.params.to_dict() == {"limit": 7, "sizes": [2, 3]}
    assert config.max_steps == 9


def test_every_field_of_run_is_a_flag_even_if_the_config_does_not_set_it():
    config = overridden({}, "--config.run.accumulation_steps=2", "--config.run.jit_compile=false")
    assert config.run.to_dict() == {"accumulation_steps": 2, "jit_compile": False}
    config = overridden({"run": {"steps_per_loop": "auto"}}, "--config.run.steps_per_loop=7")
    assert config.run.steps_per_loop == 7


def test_the_learning_rate_may_be_a_number_or_a_schedule():
    schedule = {"name": "adam", "learning_rate": {"schedule": "cosine", "peak": 0.1}}
    config = overridden({"optimizer": schedule}, "--config.optimizer.learning_rate=1e-3")
    assert config.optimizer.learning_rate == 0.001
    config = overridden({"optimizer": schedule}, "--config.optimizer.learning_rate.peak=0.2")
    assert config.optimizer.learning_rate.peak == 0.2
    config = overridden({"optimizer": schedule}, "--config.optimizer.learning_rate.warmup_steps=5")
    assert config.optimizer.learning_rate.warmup_steps == 5
    text = '{"schedule": "linear", "peak": 1.0}'
    config = overridden(
        {"optimizer": {"name": "adam", "learning_rate": 0.1}},
        f"--config.optimizer.learning_rate={text}",
        "--config.optimizer.clipnorm=1.5",
    )
    assert dict(config.optimizer.learning_rate) == {"schedule": "linear", "peak": 1.0}
    assert config.optimizer.clipnorm == 1.5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.parms.size=1", "--config.parms.size: there is no such field; those of config "),
        ("--config.params.siez=1", "those of config.params are: size."),
        ("--config.params.size.x=1", "config.params.size is 8, which has no fields"),
    ],
)
def test_a_flag_for_an_unknown_field_lists_the_known_ones(word, message):
    with pytest.raises(UserError) as caught:
        overridden({"params": {"size": 8}}, word)
    assert message in str(caught.value)


def test_the_fields_of_a_config_are_described_as_flags():
    config = ConfigDict({"params": {"size": 8, "data": {"flat": True}}, "max_steps": 5})
    assert sorted(described_fields(config)) == [
        "--config.max_steps=5",
        "--config.params.data.flat=True",
        "--config.params.size=8",
    ]
