import csv
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from slm.stories.cleaning import Cleaning, Stories, clean_stories, repair_mojibake, tidy_whitespace
from slm.stories.files import parse_stories, read_stories
from slm.stories.loading import load_stories
from slm.utils.files import cache_folder

TAIL = " went for a walk in the green park and came home happy."


def tale(number, who="Tom"):
    return f"{who} number {number}{TAIL}"


def tales(count, who="Tom"):
    return [tale(number, who) for number in range(count)]


@pytest.fixture(autouse=True)
def nothing_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a port where nothing listens
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)


@pytest.fixture
def hub(monkeypatch):
    """A hub in working order: its splits can be filled and made to break, its use is counted."""

    class Hub:
        train, validation = tales(600), tales(150, "Mia")
        breaks_after = None
        trouble = ""
        opened = 0

        def stream(self, split):
            self.opened += 1
            for number, story in enumerate(getattr(self, split)):
                if number == self.breaks_after:
                    raise RuntimeError("peer closed connection\nand more of it")
                yield story

    fake = Hub()
    monkeypatch.setattr("slm.stories.tinystories.stream", fake.stream)
    monkeypatch.setattr("slm.stories.tinystories.why_unavailable", lambda: fake.trouble)
    return fake


# Cleaning


@pytest.mark.parametrize(
    ("garbled", "right"),
    [
        ("â€œHello!â€ she said. â€œLetâ€™s go!â€", "“Hello!” she said. “Let’s go!”"),
        ("â€œHello!â€\x9d he said", "“Hello!” he said"),
        ("said â€œYes.â€\n\nHe", "said “Yes.”\n\nHe"),
        ("cups â€“ and â€” andâ€¦", "cups – and — and…"),
        ("a cafÃ© and a piÃ±ata, groÃŸ", "a café and a piñata, groß"),
        ("voilÃ\xa0!", "voilà!"),
        ("Ã‰milie, Â£5, 20Â°", "Émilie, £5, 20°"),
        ("happy ðŸ˜€!", "happy 😀!"),
        ("it\u00e2\x80\x99s", "it’s"),
    ],
)
def test_mojibake_is_repaired(garbled, right):
    assert repair_mojibake(garbled) == right
    assert repair_mojibake(right) == right


@pytest.mark.parametrize(
    "text",
    [
        "café, naïve, ¡Atrapar!, Mamá, muñeca",
        "un âne, la pâte, le château, âgé",
        "“Curly” ‘quotes’ – and — dashes…",
        "😀 👩‍👩‍👧 ❤️",
        "Жили-были; むかしむかし; היה היה; ðað er",
        "“MAÇÔ e «MAÇû, GROẞ, CAFÉ”",
        "It costs 5 €",
    ],
)
def test_correct_text_is_left_alone(text):
    assert repair_mojibake(text) == text


def test_whitespace_and_invisible_characters():
    assert tidy_whitespace(" a\tb\u00a0 c  \r\n\r\n\r\n\r\nd\re \n") == "a b c\n\nd\ne"
    assert tidy_whitespace("\ufeffa\x00b\ud83dc\u200bd") == "abcd"
    assert tidy_whitespace("👩‍👩‍👧") == "👩‍👩‍👧"


def test_cleaning_is_counted_and_done_before_anything_is_compared():
    same = tale(1).replace("Tom", "Toâ€™m")
    told = [tale(0), same, same.replace("â€™", "’"), tale(0) + " \n", "Too short.", tale(2)[:-1]]
    kept, cleaning = clean_stories(told)
    assert kept == [tale(0), same.replace("â€™", "’"), tale(2)[:-1]]
    assert cleaning == Cleaning(6, 1, 1, 2, 1, 3)
    kept, cleaning = clean_stories(told, ended=True)
    assert (len(kept), cleaning.fragments_dropped) == (2, 2)
    assert str(cleaning).splitlines()[0] == "stories read                6"
    assert clean_stories(kept)[0] == kept


@pytest.mark.parametrize(
    "ending", [".", "!", "?”", '."', "!)", "…", ".â€", ". \nThe End", " THE END"]
)
def test_whole_stories_are_no_fragments(ending):
    assert clean_stories([tale(0)[:-1] + ending], ended=True)[1].stories_kept == 1


@pytest.mark.parametrize("ending", ["。", "！」", "？”", "।", "؟", "۔", "॥", "։"])
def test_sentences_end_in_every_script(ending):
    assert clean_stories([tale(0)[:-1] + ending], ended=True)[1].stories_kept == 1


