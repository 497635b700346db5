import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from torch.distributed.run import get_args_parser

import slm
from slm.cli.commands import train
from slm.cli.main import COMMANDS, main
from slm.cli.options import explain_unknown_option
from slm.settings import PRESETS, FineTuneConfig, ModelConfig, Preset, SamplingConfig, TrainConfig

README = Path(slm.__file__).parents[1] / "README.md"
TORCHRUN_COMMANDS = re.findall("torchrun (.+)", README.read_text("utf-8") + train.__doc__)


@pytest.fixture
def training(monkeypatch):
    """The settings with which `slm.train` would be called."""
    calls = []

    class Finished:
        folder = "here"

    monkeypatch.setattr(slm, "load_stories", lambda source, n: (source, n))
    monkeypatch.setattr(slm, "train", lambda *given, **all: calls.append((*given, all)) or Finished)

    def settings(options: str) -> dict:
        calls.clear()
        assert main(["train", *options.split()]) == 0
        [(stories, given)] = calls
        return {"stories": stories} | given

    return settings


def configured(settings: dict) -> tuple[ModelConfig, TrainConfig]:
    """The configurations that training makes of its settings."""
    others = ("stories", "tokenizer", "folder", "fresh")
    known = {name: value for name, value in settings.items() if name not in others}
    return slm.settings.configure(**known)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_not_given_is_left_to_the_preset(preset, training):
    assert configured(training(f"--preset {preset}")) == slm.settings.configure(preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_given_takes_the_place_of_the_presets_value(preset, training):
    options = f"--preset {preset} --steps 7 --learning-rate 0.01 --d-model 128 --batch-size 12"
    model, config = configured(training(options))
    assert (config.steps, config.minutes, config.tokens) == (7, None, None)
    assert (config.learning_rate, config.batch_size, model.d_model) == (0.01, 12, 128)
    others = slm.settings.configure(preset, steps=7, d_model=128)
    assert (model.n_layers, model.d_ff) == (others[0].n_layers, others[0].d_ff)


def test_underscores_are_taken_for_dashes(training):
    options = "--n_layers 3 --learning_rate 1e-3 --no_tie_embeddings --n_stories 5"
    assert training(options) == training(options.replace("_", "-"))
    assert training("--n 5") == training("--n-stories 5")
    assert training("--n 5")["stories"] == (None, 5)


def test_values_have_the_types_of_their_fields(training):
    options = "--n-kv-heads 2 --dropout 0 --compile True --schedule 0.1 0.2 --top-p None"
    settings = training(options.removesuffix(" --top-p None"))
    assert (settings["n_kv_heads"], settings["dropout"], settings["compile"]) == (2, 0.0, True)
    assert settings["schedule"] == (0.1, 0.2)


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p", "seed"])
def test_none_is_a_value_where_the_type_says_so(name, model, monkeypatch):
    calls = []
    monkeypatch.setattr(slm, "stream", lambda *given, **settings: calls.append(settings) or [])
    assert main(["generate", "--model", model, f"--{name.replace('_', '-')}", "None"]) == 0
    assert calls[0][name] is None


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("train", ModelConfig),
        ("train", TrainConfig),
        ("generate", SamplingConfig),
        ("finetune", FineTuneConfig),
    ],
)
def test_every_field_of_the_configurations_is_an_option_with_its_help(command, config, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for field in fields(config):
        if field.name == "vocab_size":  # the tokenizer's
            continue
        option = field.name.replace("_", "-")
        option = f"no-{option}" if field.default is True else option
        [help] = re.findall(rf"^\W*--{option} (.*?)\(default: ", shown, re.DOTALL | re.MULTILINE)
        assert re.search(" [a-z]{3}", help), option


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_has_its_help_and_its_default(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    _, *options = re.split(r"^\W*(?=--[a-z])", shown, flags=re.MULTILINE)
    assert len(options) >= 2
    for option in options:
        found = re.match(
            r"\S+ (?P<help>.*?)\((default:\s.+?|required|repeatable)\)", option, re.DOTALL
        )
        assert found, option
        words = re.findall(r"(?<![-\w{,])[a-zA-Z]*[a-z]{2,}", found["help"])  # no choices
        assert len(words) >= 3, option


def test_help_shows_examples_choices_and_the_defaults_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--preset", "full", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "python -m slm train --stories mine.txt" in shown
    assert "--optimizer {muon,adamw}" in shown
    assert "--preset {tiny,small,full}" in shown
    assert re.search(r"--batch-size INT [^()]*\(default: 128\)", shown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("train --learning-rat 3", ["--learning-rat", "--learning-rate"]),
        ("train --vocab-siz 3", ["--vocab-siz"]),
        ("train --steps many", ["--steps", "many"]),
        ("train --preset huge", ["--preset", "tiny"]),
        ("train --optimizer sgd", ["--optimizer", "muon"]),
        ("train --device gpu", ["--device", "cuda"]),
        ("train --precision int8", ["--precision", "bfloat16"]),
        ("generate --temperature hot", ["--temperature", "hot"]),
        ("generate --temperature -1", ["temperature must be"]),
        ("finetune mine.txt", ["--folder"]),
        ("finetune mine.txt --folder x --epochs 0", ["epochs must be"]),
        ("quantize a b --bits 5", ["--bits", "8", "4"]),
        ("export a b.gguf --type q2", ["--type", "q8_0"]),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, words, capsys):
    with pytest.raises(SystemExit) as refused:
        main(options.split())
    assert refused.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for word in words:
        assert word in printed.err


def test_the_presets_are_the_choices():
    assert get_args(Preset) == tuple(PRESETS)


def test_the_readme_shows_torchrun_for_one_machine_and_for_several():
    assert len(TORCHRUN_COMMANDS) >= 3
    assert any("--nnodes" in command for command in TORCHRUN_COMMANDS)


@pytest.mark.parametrize("command", TORCHRUN_COMMANDS)
def test_torchrun_and_the_command_line_understand_the_commands_of_the_documentation(
    command, training
):
    theirs = get_args_parser().parse_args(shlex.split(command))
    assert (theirs.module, theirs.training_script) == (True, "slm")
    name, *options = theirs.training_script_args
    assert name == "train"
    given = dict(zip(options[::2], options[1::2], strict=True))
    settings = training(" ".join(options))
    assert settings["stories"][1] == int(given.get("--n-stories", 15_000))
    assert settings["preset"] == given.get("--preset", "tiny")


def test_torchrun_takes_no_option_of_train_for_one_of_its_own(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+[a-z]", capsys.readouterr().out))
    options -= {"--help", "--nproc-per-node"}
    assert "--n-stories" in options
    for option in options:
        theirs = get_args_parser().parse_args(["--nproc-per-node=2", "-m", "slm", "train", option])
        assert theirs.training_script_args == ["train", option]


# Options by other names


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train --lr 3", "--learning-rate"),
        ("train --lr=3", "--learning-rate"),
        ("train --epochs 3", "--steps"),
        ("train --bs 3", "--batch-size"),
        ("train --layers 3", "--n-layers"),
        ("train --block_size 3", "--context-length"),
        ("train --output-dir x", "--folder"),
        ("train --wd 0", "--weight-decay"),
        ("train --learning-rat 3", "--learning-rate"),
        ("generate --temp 0", "--temperature"),
        ("generate --max-tokens 5", "--max-new-tokens"),
        ("generate --num-return-sequences 5", "--n"),
        ("generate --checkpoint x", "--model"),
        ("finetune mine.txt --folder x --lr 3", "--learning-rate"),
        ("finetune mine.txt --output x", "--folder"),
        ("finetune mine.txt --folder x --num-epochs 3", "--epochs"),
        ("finetune mine.txt --folder x --rank 3", "--lora-rank"),
        ("export a b.gguf --outtype f16", "--type"),
    ],
)
def test_an_option_of_other_programs_gets_ours_suggested(words, meant, capsys):
    with pytest.raises(SystemExit) as refused:
        main(words.split())
    assert refused.value.code == 2
    option = next(word for word in words.split() if word.startswith("--") and word != "--folder")
    option = option.partition("=")[0]
    printed = capsys.readouterr()
    assert printed.err == f"slm: There is no option {option}: did you mean {meant}?\n"
    assert printed.out == ""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("generate --prompt Once", "prompt"),
        ("evaluate --model runs/mine", "model"),
        ("finetune --stories mine.txt --folder x", "stories"),
        ("export stories --output x.gguf", "to"),
        ("quantize --model runs/mine small", "model"),
    ],
)
def test_what_is_given_without_a_name_is_said_where_it_has_one(words, name, capsys):
    with pytest.raises(SystemExit) as refused:
        main(words.split())
    assert refused.value.code == 2
    assert f"give the {name} without a name before it.\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "app"])
def test_no_option_that_there_is_is_taken_for_another(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    options = set(re.findall(r"--[a-z][a-z0-9-]*[a-z0-9]|--n\b", capsys.readouterr().out))
    assert len(options) > 2
    for option in options:
        assert explain_unknown_option(COMMANDS[name], [option]) is None
        underscored = "--" + option.removeprefix("--").replace("-", "_")
        assert explain_unknown_option(COMMANDS[name], [underscored]) is None


@pytest.mark.parametrize(
    ("name", "option", "suggested"),
    [
        ("train", "--no-fresh", None),  # --fresh would delete the run
        ("train", "--n-steps", "--steps"),  # there is no --no-steps
        ("finetune", "--n-epochs", "--epochs"),
        ("train", "--no-cache", None),
    ],
)
def test_no_option_is_suggested_that_there_is_not_or_that_means_the_opposite(
    name, option, suggested
):
    said = explain_unknown_option(COMMANDS[name], [option])
    if suggested is None:
        assert said is None
    else:
        assert said == f"There is no option {option}: did you mean {suggested}?"
