import cmath
import collections
import copy
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import slm
from slm.memoization.fingerprint import Fingerprints, NoFingerprint
from slm.settings import ModelConfig, TrainConfig
from slm.stories import Cleaning, Stories
from slm.tokenizer import Tokenizer

ROOT = str(Path(slm.__file__).parents[1])
DATACLASS = "from dataclasses import dataclass, field\n@dataclass"
# What a notebook holds, and what changes in it; f() is called.
CHANGES = {
    "a number in it": ("def f(): return 1", "def f(): return 2"),
    "an operation": ("def f(a): return a + 1", "def f(a): return a - 1"),
    "the type of a number": ("def f(): return 1", "def f(): return 1.0"),
    "a sign of zero": ("def f(): return 0.0", "def f(): return -0.0"),
    "an attribute's name": ("def f(a): return a.real", "def f(a): return a.imag"),
    "the end of a try": (
        "def f(a):\n try:\n  a()\n  a()\n except ValueError: pass",
        "def f(a):\n try:\n  a()\n except ValueError: pass\n a()",
    ),
    "a default": ("def f(a=1): return a", "def f(a=2): return a"),
    "a default by name": ("def f(*, a=1): return a", "def f(*, a=2): return a"),
    "a global": ("A = 1\ndef f(): return A", "A = 2\ndef f(): return A"),
    "a global that another one hides": (
        "def f(): return len('a')",
        "def len(a): return 7\ndef f(): return len('a')",
    ),
    "a global in a comprehension": (
        "A = 1\ndef f(): return [A for _ in 'ab']",
        "A = 2\ndef f(): return [A for _ in 'ab']",
    ),
    "a global in a generator in a lambda": (
        "A = 1\ndef f(): return (lambda: list(A for _ in 'ab'))()",
        "A = 2\ndef f(): return (lambda: list(A for _ in 'ab'))()",
    ),
    "a global in a function within it": (
        "A = 1\ndef f():\n def g(): return A\n return g()",
        "A = 2\ndef f():\n def g(): return A\n return g()",
    ),
    "a global in a class within it": (
        "A = 1\ndef f():\n class C:\n  a = A\n return C.a",
        "A = 2\ndef f():\n class C:\n  a = A\n return C.a",
    ),
    "a number in a lambda": ("f = lambda: (lambda: 1)()", "f = lambda: (lambda: 2)()"),
    "a helper": (
        "def g(): return 1\ndef f(): return g()",
        "def g(): return 2\ndef f(): return g()",
    ),
    "a global of a helper's helper": (
        "A = 1\ndef h(): return A\ndef g(): return h()\ndef f(): return g()",
        "A = 2\ndef h(): return A\ndef g(): return h()\ndef f(): return g()",
    ),
    "a helper in a dict": (
        "def g(): return 1\nG = {'g': [g]}\ndef f(): return G['g'][0]()",
        "def g(): return 2\nG = {'g': [g]}\ndef f(): return G['g'][0]()",
    ),
    "a recursive helper": (
        "def f(n): return f(n - 1) if n else 1",
        "def f(n): return f(n - 1) if n else 2",
    ),
    "one of two that call each other": (
        "def g(n): return f(n - 1) + 1\ndef f(n): return g(n) if n else 0",
        "def g(n): return f(n - 1) + 2\ndef f(n): return g(n) if n else 0",
    ),
    "a closure": (
        "def make(a):\n def g(): return a\n return g\nf = make(1)",
        "def make(a):\n def g(): return a\n return g\nf = make(2)",
    ),
    "an attribute of a function": ("def f(): return f.a\nf.a = 1", "def f(): return f.a\nf.a = 2"),
    "a method": (
        "class C:\n def m(self): return 1\ndef f(): return C().m()",
        "class C:\n def m(self): return 2\ndef f(): return C().m()",
    ),
    "a method of a base": (
        "class B:\n def m(self): return 1\nclass C(B): pass\ndef f(): return C().m()",
        "class B:\n def m(self): return 2\nclass C(B): pass\ndef f(): return C().m()",
    ),
    "a method that was exchanged": (
        "class C:\n def m(self): return 1\ndef f(): return C().m()",
        "class C:\n def m(self): return 1\nC.m = lambda self: 2\ndef f(): return C().m()",
    ),
    "a number of a class": (
        "class C:\n a = 1\ndef f(): return C.a",
        "class C:\n a = 1\nC.a = 2\ndef f(): return C.a",
    ),
    "a property": (
        "class C:\n @property\n def a(self): return 1\ndef f(): return C().a",
        "class C:\n @property\n def a(self): return 2\ndef f(): return C().a",
    ),
    "a static method": (
        "class C:\n @staticmethod\n def a(): return 1\ndef f(): return C.a()",
        "class C:\n @staticmethod\n def a(): return 2\ndef f(): return C.a()",
    ),
    "a cached property": (
        "import functools\nclass C:\n @functools.cached_property\n def a(self): return 1\nf = C",
        "import functools\nclass C:\n @functools.cached_property\n def a(self): return 2\nf = C",
    ),
    "what super() reaches": (
        "class B:\n a = 1\nclass C(B):\n def m(self): return super().a\nf = C().m",
        "class B:\n a = 2\nclass C(B):\n def m(self): return super().a\nf = C().m",
    ),
    "a bound method's object": (
        "class C:\n def m(self): return self.a\nc = C()\nc.a = 1\nf = c.m",
        "class C:\n def m(self): return self.a\nc = C()\nc.a = 2\nf = c.m",
    ),
    "a default of a dataclass": (
        f"{DATACLASS}\nclass f:\n a: int = 1",
        f"{DATACLASS}\nclass f:\n a: int = 2",
    ),
    "what makes a default of a dataclass": (
        f"{DATACLASS}\nclass f:\n a: list = field(default_factory=lambda: [1])",
        f"{DATACLASS}\nclass f:\n a: list = field(default_factory=lambda: [2])",
    ),
    "an option of a dataclass": (
        f"{DATACLASS}\nclass f:\n a: int",
        f"{DATACLASS}(slots=True)\nclass f:\n a: int",
    ),
    "an enum": (
        "import enum\nclass E(enum.Enum): A = 1\ndef f(): return E.A.value",
        "import enum\nclass E(enum.Enum): A = 2\ndef f(): return E.A.value",
    ),
    "a function behind functools.cache": (
        "import functools\n@functools.cache\ndef g(): return 1\ndef f(): return g()",
        "import functools\n@functools.cache\ndef g(): return 2\ndef f(): return g()",
    ),
    "a function behind an imported decorator": (
        "import torch\n@torch.no_grad()\ndef f(): return 1",
        "import torch\n@torch.no_grad()\ndef f(): return 2",
    ),
    "what an imported decorator is given": (
        "import torch\n@torch.autocast('cpu', dtype=torch.bfloat16)\ndef f(): return 1",
        "import torch\n@torch.autocast('cpu', dtype=torch.float16)\ndef f(): return 1",
    ),
    "a part of functools.partial": (
        "import functools\ndef g(a): return a\nf = functools.partial(g, 1)",
        "import functools\ndef g(a): return a\nf = functools.partial(g, 2)",
    ),
    "a regular expression": (
        "import re\nA = re.compile('a')\ndef f(): return A.pattern",
        "import re\nA = re.compile('b')\ndef f(): return A.pattern",
    ),
    "whether a tensor requires a gradient": (
        "import torch\nA = torch.ones(2)\ndef f(): return A.requires_grad",
        "import torch\nA = torch.ones(2, requires_grad=True)\ndef f(): return A.requires_grad",
    ),
    "a function from source in a string": (
        "scope = {}\nexec('def f(): return 1', scope)\nf = scope['f']",
        "scope = {}\nexec('def f(): return 2', scope)\nf = scope['f']",
    ),
    "one of two lambdas that are imported": (
        "lambdas = {'__name__': 'other'}\nexec('a, b = lambda: 1, lambda: 2', lambdas)\n"
        "G = lambdas['a']\ndef f(): return G()",
        "lambdas = {'__name__': 'other'}\nexec('a, b = lambda: 1, lambda: 2', lambdas)\n"
        "G = lambdas['b']\ndef f(): return G()",
    ),
    "a special method that is no plain function": (
        "import functools\nclass f:\n def n(self, n): return n\n"
        " __len__ = functools.partialmethod(n, 1)",
        "import functools\nclass f:\n def n(self, n): return n\n"
        " __len__ = functools.partialmethod(n, 2)",
    ),
    "a cached special method": (
        "import functools\nclass f:\n @functools.cache\n def __call__(self): return 1",
        "import functools\nclass f:\n @functools.cache\n def __call__(self): return 2",
    ),
    "what a dataclass says of a field": (
        f"{DATACLASS}\nclass f:\n a: int = field(metadata={{'unit': 'm'}})",
        f"{DATACLASS}\nclass f:\n a: int = field(metadata={{'unit': 's'}})",
    ),
    "a docstring": ("def f():\n 'one'\n return 1", "def f():\n 'two'\n return 1"),
}
NO_CHANGES = {
    "a comment": ("def f(): return 1", "def f(): return 1  # one"),
    "the place": ("def f(): return 1", "\n\n\n# above\ndef f():\n    return 1"),
    "a global that it does not use": ("A = 1\ndef f(): return 1", "A = 2\ndef f(): return 1"),
    "the name of a global that it does not use": (
        "A = 1\ndef f(): return 1",
        "B = 1\ndef f(): return 1",
    ),
    "a global with the name of an attribute": (
        "real = 1\ndef f(a): return a.real",
        "real = 2\ndef f(a): return a.real",
    ),
    "a global with the name of a variable": (
        "a = 1\ndef f(a): return a",
        "a = 2\ndef f(a): return a",
    ),
    "the order of the definitions": (
        "A = 1\ndef g(): return A\ndef f(): return g()",
        "def f(): return g()\ndef g(): return A\nA = 1",
    ),
    "the order of the methods": (
        "class f:\n def a(self): return 1\n def b(self): return 2",
        "class f:\n def b(self): return 2\n def a(self): return 1",
    ),
    "an annotation": ("def f(a): return a", "def f(a: int) -> int: return a"),
}


