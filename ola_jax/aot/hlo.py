"""The work of a compiled program, read from its text: collectives and memory traffic, loops included.

XLA's own cost analysis counts the body of a loop once; here it is counted as often as it runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16}
BITS |= {"f32": 32, "s32": 32, "u32": 32, "f64": 64, "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?<=[\s)}\]])([a-z][\w\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e\dm\d\w*)?)\[([0-9,]*)\](\{[^}]*\})?")
# Mosaic GPU names no instruction; the last but one part of the operation's path is the kernel's name.
_GPU_KERNEL = re.compile(r'custom_call_target="mosaic_gpu\w*".*op_name="[^"]*?(\w+)/\w+"')
# A kernel's estimate of its own cost, in the backend_config of its call.
_DECLARED = re.compile(r'custom_call_target="tpu_custom_call".*\bbytes_accessed\W+(\d+)')
# These move nothing, or are counted elsewhere.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
_FREE |= {"after-all", "partition-id", "iota", "copy-done", "opt-barrier"}
_FREE |= {"async-start", "async-done", "async-update"}
_COMPUTING = {"fusion", "convolution", "dot", "custom-call", "while"}
_WAITING = ("async-collective-start", "async-collective-done")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: str  # its shape, as text
    operands: tuple[str, ...]
    rest: str  # all after the opcode


@dataclasses.dataclass
class Collective:
    """All collectives of a kind, of one device in one step."""

    kind: str
    count: int = 0
    bytes: float = 0.0  # of the global arrays: gathered, reduced, exchanged
    asynchronous: int = 0  # of `count`: under way while something else is computed


class Program:
    """The computations of a module, and how often each runs in a step."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                current = self.computations.setdefault(found[2], [])
                self.entry = found[2] if found[1] else self.entry
            elif (found := _INSTRUCTION.match(line)) and (opcode := _OPCODE.search(found[2])):
                before, after = found[2][: opcode.start()], found[2][opcode.end() :]
                operands = tuple(re.findall(r"%([\w.\-]+)", after.split(")")[0]))
                current.append(Instruction(found[1], opcode[1], before.strip(), operands, after))
        self.runs: dict[str, float] = collections.defaultdict(float)
        self.overlapped: set[str] = set()  # computations that run beside what called them
        self.open_loops: set[str] = set()  # whose number of iterations depends on the data: counted as one
        self._count(self.entry, 1.0, overlapped=False)

    def _count(self, name: str, times: float, overlapped: bool) -> None:
        self.runs[name] += times
        if overlapped:
            self.overlapped.add(name)
        for i in self.computations[name]:
            if i.opcode == "while":
                body, condition = _attribute(i, "body"), _attribute(i, "condition")
                self._count(body, times * self._trips(i, condition), overlapped)
            elif i.opcode in ("call", "async-start") and (called := _attribute(i, "calls", "to_apply")):
                hidden = i.opcode == "async-start" and self.computes_meanwhile(name, i)
                self._count(called, times, overlapped or hidden)
            elif i.opcode == "custom-call" and (called := _attribute(i, "called_computations")):
                self._count(called, times, overlapped)  # run by a SparseCore

    def computes_meanwhile(self, name: str, start: Instruction) -> bool:
        """True if computation `name` does anything while what `start` starts is under way."""
        instructions = self.computations[name]
        running, computes = start.name, False
        for i in instructions[instructions.index(start) + 1 :]:  # in the order of the schedule
            if running in i.operands and i.opcode.endswith("-done"):
                break
            if running in i.operands and i.opcode == "async-update":  # gets its operands here: begins
                running, computes = i.name, False
            computes |= i.opcode in _COMPUTING
        return computes

    def _trips(self, loop: Instruction, condition: str) -> int:
        """Iterations as XLA knows them, or the constant that the loop's counter is compared with; else 1."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        constants = [
            int(i.rest.split(")")[0])
            for i in self.computations[condition]
            if i.opcode == "constant" and i.result.startswith(("s32[]", "u32[]"))
        ]
        if len(constants) != 1:
            self.open_loops.add(loop.name)
            return 1
        return constants[0]

    def executed(self) -> Iterator[tuple[str, Instruction, float]]:
        """Yields (computation, instruction, number of executions in a step); a fusion is one instruction."""
        for name, times in self.runs.items():
            for instruction in self.computations[name]:
                yield name, instruction, times


def count_collectives(program: Program) -> dict[str, Collective]:
    """The collectives of a step, by kind.

    On TPUs a reduce-scatter is a fusion of its own. An asynchronous collective is a pair of start and
    done with something computed between; or one that a SparseCore runs meanwhile; or several fusions (one
    that starts it, some that compute meanwhile, one that waits), all with the number of its channel.
    """
    sizes: dict[tuple[str, str], tuple[str, float, float]] = {}  # kind, bytes, times
    overlapped = set()
    for name, i, times in program.executed():
        for j, holder in _collectives_in(program, i):
            in_parts = "async" in holder
            key = name, _attribute(j, "channel_id") if in_parts else j.name
            kind = j.opcode.removesuffix("-start")
            size = _global_bytes(program, name, i, j)
            if "all-reduce-scatter" in holder:
                kind = "reduce-scatter"
            pair = j is i and j.opcode.endswith("-start") and program.computes_meanwhile(name, i)
            if in_parts or pair or name in program.overlapped:
                overlapped.add(key)
            sizes[key] = kind, size, times
    found: dict[str, Collective] = {}
    for key, (kind, size, times) in sizes.items():
        entry = found.setdefault(kind, Collective(kind))
        entry.count += round(times)
        entry.bytes += size * times
        entry.asynchronous += round(times) if key in overlapped else 0
    return found


def _collectives_in(program: Program, i: Instruction) -> Iterator[tuple[Instruction, str]]:
    """The collectives of an instruction (itself, or within a fusion), and the name of what holds each."""
    if i.opcode.removesuffix("-start") in COLLECTIVES:
        yield i, ""
    elif i.opcode == "fusion" and (called := _attribute(i, "calls")):
        for j in program.computations[called]:
            if j.opcode.removesuffix("-start") in COLLECTIVES:
                yield j, f"{i.name} {called}".replace("_", "-")


def _global_bytes(program: Program, name: str, holder: Instruction, collective: Instruction) -> float:
    """Bytes of the arrays that take part: those before a reduce-scatter, and after all others."""
    if collective.opcode.startswith("reduce-scatter"):
        inside = program.computations[name if collective is holder else _attribute(holder, "calls")]
        shapes = {j.name: j.result for j in inside}
        return sum(hbm_bytes(shapes.get(o, ""), everywhere=True) for o in collective.operands)
    arrays = 2 if collective.opcode.endswith("-start") else 1  # its result has the operands as well
    return hbm_bytes(collective.result, everywhere=True) / arrays


def count_kernels(program: Program) -> dict[str, int]:
    """The calls of each Pallas kernel in the program; one in a loop's body counts once."""
    names = []
    for _, i, _ in program.executed():
        if 'custom_call_target="tpu_custom_call"' in i.rest:
            names.append(re.sub(r"[.\d]+$", "", i.name))
        elif found := _GPU_KERNEL.search(i.rest):
            names.append(found[1])
    return dict(sorted(collections.Counter(names).items()))


