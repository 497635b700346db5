"""Fingerprints of values and of code: they change when what a result depends on has changed."""

import copyreg
import dis
import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import (
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    NoneType,
)

import torch
from torch import Tensor, nn

from slm.tokenizer import PretrainedTokenizer, Tokenizer

SIMPLE_TYPES = (NoneType, bool, int, float, str, bytes)
READS_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}  # names of instructions
NOT_THE_MODEL = {"name_or_path", "_compiled_call_impl"}  # where it was loaded from, how it runs
REDUCE_PROTOCOL = 4  # as `copy` asks objects what they consist of
# Members of classes that nobody wrote. A dataclass's __doc__ may have addresses in it.
ADDED_BY_PYTHON = {
    "__module__",
    "__qualname__",
    "__doc__",
    "__dict__",
    "__weakref__",
    "__slotnames__",
    "__annotations__",
    "__annotate__",
    "__annotate_func__",
    "__annotations_cache__",
    "__firstlineno__",
    "__static_attributes__",
    "_abc_impl",
}


class NoFingerprint(ValueError):
    """A value does not say what it consists of; the message names it."""


class Fingerprints:
    """Fingerprints of values: equal for copies of a value, also in another process.

    A function counts with its compiled code, its defaults and closure, and all globals that it
    reads; a class with its members and bases. So it goes on from function to function, but only
    within the `modules` of these names: what comes from any other counts by its name alone, or,
    where it has none of its own (a lambda), by its code. Comments and places in the file make no
    difference; the docstrings of functions do.

    Of an object all counts that `copy` would copy, the order of a dict, too; of a tensor its type,
    shape and numbers, and whether it requires a gradient.
    """

    def __init__(self, modules: Iterable[str]):
        self.modules = set(modules)
        # By the id of a value; the value stands there too, so that its id is not used again.
        self._finished: dict[int, tuple[object, bytes]] = {}
        self._unfinished: list[int] = []  # ids, from the outermost value inwards

    def of(self, value: object) -> bytes:
        """The fingerprint of a value. Where it has none, that may be any error: see `of_named`."""
        if type(value) in SIMPLE_TYPES:
            return _simple(value)
        if id(value) in self._finished:
            return self._finished[id(value)][1]
        if id(value) in self._unfinished:  # a function that calls itself, a list within itself
            return b"number %d of those around it" % self._unfinished.index(id(value))
        self._unfinished.append(id(value))
        fingerprint = _join([_name(type(value)), *self._parts(value)])
        self._unfinished.pop()
        self._finished[id(value)] = (value, fingerprint)
        return fingerprint

    def of_named(self, name: str, value: object, user: str) -> bytes:
        """The fingerprint of what a function, the `user`, knows by a name.

        Raises NoFingerprint, naming it, where it has none.
        """
        try:
            return self.of(value)
        except NoFingerprint:  # of a global further within, which is named
            raise
        except Exception as error:  # objects may fail in any way to say what they consist of
            raise NoFingerprint(
                f"{user} depends on {name} ({type(value).__name__}), and nobody can tell whether "
                "that has changed: give the function numbers, texts, lists or tensors instead."
            ) from error

    def _parts(self, value: object) -> list[bytes]:
        """What a value consists of."""
        kind = type(value)
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, Tokenizer | PretrainedTokenizer):
            return [value.digest.encode(), self.of(type(value))]
        if isinstance(value, nn.Module):
            return self._model(value)
        if isinstance(value, ModuleType):
            return [value.__name__.encode()]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        if kind is list or kind is tuple:
            return [self.of(item) for item in value]
        if kind is MappingProxyType:
            return [self.of(dict(value))]
        if kind is set or kind is frozenset:
            return sorted(self.of(item) for item in value)  # their order differs by process
        return self._object(value)

    def _function(self, function: FunctionType) -> list[bytes]:
        code = function.__code__
        module = function.__globals__.get("__name__")
        is_ours = module is None or module in self.modules  # none: from source in a string
        has_own_name = "<" not in code.co_qualname  # no <lambda>, and nothing within <locals>
        if has_own_name and not is_ours:
            return [f"{module}.{code.co_qualname}".encode()]
        # One that was made within another function, such as a decorator's, has a closure.
        parts = [
            self.of(code),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            self.of(vars(function)),
            *[self._cell(cell) for cell in function.__closure__ or ()],
        ]
        if is_ours:
            parts += self._globals(function)
        return parts

    def _cell(self, cell: CellType) -> bytes:
        """A variable of the function around."""
        try:
            contents = cell.cell_contents
        except ValueError:  # it has no value yet
            return b"empty"
        return self.of(contents)

    def _globals(self, function: FunctionType) -> list[bytes]:
        """The globals that a function reads, by their names."""
        parts = []
        for name in sorted(_globals_read(function.__code__)):
            if name in function.__globals__:  # else one of Python's own, such as `len`
                value = function.__globals__[name]
                parts.append(name.encode())
                parts.append(self.of_named(name, value, f"{function.__name__}()"))
        return parts

    def _code(self, code: CodeType) -> list[bytes]:
        """Compiled code, without what says where it stands."""
        values = [
            code.co_code,
            code.co_consts,  # the code of functions within it, too
            code.co_names,
            code.co_varnames,
            code.co_cellvars,
            code.co_freevars,
            code.co_exceptiontable,
            code.co_flags,
        ]
        return [self.of(value) for value in values]

    def _class(self, kind: type) -> list[bytes]:
        parts = [_name(kind)]
        if kind.__module__ not in self.modules:
            return parts
        parts.append(self.of(type(kind)))
        parts.append(self.of(kind.__bases__))
        for name, member in sorted(vars(kind).items()):
            if name not in ADDED_BY_PYTHON:
                parts.append(name.encode())
                parts.append(self._member(member))
        return parts

    def _member(self, member: object) -> bytes:
        if isinstance(member, staticmethod | classmethod):
            return _join([_name(type(member)), self.of(member.__func__)])
        if isinstance(member, property):
            return self.of(["property", member.fget, member.fset, member.fdel])
        if isinstance(member, cached_property):
            return self.of(["cached_property", member.func])
        return self.of(member)

    def _model(self, model: nn.Module) -> list[bytes]:
        """A model's settings and weights, and whether it is being trained."""
        state = {name: part for name, part in vars(model).items() if name not in NOT_THE_MODEL}
        return [self.of(type(model)), self.of(state)]

    def _object(self, value: object) -> list[bytes]:
        """What an object says of itself: the function that makes one like it, and its arguments."""
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(REDUCE_PROTOCOL)
        if isinstance(reduced, str):  # by its name alone, such as math.sqrt
            # What functools.cache makes of a function has that function within it.
            facts = [
                reduced,
                getattr(value, "__module__", None),
                getattr(value, "__wrapped__", None),
            ]
            return [self.of(fact) for fact in facts]
        return [
            self.of(list(part) if isinstance(part, Iterator) else part)  # the items of containers
            for part in reduced
        ]


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _simple(value: object) -> bytes:
    """A value of one of the `SIMPLE_TYPES`, with its type: 1, 1.0 and True differ."""
    if isinstance(value, str):
        return b"str " + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"bytes " + value
    if type(value) is int:
        return f"int {value:x}".encode()  # Python writes no more than 4,300 decimal digits
    return repr(value).encode()


def _join(parts: Iterable[bytes]) -> bytes:
    """A digest of several parts, and of where each of them ends."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def _tensor(tensor: Tensor) -> list[bytes]:
    facts = (tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
    numbers = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return [repr(facts).encode(), numbers.reshape(-1).view(torch.uint8).numpy().data]


def _globals_read(code: CodeType) -> set[str]:
    """The names that some code, and the functions within it, look up among the globals."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in READS_GLOBAL}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _globals_read(constant)
    return names
