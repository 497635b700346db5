import errno
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from slm.utils.files import cache_folder, expand_home, model_name, write
from slm.utils.locks import try_lock


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_with_its_folder(tmp_path):
    write(tmp_path / "a" / "b" / "file", iter([b"one ", b"two"]))
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"one two"
    assert names(tmp_path / "a" / "b") == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("odd"), OSError("lost")])
def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def content():
        yield b"new"
        raise error

    write(tmp_path / "file", b"old")
    with pytest.raises(type(error)):
        write(tmp_path / "file", content())
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_error_of_the_disk_names_the_file_that_was_meant(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "hidden.part")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as failed:
        write(tmp_path / "file", b"new")
    assert failed.value.filename == str(tmp_path / "file")
    assert names(tmp_path) == []


def test_what_killed_processes_left_is_swept(tmp_path):
    for name in (".file.4711.part", ".other.00ff00ff.part"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "my.part").write_bytes(b"not ours")
    write(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file", "my.part"]


def test_a_living_processs_file_is_never_swept(tmp_path):
    def content():
        yield b"one "
        write(tmp_path / "other", b"meanwhile")  # in another process it is the same
        yield b"two"

    write(tmp_path / "file", content())
    assert (tmp_path / "file").read_bytes() == b"one two"
    assert names(tmp_path) == ["file", "other"]


def write_often(path: Path, number: int, failures) -> None:
    for i in range(40):
        try:
            write(path, (bytes([number]) * 1000 for _ in range(5)))
            content = path.read_bytes()
            if len(content) != 5000 or len(set(content)) != 1:
                failures.put(f"{number} found a mixture")
        except Exception as error:
            failures.put(f"{number} in {i}: {error!r}")


def test_several_processes_may_write_the_same_file(tmp_path):
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    failures = context.Queue()
    processes = [
        context.Process(target=write_often, args=(tmp_path / "file", number, failures))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failures.empty(), failures.get()
    assert names(tmp_path) == ["file"]


def test_two_writers_with_one_process_number_do_not_share_a_temporary_file(tmp_path):
    """As two containers with one cache have it: both are process 7 or so, here of two threads."""
    first_is_writing = threading.Event()
    first_is_done = threading.Event()

    def content():
        yield b"first "
        first_is_writing.wait(60)
        yield b"whole"

    def write_second():
        def content():
            first_is_writing.set()
            first_is_done.wait(60)
            yield b"second whole"

        write(tmp_path / "file", content())

    thread = threading.Thread(target=write_second)
    thread.start()
    write(tmp_path / "file", content())
    assert (tmp_path / "file").read_bytes() == b"first whole"
    first_is_done.set()
    thread.join(60)
    assert (tmp_path / "file").read_bytes() == b"second whole"
    assert names(tmp_path) == ["file"]


def test_without_locks_only_what_is_a_day_old_is_swept(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    for name, age in ((".new.00000000.part", 3600), (".old.00000000.part", 2 * 24 * 3600)):
        (tmp_path / name).write_bytes(b"half")
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    write(tmp_path / "file", b"new")
    assert names(tmp_path) == [".new.00000000.part", "file"]


def test_a_lock_ends_with_its_file(tmp_path):
    with (tmp_path / "file").open("wb") as first, (tmp_path / "file").open("r+b") as second:
        assert try_lock(first)
        assert not try_lock(second)
        first.close()
        assert try_lock(second)


@pytest.mark.parametrize(
    ("slm", "xdg", "expected"),
    [
        ("/a", "/b", "/a"),
        ("~/a", "/b", "/home/me/a"),
        (None, "/b", "/b/slm"),
        (None, "~/b", "/home/me/b/slm"),
        (None, "b", "/home/me/.cache/slm"),
        (None, None, "/home/me/.cache/slm"),
        ("", "", "/home/me/.cache/slm"),
    ],
)
def test_the_cache_is_where_it_is_asked_to_be(monkeypatch, slm, xdg, expected):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    for name, value in (("SLM_CACHE", slm), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.parametrize("cache", [None, "~/a"])
def test_without_a_home_the_cache_folder_is_an_oserror_that_says_so(monkeypatch, cache):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache:
        monkeypatch.setenv("SLM_CACHE", cache)
    else:
        monkeypatch.delenv("SLM_CACHE")
    with pytest.raises(OSError, match="set SLM_CACHE"):
        cache_folder()


def test_a_path_may_begin_with_a_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand_home("~/runs") == tmp_path / "runs"
    assert expand_home(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="~nobody-here/runs cannot be found"):
        expand_home("~nobody-here/runs")


def test_a_model_is_named_after_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "dragons"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert model_name(".") == "dragons"
    assert model_name("../dragons/") == "dragons"
    assert model_name("stories") == "stories"
    assert model_name("you/stories") == "stories"
    assert model_name(Path("/")) == "model"
