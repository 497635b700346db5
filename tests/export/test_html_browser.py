"""The story-teller in one file in a real browser: the same numbers and ids as in Python. What a
person does with it is tested in test_html_page.py."""

import random
import sys
import unicodedata

import pytest
import torch

import slm
from slm.export.html import export_html
from slm.generation.decoder import IncrementalDecoder
from slm.generation.sampling import next_token_probabilities
from slm.generation.text_generation import generate_ids
from tests.pretrained import publish, smollm_tokenizer

PROMPTS = ["", "Once upon a time", "The dragon was afraid of", '"Where is my hat?" asked the']
SHAPES = {  # of models with random weights, and how they are quantized before the export, if so
    "one head of keys and values": (dict(n_kv_heads=1, rope_theta=300.0), None),
    "two tables, odd widths": (dict(d_model=40, d_ff=51, tie_embeddings=False), None),
    "4 bits": (dict(d_model=48, d_ff=64, n_kv_heads=2, norm_eps=1e-3), (4, 16)),
    "8 bits in groups": (dict(d_ff=64, tie_embeddings=False), (8, 8)),
}
CONTINUE = """
const [ids, count] = given;
const sampling = { temperature: 0, max_new_tokens: count, seed: 0 };
const never = new AbortController().signal;
const found = [];
for await (const { id } of generateIds(storyteller.model, ids, sampling, [], never)) found.push(id);
return found;
"""


def greedy(model, ids, count):
    sampling = slm.SamplingConfig(temperature=0, max_new_tokens=count)
    return [new for [new] in generate_ids(IncrementalDecoder(model), [ids], sampling, end_ids=())]


# The same numbers as in Python


@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_writes_the_same_hundred_tokens_as_the_quantized_model(
    prompt, browser, bundled_page, quantized
):
    model, tokenizer = quantized
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    browser.open(bundled_page)
    assert browser.call(CONTINUE, ids, 100) == greedy(model, ids, 100)


@pytest.mark.parametrize("shape", SHAPES)
def test_models_of_other_shapes_write_the_same_beyond_their_context(
    shape, browser, random_model, tokenizer, tmp_path
):
    fields, bits_and_group = SHAPES[shape]
    model = random_model(**fields)
    quantized = slm.quantize(model, *(bits_and_group or (8,)))
    saved = model if bits_and_group is None else quantized
    browser.open(export_html(slm.save_model(tmp_path / "m", saved, tokenizer), tmp_path / "a.html"))
    for ids in ([tokenizer.bos_id], list(range(50))):  # a context has 32 tokens
        assert browser.call(CONTINUE, ids, 100) == greedy(quantized, ids, 100)
    code = """
        const cache = new KVCache(storyteller.model.config);
        return given[0].map((id) => [...storyteller.model.forward(id, cache)]);
    """
    ids = list(range(7, 39))
    logits = torch.tensor(browser.call(code, ids))
    with torch.no_grad():
        expected = quantized(torch.tensor([ids]))[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_next_token_has_the_same_probabilities(browser, bundled_page):
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 3
    browser.open(bundled_page)
    for settings in (dict(temperature=0.8, min_p=0.05), dict(temperature=1.3, min_p=0),
                     dict(temperature=0)):  # fmt: skip
        code = "return [...nextTokenProbabilities(Float32Array.from(given[0]), given[1])];"
        found = torch.tensor([browser.call(code, logits[0].tolist(), settings)]).float()
        expected = next_token_probabilities(logits, slm.SamplingConfig(**settings))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_tokens_are_drawn_as_often_as_they_are_probable(browser, bundled_page):
    code = """
        const probabilities = [0.5, 0, 0.3, 0.15, 0.05];
        const counts = [0, 0, 0, 0, 0];
        for (let seed = 0; seed < 200; seed++) {
            const random = newGenerator(seed);
            for (let i = 0; i < 50; i++) counts[draw(probabilities, random)] += 1;
        }
        const first = new Set();
        for (let seed = 0; seed < 200; seed++) first.add(newGenerator(seed)());
        return [counts, first.size];
    """
    browser.open(bundled_page)
    counts, different = browser.call(code)
    assert counts == pytest.approx([5000, 0, 3000, 1500, 500], abs=200)  # 4 standard deviations
    assert different == 200


# The same ids as in Python


def odd_strings(count):
    """Texts of every kind, made by chance: all characters that Unicode had in its version 14."""
    chance = random.Random(0)
    assigned = [chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)) not in
                ("Cn", "Cs")]  # fmt: skip
    spaces = [
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u2003",
        "\u0085",
        "\ufeff",
        "\u200b",
    ]
    signs = [
        "'s",
        "'ll",
        "'S",
        "’s",
        "'",
        '"',
        "...",
        "!?",
        "<|endoftext|>",
        "</s>",
        "\\",
        "12",
        "3.5",
    ]
    signs += [
        "½",
        "²",
        "٣",
        "Ⅷ",
        "e\u0301",
        "\u0301",
        "ﬁ",
        "ß",
        "İ",
        "👩‍👩‍👧",
        "🇩🇪",
        "日本語",
        "한국어",
        "नमस्ते",
    ]
    words = ["Once", "upon", "a", "time", "don't", "I'm", "they'll", "naïve", "x1y2", "ÅNGSTRÖM"]
    kinds = [assigned, spaces, signs, words, [chr(i) for i in range(256)]]
    texts = ["", " ", "a" * 300, " " * 50, "\n" * 50, "1234567890" * 5]
    while len(texts) < count:
        mixture = chance.sample(kinds, chance.randint(1, len(kinds)))
        length = chance.randint(1, 20)
        texts.append("".join(chance.choice(chance.choice(mixture)) for _ in range(length)))
    return texts


def test_two_thousand_odd_strings_have_the_same_ids(browser, bundled_page, quantized):
    _, tokenizer = quantized
    texts = odd_strings(2000)
    browser.open(bundled_page)
    found = browser.call("return given[0].map(storyteller.encode);", texts)
    for text, ids in zip(texts, found, strict=True):
        assert ids == tokenizer.encode(text), repr(text)
    assert browser.call("return given[0].map(storyteller.decode);", found) == texts


def test_a_tokenizer_of_the_library_has_the_same_ids(browser, tmp_path):
    folder = publish(tmp_path / "model", smollm_tokenizer())
    _, tokenizer = slm.load_model(folder)
    texts = [*odd_strings(500), "<|im_start|> <repo_name> 12345 ٣٤"]
    browser.open(export_html(folder, tmp_path / "story.html"))
    found = browser.call("return given[0].map(storyteller.encode);", texts)
    for text, ids in zip(texts, found, strict=True):
        assert ids == tokenizer.encode(text), repr(text)


def test_ids_that_make_no_whole_characters_are_decoded_as_in_python(
    browser, bundled_page, quantized
):
    _, tokenizer = quantized
    chance = random.Random(1)
    rows = [chance.choices(range(256), k=12) for _ in range(200)]  # these are the single bytes
    browser.open(bundled_page)
    found = browser.call("return given[0].map(storyteller.decode);", rows)
    assert found == [tokenizer.decode(row) for row in rows]
    code = "return given[0].map((id) => storyteller.tokenizer.piece(id));"
    assert browser.call(code, list(range(300))) == tokenizer.pieces(range(300))
