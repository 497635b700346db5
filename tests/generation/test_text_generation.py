import math
from itertools import islice

import numpy as np
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
from slm.generation import text_generation
from slm.generation.decoder import IncrementalDecoder
from slm.generation.sampling import next_token_probabilities
from slm.generation.text_generation import generate, generate_ids, stream
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
    """A list of the ids that the model reads from now on: `(B, T)` of a prompt, then `(B,)`."""
    seen = []
    table = model.model.embed_tokens
    table.register_forward_pre_hook(lambda module, given: seen.append(given[0].tolist()))
    return seen


def markov(random_model, logits):
    """A model for which what comes next depends on the newest token alone: `logits(id)` are those
    of what follows `id`, as `{id: logit}`; all others are -100."""
    model = random_model(n_layers=1, d_model=280, tie_embeddings=False)
    block, scale = model.model.layers[0], (1 / 280 + model.config.norm_eps) ** -0.5
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(280))  # normed: `scale` where it is 1
        model.lm_head.weight.fill_(-100 / scale)
        for id in range(280):
            for following, logit in logits(id).items():
                model.lm_head.weight[following, id] = logit / scale
    return model


def chains(random_model, *rows):
    """A model that is sure of what comes next: in each row of ids, each after the one before."""
    after = {id: row[place + 1] for row in rows for place, id in enumerate(row[:-1])}
    return markov(random_model, lambda id: {after.get(id, id): 1000.0})


def constant(random_model, logits):
    """A model that gives the same logits whatever it reads: `{id: logit}`, else -100."""
    return markov(random_model, lambda id: logits)


def ids_of(model, prompts, end_ids=(), n=1, **settings):
    """What `generate_ids` yields: for each step the new ids of all rows."""
    sampling = SamplingConfig(**settings)
    return list(generate_ids(IncrementalDecoder(model), prompts, sampling, end_ids, n))


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
        logits, SamplingConfig(**{"temperature": 1.0, "min_p": 0} | settings), previous.tolist()
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
    model = constant(random_model, likely)
    [drawn] = ids_of(model, [[0]], n=20_000, max_new_tokens=1, temperature=1.0, seed=0)
    shares = [drawn.count(id) / 20_000 for id in likely]
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
    drawn = ids_of(model, ids.tolist(), tokenizer.end_ids, temperature=0, max_new_tokens=40)
    assert [new for [new] in drawn] == expected
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
    assert len(seen) == 20
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
    ids = tokenizer.encode("abcdefg")
    model = chains(random_model, [*ids, tokenizer.eot_id, *tokenizer.encode("hi")])
    seen = spy(model)
    assert write(model, tokenizer, "a") == "abcdefg"
    assert len(seen) == len(ids)  # nothing was read after the end


def test_a_story_that_has_ended_stays_ended_beside_longer_ones(random_model, tokenizer):
    a, b, c, w, x, y, z = tokenizer.encode("abcwxyz")
    eot = tokenizer.eot_id
    # After the end of a story another would go on.
    model = chains(random_model, [a, eot, b, c], [w, x, y, z, eot])
    prompts = ["w", "a", "y"]
    assert generate(model, tokenizer, prompts) == ["wxyz", "a", "yz"]
    steps = ids_of(model, [[w], [a], [y]], [eot])
    assert steps == [[x, eot, z], [y, eot, eot], [z, eot, eot], [eot, eot, eot]]


def test_max_new_tokens_cuts_a_story_off(random_model, tokenizer):
    model = chains(random_model, tokenizer.encode("abcdefg"))
    assert generate(model, tokenizer, "a", max_new_tokens=4) == "abcde"
    assert "".join(stream(model, tokenizer, "a", max_new_tokens=4)) == "abcde"


SEVERAL = ["Once upon a time", "", "The cat saw the other cat.", "cat " * 60]


@pytest.mark.parametrize("n", [None, 1, 3])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 5}, {"seed": 5, "top_k": 9}])
def test_several_prompts_get_the_stories_that_each_would_get_alone(
    settings, n, random_model, tokenizer
):
    model = random_model()  # of 32 tokens' context, which some outgrow
    settings = settings | {"max_new_tokens": 40, "n": n}
    expected = []
    for prompt in SEVERAL:
        alone = generate(model, tokenizer, prompt, **settings)
        expected += [alone] if n is None else alone
    assert generate(model, tokenizer, SEVERAL, **settings) == expected
    assert generate(model, tokenizer, tuple(SEVERAL[::-1]), **settings | {"n": None}) == [
        generate(model, tokenizer, prompt, **settings | {"n": None}) for prompt in SEVERAL[::-1]
    ]