@pytest.mark.parametrize(
    ("text", "is_story"),
    [
        ("从前有一只小兔子住在森林里非常开心。", True),
        ("むかしむかしおじいさんがいました。とさ", True),
        ("옛날옛날에 토끼가 살았어요 숲에서 행복했어요.", True),
        ("从前有一只兔子。", False),
        ("एक राजा था।", False),
        ("एक समय की बात है, एक राजा था। वह बहुत दयालु था और सब लोग खुश थे।", True),
        ("كان هناك قط صغير.", False),
        ("كان يا ما كان في قديم الزمان قط صغير يعيش في بيت كبير.", True),
    ],
)
def test_a_story_is_measured_by_what_its_script_says_in_a_character(text, is_story):
    assert clean_stories([text])[1].stories_kept == is_story


@pytest.mark.parametrize("ending", ["", ",", ' "I', " and", " said:", "\nThe"])
def test_stories_cut_off_are_fragments(ending):
    assert clean_stories([tale(0)[:-1] + ending], ended=True)[1].fragments_dropped == 1


# Your own


def write_txt(path, stories):
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")


def write_json(path, stories):
    path.write_text(json.dumps([{"id": 1, "story": story} for story in stories]), encoding="utf-8")


def write_strings(path, stories):
    path.write_text(json.dumps(stories), encoding="utf-8")


def write_jsonl(path, stories):
    lines = [json.dumps({"story": "no", "text": story}) for story in stories]
    path.write_text("\n".join(lines), encoding="utf-8")


def write_csv(path, stories):
    lines = [f'{number},"{story}"' for number, story in enumerate(stories)]
    path.write_text("\n".join(["id,tale", *lines]), encoding="utf-8")


def write_parquet(path, stories):
    from pyarrow import parquet, table

    parquet.write_table(table({"text": stories, "id": list(range(len(stories)))}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", write_txt),
        ("a.json", write_json),
        ("b.json", write_strings),
        ("a.JSONL", write_jsonl),
        ("a.csv", write_csv),
        ("a.parquet", write_parquet),
    ],
)
def test_each_kind_of_file(tmp_path, capsys, name, write):
    told = tales(40, "Zoë,\nthe “brave”")
    write(tmp_path / name, told)
    loaded = load_stories(tmp_path / name)
    assert sorted(loaded.train + loaded.validation) == sorted(told)
    assert (len(loaded.train), len(loaded.validation)) == (36, 4)
    assert (loaded.source, loaded.is_practice) == (name, False)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"{name}: 36 training + 4 validation stories, " in said
    assert loaded == load_stories(str(tmp_path / name))
    assert loaded.train != load_stories(tmp_path / name, seed=1).train


def test_text_without_markers_is_split_at_two_blank_lines(tmp_path):
    first, second = tale(0) + "\n\n" + tale(1), tale(2)
    (tmp_path / "a.txt").write_text(f"\ufeff{first}\r\n\r\n \r\n{second}\r\n", encoding="utf-8")
    loaded = load_stories(tmp_path / "a.txt")
    assert sorted(loaded.train + loaded.validation) == [first, second]


