import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

import slm
from slm.generation.text_generation import generate

pytest.importorskip("fastapi_offline")
uvicorn = pytest.importorskip("uvicorn")

from fastapi.testclient import TestClient  # noqa: E402

from slm.serving.api import create_app  # noqa: E402
from slm.serving.protocol import ChatCompletionRequest, CompletionRequest  # noqa: E402
from slm.serving.validation import validate_completion  # noqa: E402
from slm.settings import SamplingConfig, ServerLimits  # noqa: E402

PROMPT = "Once upon a"


@pytest.fixture
def writer(random_model, tokenizer):
    return random_model(), tokenizer


@pytest.fixture
def client(writer):
    with TestClient(create_app(*writer)) as client:
        yield client


def ask(client, **asked):
    return client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 12} | asked)


def events(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# What it answers


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 3}, {"seed": 4, "top_k": 9}])
def test_a_story_is_the_one_that_the_package_writes(client, writer, settings):
    answer = ask(client, **settings)
    assert answer.status_code == 200
    [choice] = answer.json()["choices"]
    expected = generate(*writer, PROMPT, max_new_tokens=12, **settings)
    assert PROMPT + choice["text"] == expected
    assert answer.json()["object"] == "text_completion"
    assert answer.json()["model"] == "stories"
    assert choice["finish_reason"] in ("stop", "length")