def f_of(source: str) -> bytes:
    """The fingerprint of f, as a notebook with this source has it."""
    notebook = {"__name__": "notebook"}
    exec(source, notebook)
    return Fingerprints({"notebook"}).of(notebook["f"])


def of(value: object) -> bytes:
    return Fingerprints({__name__}).of(value)


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_function_depends_on_changes_its_fingerprint(change):
    before, after = CHANGES[change]
    assert f_of(before) == f_of(before)
    assert f_of(before) != f_of(after)


@pytest.mark.parametrize("change", NO_CHANGES)
def test_nothing_else_changes_it(change):
    before, after = NO_CHANGES[change]
    assert f_of(before) == f_of(after)


def test_it_stays_when_a_function_has_run_often():
    source = "def f(n):\n total = 0\n for i in range(n): total += i * n\n return total"
    notebook = {"__name__": "notebook"}
    exec(source, notebook)
    for _ in range(1000):  # after which Python's instructions are adapted to the types
        notebook["f"](20)
    assert Fingerprints({"notebook"}).of(notebook["f"]) == f_of(source)


def test_what_is_imported_counts_by_its_name():
    source = "import torch\nfrom textwrap import {0}\ndef f(a): return torch.relu({0}(a))"
    assert f_of(source.format("dedent")) == f_of(source.format("dedent"))
    assert f_of(source.format("dedent")) != f_of(source.format("shorten"))


