"""generate, stream, beam, score and chat on a small model: what they print is what the library gives."""

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import wordkiln as wk
from wordkiln.cli import app
from wordkiln.cli._files import line_of, read_records
from wordkiln.cli._settings import SETTINGS
from wordkiln.errors import WordkilnError
from wordkiln.generation import Completion, GenerationSettings

PROMPTS = ["床前", "the quick", ""]


@pytest.fixture(scope="module")
def model(checkpoint):
    return wk.load(checkpoint)


@pytest.fixture
def invoke(checkpoint):
    def call(command, *arguments, **options):
        return CliRunner().invoke(app, [command, str(checkpoint), *map(str, arguments)], **options)

    return call


def lines(text):
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("command", ["generate", "stream", "beam", "score", "chat"])
def test_help_teaches_with_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"wordkiln {command} " in result.stdout.split("Example")[1]


def test_every_setting_of_a_command_is_one_of_the_library():
    assert SETTINGS.keys() <= GenerationSettings.__annotations__.keys()


def test_generate_as_json_is_the_completion(invoke, model):
    found = lines(invoke("generate", "--prompt", "床前", "-n", 2, "--seed", 3, "--json", "--logprobs", 2).stdout)
    expected = model.generate("床前", n=2, seed=3, logprobs=2)
    assert [record["text"] for record in found] == [completion.text for completion in expected]
    assert found[0]["prompt"] == "床前"
    assert found[0]["ids"] == expected[0].ids
    assert found[0]["finish_reason"] == expected[0].finish_reason
    top = {int(token): logprob for token, logprob in found[1]["top_logprobs"][0].items()}
    assert top == expected[1].top_logprobs[0]
    assert "error" not in found[0]