def test_several_prompts_are_decoded_together(random_model, tokenizer):
    model = random_model()
    seen = spy(model)
    stories = generate(model, tokenizer, ["The cat", "cat"], n=2, seed=1, max_new_tokens=9)
    assert [story.startswith("The cat") for story in stories] == [True, True, False, False]
    assert len(seen) == 9
    assert {len(ids) for ids in seen} == {4}


def test_the_same_prompt_twice_gets_the_same_story_with_a_seed_and_two_without(
    random_model, tokenizer
):
    model, prompts = random_model(), ["Once"] * 2
    one, other = generate(model, tokenizer, prompts, seed=3, max_new_tokens=20)
    assert one == other
    one, other = generate(model, tokenizer, prompts, max_new_tokens=20)
    assert one != other


def test_one_prompt_in_a_list_gets_a_list(random_model, tokenizer):
    settings = {"seed": 1, "max_new_tokens": 5}
    alone = generate(random_model(), tokenizer, "Once", **settings)
    assert generate(random_model(), tokenizer, ["Once"], **settings) == [alone]


@pytest.mark.parametrize("context_length", [1, 2, 7, 32])
@torch.no_grad()
def test_a_full_context_goes_on_from_its_newer_half(context_length, random_model):
    """The reference reads the whole window again for every token, without a cache."""
    model = random_model(context_length=context_length)
    ids = torch.randint(280, (4, 40), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [row[:length] for row, length in zip(ids, [1, 6, 6, 40])]
    windows = [prompt[-context_length:] for prompt in prompts]
    steps = ids_of(model, prompts, temperature=0, max_new_tokens=70)
    for step, new_ids in enumerate(steps):
        for row, new_id in enumerate(new_ids):
            if len(windows[row]) > context_length:
                windows[row] = windows[row][-max(1, context_length // 2) :]
            expected = model(torch.tensor([windows[row]]))[0, -1].argmax().item()
            assert new_id == expected, (step, row)
            windows[row] = [*windows[row], new_id]
    assert len(steps) == 70


def test_pieces_come_as_they_are_written_and_never_hold_half_a_character(random_model, tokenizer):
    text = "é日😀xyz"
    ids = tokenizer.encode(text)
    assert len(set(ids)) == len(ids) > 10
    model = chains(random_model, [tokenizer.encode("a")[0], *ids, tokenizer.eot_id])
    seen = spy(model)
    pieces, calls = [], []
    for piece in stream(model, tokenizer, "a"):
        pieces.append(piece)
        calls.append(len(seen))
    assert pieces == ["a", *text]
    assert calls == [0, 2, 5, 9, 10, 11, 12]  # the bytes of each character, and no more, are there


def test_a_character_that_is_cut_off_reads_the_same_in_both_ways(random_model, tokenizer):
    ids = tokenizer.encode("a😀")[:-1]
    model = chains(random_model, ids)
    written = [
        "".join(write(model, tokenizer, "a", max_new_tokens=len(ids) - 1))
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
    model = constant(random_model, {a: 10.0, b: 8.0, tokenizer.eot_id: 6.0})
    settings = {"temperature": 0, "max_new_tokens": 9}
    assert generate(model, tokenizer, "", **settings) == "a" * 9
    # After a (10 to 5) and b (8 to 4) the end (6) is the likeliest; held down (3) it would not be.
    assert generate(model, tokenizer, "", repetition_penalty=2.0, **settings) == "ab"
    assert generate(model, tokenizer, "b", repetition_penalty=2.0, **settings) == "ba"


def test_the_dry_penalty_ends_a_loop(random_model, tokenizer):
    a, b = tokenizer.encode("ab")
    model = constant(random_model, {a: 10.0, b: 8.0, tokenizer.eot_id: 6.0})
    settings = {"temperature": 0, "max_new_tokens": 7}
    assert generate(model, tokenizer, "", **settings) == "a" * 7
    # After three, four and five a the sixth loses 0.8, 1.4 and 2.45, and only then b is likelier.
    expected = "aaaaaba"
    assert generate(model, tokenizer, "", dry_multiplier=0.8, **settings) == expected
    assert generate(model, tokenizer, ["", "b"], dry_multiplier=0.8, n=2, **settings) == (
        [expected] * 2 + ["baaaaaba"] * 2
    )


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "seed"])
def test_none_is_taken_where_a_setting_can_be_left_out(name, random_model, tokenizer):
    settings = {"temperature": 1.5, "seed": 1, "max_new_tokens": 5, name: None}
    assert generate(random_model(), tokenizer, "The", **settings).startswith("The")


def test_no_min_p_is_a_min_p_of_zero(random_model, tokenizer):
    model, settings = random_model(), {"temperature": 2.0, "seed": 1, "max_new_tokens": 30}
    without = generate(model, tokenizer, "The", min_p=None, **settings)
    assert without == generate(model, tokenizer, "The", min_p=0, **settings)
    assert without != generate(model, tokenizer, "The", min_p=0.3, **settings)


WRONG = [("max_new_tokens", value) for value in (0, -1, 2.5, None, True, "9")]
WRONG += [("temperature", value) for value in (-1, math.nan, math.inf, None, "hot", True)]
WRONG += [("top_k", value) for value in (0, -3, 2.5, True)]
WRONG += [(name, value) for name in ("top_p", "min_p") for value in (1.5, -0.1, math.nan, "1")]
WRONG += [("repetition_penalty", value) for value in (0, -2.0, math.inf, None)]
WRONG += [("dry_multiplier", value) for value in (-0.1, math.inf, math.nan, "1")]
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


@pytest.mark.parametrize("prompt", [None, 3, b"Once", True, ["Once", None], [["Once"]]])
@pytest.mark.parametrize("write", [generate, stream])
def test_a_prompt_that_is_no_text_is_refused(write, prompt, random_model, tokenizer):
    with pytest.raises(ValueError, match=r"[Pp]rompt must be a text"):
        write(random_model(n_layers=1), tokenizer, prompt)


def test_a_stream_is_of_one_prompt(random_model, tokenizer):
    with pytest.raises(ValueError, match=r"[Pp]rompt must be a text, not \['Once'\]"):
        stream(random_model(n_layers=1), tokenizer, ["Once"])


def test_no_prompts_are_refused(random_model, tokenizer):
    with pytest.raises(ValueError, match="at least one"):
        generate(random_model(n_layers=1), tokenizer, [])


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "2"])
def test_n_must_be_a_whole_number(n, random_model, tokenizer):
    with pytest.raises(ValueError, match=rf"^n must be a whole number .*, not {n!r}\.$"):
        generate(random_model(n_layers=1), tokenizer, "Once", n=n)