VALUES = [
    *(0, 1, 1.0, True, None, "1", b"1", "", "True", 10**5000, float("nan"), float("inf"), 1j),
    *([], (), {}, set(), [1], (1,), {1}, {1: 1}, [[1], 2], [1, [2]], [[1, 2]], ["ab"], ["a", "b"]),
    *({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),  # their order may decide a result
    *(range(3), range(4), slice(3), slice(4), ..., int, float, len, abs, math.sqrt, cmath.sqrt),
    *(np.float32(1), np.float64(1), np.arange(3), np.arange(3.0), np.arange(4).reshape(2, 2)),
    *(torch.tensor(1), torch.tensor(1.0), torch.tensor([1.0]), torch.tensor([1.0, 2.0])),
    *(torch.tensor([1.0, 2.0]).bfloat16(), torch.zeros(0), torch.zeros(0, 2), torch.zeros(2, 0)),
    *(torch.arange(6).view(2, 3), torch.arange(6).view(3, 2), torch.arange(6).view(3, 2).T),
    *(torch.float32, torch.bfloat16, torch.device("cpu"), torch.Generator().manual_seed(1)),
    *(torch.arange(6)[::6], torch.ones(2), torch.ones(2, requires_grad=True)),
    *(collections.deque([1]), collections.deque([2]), collections.Counter("a")),
    *(torch.Generator().manual_seed(2), ModelConfig(), TrainConfig(steps=1), TrainConfig(steps=2)),
]


def test_different_values_have_different_fingerprints_and_copies_the_same():
    found = [of(value) for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert [of(copy.deepcopy(value)) for value in VALUES] == found


def test_a_list_within_itself_ends():
    one = [1]
    one.append(one)
    other = [2]
    other.append(other)
    assert of(one) != of(other)


def test_two_equal_lists_are_as_good_as_one_twice():
    one = [1, 2]
    assert of([one, one]) == of([[1, 2], [1, 2]])


def test_stories_count_with_every_text():
    stories = Stories(["one", "two"], ["three"], "mine", False, Cleaning(3, 0, 0, 0, 0, 3))
    assert of(stories) == of(replace(stories, train=["one", "two"]))
    assert of(stories) != of(replace(stories, train=["one", "twO"]))
    assert of(stories) != of(replace(stories, validation=["four"]))


def test_models_count_with_settings_weights_and_mode(random_model):
    model = random_model()
    assert of(model) == of(random_model())
    assert of(model) != of(random_model(seed=2))
    assert of(model) != of(random_model(dropout=0.1))
    assert of(model) != of(random_model().train())
    other = random_model()
    with torch.no_grad():
        other.model.norm.weight[-1] += 1e-6
    assert of(model) != of(other)


def test_models_count_alike_wherever_they_come_from(random_model, tokenizer, tmp_path):
    model = random_model()
    before = of(model)
    slm.generate(model, tokenizer, "Once", max_new_tokens=3)
    assert of(model) == before  # writing changes nothing
    for name in ("a", "b"):
        slm.save_model(tmp_path / name, model, tokenizer)
        loaded, same_tokenizer = slm.load_model(tmp_path / name)
        assert of(loaded) == before
        assert of(same_tokenizer) == of(tokenizer)


def test_tokenizers_count_with_their_tokens(tokenizer):
    text = ["Once upon a time there was a cat. The cat saw the other cat on the mat. "] * 2
    assert of(slm.train_tokenizer(text, 270)) == of(slm.train_tokenizer(text, 270))
    assert of(slm.train_tokenizer(text, 270)) != of(slm.train_tokenizer(text, 271))
    assert of({512: tokenizer}) != of({1024: tokenizer})


def test_a_tokenizer_of_ones_own_counts_with_its_class(tokenizer):
    class Mine(Tokenizer):
        number = 1

    own = copy.copy(tokenizer)
    own.__class__ = Mine
    before = of(own)
    Mine.number = 2
    assert of(own) != before


def test_a_class_stays_when_copy_has_asked_for_its_slots():
    class Mine:
        pass

    before = of(Mine)
    copy.copy(Mine())  # it notes `__slotnames__` in the class
    assert of(Mine) == before


def test_a_frozen_weight_counts(random_model):
    model = random_model()
    before = of(model)
    model.model.norm.weight.requires_grad_(False)
    assert of(model) != before


def test_another_process_gives_the_same(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(
        "import dataclasses, enum, typing, abc, collections, re, slm\n"
        "from slm.memoization.fingerprint import Fingerprints\n"
        "class E(enum.Enum): A = 1\n"
        "class A(abc.ABC):\n"
        "    @abc.abstractmethod\n"
        "    def m(self): ...\n"
        "class N(typing.NamedTuple): a: int = 1\n"
        "P = collections.namedtuple('P', 'a b')\n"
        "@dataclasses.dataclass(slots=True)\n"
        "class D:\n"
        "    a: list = dataclasses.field(default_factory=lambda: [1])\n"
        "SET = {'one', 'two', 'three'}\n"
        "TOKENIZER = slm.train_tokenizer(['once upon a time there was a time'] * 9, 265)\n"
        "def f(a): return a in {'x', 'y', 'z'} and (E.A, A, N(), P(1, 2), D(), SET, TOKENIZER)\n"
        "print(Fingerprints({'__main__'}).of(f).hex())\n",
        encoding="utf-8",
    )
    found = set()
    for seed in ("1", "2"):  # the order of texts in a set differs by it
        run = subprocess.run(
            [sys.executable, script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("value", [threading.Lock(), (i for i in "ab")], ids=["lock", "generator"])
def test_what_cannot_be_told_is_refused_by_name(value):
    notebook = {"__name__": "notebook", "thing": value}
    exec("def g(): return next(thing)\ndef f(): return g()", notebook)
    with pytest.raises(NoFingerprint, match=r"^g\(\) depends on thing \("):
        Fingerprints({"notebook"}).of(notebook["f"])