def test_a_folder_and_a_limit(tmp_path):
    write_txt(tmp_path / "a.txt", tales(300))
    write_csv(tmp_path / "b.csv", [*tales(300, "Mia"), tale(0)])
    (tmp_path / "notes.md").write_text("not read", encoding="utf-8")
    loaded = load_stories(tmp_path)
    assert len(loaded.train + loaded.validation) == len({*loaded.train, *loaded.validation}) == 600
    assert loaded.cleaning.duplicates_dropped == 1
    assert loaded.source == tmp_path.name
    assert len(load_stories(tmp_path, n=7).train) == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "it is empty"),
        ("a.txt", b" \n ", "too few stories"),
        ("a.txt", tale(0).encode(), "too few stories .1 of 1.*<|endoftext|>"),
        (
            "a.txt",
            "caf\xe9".encode("latin-1"),
            "not UTF-8 text, but seems to be cp1252, or cp1250 if .*: save it as UTF-8",
        ),
        ("a.csv", b"text\ncaf\xe9\n", "not UTF-8 text"),
        ("a.csv", b'text\n"never closed\n', "cannot read stories from .*a.csv"),
        ("a.json", b'[{"text": "cut o', "cannot read stories from .*a.json"),
        ("a.json", b"5", "cannot read stories from"),
        ("a.json", b'[{"text": "a"}, 5]', "cannot read stories from"),
        ("a.json", b"[]", "too few stories .0 of 0"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', "cannot read stories from"),
        ("a.parquet", b"PAR1 but not really", "cannot read stories from"),
        ("a.csv", b"id,title,body\n1,A,B\n", "columns .'id', 'title', 'body'.; .*'text'"),
        ("a.json", b'[{"id": 1}, {"id": 2}]', "columns .'id'."),
        (
            "a.csv",
            b"text\nOnce, there was a fox, and that was all.\n",
            "line 2 has 3 fields, the first",
        ),
        ("a.csv", f"id;text\n1;{tale(0)}\n2;{tale(1)};0\n".encode(), "line 3 has 3 fields"),
        ("a.csv", (",".join(f"column {i}" for i in range(50_000)) + "\n").encode(), "columns"),
        ("a.csv", b'text\n"ended" early,1\n', "line 2 is no CSV"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[" + b"9" * 10_000 + b"]", "cannot read stories from"),
        ("a.json", json.dumps([tale(0), None]).encode(), "number 2 of the stories is None"),
        ("a.jsonl", b'{"text": "fine"}\n\nnot json\n', "line 3 is no JSON"),
        ("a.txt", tale(0).encode("utf-16-le"), "not UTF-8 text, but seems to be utf-16-le"),
        (
            "a.txt",
            ("Où était le très vieux chat ? " * 9).encode("cp1252"),
            r"read_text\('cp1252'\)",
        ),
        ("a.txt", ("Był sobie żółw i łoś. " * 9).encode("cp1250"), "or cp1250 if"),
        ("a.txt", ("Жили-были старик и старуха. " * 9).encode("cp1251"), "seems to be cp1251"),
        (
            "a.txt",
            ("从前有一只小兔子，它住在森林里。" * 9).encode("gb18030"),
            "seems to be gb18030",
        ),
        ("a.csv", tale(0, "Zoë").encode("utf-16")[:-1], "begins as utf-16-le does, but is damaged"),
        ("a.txt", bytes(range(256)) * 9, "not UTF-8 text: save it as UTF-8"),
        ("a.docx", b"PK", "read from .txt, .json, .jsonl, .csv, .parquet"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_stories(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.skipif(sys.platform == "win32", reason="a file with holes takes a tool there")
@pytest.mark.parametrize("name", ["huge.txt", "huge.jsonl", "huge.csv"])
def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing, which takes no room on the disk
    with pytest.raises(ValueError, match=r"huge\.\w+: it takes about 3,298\.5 GB .*: split it"):
        read_stories(tmp_path / name)


def test_a_parquet_column_larger_than_the_memory_is_refused_before_it_is_read(
    tmp_path, monkeypatch
):
    """A file of a few kilobytes, as it compresses well."""
    from pyarrow import parquet, table

    stories = [f"{number} " + "Once upon a time. " * 10_000 for number in range(500)]
    columns = {"text": stories, "id": range(500)}
    parquet.write_table(table(columns), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    free = SimpleNamespace(available=50_000_000)
    monkeypatch.setattr("slm.stories.files.psutil.virtual_memory", lambda: free)
    with pytest.raises(ValueError, match=r"a\.parquet: it takes about 0\.1 GB of memory, and 0\.1"):
        read_stories(tmp_path / "a.parquet")
    free.available = 200_000_000
    assert len(read_stories(tmp_path / "a.parquet")) == 500


def test_what_is_no_file_is_refused_at_once(tmp_path):
    (tmp_path / "circle.txt").symlink_to(tmp_path / "circle.txt")
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*circle.txt'"):
        load_stories(tmp_path / "circle.txt")
    with pytest.raises(ValueError, match=r"circle.txt: it is no file"):
        load_stories(tmp_path)
    (tmp_path / "circle.txt").unlink()
    if hasattr(os, "mkfifo"):  # reading it would wait for ever
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(ValueError, match=r"pipe.txt: it is no file"):
            load_stories(tmp_path / "pipe.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("name", "write"), [("a.txt", write_txt), ("a.csv", write_csv)])
def test_a_byte_order_mark_says_the_encoding(tmp_path, name, write, encoding):
    write(tmp_path / name, tales(20, "Zoë 🦊"))
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_bytes(text.encode(encoding))
    stories = [story.strip() for story in read_stories(tmp_path / name)]
    assert stories == tales(20, "Zoë 🦊")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_the_delimiter_of_a_csv_is_recognised(tmp_path, delimiter, line_break):
    rows = [f"{delimiter.join(['0', story, '0'])}" for story in tales(3)]
    rows.append(delimiter.join(["1", f'"Quoted{delimiter} and\nin ""two"" lines."', "0"]))
    lines = [delimiter.join(["id", "text", "stars"]), *rows, ""]
    (tmp_path / "a.csv").write_bytes(line_break.join(lines).encode())
    quoted = f'Quoted{delimiter} and\nin "two" lines.'
    assert read_stories(tmp_path / "a.csv") == [*tales(3), quoted]


def test_a_csv_without_a_header_keeps_its_first_story(tmp_path):
    write_csv(tmp_path / "a.csv", tales(3))
    headless = (tmp_path / "a.csv").read_text(encoding="utf-8").partition("\n")[2]
    (tmp_path / "a.csv").write_text(headless, encoding="utf-8")
    assert read_stories(tmp_path / "a.csv") == tales(3)
    (tmp_path / "a.csv").write_text("\n".join(f'"{tale}"' for tale in tales(3)), encoding="utf-8")
    assert read_stories(tmp_path / "a.csv") == tales(3)


def test_a_csv_of_short_stories_in_a_dense_script_keeps_its_first_one_too(tmp_path):
    stories = [
        f"从前有一只小兔子住在森林里，它有{number}个好朋友，他们天天一起玩。" for number in range(3)
    ]
    assert max(map(len, stories)) < 50
    (tmp_path / "a.csv").write_text("\n".join(f'"{story}"' for story in stories), encoding="utf-8")
    assert read_stories(tmp_path / "a.csv") == stories


def test_a_story_longer_than_pythons_own_limit_for_a_field(tmp_path):
    long = " ".join(tales(5_000))
    write_csv(tmp_path / "a.csv", [long, tale(0)])
    limit = csv.field_size_limit()
    assert read_stories(tmp_path / "a.csv") == [long, tale(0)]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", write_txt),
        ("A.JSON", write_json),
        ("a.csv", write_csv),
        ("a.parquet", write_parquet),
    ],
)
def test_a_file_that_was_sent_is_read_as_one_on_disk(tmp_path, name, write):
    write(tmp_path / name, tales(3))
    content = (tmp_path / name).read_bytes()
    assert parse_stories(name, content) == read_stories(tmp_path / name)
    with pytest.raises(ValueError, match=f"cannot read stories from {name}: "):
        parse_stories(name, b"\xff")
    with pytest.raises(ValueError, match=f"cannot read stories from {name}: it is empty"):
        parse_stories(name, b"")
    with pytest.raises(ValueError, match=r"a.docx: stories are read from .txt, .json"):
        parse_stories("a.docx", content)


def test_only_the_column_with_the_stories_is_read_from_parquet(tmp_path):
    """A date far beyond Python's own in another column is none of our business."""
    import pyarrow
    from pyarrow import parquet

    far = pyarrow.array([2**62] * 3, pyarrow.timestamp("us"))
    names = pyarrow.array(tales(3)).dictionary_encode()
    parquet.write_table(pyarrow.table({"day": far, "text": names}), tmp_path / "a.parquet")
    assert read_stories(tmp_path / "a.parquet") == tales(3)


@pytest.mark.parametrize(
    "source",
    [
        tales(40),
        tuple(tales(40)),
        [{"text": tale, "id": 1} for tale in tales(40)],
        {"id": [1] * 40, "story": tales(40)},
        Stories(tales(40)[5:], tales(40)[:5], "mine", False, Cleaning(40, 0, 0, 0, 0, 40)),
    ],
)
def test_texts_in_memory_are_as_good_as_a_file(source, tmp_path):
    write_txt(tmp_path / "a.txt", tales(40))
    loaded = load_stories(source)
    from_file = load_stories(tmp_path / "a.txt")
    assert len(loaded.train) == len(from_file.train)
    assert {*loaded.train, *loaded.validation} == {*from_file.train, *from_file.validation}


def test_a_list_of_paths_is_read_one_after_the_other(tmp_path):
    write_txt(tmp_path / "b.txt", tales(20))
    write_csv(tmp_path / "a.csv", tales(20, "Mia"))
    loaded = load_stories([tmp_path / "b.txt", tmp_path / "a.csv"])
    assert {*loaded.train, *loaded.validation} == {*tales(20), *tales(20, "Mia")}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ([tale(0), None], "number 2 of the stories is None"),
        ([tale(0), float("nan")], r"number 2 of the stories is nan \(float\)"),
        ([b"bytes"], "number 1 of the stories is b'bytes'"),
        (3.5, r"not 3.5 \(float\)"),
        ([], "too few stories"),
    ],
)
def test_what_is_no_text_is_named(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_stories(source)


@pytest.mark.parametrize(
    ("count", "train", "held_out"),
    [(2, 1, 1), (3, 2, 1), (4, 2, 2), (10, 8, 2), (19, 17, 2), (20, 18, 2), (30, 27, 3)],
)
def test_of_a_few_stories_two_are_held_out_and_it_is_said_that_they_are_few(
    capsys, count, train, held_out
):
    loaded = load_stories(tales(count))
    assert (len(loaded.train), len(loaded.validation)) == (train, held_out)
    said = f"your stories holds {count} stories, and {held_out} of them are held out"
    assert (said in capsys.readouterr().out) == (count < 20)


def test_a_console_that_has_not_every_character_is_no_failure(tmp_path):
    (tmp_path / "Zoë 兔子.txt").write_text("\n\n\n".join(tales(30)), encoding="utf-8")
    code = f"import slm; slm.load_stories({str(tmp_path / 'Zoë 兔子.txt')!r})"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Zoë ??.txt: 27 training".encode("cp1252"))


@pytest.mark.parametrize("source", ["nowhere.txt", "owner/name", "", "~nobody-there/a.txt", "a\0b"])
def test_a_missing_file(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder") as caught:
        load_stories(source)
    assert repr(source) in str(caught.value)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_txt(tmp_path / "a.txt", tales(30))
    assert load_stories("~/a.txt").source == "a.txt"


def test_n_may_be_a_number_of_numpys(tmp_path):
    assert len(load_stories(tales(30), n=np.int64(7)).train) == 7


@pytest.mark.parametrize("n", [0, -1, 1e4, "9", True, None])
def test_n_is_a_whole_number_above_zero(n):
    with pytest.raises(ValueError, match=r"n, .* must be a whole number from 1 up"):
        load_stories(n=n)


# The hub, what is kept of it, and practice


def test_own_stories_beyond_n_are_said_to_be_left_out(capsys):
    stories = load_stories(tales(400), n=100)
    assert len(stories.train) == 100
    left_out = 400 - 100 - len(stories.validation)
    said = capsys.readouterr().out
    assert f"your stories holds {left_out} stories more, which are left out, as n is 100" in said
    assert len(load_stories(tales(400), n=100 + left_out).train) == 100 + left_out
    assert "left out" not in capsys.readouterr().out


def test_the_hub_comes_first_and_is_kept(hub, capsys):
    hub.train = ["Too short.", tale(0)[:-1], *tales(600)]
    hub.validation = [tale(3) + " ", *tales(150, "Mia")]
    loaded = load_stories(n=200)
    assert loaded.train == tales(200)
    assert loaded.validation == tales(100, "Mia")
    assert (loaded.source, loaded.is_practice) == ("TinyStories", False)
    assert loaded.cleaning == Cleaning(303, 0, 1, 1, 2, 300)
    assert "TinyStories (fetched from http" in capsys.readouterr().out

    assert load_stories(n=200) == loaded
    assert load_stories(n=50).train == tales(50)
    assert hub.opened == 2
    assert "nothing downloaded" in capsys.readouterr().out

    assert len(load_stories(n=300).train) == 300
    assert hub.opened == 4


def test_asking_for_more_than_the_hub_has_fetches_once(hub):
    assert len(load_stories(n=5_000).train) == 600
    assert len(load_stories(n=5_000).train) == 600
    assert hub.opened == 2


def test_kept_stories_stand_in_for_a_hub_that_fails(hub, capsys):
    load_stories(n=200)
    hub.trouble = "HOST answered 503"
    capsys.readouterr()
    assert load_stories(n=5_000).train[:200] == tales(200)
    said = capsys.readouterr().out
    assert "only those kept since" in said
    assert "HOST answered 503" in said
    assert said.count("\n") == 1


def test_a_download_that_breaks_off_leaves_what_was_kept(hub, capsys):
    load_stories(n=200)
    hub.breaks_after = 250
    assert len(load_stories(n=5_000).train) >= 200
    said = capsys.readouterr().out
    assert "broke off after 250 stories (RuntimeError)" in said
    hub.breaks_after = None
    assert load_stories(n=200).train == tales(200)


DEEP = "[" * 100_000
DAMAGED = [
    "",
    "{",
    '{"date": "x", "asked": 9999}',
    "[]\n[]\n[]",
    "\x00",
    DEEP,
    "null",
    "[1, 2, 3, 4]",
]
DAMAGED += ['["2026-01-31", 9999, [5], ["a"]]', '["2026-01-31", "9999", ["a"], ["a"]]']
DAMAGED += ['["2026-01-31", 9999, [], []]', '["2026-01-31", 9999, "abc", {"a": 1}]']


@pytest.mark.parametrize("content", DAMAGED)
def test_kept_stories_that_cannot_be_read_are_fetched_again(hub, content, capsys):
    load_stories(n=200)
    (cache_folder() / "tinystories.jsonl").write_text(content, encoding="utf-8")
    capsys.readouterr()
    assert load_stories(n=200).train == tales(200)
    assert hub.opened == 4
    assert "tinystories.jsonl is damaged" in capsys.readouterr().out
    assert load_stories(n=200).train == tales(200)
    assert hub.opened == 4


def test_one_changed_letter_in_the_kept_stories_is_noticed(hub, capsys):
    load_stories(n=200)
    file = cache_folder() / "tinystories.jsonl"
    file.write_text(file.read_text("utf-8").replace("number 7", "number 8", 1), encoding="utf-8")
    assert load_stories(n=200).train == tales(200)
    assert "tinystories.jsonl is damaged" in capsys.readouterr().out


def test_damaged_stories_without_a_network_are_said_to_be_so(hub, practice, capsys):
    load_stories(n=200)
    (cache_folder() / "tinystories.jsonl").write_text("[[", encoding="utf-8")
    hub.trouble = "HOST answered 503"
    assert load_stories(n=200).is_practice
    said = capsys.readouterr().out
    assert "tinystories.jsonl is damaged" in said
    assert "HOST answered 503" in said


def test_stories_kept_by_an_earlier_version_are_read(hub):
    cache_folder().mkdir(parents=True)
    content = ["2025-12-31", 200, tales(200), tales(100, "Mia")]
    (cache_folder() / "tinystories.jsonl").write_text(json.dumps(content), encoding="utf-8")
    assert load_stories(n=200).train == tales(200)
    assert hub.opened == 0


def test_a_cache_that_cannot_be_written_is_no_failure(hub, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "file"))
    assert load_stories(n=200).train == tales(200)
    said = capsys.readouterr().out
    assert said.count("not kept for next time") == 1
    assert str(tmp_path / "file") in said
    assert ".part" not in said


def test_without_a_home_folder_there_is_no_cache_and_no_failure(hub, monkeypatch, capsys):
    monkeypatch.delenv("SLM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert load_stories(n=200).train == tales(200)
    assert "not kept for next time: there is no home folder" in capsys.readouterr().out


@pytest.fixture
def practice(monkeypatch):
    asked = []

    def practice_stories(n, *, seed=0):
        asked.append(n)
        return tales(n, f"Pip {seed}")

    monkeypatch.setattr("slm.stories.loading.practice_stories", practice_stories)
    return asked


def test_practice_comes_last_and_loudly(hub, practice, capsys):
    hub.breaks_after = 3
    loaded = load_stories(n=2_000)
    assert (len(loaded.train), len(loaded.validation), practice) == (2_000, 200, [2_200])
    assert (loaded.source, loaded.is_practice) == ("practice corpus", True)
    assert not {*loaded.train} & {*loaded.validation}
    said = capsys.readouterr().out
    assert "NOT TINYSTORIES" in said
    assert "broke off after 3 stories" in said
    assert "load_stories('my_own.txt')" in said
    load_stories(n=10**6)
    assert practice == [2_200, 20_000]


def test_without_a_network_it_takes_under_three_seconds(practice, capsys):
    start = time.perf_counter()
    assert load_stories(n=10).is_practice
    assert time.perf_counter() - start < 3
    assert "could not reach http://127.0.0.1:9 (" in capsys.readouterr().out


def test_the_stories_themselves_are_not_in_the_repr(tmp_path):
    write_txt(tmp_path / "a.txt", tales(40))
    assert TAIL not in repr(load_stories(tmp_path / "a.txt"))


def test_import_is_light():
    code = "import sys, slm.stories; print({'datasets', 'pandas', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