def count_products(program: Program) -> float:
    """FLOPs of the matrix products and convolutions of a step, those within kernels left out.

    On TPUs every product is a convolution; on other devices "dot" instructions are not counted.
    """
    total = 0.0
    for name, i, times in program.executed():
        total += times * _products_in(program, name, i)
    return total


def _products_in(program: Program, name: str, i: Instruction) -> float:
    if i.opcode == "fusion" and (called := _attribute(i, "calls")):
        return sum(_products_in(program, called, j) for j in program.computations[called])
    if i.opcode != "convolution" or not (labels := re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest)):
        return 0.0
    shapes = {j.name: j.result for j in program.computations[name]}
    left, right, out = (_sizes(shape) for shape in (*(shapes[o] for o in i.operands), i.result))
    found = re.search(r"window=\{([^}]*)\}", i.rest)
    window = dict(field.split("=") for field in found[1].split()) if found else {}
    flops = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    for axis in sorted(label for label in labels[3] if label.isdigit()):
        sizes = left[labels[1].index(axis)], out[labels[3].index(axis)]
        flops *= _pairs(*sizes, {key: value.split("x")[int(axis)] for key, value in window.items()})
    return flops


def _pairs(inputs: int, outputs: int, window: dict[str, str]) -> int:
    """Pairs of an output and a place of its window that lies on an input, along one axis."""
    read = lambda key: int(window.get(key, "1"))
    before, stride, dilation = int(window.get("pad", "0").split("_")[0]), read("stride"), read("lhs_dilate")
    at = lambda output, place: output * stride + place * read("rhs_dilate") - before
    places = (at(output, place) for output in range(outputs) for place in range(read("size")))
    return sum(0 <= place <= (inputs - 1) * dilation and place % dilation == 0 for place in places)


