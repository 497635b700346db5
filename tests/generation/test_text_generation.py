import math
from itertools import islice

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from slm.checkpoint.saving import save_model
from slm.generation.sampling import next_token_probabilities
from slm.generation.text_generation import generate, generate_tokens, stream
from slm.settings import SamplingConfig

PROMPTS = ["", "Once upon a time", "日本語 😀", "The end.<|endoftext|>The cat", "cat " * 60, " \n"]
FILTERS = {  # in the order in which transformers applies them
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}


def spy(model):
    """A list of the ids that the model is given from now on."""
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].tolist()))
    return seen


def scripted(model, *rows):
    """Make the model sure of each row's ids, one after the other; then it has nothing to say."""
    steps = iter(zip(*rows, strict=True))

    def say(module, given, logits):
        logits = torch.zeros_like(logits)
        for row, wanted in enumerate(next(steps)):
            logits[row, :, wanted] = 1000.0
        return logits

    model.register_forward_hook(say)
    return model


def constant(model, logits):
    """Make the model give the same logits whatever it reads: `{id: logit}`, else -100."""
    row = torch.full((model.config.vocab_size,), -100.0)
    row[[*logits]] = torch.tensor([*logits.values()])
    model.register_forward_hook(lambda module, given, out: row.expand_as(out))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 500},
        {"top_p": 0.0},
        {"top_p": 0.4},
        {"top_p": 0.95},
        {"min_p": 0.0},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.5},
        {"top_k": 9, "top_p": 0.6},
        {"top_p": 0.8, "min_p": 0.15, "temperature": 1.5},
        {"repetition_penalty": 1.3, "temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_filters_are_those_of_transformers(settings):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 50, generator=generator) * 2
    previous = torch.randint(50, (16, 9), generator=generator)
    theirs = LogitsProcessorList([FILTERS[k](settings[k]) for k in FILTERS if k in settings])
    expected = theirs(previous, logits.clone()).softmax(-1)
    ours = next_token_probabilities(
        logits, SamplingConfig(**{"temperature": 1.0, "min_p": 0} | settings), previous
    )
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)
    assert torch.equal(ours > 0, expected > 0)


@pytest.mark.parametrize("top_p", [0.0, 1e-9, 0.3])
def test_top_p_keeps_at_least_the_likeliest_token(top_p):
    logits = torch.tensor([[0.0, 9.0, 1.0], [5.0, 4.0, -3.0]])
    probabilities = next_token_probabilities(logits, SamplingConfig(top_p=top_p))
    assert probabilities.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_unless_told_otherwise_what_is_not_a_twentieth_as_likely_is_left_out():
    logits = torch.tensor([[0.6, 0.35, 0.031, 0.019]]).log()
    ours = next_token_probabilities(logits, SamplingConfig(temperature=1.0))
    torch.testing.assert_close(ours, torch.tensor([[0.6, 0.35, 0.031, 0.0]]) / 0.981)


def test_tokens_are_drawn_as_often_as_their_probabilities_say(random_model):
    likely = {5: math.log(0.6), 6: math.log(0.3), 7: math.log(0.1)}
    model = constant(random_model(n_layers=1), likely)
    sampling = SamplingConfig(max_new_tokens=1, temperature=1.0, seed=0)
    (drawn,) = generate_tokens(model, torch.zeros(20_000, 1, dtype=torch.long), sampling, 279)
    shares = [(drawn == id).double().mean().item() for id in likely]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.015)  # four deviations


@pytest.mark.parametrize("prompt", PROMPTS[:4])
def test_temperature_0_writes_what_transformers_writes_greedily(
    prompt, random_model, tokenizer, tmp_path
):
    model = random_model(context_length=128, n_kv_heads=2)
    theirs = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, model, tokenizer))
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(prompt)]])
    expected = theirs.generate(ids, do_sample=False, max_new_tokens=40, min_new_tokens=40)
    expected = expected[0, ids.shape[1] :].tolist()
    assert tokenizer.eot_id not in expected
    sampling = SamplingConfig(temperature=0, max_new_tokens=40)
    drawn = [int(new) for new in generate_tokens(model, ids, sampling, tokenizer.eot_id)]
    assert drawn == expected
    text = generate(model, tokenizer, prompt, temperature=0, max_new_tokens=40)
    assert text == prompt + tokenizer.decode(expected)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 3}, {"seed": 4, "top_p": 0.9}])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_pieces_of_a_stream_are_the_story(prompt, settings, random_model, tokenizer):
    model, settings = random_model(), settings | {"max_new_tokens": 50}  # more than the context
    story = generate(model, tokenizer, prompt, **settings)
    assert "".join(stream(model, tokenizer, prompt, **settings)) == story
    assert story.startswith(prompt)
    assert len(story) > len(prompt)
    assert generate(model, tokenizer, prompt, n=1, **settings) == [story]