def test_usage_counts_tokens(client, tokenizer):
    answer = ask(client, temperature=0, n=2, prompt=[PROMPT, "a"]).json()
    read = len(tokenizer.encode(PROMPT)) + len(tokenizer.encode("a"))
    assert answer["usage"]["prompt_tokens"] == read
    assert answer["usage"]["total_tokens"] == read + answer["usage"]["completion_tokens"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["choices"][0]["text"] == answer["choices"][1]["text"]
    assert answer["choices"][0]["text"] != answer["choices"][2]["text"]


def test_the_end_of_the_text_is_a_stop_and_is_not_shown(client, writer):
    settings = {"n": 16, "max_tokens": 60, "seed": 0, "temperature": 2, "min_p": 0}
    answer = ask(client, **settings).json()
    ended = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert ended  # of 16 stories of up to 60 tokens, drawn from 280
    for choice in ended:
        seed, more = choice["index"], {"temperature": 2, "min_p": 0, "max_new_tokens": 60}
        assert PROMPT + choice["text"] == generate(*writer, PROMPT, seed=seed, **more)
        assert "<|endoftext|>" not in choice["text"]
    assert answer["usage"]["completion_tokens"] < 16 * 60


def test_a_stream_joins_to_the_same_story(client):
    settings = {"seed": 1, "n": 2, "max_tokens": 30}
    whole = ask(client, **settings).json()
    parts = events(ask(client, stream=True, stream_options={"include_usage": True}, **settings))
    for choice in whole["choices"]:
        mine = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert len(mine) > 3
    assert parts[-1]["usage"] == whole["usage"]
    assert parts[-1]["choices"] == []


def test_a_story_is_cut_before_a_stop(client):
    whole = ask(client, seed=2, max_tokens=40).json()["choices"][0]["text"]
    stop = whole[10:13]
    cut = whole[: whole.index(stop)]
    answer = ask(client, seed=2, max_tokens=40, stop=["nowhere", stop]).json()
    assert answer["choices"][0]["text"] == cut
    assert answer["choices"][0]["finish_reason"] == "stop"
    parts = events(ask(client, seed=2, max_tokens=40, stop=stop, stream=True))
    assert "".join(c["text"] for part in parts for c in part["choices"]) == cut


def test_logprobs_are_those_of_the_model_and_echo_brings_the_prompt(client, writer):
    model, tokenizer = writer
    answer = ask(client, seed=0, logprobs=2, echo=True, max_tokens=6).json()
    [choice] = answer["choices"]
    told = choice["logprobs"]
    ids = [*tokenizer.encode(PROMPT)]
    assert choice["text"].startswith(PROMPT)
    assert told["tokens"][: len(ids)] == tokenizer.pieces(ids)
    with torch.no_grad():
        expected = model(torch.tensor([[tokenizer.eot_id, *ids]]))[0].log_softmax(-1)
    for place, id in enumerate(ids):
        assert told["token_logprobs"][place] == pytest.approx(expected[place, id].item(), abs=1e-3)
        assert len(told["top_logprobs"][place]) == 2
    assert told["text_offset"][0] == 0
    assert told["text_offset"] == sorted(told["text_offset"])
    assert ask(client, max_tokens=0).json()["choices"][0]["text"] == ""
    only = ask(client, echo=True, logprobs=0, max_tokens=0).json()["choices"][0]
    assert only["text"] == PROMPT
    assert only["logprobs"]["tokens"] == tokenizer.pieces(ids)
    stream = events(ask(client, seed=0, logprobs=2, max_tokens=6, stream=True))
    pieces = [c["logprobs"] for part in stream for c in part["choices"] if c["logprobs"]]
    streamed = [value for piece in pieces for value in piece["token_logprobs"]]
    assert streamed == pytest.approx(told["token_logprobs"][len(ids) :])


def prompt_logprobs(model, ids):
    """What the model gives the ids that follow the first, in one go."""
    with torch.no_grad():
        logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
    return [logprobs[place, token_id].item() for place, token_id in enumerate(ids[1:])]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_prompts_logprobs_also_in_a_stream(client, writer, stream):
    model, tokenizer = writer
    asked = dict(seed=0, logprobs=2, echo=True, max_tokens=6, n=2, stream=stream)
    answer = ask(client, **asked)
    parts = events(answer) if stream else [answer.json()]
    ids = tokenizer.encode(PROMPT)
    for index in range(2):
        choices = [c for part in parts for c in part["choices"] if c["index"] == index]
        text = "".join(choice["text"] for choice in choices)
        given = [c["logprobs"] for c in choices if c["logprobs"]]
        tokens = [token for piece in given for token in piece["tokens"]]
        values = [value for piece in given for value in piece["token_logprobs"]]
        offsets = [offset for piece in given for offset in piece["text_offset"]]
        assert text.startswith(PROMPT)
        assert tokens[: len(ids)] == tokenizer.pieces(ids)
        assert values[: len(ids)] == pytest.approx(
            prompt_logprobs(model, [tokenizer.bos_id, *ids]), abs=1e-3
        )
        assert offsets == sorted(offsets)
        for token, offset in zip(tokens[: len(ids)], offsets[: len(ids)], strict=True):
            assert text[offset:].startswith(token)


def test_offsets_are_those_of_the_whole_text_where_the_prompt_is_longer_than_the_context(
    client, writer
):
    _, tokenizer = writer
    prompt = "the cat 😊 sat on a mat, " * 8
    ids = tokenizer.encode(prompt)
    assert len(ids) > 2 * 32
    [choice] = ask(client, prompt=prompt, echo=True, logprobs=1, max_tokens=3).json()["choices"]
    given = choice["logprobs"]
    assert len(given["tokens"]) >= len(ids)
    unread = len(ids) - 31  # the context has 32, and its first token foresees the second
    assert given["token_logprobs"][:unread] == [None] * unread
    assert None not in given["token_logprobs"][unread:]
    of_prompt = zip(given["tokens"][: len(ids)], given["text_offset"])
    for token, offset in of_prompt:
        if token.startswith("\\x"):
            continue
        assert choice["text"][offset:].startswith(token)
    smiles = [i for i, token in enumerate(given["tokens"][: len(ids)]) if token.startswith("\\x")]
    assert {choice["text"][given["text_offset"][i]] for i in smiles} == {"😊"}


@pytest.mark.parametrize("begun", [False, True], ids=["plain", "with the first token"])
def test_a_prompt_may_come_as_token_ids(client, writer, begun):
    _, tokenizer = writer
    ids = [tokenizer.bos_id] * begun + tokenizer.encode(PROMPT)
    settings = {"seed": 3, "max_tokens": 12}
    expected = ask(client, **settings).json()
    answer = ask(client, prompt=ids, **settings).json()
    assert answer["choices"] == expected["choices"]
    assert answer["usage"]["prompt_tokens"] == len(ids)
    several = ask(client, prompt=[ids, tokenizer.encode("a")], **settings).json()["choices"]
    assert several[0]["text"] == expected["choices"][0]["text"]
    assert len(several) == 2


def test_a_harness_that_scores_texts_gets_what_the_model_gives(client, writer):
    """As lm-evaluation-harness asks: token ids, echo, logprobs, and one token more."""
    model, tokenizer = writer
    texts = [tokenizer.encode("the cat sat"), tokenizer.encode("the mat")]
    asked = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
    answer = ask(client, prompt=texts, **asked).json()
    for ids, choice in zip(texts, answer["choices"], strict=True):
        values = choice["logprobs"]["token_logprobs"]
        expected = prompt_logprobs(model, [tokenizer.bos_id, *ids])
        assert values[: len(ids)] == pytest.approx(expected, abs=1e-3)
        assert all(len(top) == 1 for top in choice["logprobs"]["top_logprobs"])
        assert choice["text"].startswith(tokenizer.decode(ids))


# Chat


def chat(client, *messages, **asked):
    body = {"messages": list(messages), "max_tokens": 12, "seed": 1} | asked
    return client.post("/v1/chat/completions", json=body)


def test_a_chat_goes_on_with_the_last_user_message(client):
    story = ask(client, seed=1).json()["choices"][0]
    messages = [
        {"role": "system", "content": "You write stories."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": PROMPT, "name": "me"},
    ]
    answer = chat(client, *messages)
    assert answer.status_code == 200
    assert answer.json()["object"] == "chat.completion"
    [choice] = answer.json()["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == story["text"]
    assert choice["finish_reason"] == story["finish_reason"]
    parts = [{"type": "text", "text": PROMPT[:4]}, {"type": "text", "text": PROMPT[4:]}]
    again = chat(
        client, {"role": "user", "content": parts}, max_tokens=None, max_completion_tokens=12
    )
    assert again.json()["choices"] == answer.json()["choices"]


def test_a_chat_streams(client):
    asked = {"n": 2, "stream_options": {"include_usage": True}}
    user = {"role": "user", "content": PROMPT}
    whole = chat(client, user, n=2).json()
    parts = events(chat(client, user, stream=True, **asked))
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    for choice in whole["choices"]:
        mine = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"]["role"] == "assistant"
        text = "".join(c["delta"]["content"] or "" for c in mine)
        assert text == choice["message"]["content"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
    assert parts[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"messages": []}, "the role 'user'"),
        ({"messages": [{"role": "system", "content": "a"}]}, "the role 'user'"),
        ({"messages": "hello"}, "messages must be a valid list."),
        ({"messages": None}, "messages is missing"),
        ({"messages": [{"content": "a"}]}, "messages.0.role is missing."),
        *(
            (
                {"messages": [{"role": "user", "content": content}]},
                "messages.0.content must be a text, or a list of parts of type 'text'.",
            )
            for content in (5, ["a"], [{"type": "image_url"}], [{"type": "text"}], {"a": "b"})
        ),
        ({"modalities": ["text", "audio"]}, "modalities is not supported: leave it out."),
        ({"echo": True}, "There is no field 'echo': leave it out."),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"tools": [{"type": "function"}]}, "tools is not supported: leave it out."),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"logprobs": True}, "logprobs is not supported"),
        ({"max_completion_tokens": 10**6}, "max_tokens must be at most"),
    ],
    ids=str,
)
def test_a_chat_that_cannot_be_gets_a_sentence(client, asked, said):
    body = {"messages": [{"role": "user", "content": "a"}]} | asked
    raw = json.dumps(body).encode()
    answer = client.post(
        "/v1/chat/completions", content=raw, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


# The rest


def test_one_model_is_told_by_its_name(client):
    assert client.get("/v1/models/stories").json()["id"] == "stories"
    answer = client.get("/v1/models/other")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "There is no model 'other': use 'stories'."


def test_health_may_be_asked_without_a_body(client):
    answer = client.head("/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_models_and_health(client):
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["stories"]
    assert client.get("/health").json() == {"status": "ok", "stories": 0}


def test_the_docs_need_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    links = re.findall(r"(?:src|href)=\"([^\"]+)", page)
    assert len(links) >= 2
    assert all(link.startswith("/") for link in links), links
    for link in [*links, re.search(r"url: '([^']+)", page)[1]]:
        assert client.get(link).status_code == 200


# What it refuses


BAD = [
    ({"prompt": 5}, 400, "prompt"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": "a" * 30_000}, 400, "20,000 characters"),
    ({"max_tokens": -1}, 400, "max_tokens"),
    ({"max_tokens": 10**9}, 400, "max_tokens"),
    ({"max_tokens": "9"}, 400, "max_tokens"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 2}, 400, "top_p"),
    ({"repetition_penalty": 1e-300}, 400, "repetition_penalty"),  # scores would be infinite
    ({"n": 0}, 400, "n"),
    ({"n": 2, "prompt": ["a"] * 17}, 400, "not 34"),
    ({"n": 1000}, 400, "at most 32"),
    ({"best_of": 5}, 400, "best_of"),
    ({"seed": -1}, 400, "seed"),
    ({"stop": ""}, 400, "stop"),
    ({"stop": ["a"] * 17}, 400, "stop"),
    ({"logprobs": 21}, 400, "logprobs"),
    ({"stream": "yes"}, 400, "stream"),
    ({"presence_penalty": 1}, 400, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
    ({"temprature": 1}, 400, "temprature"),
    ({"model": "gpt-4"}, 404, "no model 'gpt-4'"),
]


@pytest.mark.parametrize(("asked", "status", "said"), BAD, ids=str)
def test_bad_input_gets_a_sentence(client, asked, status, said):
    answer = ask(client, **asked)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"] + str(error["param"])
    assert "Traceback" not in answer.text


RAW = [b"", b"{", b"[]", b"null", b'{"prompt": "\\ud800"}', b'{"temperature": NaN}', b"\xff\xfe"]
RAW += [b'{"temperature": Infinity}', b'{"prompt": "a", "seed": 1e400}', b'{"stop": ["\\udfff"]}']


@pytest.mark.parametrize("body", RAW, ids=str)
def test_bodies_that_are_no_request_get_a_sentence(client, body):
    answer = client.post("/v1/completions", content=body, headers={"Content-Type": "text/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    answer = client.post(
        "/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_empty_prompt_is_welcome(client):
    assert ask(client, prompt="").status_code == 200


def test_a_large_body_is_refused_however_it_comes(writer):
    with TestClient(create_app(*writer, limits=ServerLimits(body=1000))) as client:
        assert ask(client, prompt="a" * 2000).status_code == 413

        def pieces():
            for _ in range(20):
                yield b" " * 100

        answer = client.post("/v1/completions", content=pieces())
        assert answer.status_code == 413
        assert "1,000 bytes" in answer.json()["error"]["message"]
        assert ask(client).status_code == 200


def test_a_key_is_asked_for_where_there_is_one(writer):
    with TestClient(create_app(*writer, api_key="secret é")) as client:
        for answer in (ask(client), chat(client), client.get("/v1/models")):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").status_code == 200
        wrong = {"Authorization": "Bearer secret"}
        assert client.get("/v1/models", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer secret é".encode()}
        assert client.get("/v1/models", headers=right).status_code == 200
    with TestClient(create_app(*writer, api_key="secret")) as client:
        for scheme in ("Bearer", "bearer", "BEARER"):
            right = {"Authorization": f"{scheme} secret"}
            assert client.get("/v1/models", headers=right).status_code == 200
        other = {"Authorization": "Basic secret"}
        assert client.get("/v1/models", headers=other).status_code == 401


def test_the_docs_have_a_button_for_the_key_where_there_is_one(writer):
    with TestClient(create_app(*writer, api_key="secret")) as client:
        page = client.get("/openapi.json").json()
        assert [s["scheme"] for s in page["components"]["securitySchemes"].values()] == ["bearer"]
        assert page["paths"]["/v1/completions"]["post"]["security"]
    with TestClient(create_app(*writer)) as client:
        assert "securitySchemes" not in client.get("/openapi.json").json()["components"]


@pytest.mark.parametrize("origin", ["https://example.org", "https://example.org/"])
def test_pages_of_others_may_ask_only_if_named(writer, origin):
    asking = {"Origin": "https://example.org"}
    with TestClient(create_app(*writer)) as client:
        assert "access-control-allow-origin" not in client.get("/health", headers=asking).headers
    with TestClient(create_app(*writer, origins=[origin])) as client:
        answer = client.get("/health", headers=asking)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"


FIELDS = sorted(CompletionRequest.model_fields)
CHAT_FIELDS = sorted(set(ChatCompletionRequest.model_fields) - {"messages"})


@pytest.mark.parametrize("field", FIELDS)
def test_null_means_the_default(client, field):
    settings = {"seed": 1, "max_tokens": 12, "prompt": PROMPT}
    settings.pop(field, None)
    left_out = client.post("/v1/completions", json=settings)
    null = client.post("/v1/completions", json=settings | {field: None})
    assert null.status_code == 200
    if field != "seed":
        assert null.json()["choices"] == left_out.json()["choices"]


@pytest.mark.parametrize("field", CHAT_FIELDS)
def test_null_means_the_default_in_a_chat(client, field):
    user = {"role": "user", "content": PROMPT}
    assert chat(client, user, **{field: None}).status_code == 200
    assert chat(client, {"role": "user", "content": None}).status_code == 200
    assert chat(client, user, stream_options={"include_usage": None}).status_code == 200


ENORMOUS = [10**19, 10**30, -(10**30), 10**400, 1e30, -1e30, 2**62, 2**63, 2**64, 5e-324]
HUGE_BODIES = [b"9" * 5000, b"-" + b"9" * 5000, b"1e400", b"[" * 900 + b"]" * 900]


@pytest.mark.parametrize("field", FIELDS)
def test_enormous_numbers_get_an_answer_and_never_500(client, field):
    values = [json.dumps(value).encode() for value in ENORMOUS] + HUGE_BODIES
    values += [b"[%s]" % value for value in values] + [b'"\\ud800"', b'{"\\ud800": 1}']
    for value in values:
        body = b'{"max_tokens": 1, "%s": %s}' % (field.encode(), value)
        if field == "max_tokens":
            body = b'{"max_tokens": %s}' % value
        answer = client.post(
            "/v1/completions", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (200, 400, 404), body[:80]
        if answer.status_code != 200:
            assert answer.json()["error"]["message"].endswith("."), answer.text


@pytest.mark.parametrize("field", CHAT_FIELDS)
def test_enormous_numbers_get_an_answer_and_never_500_in_a_chat(client, field):
    for value in [json.dumps(value).encode() for value in ENORMOUS] + HUGE_BODIES:
        start = b'{"messages": [{"role": "user", "content": "a"}], '
        body = start + b'"max_tokens": 1, "%s": %s}' % (field.encode(), value)
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code in (200, 400, 404), body[:80]


def test_what_a_request_leaves_out_is_as_in_the_package(tokenizer):
    asked = validate_completion(CompletionRequest(), tokenizer, ServerLimits())
    assert asked.sampling == SamplingConfig()
    assert asked.max_tokens == SamplingConfig().max_new_tokens


def test_what_the_request_allows_the_settings_allow_too(client):
    """The edges of each field's range, all at once and each alone."""
    edges = {
        "temperature": [0, 5, 1e-300],
        "top_p": [0, 1, 1e-300],
        "top_k": [1, 2**63 - 1],
        "min_p": [0, 1, 1e-300],
        "repetition_penalty": [0.01, 10],
        "dry_multiplier": [0, 10],
        "seed": [0, 2**62 - 1],
        "logprobs": [0, 20],
    }
    for field, values in edges.items():
        for value in values:
            assert ask(client, **{field: value}, n=2).status_code == 200, (field, value)
    for place in (0, 1):
        assert ask(client, **{field: values[place] for field, values in edges.items()}).is_success


def test_an_unknown_field_is_named_with_the_one_that_may_be_meant(client):
    assert ask(client, temprature=1).json()["error"]["message"] == (
        "There is no field 'temprature': did you mean 'temperature'?"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_completion_tokens": 5}, "no field 'max_completion_tokens': did you mean 'max_tok"),
        ({"messages": []}, "There is no field 'messages': leave it out."),
        ({"stream_options": {"x": 1}}, "There is no field 'stream_options.x': leave it out."),
        ({"a" * 1000: 1}, f"There is no field '{'a' * 100}': leave it out."),
        ({"model": "a" * 1000}, f"There is no model '{'a' * 100}': use 'stories'."),
        ({"prompt": ["a", [1]]}, "prompt must be a text, a list of token ids, or a list of either"),
        ({"prompt": [1.0]}, "prompt must be a text, a list of token ids, or a list of either."),
        ({"stop": [None]}, "stop must be a text or a list of texts."),
        ({"stop": 5}, "stop must be a text or a list of texts."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_says_what_would_do(client, asked, said):
    answer = ask(client, **asked)
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]


def test_a_body_in_another_encoding_gets_a_sentence(client):
    body = '{"prompt": "é"}'.encode("latin-1")
    answer = client.post(
        "/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith("send JSON in UTF-8.")


@pytest.mark.parametrize("field", ["suffix", "presence_penalty", "frequency_penalty", "logit_bias"])
def test_what_is_not_supported_is_refused_in_a_sentence(client, field):
    value = {"suffix": "the end", "logit_bias": {"5": 1}}.get(field, 1)
    answer = ask(client, **{field: value})
    assert answer.json()["error"] == {
        "message": f"{field} is not supported: leave it out.",
        "type": "invalid_request_error",
        "param": field,
        "code": None,
    }
    for harmless in ({"suffix": ""}, {"logit_bias": {}}, {"presence_penalty": 0.0}):
        assert ask(client, **harmless).status_code == 200


@pytest.mark.parametrize("content_type", [None, "text/plain"])
def test_a_missing_content_type_gets_a_sentence(client, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/v1/completions", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_unexpected_error_is_answered_with_an_id_that_the_log_has(
    writer, monkeypatch, caplog, stream
):
    def fail(*given):
        raise KeyError("a private detail")

    monkeypatch.setattr("slm.serving.batching.sample", fail)
    with TestClient(create_app(*writer), raise_server_exceptions=False) as client:
        answer = ask(client, stream=stream)
    line = answer.text.strip().removeprefix("data: ")
    error = json.loads(line)["error"]
    assert answer.status_code == (200 if stream else 500)
    assert error["type"] == "server_error"
    assert "private" not in answer.text
    [error_id] = re.findall(r"[0-9a-f]{32}", error["message"])
    assert error_id in caplog.text
    assert "a private detail" in caplog.text


def test_a_cache_that_is_too_small_for_a_story_says_so(writer):
    limits = ServerLimits(cache_megabytes=0.005)
    with TestClient(create_app(*writer, limits=limits)) as client:
        assert ask(client, max_tokens=1).status_code == 200
        answer = ask(client, max_tokens=100)
        assert answer.status_code == 400
        assert "cache_megabytes" in answer.json()["error"]["message"]


def test_an_unknown_address_gets_a_sentence(client):
    for answer in (client.get("/v2"), client.get("/v1/completions")):
        assert answer.status_code in (404, 405)
        assert answer.json()["error"]["message"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("api_key", [None, "secret"])
def test_schemathesis_finds_no_fault(writer, api_key):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    app, seen = create_app(*writer, limits=ServerLimits(tokens=5), api_key=api_key), set()
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else None
    quiet = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

    def try_out(operation):
        @settings(max_examples=60, **quiet)
        @given(case=operation.as_strategy())
        def call(case):
            answer = case.call(headers=headers)
            seen.add(answer.status_code)
            assert answer.status_code < 500
            # What the limits refuse is no fault of the schema: they are the server's own.
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])

        call()

    with TestClient(app):
        for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
            try_out(found.ok())
    assert 200 in seen


# A real server


@contextmanager
def running(app):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_the_real_openai_client_is_at_home(writer):
    openai = pytest.importorskip("openai")
    with running(create_app(*writer, api_key="secret")) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
        assert [model.id for model in client.models.list()] == ["stories"]
        asked = dict(model="stories", prompt=PROMPT, max_tokens=12, seed=1, temperature=0.8)
        whole = client.completions.create(**asked, logprobs=1)
        expected = generate(*writer, PROMPT, max_new_tokens=12, seed=1)
        assert PROMPT + whole.choices[0].text == expected
        tokens = whole.choices[0].logprobs.tokens
        assert len(tokens) - tokens.count("<|endoftext|>") == whole.usage.completion_tokens
        parts = list(client.completions.create(**asked, stream=True))
        assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
        assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        with pytest.raises(openai.NotFoundError, match="no model"):
            client.completions.create(model="other", prompt="a")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model="stories", prompt="a", max_tokens=-1)
        other = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong")
        with pytest.raises(openai.AuthenticationError):
            other.models.list()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_costs_nothing_more(writer, stream, monkeypatch):
    model, tokenizer = writer
    monkeypatch.setattr(tokenizer, "eot_id", -1)  # the story never ends by itself
    app = create_app(model, tokenizer, limits=ServerLimits(tokens=10**7))
    with running(app) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"prompt": "a", "max_tokens": 10**6, "stream": stream}).encode()
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json"
            )
            connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: app.state.batcher.busy == 1)
        wait_for(lambda: app.state.batcher.busy == 0, seconds=1.0)


def wait_for(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def test_a_full_server_says_when_to_come_back(writer, monkeypatch):
    model, tokenizer = writer
    monkeypatch.setattr(tokenizer, "eot_id", -1)
    limits = ServerLimits(stories=1, waiting=1, tokens=10**7)
    app = create_app(model, tokenizer, limits=limits)

    async def crowd():
        import httpx

        with running(app) as address:
            async with httpx.AsyncClient(base_url=address, timeout=60) as client:
                asked = {"prompt": "a", "max_tokens": 10**6}
                tasks = []
                for count in (1, 2):
                    tasks.append(asyncio.create_task(client.post("/v1/completions", json=asked)))
                    while app.state.batcher.busy < count:
                        await asyncio.sleep(0.01)
                answer = await client.post("/v1/completions", json=asked)
                for task in tasks:
                    task.cancel()
                while app.state.batcher.busy:
                    await asyncio.sleep(0.01)
                again = await client.post("/v1/completions", json=asked | {"max_tokens": 3})
                return answer, again

    answer, again = asyncio.run(crowd())
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert again.status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_sigterm_finishes_what_is_running(tmp_path):
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slm", "serve", "--port", str(port)]
    own = {"PYTHONPATH": str(Path(slm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | own)
    # So wild that they are long; from all tokens, since rounding may move one across min_p's limit.
    answers, settings = [], {"seed": 1, "temperature": 4, "min_p": 0}
    asked = settings | {"prompt": PROMPT, "max_tokens": 500, "n": 4}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def health():
            with suppress(httpx.TransportError):  # it is not there yet
                return client.get("/health").json()

        def asking():
            answers.append(httpx.post(f"{client.base_url}/v1/completions", json=asked, timeout=60))

        try:
            wait_for(health)
            thread = threading.Thread(target=asking)
            thread.start()
            wait_for(lambda: health()["stories"] == 4)
            process.send_signal(signal.SIGTERM)
            # No more are let in: refused, or dropped where the connection was just being made.
            with pytest.raises((httpx.ConnectError, httpx.RemoteProtocolError)):
                while not answers:
                    httpx.get(f"{client.base_url}/health")
            thread.join()
            assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        finally:
            process.kill()
    assert answers[0].status_code == 200
    choices = answers[0].json()["choices"]
    assert all(choice["finish_reason"] for choice in choices)
    whole = generate(*slm.load_model("stories"), PROMPT, max_new_tokens=500, **settings)
    assert PROMPT + choices[0]["text"] == whole
