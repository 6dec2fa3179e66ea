"""What a compiled program consists of: numbers that no machine's speed can change."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mirage_jax.results import Result

# Opcodes that move and compute nothing themselves, or are the second half of another.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("call", "while", "conditional"),
    *("copy-done", "async-update", "async-done", "send-done", "recv-done"),
}
_HOST = {"infeed", "outfeed", "send", "recv"}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_CONTAINERS = {"call", "while", "conditional"}

Instruction = tuple[str, str]  # opcode, and the rest of its line


def count_program(path: str, compiled: Any) -> list[Result]:
    """Counts of one program, each as "<count>/<path>".

    FLOPs and bytes are those of XLA's cost analysis, the rest is counted in the
    optimised HLO, from its entry through the bodies of loops and calls but not into
    fusions: what is left there is launched by itself. A loop's body counts once.

    Args:
      path: the program's name.
      compiled: what `jax.stages.Lowered.compile` returns.
    """
    text = compiled.as_text()
    instructions = list(launched(text))
    opcodes = [opcode for opcode, _ in instructions]
    targets = [
        target
        for opcode, rest in instructions
        if opcode == "custom-call"
        for target in _TARGET.findall(rest)
    ]
    host = sum(opcode in _HOST for opcode in opcodes)
    host += sum("callback" in target for target in targets)
    cost: Mapping[str, float] = compiled.cost_analysis()
    memory = compiled.memory_analysis()
    inputs = sum(opcode == "parameter" for opcode, _ in _computations(text)["ENTRY"])
    counts = {
        "flops": cost.get("flops", 0.0),  # a program without any has no entry
        "bytes_accessed": cost["bytes accessed"],
        "temporary_bytes": memory.temp_size_in_bytes,
        "kernels": len(opcodes),
        "fusions": opcodes.count("fusion"),
        "custom_calls": opcodes.count("custom-call"),
        "copies": opcodes.count("copy") + opcodes.count("copy-start"),
        "host_transfers": host,
        "input_buffers": inputs,
        "output_buffers": compiled.out_tree.num_leaves,
        "donated_buffers": len(re.findall("(?:may|must)-alias", text.split("\n")[0])),
    }
    return [
        Result(
            f"{name}/{path}",
            value,
            "bytes" if "bytes" in name else "",
            "higher" if name == "donated_buffers" else "lower",
        )
        for name, value in counts.items()
    ]


def total(counts: Sequence[Sequence[Result]]) -> list[Result]:
    """Counts of the same names of several programs, added up."""
    return [
        dataclasses.replace(same[0], value=sum(one.value for one in same))
        for same in zip(*counts, strict=True)
    ]


def launched(text: str) -> Iterator[Instruction]:
    """Instructions of a module's text that run by themselves, inside no fusion."""
    computations = _computations(text)
    waiting, seen = ["ENTRY"], {"ENTRY"}
    while waiting:
        for opcode, rest in computations[waiting.pop()]:
            if opcode in _CONTAINERS:
                called = _CALLED.findall(rest)
                for names in _BRANCHES.findall(rest):
                    called += [name.strip(" %") for name in names.split(",")]
                waiting += [name for name in called if name not in seen]
                seen.update(called)
            if opcode not in _FREE:
                yield opcode, rest


def _computations(text: str) -> dict[str, list[Instruction]]:
    """Instructions by the name of their computation; the main one is "ENTRY"."""
    found: dict[str, list[Instruction]] = {}
    name = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = "ENTRY" if header[1] else header[2]
            found[name] = []
        elif instruction := _INSTRUCTION.match(line):
            found[name].append((instruction[1], instruction[2]))
    return found