def test_n_stories_are_written_side_by_side(random_model, tokenizer):
    model = random_model()
    seen = spy(model)
    stories = generate(model, tokenizer, "The cat", n=3, seed=1, max_new_tokens=20)
    assert len(set(stories)) == 3
    assert all(story.startswith("The cat") for story in stories)
    assert {len(ids) for ids in seen} == {3}
    greedy = generate(model, tokenizer, "The cat", n=2, temperature=0, max_new_tokens=20)
    assert greedy == [generate(model, tokenizer, "The cat", temperature=0, max_new_tokens=20)] * 2


def test_the_seed_decides_the_story_and_nothing_else_does(random_model, tokenizer):
    model = random_model()

    def story(seed):
        return generate(model, tokenizer, "Once", seed=seed, max_new_tokens=20)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other, free, free_again = story(0), story(1), story(None), story(None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert story(0) == one
    assert len({one, other, free, free_again}) == 4


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_story_begins_after_an_end_of_text_token(prompt, random_model, tokenizer):
    model, ids = random_model(), tokenizer.encode(prompt)
    assert tokenizer.eot_id not in ids
    seen = spy(model)
    generate(model, tokenizer, prompt, max_new_tokens=1)
    assert seen == [[[tokenizer.eot_id, *ids][-32:]]]


@pytest.mark.parametrize("write", [generate, lambda *a, **k: "".join(stream(*a, **k))])
def test_a_story_stops_at_its_end_and_does_not_show_it(write, random_model, tokenizer):
    ids = tokenizer.encode(" there was a cat.")
    model = scripted(random_model(), [*ids, tokenizer.eot_id])  # asked for more, it would raise
    assert write(model, tokenizer, "Once") == "Once there was a cat."


def test_a_story_that_has_ended_stays_ended_beside_longer_ones(random_model, tokenizer):
    a, b, eot = *tokenizer.encode("ab"), tokenizer.eot_id
    script = [[a, eot, b, b, a], [b, b, b, b, eot], [eot, a, a, eot, a]]
    model = scripted(random_model(), *script)
    seen = spy(model)
    assert generate(model, tokenizer, "", n=3) == ["a", "bbbb", ""]
    assert [[row[-1] for row in ids] for ids in seen[1:]] == [
        [a, b, eot],
        [eot, b, eot],
        [eot, b, eot],
        [eot, b, eot],
    ]


def test_max_new_tokens_cuts_a_story_off(random_model, tokenizer):
    ids = tokenizer.encode("The cat saw the mat.")
    model = scripted(random_model(), ids)
    assert generate(model, tokenizer, "", max_new_tokens=len(ids) - 1) == "The cat saw the mat"


@pytest.mark.parametrize("context_length", [1, 2, 7, 32])
@pytest.mark.parametrize("length", [1, 6, 40])
@torch.no_grad()
def test_a_full_context_goes_on_from_its_newer_half(length, context_length, random_model):
    """The reference reads the whole window again for every token, without a cache."""
    model = random_model(context_length=context_length)
    ids = torch.randint(280, (2, length), generator=torch.Generator().manual_seed(0))
    drawn = generate_tokens(model, ids, SamplingConfig(temperature=0, max_new_tokens=70), -1)
    window = ids[:, -context_length:]
    for step, new in enumerate(drawn):
        if window.shape[1] > context_length:
            window = window[:, -max(1, context_length // 2) :]
        expected = model(window)[:, -1].argmax(-1)
        assert torch.equal(new, expected), step
        window = torch.cat((window, expected[:, None]), 1)
    assert step == 69


def test_pieces_come_as_they_are_written_and_never_hold_half_a_character(random_model, tokenizer):
    text = "é日😀👩‍👧 the"
    ids = tokenizer.encode(text)
    assert len(ids) > 15
    model = scripted(random_model(), [*ids, tokenizer.eot_id])
    seen = spy(model)
    pieces, calls = [], []
    for piece in stream(model, tokenizer, "Once"):
        pieces.append(piece)
        calls.append(len(seen))
    assert calls[0] == 0
    assert calls == sorted(set(calls))
    assert "".join(pieces) == "Once" + text
    assert {"é", "日", "😀"} <= set(pieces)


def test_a_character_that_is_cut_off_reads_the_same_in_both_ways(random_model, tokenizer):
    ids = tokenizer.encode("a😀")[:-1]
    written = [
        "".join(write(scripted(random_model(), ids), tokenizer, "", max_new_tokens=len(ids)))
        for write in (generate, stream)
    ]
    assert written == ["a\ufffd"] * 2


def test_dropout_is_off_while_writing_and_training_goes_on_afterwards(random_model, tokenizer):
    model, settings = random_model(dropout=0.5), {"temperature": 0, "max_new_tokens": 12}
    expected = generate(model, tokenizer, "The", **settings)
    assert not model.training
    model.train()
    assert generate(model, tokenizer, "The", **settings) == expected
    assert generate(model, tokenizer, "The", n=2, **settings) == [expected] * 2
    pieces = stream(model, tokenizer, "The", **settings)
    first = list(islice(pieces, 3))
    assert all(module.training for module in model.modules())
    assert "".join([*first, *pieces]) == expected
    interrupted = stream(model, tokenizer, "The", **settings)
    next(interrupted), next(interrupted)
    interrupted.close()
    assert all(module.training for module in model.modules())


def test_writing_keeps_no_gradients_and_leaves_the_weights_alone(random_model, tokenizer):
    model = random_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs = []
    model.register_forward_hook(lambda module, given, out: outputs.append(out.requires_grad))
    next(islice(stream(model, tokenizer, "The", seed=0), 1, None))
    assert outputs and not any(outputs)
    assert torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_repetition_penalty_holds_words_down_but_not_the_end_of_the_story(
    random_model, tokenizer
):
    a, b = tokenizer.encode("ab")
    model = constant(random_model(), {a: 10.0, b: 8.0, tokenizer.eot_id: 6.0})
    settings = {"temperature": 0, "max_new_tokens": 9}
    assert generate(model, tokenizer, "", **settings) == "a" * 9
    # After a (10 to 5) and b (8 to 4) the end (6) is the likeliest; held down (3) it would not be.
    assert generate(model, tokenizer, "", repetition_penalty=2.0, **settings) == "ab"
    assert generate(model, tokenizer, "b", repetition_penalty=2.0, **settings) == "ba"


WRONG = [("max_new_tokens", value) for value in (0, -1, 2.5, None, True, "9")]
WRONG += [("temperature", value) for value in (-1, math.nan, math.inf, None, "hot", True)]
WRONG += [("top_k", value) for value in (0, -3, 2.5, True)]
WRONG += [(name, value) for name in ("top_p", "min_p") for value in (1.5, -0.1, math.nan, "1")]
WRONG += [("repetition_penalty", value) for value in (0, -2.0, math.inf, None)]
WRONG += [("seed", value) for value in (-1, 1.0, "1", True)]


@pytest.mark.parametrize("write", [generate, stream])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_refused_by_name_at_the_call(
    name, value, write, random_model, tokenizer
):
    with pytest.raises(ValueError, match=rf"^{name} must be a .*number .*, not {value!r}\.$"):
        write(random_model(n_layers=1), tokenizer, "Once", **{name: value})


@pytest.mark.parametrize("write", [generate, stream])
def test_a_misspelt_setting_is_refused_with_the_right_spelling(write, random_model, tokenizer):
    model = random_model(n_layers=1)
    with pytest.raises(ValueError, match=r"'temprature'.*did you mean 'temperature'\?"):
        write(model, tokenizer, "Once", temprature=1.0)
    with pytest.raises(ValueError, match=r"'xyzzy'.*max_new_tokens.*top_p"):
        write(model, tokenizer, "Once", xyzzy=1.0)


@pytest.mark.parametrize("prompt", [None, 3, b"Once", ["Once"], True])
@pytest.mark.parametrize("write", [generate, stream])
def test_a_prompt_that_is_no_text_is_refused(write, prompt, random_model, tokenizer):
    with pytest.raises(ValueError, match=r"[Pp]rompt must be a text"):
        write(random_model(n_layers=1), tokenizer, prompt)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "2"])
def test_n_must_be_a_whole_number(n, random_model, tokenizer):
    with pytest.raises(ValueError, match=rf"^n must be a whole number .*, not {n!r}\.$"):
        generate(random_model(n_layers=1), tokenizer, "Once", n=n)