def _sizes(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return [int(size) for size in found[2].split(",") if size] if found else []


def count_traffic(program: Program) -> float:
    """Bytes that one device reads from and writes to its main memory in a step, about.

    Every instruction reads its operands and writes its result once; of an operand that a fusion
    only slices, the slice. A Pallas kernel moves what it declares. Data in a faster memory (VMEM) is
    not counted.
    """
    total = 0.0
    for name, i, times in program.executed():
        if i.opcode not in _FREE and not i.name.startswith(_WAITING) and "called_computations" not in i.rest:
            shapes = {j.name: j.result for j in program.computations[name]}
            total += times * _moved(program, i, shapes)
    return total


def _moved(program: Program, i: Instruction, shapes: dict[str, str]) -> float:
    if declared := _DECLARED.search(i.rest):
        return float(declared[1])
    operands = [shapes.get(o, "") for o in i.operands]
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * hbm_bytes(i.result)
    if i.opcode == "dynamic-update-slice":
        return 2 * hbm_bytes(operands[1])
    if i.opcode == "copy-start":
        return hbm_bytes(i.result)
    called = _attribute(i, "calls")
    if i.opcode != "fusion" or not called:
        return hbm_bytes(i.result) + sum(map(hbm_bytes, operands))
    total = sum(min(hbm_bytes(operand), _read_of(program, called, at)) for at, operand in enumerate(operands))
    updates = _updates(program, called)
    if not any(update for update, _ in updates):
        return total + hbm_bytes(i.result)
    return total + sum(hbm_bytes(shape, everywhere=update) for update, shape in updates)


def _read_of(program: Program, name: str, at: int) -> float:
    """Bytes that computation `name` reads of its parameter `at`; infinite for all of it."""
    inside = program.computations[name]
    is_it = lambda j: j.opcode == "parameter" and int(j.rest.split(")")[0]) == at
    parameter = next((j.name for j in inside if is_it(j)), None)
    return 0.0 if parameter is None else _read_by_users(program, inside, parameter)


def _read_by_users(program: Program, inside: list[Instruction], name: str) -> float:
    """Bytes that are read of an array: of one that is only sliced, or updated in place, not all."""
    if name == inside[-1].name:  # it is the result
        return math.inf
    total = 0.0
    for user in inside:
        if name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += hbm_bytes(user.result, everywhere=True)
        elif user.opcode == "bitcast":
            total += _read_by_users(program, inside, user.name)
        elif user.opcode == "fusion" and (called := _attribute(user, "calls")):
            if "output_to_operand_aliasing" in user.rest:  # only gives it another layout
                total += _read_by_users(program, inside, user.name)
            else:
                places = [at for at, operand in enumerate(user.operands) if operand == name]
                total += sum(_read_of(program, called, at) for at in places)
        elif user.opcode != "dynamic-update-slice" or name in user.operands[1:]:
            return math.inf
    return total


def _updates(program: Program, name: str) -> list[tuple[bool, str]]:
    """For each result of a fused computation: True and the new part's shape if it is updated in place.

    Otherwise False and its own shape.
    """
    inside = program.computations[name]
    inner, root = {j.name: j for j in inside}, inside[-1]
    found: list[tuple[bool, str]] = []
    for result in [inner[o] for o in root.operands if o in inner] if root.opcode == "tuple" else [root]:
        source = result
        while source.opcode == "bitcast" and source.operands[0] in inner:
            source = inner[source.operands[0]]
        called = _attribute(source, "calls")
        if source.opcode == "dynamic-update-slice" and source.operands[1] in inner:
            found.append((True, inner[source.operands[1]].result))
        elif source.opcode == "fusion" and called and any(update for update, _ in _updates(program, called)):
            found += _updates(program, called)
        else:
            found.append((False, result.result))
    return found


def hbm_bytes(shape: str, everywhere: bool = False) -> float:
    """Bytes of all arrays in a shape's text; those marked with another memory space are left out."""
    total = 0.0
    for kind, dimensions, layout in _SHAPE.findall(shape):
        if kind in BITS and (everywhere or "S(" not in layout):
            total += math.prod(int(d) for d in dimensions.split(",") if d) * BITS[kind] / 8
    return total


def _attribute(instruction: Instruction, *names: str) -> str:
    for name in names:
        if found := re.search(rf"\b{name}=\{{?%?([\w.\-]+)", instruction.rest):
            return found[1]
    return ""
