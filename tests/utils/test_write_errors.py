import errno

import pytest

import slm
from slm.export.gguf import export_gguf
from slm.export.model_card import model_card
from slm.export.onnx import export_onnx
from slm.export.temporary_file import temporary_file
from slm.utils.files import write
from slm.utils.write_errors import explain_write_errors


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EROFS, "the disk is read-only: name a folder"),
        (errno.EACCES, "change its permissions"),
        (errno.ENOTDIR, "a file is where a folder must be"),
        (errno.ENAMETOOLONG, "give a shorter one"),
    ],
)
def test_what_is_wrong_with_a_disk_is_one_sentence_with_the_mend(number, mend):
    kind = type(OSError(number, "why"))
    sentence = rf"^runs/mine cannot be written: .*{mend}"
    with pytest.raises(kind, match=sentence) as caught, explain_write_errors("runs/mine"):
        raise OSError(number, "why", ".hidden.part")
    assert caught.value.errno == number
    assert "hidden" not in str(caught.value)


def test_other_errors_pass_as_they_are():
    error = OSError("of another kind")
    with pytest.raises(OSError) as caught, explain_write_errors("runs/mine"):
        raise error
    assert caught.value is error


@pytest.fixture
def full_disk(monkeypatch):
    """No file that is written reaches the disk."""

    def refuse(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device", ".hidden.part")

    def fill():
        monkeypatch.setattr("os.fsync", refuse)
        monkeypatch.setattr("tempfile.mkdtemp", refuse)

    return fill


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["save", "quantize", "gguf", "onnx", "card"])
def test_on_a_full_disk_each_names_its_file(what, full_disk, random_model, tokenizer, tmp_path):
    model = random_model()
    folder = slm.save_model(tmp_path / "model", model, tokenizer)
    made = {
        "save": (tmp_path / "new", lambda to: slm.save_model(to, model, tokenizer)),
        "quantize": (tmp_path / "q", lambda to: slm.save_model(to, slm.quantize(model), tokenizer)),
        "gguf": (tmp_path / "a.gguf", lambda to: export_gguf(folder, to)),
        "onnx": (tmp_path / "a.onnx", lambda to: export_onnx(folder, to)),
        "card": (folder / "README.md", lambda to: model_card(folder)),
    }
    path, make = made[what]
    if what in ("gguf", "onnx"):
        pytest.importorskip(what)
    full_disk()
    with pytest.raises(OSError, match="the disk is full: free some space") as caught:
        make(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_in_the_way_of_a_folder_is_named(random_model, tokenizer, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(OSError, match="a file is where a folder must be"):
        slm.save_model(tmp_path / "model", random_model(), tokenizer)
    assert (tmp_path / "model").read_text() == "mine"


def test_a_file_that_another_library_writes_is_whole_or_not_there(tmp_path):
    file = tmp_path / "new" / "a.bin"
    with temporary_file(file) as temporary:
        write(temporary, b"whole")
        assert not file.exists()
    assert file.read_bytes() == b"whole"
    with pytest.raises(ValueError), temporary_file(file) as temporary:
        write(temporary, b"half")
        raise ValueError
    assert file.read_bytes() == b"whole"
    assert [path.name for path in file.parent.iterdir()] == ["a.bin"]