def test_n_may_be_a_numpy_integer(random_model, tokenizer):
    settings = {"seed": 1, "max_new_tokens": 5}
    expected = generate(random_model(), tokenizer, "Once", n=2, **settings)
    assert generate(random_model(), tokenizer, "Once", n=np.int64(2), **settings) == expected


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(
    "settings", [{}, {"n": 2}, {"temperature": 0}, {"temperature": 0, "repetition_penalty": 1.2}]
)
def test_scores_that_are_no_numbers_are_said_to_be_so(number, settings, random_model, tokenizer):
    """A model in memory, as after training that went wrong: nothing was loaded or saved."""
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight[3] = number
    with pytest.raises(ValueError, match=r"^The model's scores are NaN or infinite.*rate\.$"):
        generate(model, tokenizer, "Once", max_new_tokens=3, **settings)


def test_a_story_ends_with_any_of_several_ids_and_the_first_stands_for_all(random_model, tokenizer):
    a, b, c, w, x, y = tokenizer.encode("abcwxy")
    model = chains(random_model, [a, b, c], [w, x, y])
    assert ids_of(model, [[a], [w]], [y, b]) == [[y, x], [y, y]]


def test_more_stories_than_fit_into_memory_are_refused_with_how_many_do(
    random_model, tokenizer, monkeypatch
):
    model, settings = random_model(), {"max_new_tokens": 2, "seed": 0}
    monkeypatch.setattr(text_generation, "available_memory", lambda device: 10_000_000)
    with pytest.raises(ValueError, match=r"^1,000,000,000 stories .* n to at most [\d,]+\.$") as no:
        generate(model, tokenizer, "The", n=10**9, **settings)
    fitting = int(str(no.value).split()[-1].rstrip(".").replace(",", ""))
    assert len(generate(model, tokenizer, "The", n=fitting, **settings)) == fitting
    with pytest.raises(ValueError, match=f"n to at most {fitting}"):
        generate(model, tokenizer, "The", n=fitting + 1, **settings)
    with pytest.raises(ValueError, match=f"at most {fitting} prompts at a time"):
        generate(model, tokenizer, ["The"] * (fitting + 1), **settings)
    monkeypatch.setattr(text_generation, "available_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="a smaller model"):
        generate(model, tokenizer, "The", **settings)
    monkeypatch.setattr(text_generation, "available_memory", lambda device: None)
    assert generate(model, tokenizer, "The", **settings)
