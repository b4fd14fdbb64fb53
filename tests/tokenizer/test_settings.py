"""tokenizer_config.json and chat templates: kept, used, written back."""

import json
import pickle

import pytest

from wordkiln.errors import FormatError
from wordkiln.tokenizer import Tokenizer

TEMPLATE = "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}"


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = {
        "bos_token": "<|user|>",
        "eos_token": {"content": "<|end|>", "lstrip": False},
        "pad_token": None,
        "chat_template": TEMPLATE,
        "model_max_length": 1e30,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return tmp_path


def test_they_are_kept_and_written_back(folder, tokenizer, tmp_path):
    loaded = Tokenizer.load(folder)
    assert (loaded.chat_template, loaded.settings["model_max_length"]) == (TEMPLATE, 1e30)
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (999, 998, None)
    assert loaded == tokenizer
    (tmp_path / "other").mkdir()
    loaded.save(tmp_path / "other")
    written = (tmp_path / "other" / "tokenizer_config.json").read_bytes()
    assert written == (folder / "tokenizer_config.json").read_bytes()
    assert pickle.loads(pickle.dumps(loaded)).chat_template == TEMPLATE


def test_a_template_in_its_own_file_goes_first(folder, tmp_path):
    (folder / "chat_template.jinja").write_text("{{ 1 }}中")
    loaded = Tokenizer.load(folder)
    assert loaded.chat_template == "{{ 1 }}中"
    (tmp_path / "other").mkdir()
    loaded.with_chat_template("new").save(tmp_path / "other")
    assert (tmp_path / "other" / "chat_template.jinja").read_text() == "new"
    assert loaded.chat_template == "{{ 1 }}中"


def test_of_several_templates_the_default_is_taken(folder):
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert Tokenizer.load(folder).chat_template == "d"


def test_without_settings(tokenizer, tmp_path):
    assert (tokenizer.chat_template, tokenizer.settings, tokenizer.bos_id) == (None, {}, None)
    assert tokenizer.eos_id == tokenizer.end_id
    changed = tokenizer.with_chat_template("x")
    assert (changed.chat_template, changed.with_chat_template(None).chat_template) == ("x", None)
    assert changed == tokenizer
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.abuse
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"7", b"\xff", b'{"a":' * 100_000, b"[" * 1_000_000])
def test_wrong_settings_are_named(folder, content):
    (folder / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: is no JSON"):
        Tokenizer.load(folder)


@pytest.mark.abuse
def test_a_template_that_is_no_text_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(FormatError, match="is not UTF-8"):
        Tokenizer.load(folder)


@pytest.mark.abuse
@pytest.mark.parametrize("value", [7, [], {}, {"content": 7}, [7], None, "<no such token>"])
def test_odd_values_mean_none(folder, value):
    config = {"bos_token": value, "pad_token": value, "chat_template": value if value != "<no such token>" else 7}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(folder)
    assert (loaded.bos_id, loaded.pad_id, loaded.chat_template) == (None, None, None)
