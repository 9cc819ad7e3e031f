"""The screen in registers: numba intrinsics that write LLVM vectors,
which numba's own vectoriser does not find."""

from typing import Any

import numba
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

TILE = 6  # users scored together: 6 x 4 accumulators + 4 movie registers fit in 32
CHUNK = 64  # movies scored together: one bit each in a uint64
BLOCK = 8  # chunks that share a scale and a bound; 512 movies in int8 stay in the first-level cache
GROUP = 192  # users that pass over the movies together, so that a block is fetched once for all of them
BATCH = 1536  # users per call of the kernel


# What numba compiles for: NUMBA_CPU_FEATURES where set, else this processor.
_FEATURES = getattr(numba.config, "CPU_FEATURES", None)
_FEATURES = get_host_cpu_features().flatten() if _FEATURES is None else _FEATURES
HAS_AVX512 = "+avx512f" in _FEATURES.split(",")
HAS_VNNI = HAS_AVX512 and "+avx512vnni" in _FEATURES.split(",")


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, element: ir.Type) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(data, element.as_pointer())


@intrinsic
def score_tile(
    typingctx,
    users,
    user_at,
    start,
    panels,
    panel_at,
    depth,
    init,
    scale,
    movie_at,
    factor,
    bar,
    acc,
    hits,
    weight,
):
    """Score 6 users against 64 movies: fill acc [6, 64] and the bits hits [6] of acc > bar; or of hits.

    acc[w, m] = init[m] * factor[w] + one of these, summed over k < depth:
        int32 users, panels:   scale[m] * (start[w] + four products of signed with unsigned bytes)
        float32, no weight:    users[k, w] * panels[k, m]
        float32 and weight:    weight[k] * max(users[k, w], panels[k, m])
    Written as LLVM vectors because no compiler finds the byte products or keeps 24 sums in registers.
    """
    byte_products = users.dtype == types.int32
    relu = isinstance(weight, types.Array)
    argument_types = (users, types.int64, start, panels, types.int64, types.int64, init, scale, types.int64,
                      factor, bar, acc, hits, weight)  # fmt: skip

    def codegen(context, b, signature, args):
        i16, i32, i64, f32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
        element = i32 if byte_products else f32
        vector, floats, octets = (
            ir.VectorType(element, 16),
            ir.VectorType(f32, 16),
            ir.VectorType(ir.IntType(8), 64),
        )
        panels_per_pass = 4 if HAS_AVX512 else 1  # 6 x 4 sums of 512 bits, or 6 x 2 of 256

        def declare(name, *kinds):
            function = ir.FunctionType(kinds[0], list(kinds))
            return cgutils.get_or_insert_function(b.module, function, name)

        def pointer(i, element):
            return _pointer(context, b, signature.args[i], args[i], element)

        def at(p, offset):
            return b.gep(p, [offset if isinstance(offset, ir.Value) else i64(offset)])

        def load(p, offset, kind):
            return b.load(b.bitcast(at(p, offset), kind.as_pointer()), align=4)

        def spread(scalar, kind):
            one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, i32(0))
            lanes = ir.Constant(ir.VectorType(i32, 16), [0] * 16)
            return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)

        def biased(w, c):
            return b.fmul(load(init_p, 16 * c, floats), spread(b.load(at(factor_p, w)), floats))

        def step(total, panel, user, w):
            if byte_products:
                return b.call(dot4, [total, b.bitcast(panel, octets), b.bitcast(user, octets)])
            if relu:
                return b.call(fma, [w, b.call(larger, [panel, user]), total])
            return b.call(fma, [user, panel, total])

        user_p, panel_p = at(pointer(0, element), args[1]), at(pointer(3, element), args[4])
        init_p, scale_p = at(pointer(6, f32), args[8]), at(pointer(7, f32), args[8])
        start_p, factor_p, bar_p = (
            at(pointer(2, i32), b.sdiv(args[1], args[5])),
            pointer(9, f32),
            pointer(10, f32),
        )
        acc_p, hits_p, weight_p = pointer(11, f32), pointer(12, i64), pointer(13, f32) if relu else None
        dot4 = declare("llvm.x86.avx512.vpdpbusd.512", vector, octets, octets) if byte_products else None
        fma = declare("llvm.fma.v16f32", floats, floats, floats)
        larger = declare("llvm.maxnum.v16f32", floats, floats) if relu else None
        bits = [i64(0)] * TILE
        for first in range(0, 4, panels_per_pass):
            columns = range(first, first + panels_per_pass)
            start_values = []
            for w in range(TILE):
                if byte_products:
                    start_values += [spread(b.load(at(start_p, w)), vector)] * len(columns)
                else:
                    start_values += [biased(w, c) for c in columns]
            before, body, after = (
                b.basic_block,
                b.append_basic_block("depth"),
                b.append_basic_block("compare"),
            )
            b.branch(body)
            b.position_at_end(body)
            k = b.phi(i64)
            k.add_incoming(i64(0), before)
            totals = [b.phi(vector) for _ in start_values]
            for total, value in zip(totals, start_values, strict=True):
                total.add_incoming(value, before)
            row = [load(panel_p, b.add(b.mul(k, i64(64)), i64(16 * c)), vector) for c in columns]
            weight_k = spread(b.load(at(weight_p, k)), vector) if relu else None
            sums = []
            for w in range(TILE):
                user = spread(b.load(at(user_p, b.add(b.mul(k, i64(TILE)), i64(w)))), vector)
                sums += [step(totals[w * len(row) + c], row[c], user, weight_k) for c in range(len(row))]
            k_next = b.add(k, i64(1))
            k.add_incoming(k_next, body)
            for total, value in zip(totals, sums, strict=True):
                total.add_incoming(value, body)
            b.cbranch(b.icmp_signed("<", k_next, args[5]), body, after)
            b.position_at_end(after)
            for w in range(TILE):
                limit = spread(b.load(at(bar_p, w)), floats)
                for c in columns:
                    value = sums[w * len(row) + c - first]
                    if byte_products:
                        value = b.call(
                            fma, [b.sitofp(value, floats), load(scale_p, 16 * c, floats), biased(w, c)]
                        )
                    b.store(value, b.bitcast(at(acc_p, w * 64 + 16 * c), floats.as_pointer()), align=4)
                    above = b.fcmp_ordered(">", value, limit)
                    word = b.shl(b.zext(b.bitcast(above, i16), i64), i64(16 * c))
                    bits[w] = b.or_(bits[w], word)
        anything = i64(0)
        for w in range(TILE):
            b.store(bits[w], at(hits_p, w))
            anything = b.or_(anything, bits[w])
        return anything

    return types.uint64(*argument_types), codegen


