"""A hint to the processor from compiled loops: these numbers will be needed soon."""

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_LINE = 16  # float32 numbers in a cache line


@numba.njit
def fetch(array, begin, end):  # type: ignore[no-untyped-def]
    """Have elements begin..end - 1 of a contiguous float32 array, counted through all its dimensions,
    brought near."""
    for place in range(begin, end, _LINE):
        _prefetch(array, place)  # type: ignore[call-arg]


@intrinsic
def _prefetch(_context: Any, array: Any, place: Any) -> Any:
    """Bring the cache line of an element near."""

    def hint(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        line = builder.bitcast(builder.gep(data, [given[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [line.type, flag, flag, flag])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [line.type], shape)
        builder.call(fetch, [line, flag(0), flag(3), flag(1)])  # to read, into the nearest cache, data
        return context.get_dummy_value()

    return types.void(array, types.int64), hint