def test_lines_hold_any_text(tmp_path):
    record = {
        "text": "\ud8d5 \u2028\x85\x0b 床",
        "perplexity": float("inf"),
        "logprobs": [float("nan"), -1.5],
        "n": 10**30,
    }
    line = line_of(record)
    assert json.loads(line) == record | {"perplexity": None, "logprobs": [None, -1.5]}
    (tmp_path / "lines.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    assert read_records(str(tmp_path / "lines.jsonl"), "text") == [json.loads(line)] * 2


@pytest.mark.parametrize("to_file", [True, False])
def test_a_file_of_prompts_becomes_a_file_of_texts(invoke, model, tmp_path, to_file):
    records = [{"prompt": "床前", "id": 7}, "the quick", {"prompt": ""}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n\n", encoding="utf-8")
    output = ["--output", tmp_path / "out.jsonl"] if to_file else []
    result = invoke(
        "generate", "--input", path, *output, "-n", 2, "--seed", 1, "--max-new-tokens", 9, "--batch-size", 3
    )
    assert result.exit_code == 0, result.output
    found = lines((tmp_path / "out.jsonl").read_text(encoding="utf-8") if to_file else result.stdout)
    expected = model.generate(PROMPTS, n=2, seed=1, max_new_tokens=9)
    assert [record["text"] for record in found] == [completion.text for completion in expected]
    assert [record.get("id") for record in found] == [7, 7, None, None, None, None]
    assert ("6 of 6 texts" in result.stderr) == to_file
    assert set(tmp_path.iterdir()) == {path, *output[1:]}


def test_prompts_from_standard_input_and_one_that_fails(invoke):
    result = invoke("generate", "--input", "-", input='"a"\n"b <|end|>"\n"c"\n')
    assert result.exit_code == 1
    found = lines(result.stdout)
    assert [record["finish_reason"] == "error" for record in found] == [False, True, False]
    assert "prompts[1]" in found[1]["error"]
    assert "1 of 3 texts could not be written: prompts[1]" in result.stderr


def test_settings_reach_the_model(invoke, model):
    options = (
        "--max-new-tokens 20 --temperature 0.7 --top-k 50 --min-p 0.01 --repetition-penalty 1.2 --seed 4 --bad-words q"
    )
    expected = model.generate(
        "the", max_new_tokens=20, temperature=0.7, top_k=50, min_p=0.01, repetition_penalty=1.2, seed=4, bad_words=["q"]
    )
    assert invoke("generate", "--prompt", "the", *options.split()).stdout == f"the{expected.text}\n"


def test_a_stream_is_the_text_alone(invoke, model):
    expected = model.generate("床前", seed=5, max_new_tokens=30)
    options = ("--prompt", "-", "--seed", 5, "--max-new-tokens", 30)
    assert invoke("stream", *options, input="床前").stdout == expected.text + "\n"
    *pieces, last = lines(invoke("stream", *options, "--json", input="床前").stdout)
    assert "".join(piece["text"] for piece in pieces) == expected.text
    assert last == {"finish_reason": expected.finish_reason}


def test_beam_prints_texts_and_scores(invoke, model):
    expected = model.beam("床前", num_beams=3, num_return=2, max_new_tokens=8)
    options = ("--prompt", "床前", "--num-beams", 3, "-n", 2, "--max-new-tokens", 8)
    found = lines(invoke("beam", *options, "--json").stdout)
    assert [(record["text"], record["score"]) for record in found] == [(text.text, text.score) for text in expected]
    shown = invoke("beam", *options).stdout
    assert shown.startswith(f"--- 1 of 2, score {expected[0].score:.4f}\n床前{expected[0].text}\n--- 2 of 2")


@pytest.fixture
def recommending(model, monkeypatch):
    """Replaces what the makers of `model` recommend, for commands too."""
    monkeypatch.setattr("wordkiln.generation.load", lambda path, dtype: model)
    return lambda **settings: monkeypatch.setattr(model, "recommended", settings)


def test_beam_leaves_what_is_not_given_to_the_makers_of_the_model(invoke, model, recommending):
    by_default = model.beam("床前")
    recommending(num_beams=2, length_penalty=-2.0, max_new_tokens=6, no_repeat_ngram_size=1)
    recommended = model.beam("床前")
    named = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 4, "no_repeat_ngram_size": 0}
    asked = model.beam("床前", **named)
    assert len({text.score for (text,) in (by_default, recommended, asked)}) == 3

    def found(*options):
        return lines(invoke("beam", "--prompt", "床前", *options, "--json").stdout)[0]["score"]

    assert found() == recommended[0].score
    options = (f"--{name.replace('_', '-')}={value}" for name, value in named.items())
    assert found(*options) == asked[0].score  # 0 is a value that was given


def test_an_early_stopping_reaches_the_search(invoke, model, monkeypatch):
    seen = []
    monkeypatch.setattr("wordkiln.generation.load", lambda path, dtype: model)
    monkeypatch.setattr(model, "beam", lambda prompt, **settings: seen.append(settings) or [])
    for given in ("true", "false", "never"):
        assert invoke("beam", "--early-stopping", given).exit_code == 0
    assert invoke("beam").exit_code == 0
    assert seen == [{"early_stopping": True}, {"early_stopping": False}, {"early_stopping": "never"}, {}]


def test_an_answer_is_as_long_as_the_makers_of_the_model_say(invoke, recommending):
    messages = json.dumps([{"role": "user", "content": "床前"}])
    recommending(max_new_tokens=1, temperature=0.0)
    short = invoke("chat", input=messages).stdout
    recommending(temperature=0.0)
    assert len(invoke("chat", input=messages).stdout) > len(short)
    recommending(max_new_tokens=1, temperature=0.0)
    assert len(invoke("chat", "--max-new-tokens", 9, input=messages).stdout) > len(short)


def test_scores_of_texts_files_and_lines(invoke, model, tmp_path):
    book, many = tmp_path / "book.txt", tmp_path / "many.jsonl"
    book.write_text("the lazy dog <|end|>", encoding="utf-8")
    many.write_text('{"text": "the", "label": 1}\n', encoding="utf-8")
    texts = ["床前明月光", "the lazy dog <|end|>", "the"]
    expected = model.score(texts, special_tokens="text")
    arguments = (texts[0], "--file", book, "--input", many)
    found = lines(invoke("score", *arguments, "--json").stdout)
    assert [record["logprob"] for record in found] == [score.total for score in expected]
    assert found[0]["text"] == texts[0]
    assert found[1]["file"] == str(book)
    assert "text" not in found[1]
    assert found[2]["label"] == 1
    shown = invoke("score", *arguments, env={"COLUMNS": "200"}).stdout
    assert f"{expected[0].perplexity:,.3f}" in shown
    assert f"{expected[1].bits_per_byte:.4f}" in shown


def test_chat_answers_messages_of_standard_input(invoke, model):
    messages = [{"role": "user", "content": "床前"}]
    settings = {"max_new_tokens": 20, "seed": 2}
    options = ("--max-new-tokens", 20, "--seed", 2)
    expected = model.chat(messages, **settings)
    assert invoke("chat", *options, input=json.dumps(messages)).stdout == expected.text + "\n"
    (answer,) = lines(invoke("chat", *options, "--json", input=json.dumps({"messages": messages})).stdout)
    assert answer == {"role": "assistant", "content": expected.text, "finish_reason": expected.finish_reason}
    expected = model.chat([{"role": "system", "content": "短"}, *messages], **settings)
    assert invoke("chat", *options, "--system", "短", input=json.dumps(messages)).stdout == expected.text + "\n"


WRONG = {
    "a setting out of its range": (("generate", "--prompt", "a", "--top-p", "2"), "top_p=2"),
    "two sources of prompts": (("generate", "--prompt", "a", "--input", "-"), "--prompt and --input"),
    "output of a single text": (("generate", "--prompt", "a", "--output", "x"), "--output"),
    "no folder for the output": (("generate", "--input", "-", "--output", "nowhere/x"), "nowhere"),
    "no such file of prompts": (
        ("generate", "--input", "nothing.jsonl"),
        "nothing.jsonl: cannot be read: No such file",
    ),
    "a line that is no JSON": (("generate", "--input", "-"), "standard input, line 1: is no JSON"),
    "a word that is none of three": (("generate", "--prompt", "a", "--truncate", "right"), "truncate='right'"),
    "a special token": (("stream", "--prompt", "<|end|>"), "special_tokens='ids'"),
    "an unknown early stopping": (("beam", "--early-stopping", "soon"), "early_stopping='soon'"),
    "more texts than beams": (("beam", "--num-return", "9"), "num_return=9"),
    "nothing to score": (("score",), "TEXTS, --file or --input"),
    "a stride of nothing": (("score", "a", "--stride", "0"), "stride=0"),
    "a conversation that is no JSON": (("chat",), "standard input: is no JSON"),
    "messages without roles": (("chat", "--messages", "-"), "standard input: is no JSON"),
    "a template that is not there": (("chat", "--template", "none.jinja"), "none.jinja"),
}


@pytest.mark.abuse
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_a_named_error(invoke, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = WRONG[case]
    result = invoke(*arguments, input="{no json\n")
    assert isinstance(result.exception, WordkilnError), result.output
    assert named in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.abuse
@pytest.mark.parametrize("content", [b"\xff", b'{"text": 1}', b"[1]", b'{"prompt": null}', b"[" * 100_000])
def test_wrong_lines_are_named(invoke, tmp_path, content):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'"fine"\n' + content)
    result = invoke("generate", "--input", path)
    assert isinstance(result.exception, WordkilnError)
    assert str(path) in str(result.exception)
    assert "line 2" in str(result.exception) or content == b"\xff"


def test_ctrl_c_keeps_what_was_written(checkpoint, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"the"\n' * 20_000)
    arguments = ["generate", checkpoint, "--input", prompts, "--max-new-tokens", "40", "--seed", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "wordkiln", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, said = process.stdout.read(), process.stderr.read()
        assert process.wait(timeout=60) == 130, said
        assert said.strip().splitlines()[-1] == "wordkiln: stopped"
    found = lines(first + rest)
    assert len(found) < 20_000
    assert found[-1]["finish_reason"] in ("interrupted", "length")


def test_ctrl_c_writes_the_texts_that_are_there_to_the_output(invoke, monkeypatch, tmp_path):
    def interrupted(self, prompts, **settings):
        yield Completion("done", [1], [0.0], "end")
        raise wk.generation.Interrupted([Completion("half", [2], [0.0], "interrupted")])

    monkeypatch.setattr(wk.generation.LanguageModel, "iter_batch", interrupted)
    result = invoke("generate", "--input", "-", "-o", tmp_path / "out.jsonl", input='"a"\n"b"\n"c"\n')
    assert result.exit_code == 130
    assert "2 of 3 texts written" in result.stderr
    found = lines((tmp_path / "out.jsonl").read_text())
    assert [(record["prompt"], record["text"]) for record in found] == [("a", "done"), ("b", "half")]