@intrinsic
def sum8(typingctx, x, user, rows, at, depth, total, weight):
    """total[i] = sum over d < depth, in order, of x[user, d] * rows[at[i], d] in float64, for 8 movies.

    With a weight: of weight[d] * max(x[user, d] + rows[at[i], d], 0), sum and maximum in float32.
    `depth` is a multiple of 8. The products are exact in float64, so fusing them with the sum changes
    nothing; the 8 sums side by side are each in order.
    """
    relu = isinstance(weight, types.Array)

    def codegen(context, b, signature, args):
        i32, i64, f32, f64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
        singles, doubles = ir.VectorType(f32, 8), ir.VectorType(f64, 8)

        def shuffle(first, second, lanes):
            return b.shuffle_vector(first, second, ir.Constant(ir.VectorType(i32, 8), lanes))

        def spread(scalar, kind):
            one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, i32(0))
            return shuffle(one, ir.Constant(kind, ir.Undefined), [0] * 8)

        x_p, rows_p, total_p = (
            _pointer(context, b, signature.args[i], args[i], t) for i, t in ((0, f32), (2, f32), (5, f64))
        )
        at_p = _pointer(context, b, signature.args[3], args[3], i64)
        weight_p = _pointer(context, b, signature.args[6], args[6], f32) if relu else None
        fma = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(doubles, [doubles] * 3), "llvm.fma.v8f64"
        )
        larger = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(singles, [singles] * 2), "llvm.maxnum.v8f32"
        )
        x_p = b.gep(x_p, [b.mul(args[1], args[4])])
        row_p = [b.gep(rows_p, [b.mul(b.load(b.gep(at_p, [i64(i)])), args[4])]) for i in range(8)]
        before, body, after = b.basic_block, b.append_basic_block("depth"), b.append_basic_block("done")
        b.branch(body)
        b.position_at_end(body)
        d, running = b.phi(i64), b.phi(doubles)
        d.add_incoming(i64(0), before)
        running.add_incoming(ir.Constant(doubles, [0.0] * 8), before)
        column = [b.load(b.bitcast(b.gep(p, [d]), singles.as_pointer()), align=4) for p in row_p]
        for s in (1, 2, 4):  # transpose 8 x 8 by swapping halves, quarters, eighths
            for i in (i for i in range(8) if not i & s):
                low, high = column[i], column[i + s]
                column[i] = shuffle(low, high, [j + 8 - s if j & s else j for j in range(8)])
                column[i + s] = shuffle(low, high, [j + 8 if j & s else j + s for j in range(8)])
        value = running
        for i in range(8):
            offset = [b.add(d, i64(i))]
            left, right = b.load(b.gep(x_p, offset)), column[i]
            if relu:
                summed = b.fadd(spread(left, singles), right)
                left, right = (
                    b.load(b.gep(weight_p, offset)),
                    b.call(larger, [summed, ir.Constant(singles, [0.0] * 8)]),
                )
            value = b.call(fma, [spread(b.fpext(left, f64), doubles), b.fpext(right, doubles), value])
        d_next = b.add(d, i64(8))
        d.add_incoming(d_next, body)
        running.add_incoming(value, body)
        b.cbranch(b.icmp_signed("<", d_next, args[4]), body, after)
        b.position_at_end(after)
        b.store(value, b.bitcast(total_p, doubles.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(x, types.int64, rows, at, types.int64, total, weight), codegen


@intrinsic
def lowest_bit(typingctx, word):
    """The place of the lowest bit set."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen
