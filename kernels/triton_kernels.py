"""The Triton kernels of the two passes over logits, and of both in one.

A program takes ROWS rows. A block is R x T x V classes of each: V adjacent ones are one load, T threads stand side by
side, R times. Every thread keeps the largest score that it has seen and the mass relative to it, so that the stream
needs one exponential a class and no reduction over threads; they are joined once, at the end. The silenced set of a
row is sorted and walked beside the stream: only blocks that hold a member of it, or the label, are looked at class by
class, and nothing is ever subtracted from a total.

Shapes as in `rows.py`: B samples, C classes, S classes of a slice, L labels a sample. Letters: z logit, b logit_bias,
s = z + b score. A center is the logarithm to base 2 of what a mass is relative to.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .rows import LOWEST, SAVED_ROWS, STATE_ROWS

_LOWEST = tl.constexpr(LOWEST)
_NO_CLASS = tl.constexpr(2**31 - 1)
_STATE_ROWS = tl.constexpr(STATE_ROWS)
_SAVED_ROWS = tl.constexpr(SAVED_ROWS)
_LOG2E, _LN2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2))
_LOG2E_REST = tl.constexpr(1.925963033500011e-8)  # what log2(e) has beyond float32
_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter knows no assembly


@triton.jit
def _exp2(x):
    """2^x in one instruction; what would be denormal is 0."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.exp2(x)


@triton.jit
def _widen(z):
    """A block of logits as float32; two of bfloat16, which stand in one register, by one instruction each."""
    if _COMPILED and z.dtype == tl.bfloat16 and z.shape[2] > 1:
        return tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;", "=r,=r,r", [z], dtype=tl.float32, is_pure=True, pack=2
        )
    return z.to(tl.float32)


@triton.jit
def _fma(x, y, z):
    """x * y + z, rounded once."""
    if _COMPILED:
        return tl.fma(x, y, z)
    return (x.to(tl.float64) * y + z).to(tl.float32)


@triton.jit
def _mass_of(scores):
    """(center, mass relative to it), [T], of each thread's scores, [R, T, V]."""
    center = tl.maximum(tl.max(tl.max(scores, 2), 0) * _LOG2E, _LOWEST)
    return center, tl.sum(tl.sum(_exp2(_fma(scores, _LOG2E, -center[None, :, None])), 2), 0)


@triton.jit
def _join(center, mass, other, more):
    """The center and mass of two masses together."""
    top = tl.maximum(center, other)
    return top, mass * _exp2(center - top) + more * _exp2(other - top)


@triton.jit
def _base2(z, b):
    """(center, factor): exp(z + b) is 2^center * factor, where the center is rounded and the factor is not."""
    center = _fma(z, _LOG2E, b * _LOG2E)
    rest = _fma(b, _LOG2E, _fma(z, _LOG2E, -center)) + (z + b) * _LOG2E_REST
    return center, _exp2(tl.where(tl.abs(rest) < 1.0, rest, 0.0))  # beyond: the center of nothing


@triton.jit
def _groups(R: tl.constexpr, T: tl.constexpr):
    """Groups of V adjacent classes of a block, [R, T, 1]."""
    return tl.arange(0, R)[:, None, None] * T + tl.arange(0, T)[None, :, None]


@triton.jit
def _offsets(R: tl.constexpr, T: tl.constexpr, V: tl.constexpr):
    """Classes of a block, [R, T, V]."""
    return _groups(R, T) * V + tl.arange(0, V)[None, None, :]


@triton.jit
def _bias(pointers, inside, HAS_BIAS: tl.constexpr):
    """A block of the bias, [R, T, V], or 0."""
    if HAS_BIAS:
        return tl.load(pointers, mask=inside, other=0.0)
    else:
        return 0.0


@triton.jit
def _first_neighbor(neighbors, k, k_end, first_class):
    """Position of the first neighbor in the slice, by bisection of the sorted list."""
    high = k_end
    while k < high:
        middle = (k + high) // 2
        below = tl.load(neighbors + middle) < first_class
        k = tl.where(below, middle + 1, k)
        high = tl.where(below, high, middle)
    return k


@triton.jit
def _neighbor(neighbors, k, k_end, first_class):
    """The k-th neighbor, counted from the slice's first class; a class beyond all others after the last."""
    found = tl.load(neighbors + k, mask=k < k_end, other=0) - first_class
    return tl.where(k < k_end, found, _NO_CLASS).to(tl.int32)


@triton.jit
def _open_label(label, C, indptr, neighbors, first_class, auxiliary_start, SILENCE: tl.constexpr, WHOLE: tl.constexpr):
    """What is silenced for a label, of the slice: ((column, first of its interval, end of list), (position, neighbor)).

    The interval of a label that has none starts beyond all classes.
    """
    k = tl.zeros((), tl.int64)
    k_end = k
    neighbor = tl.full((), _NO_CLASS, tl.int32)
    interval = neighbor
    if SILENCE:
        known = tl.minimum(tl.maximum(label, 0), C - 1)
        k = tl.load(indptr + known)
        k_end = tl.load(indptr + known + 1)
        if not WHOLE:
            k = _first_neighbor(neighbors, k, k_end, first_class)
        neighbor = _neighbor(neighbors, k, k_end, first_class)
        interval = tl.where(label >= auxiliary_start, auxiliary_start - first_class, _NO_CLASS).to(tl.int32)
    return ((label - first_class).to(tl.int32), interval, k_end), (k, neighbor)


@triton.jit
def _num_outside(label, C, indptr, auxiliary_start, SILENCE: tl.constexpr):
    """Classes that are not silenced for the label, itself included."""
    outside = tl.zeros((), tl.int64) + C
    if SILENCE:
        outside -= tl.load(indptr + label + 1) - tl.load(indptr + label)
        outside -= tl.where(label >= auxiliary_start, C - auxiliary_start - 1, 0)
    return outside.to(tl.float32)


@triton.jit
def _is_mixed(start, end, silenced, neighbor):
    """Whether some of a block's classes are silenced, or the label, and others are not."""
    column, interval, _ = silenced
    return ((column >= start) & (column < end)) | (neighbor < end) | ((interval > start) & (interval < end))


@triton.jit
def _members(start, end, offsets, silenced, walk, neighbors, strengths, first_class, log_lambda):
    """(classes of a block that are silenced, [R, T, V]; their log weights; the walk after it).

    The label may be among them. Without strengths, which are None then, all weigh the same.
    """
    _, interval, k_end = silenced
    k, neighbor = walk
    found = offsets >= interval - start
    log_weights = log_lambda
    if strengths is not None:
        log_weights = tl.where(found, log_lambda, 0.0)
    while neighbor < end:
        found = found | (offsets == neighbor - start)
        if strengths is not None:
            log_weights = tl.where(offsets == neighbor - start, tl.load(strengths + k) * log_lambda, log_weights)
        k += 1
        neighbor = _neighbor(neighbors, k, k_end, first_class)
    return found, log_weights, (k, neighbor)


@triton.jit
def _take(
    start, offsets, inside, scores, silenced, walks, states, neighbors, strengths, first_class, log_lambda,
    L: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds a block's scores to the states of a row's labels: (walks, states)."""
    end = start + BLOCK
    if SMOOTH:
        counted = tl.where(inside, scores, 0.0)
    if L == 2:  # most blocks are plain for both labels
        plain_center, plain_mass = _mass_of(scores)
    new_walks, new_states = (), ()
    for i in tl.static_range(L):
        column, interval, _ = silenced[i]
        walk = walks[i]
        center, mass, outside = states[i]
        if _is_mixed(start, end, silenced[i], walk[1]):
            members, log_weights, walk = _members(
                start, end, offsets, silenced[i], walk, neighbors, strengths, first_class, log_lambda
            )
            label = offsets == column - start
            if SMOOTH:
                outside += tl.sum(tl.sum(tl.where(members & (label == 0), 0.0, counted), 2), 0)
            weighted = tl.where(members, scores + log_weights, scores)
            # A label of NaN stays NaN.
            center, mass = _join(center, mass, *_mass_of(tl.where(label, weighted - float("inf"), weighted)))
        else:
            within = start >= interval
            if SMOOTH:
                outside += tl.where(within, 0.0, tl.sum(tl.sum(counted, 2), 0))
            shift = tl.where(within, log_lambda * _LOG2E, 0.0)
            if L == 2:
                center, mass = _join(center, mass, plain_center + shift, plain_mass)
            else:
                other, more = _mass_of(scores)
                center, mass = _join(center, mass, other + shift, more)
        new_walks = new_walks + (walk,)
        new_states = new_states + ((center, mass, outside),)
    return new_walks, new_states


@triton.jit
def _one_label(state):
    """(center, mass, outside sum) of all threads together."""
    center, mass, outside = state
    top = tl.max(center, 0)
    return top, tl.sum(mass * _exp2(center - top), 0), tl.sum(outside, 0)


@triton.jit
def _at_labels(labels, row_logits, C, logit_bias, L: tl.constexpr, HAS_BIAS: tl.constexpr):
    """(logit, bias) of each label of a row; 0 for no class."""
    found = ()
    for i in tl.static_range(L):
        here = (labels[i] >= 0) & (labels[i] < C)
        z_y = tl.load(row_logits + labels[i], mask=here, other=0.0).to(tl.float32)
        b_y = tl.zeros((), tl.float32)
        if HAS_BIAS:
            b_y = tl.load(logit_bias + labels[i], mask=here, other=0.0)
        found = found + ((z_y, b_y),)
    return found


@triton.jit
def _finish_label(
    label, state, at_label, C, indptr, auxiliary_start, smoothing, SILENCE: tl.constexpr, SMOOTH: tl.constexpr
):
    """(loss, what the second pass needs: `saved`) of one row and label. See `rows.finish`."""
    center, mass, outside_sum = _one_label(state)
    z_y, b_y = at_label
    empty = mass == 0.0
    label_center, label_factor = _base2(z_y, b_y)
    # The log of all other mass over the label's, to base e; where there is none and the label has none either, NaN.
    nothing = tl.where(z_y + b_y > _LOWEST, -float("inf"), float("nan"))
    rest = tl.where(empty, nothing, (center - label_center) * _LN2 + tl.log(mass / label_factor))
    # softplus, with log1p(x) = log(1 + x) * x / ((1 + x) - 1), exact to rounding for small x
    small = tl.exp(-tl.abs(rest))
    u = 1.0 + small
    log1p = tl.where(u == 1.0, small, tl.log(u) * (small / tl.where(u == 1.0, 1.0, u - 1.0)))
    loss = tl.maximum(rest, 0.0) + log1p
    loss = tl.where(rest == rest, loss, rest)  # NaN logits stay visible
    known = (label >= 0) & (label < C)
    outside = tl.zeros((), tl.float32)
    if SMOOTH:
        outside = _num_outside(tl.where(known, label, 0), C, indptr, auxiliary_start, SILENCE)
        loss -= smoothing * (outside_sum / outside - (z_y + b_y))
    leads = rest < 0
    z_c = tl.where(leads, z_y, center * _LN2)
    b_c = tl.where(leads, b_y, 0.0)
    c, factor = _base2(z_c, b_c)
    total = mass * _exp2(center - c) / factor  # of the other classes
    total = tl.where(leads, 1.0 + tl.exp(rest), total + tl.exp(tl.where(leads, 0.0, -rest)) * total)
    others = tl.where(rest > 0, 1.0, small) / (1.0 + small)
    return tl.where(known, loss, float("nan")), (z_c, b_c, total, others, outside)


@triton.jit
def _fetch(
    logits, rows, start, groups, row_groups, ROWS: tl.constexpr, R: tl.constexpr, T: tl.constexpr, V: tl.constexpr
):
    """A block of each row's logits, [R, T, V]; beyond the last class -inf, and nothing is read."""
    pointers = logits + start + _offsets(R, T, V)
    inside = _groups(R, T) < groups - start // V
    blocks = ()
    for r in tl.static_range(ROWS):
        blocks = blocks + (tl.load(pointers + rows[r] * row_groups * V, mask=inside, other=-float("inf")),)
    return blocks


@triton.jit
def _masses(
    logits, rows, coming, groups, row_groups, silenced, walks, states, logit_bias, neighbors, strengths, first_class,
    log_lambda,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SMOOTH: tl.constexpr, ROWS: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """States of the rows' labels after all classes of a slice, whose first block is on its way."""
    BLOCK: tl.constexpr = R * T * V
    offsets = _offsets(R, T, V)
    block_bias = logit_bias + first_class + offsets
    for start in range(0, groups * V, BLOCK):
        blocks = coming  # the next are on their way while these are computed
        coming = _fetch(logits, rows, start + BLOCK, groups, row_groups, ROWS, R, T, V)
        inside = _groups(R, T) < groups - start // V
        bias = _bias(block_bias + start, inside, HAS_BIAS)
        new_walks, new_states = (), ()
        for r in tl.static_range(ROWS):
            walk, state = _take(
                start, offsets, inside, _widen(blocks[r]) + bias, silenced[r], walks[r], states[r], neighbors,
                strengths, first_class, log_lambda, L, SMOOTH, BLOCK,
            )  # fmt: skip
            new_walks = new_walks + (walk,)
            new_states = new_states + (state,)
        walks = new_walks
        states = new_states
    return states


@triton.jit
def _rows(B, ROWS: tl.constexpr):
    """(the program's rows, which of them exist): the last stands in for those beyond."""
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    rows, exist = (), ()
    for r in tl.static_range(ROWS):
        rows = rows + (tl.minimum(first_row + r, B - 1),)
        exist = exist + (first_row + r < B,)
    return rows, exist


@triton.jit
def _open_rows(
    rows, exist, stacked_labels, C, B, indptr, neighbors, first_class, auxiliary_start, ignore_index,
    L: tl.constexpr, SILENCE: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each row: (whether it counts, its labels, what each silences, where each walk starts)."""
    count, labels, silenced, walks = (), (), (), ()
    for r in tl.static_range(ROWS):
        counts = exist[r]
        row_labels, row_silenced, row_walks = (), (), ()
        for i in tl.static_range(L):
            label = tl.load(stacked_labels + i * B + rows[r])
            counts = counts & (label != ignore_index)
            known, walk = _open_label(label, C, indptr, neighbors, first_class, auxiliary_start, SILENCE, WHOLE)
            row_labels = row_labels + (label,)
            row_silenced = row_silenced + (known,)
            row_walks = row_walks + (walk,)
        count = count + (counts,)
        labels = labels + (row_labels,)
        silenced = silenced + (row_silenced,)
        walks = walks + (row_walks,)
    return count, labels, silenced, walks


@triton.jit
def _any(count, ROWS: tl.constexpr):
    """Whether a row counts; of a program none of whose rows does, no more than the first blocks is read."""
    found = count[0]
    for r in tl.static_range(1, ROWS):
        found = found | count[r]
    return found


@triton.jit
def _nothing(L: tl.constexpr, ROWS: tl.constexpr, T: tl.constexpr):
    """States of the rows' labels before any class is seen."""
    nothing = tl.zeros((T,), tl.float32)
    rows = ()
    for _ in tl.static_range(ROWS):
        states = ()
        for _ in tl.static_range(L):
            states = states + ((tl.full((T,), _LOWEST, tl.float32), nothing, nothing),)
        rows = rows + (states,)
    return rows


@triton.jit(do_not_specialize=["B", "C", "groups", "row_groups", "ignore_index"])
def accumulate_rows(
    logits, stacked_labels, logit_bias, indptr, neighbors, strengths, state,
    B, C, groups, first_class, row_groups, auxiliary_start, log_lambda, ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, ROWS: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Adds a slice of the rows' classes to their states."""
    rows, exist = _rows(B, ROWS)
    coming = _fetch(logits, rows, 0, groups, row_groups, ROWS, R, T, V)
    count, labels, silenced, walks = _open_rows(
        rows, exist, stacked_labels, C, B, indptr, neighbors, first_class, auxiliary_start, ignore_index,
        L, SILENCE, False, ROWS,
    )  # fmt: skip
    states = _nothing(L, ROWS, T)
    width = tl.where(_any(count, ROWS), groups, 0)
    states = _masses(
        logits, rows, coming, width, row_groups, silenced, walks, states, logit_bias, neighbors, strengths, first_class,
        log_lambda, L, HAS_BIAS, SMOOTH, ROWS, R, T, V,
    )  # fmt: skip
    for r in tl.static_range(ROWS):
        exists = exist[r]
        for i in tl.static_range(L):
            center, mass, outside = _one_label(states[r][i])
            one = state + i * _STATE_ROWS * B + rows[r]
            label = labels[r][i]
            here = exists & (label >= first_class) & (label < first_class + groups * V)
            z_y = tl.load(logits + rows[r] * row_groups * V + label - first_class, mask=here, other=0.0)
            before, factor = _base2(tl.load(one, mask=exists), tl.load(one + B, mask=exists))
            center, mass = _join(center, mass, before, factor * tl.load(one + 2 * B, mask=exists))
            z_c = center * _LN2
            rounded, factor = _base2(z_c, tl.zeros((), tl.float32))
            tl.store(one, z_c, mask=exists)
            tl.store(one + B, 0.0, mask=exists)
            tl.store(one + 2 * B, mass * _exp2(center - rounded) / factor, mask=exists)
            tl.store(one + 3 * B, z_y.to(tl.float32), mask=here)
            tl.store(one + 4 * B, outside + tl.load(one + 4 * B, mask=exists), mask=exists)


@triton.jit
def _terms(kept, upstream, smoothing, SMOOTH: tl.constexpr):
    """What the gradient of one label needs of `saved`: (center, scale, gradient at the label, smoothing's share)."""
    z_c, b_c, total, others, outside = kept
    center, factor = _base2(z_c, b_c)
    share = tl.zeros((), tl.float32)
    if SMOOTH:
        share = upstream * smoothing / outside
    return center, upstream / (total * factor), -upstream * (others - smoothing) - share, share


@triton.jit
def _slope(
    start, offsets, scores, silenced, walk, terms, neighbors, strengths, first_class, log_lambda,
    SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(one label's part of the gradient of a block's scores, the walk after it)."""
    column, interval, _ = silenced
    center, scale, at_label, share = terms
    end = start + BLOCK
    if _is_mixed(start, end, silenced, walk[1]):
        members, log_weights, walk = _members(
            start, end, offsets, silenced, walk, neighbors, strengths, first_class, log_lambda
        )
        weighted = tl.where(members, scores + log_weights, scores)
        slope = _exp2(_fma(weighted, _LOG2E, -center)) * scale
        if SMOOTH:
            slope -= tl.where(members, 0.0, share)
        slope = tl.where(offsets == column - start, at_label, slope)
    else:
        within = start >= interval
        slope = _exp2(_fma(scores, _LOG2E, tl.where(within, log_lambda * _LOG2E, 0.0) - center)) * scale
        if SMOOTH:
            slope -= tl.where(within, 0.0, share)
    return slope, walk


@triton.jit
def _slopes(
    start, offsets, scores, silenced, walks, terms, neighbors, strengths, first_class, log_lambda,
    L: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(gradient of a row's block of scores, the walks after it)."""
    slope, walk = _slope(
        start, offsets, scores, silenced[0], walks[0], terms[0], neighbors, strengths, first_class, log_lambda,
        SMOOTH, BLOCK,
    )  # fmt: skip
    new_walks = (walk,)
    if L == 2:
        second, walk = _slope(
            start, offsets, scores, silenced[1], walks[1], terms[1], neighbors, strengths, first_class, log_lambda,
            SMOOTH, BLOCK,
        )  # fmt: skip
        slope += second
        new_walks = new_walks + (walk,)
    return slope, new_walks


@triton.jit
def _gradients(
    logits, out, rows, coming, exist, count, groups, row_groups, out_groups, silenced, walks, terms, logit_bias,
    neighbors, strengths, first_class, log_lambda,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SMOOTH: tl.constexpr, ROWS: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of a slice of rows, which may take the place of the logits; 0 where a row does not count.

    The first block is on its way.
    """
    BLOCK: tl.constexpr = R * T * V
    offsets = _offsets(R, T, V)
    block_bias = logit_bias + first_class + offsets
    for start in range(0, groups * V, BLOCK):
        blocks = coming  # the next are on their way while these are computed
        coming = _fetch(logits, rows, start + BLOCK, groups, row_groups, ROWS, R, T, V)
        inside = _groups(R, T) < groups - start // V
        bias = _bias(block_bias + start, inside, HAS_BIAS)
        new_walks = ()
        for r in tl.static_range(ROWS):
            slope, walk = _slopes(
                start, offsets, _widen(blocks[r]) + bias, silenced[r], walks[r], terms[r], neighbors, strengths,
                first_class, log_lambda, L, SMOOTH, BLOCK,
            )  # fmt: skip
            new_walks = new_walks + (walk,)
            if ROWS > 1:
                slope = slope if count[r] else tl.zeros((R, T, V), tl.float32)
            if exist[r]:
                pointers = out + rows[r] * out_groups * V + start + offsets
                tl.store(pointers, slope.to(out.dtype.element_ty), mask=inside)
        walks = new_walks


@triton.jit
def _zeros(
    out, rows, exist, groups, out_groups,
    ROWS: tl.constexpr, R: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The gradient of rows none of which counts."""
    for start in range(0, groups, R * T):
        inside = _groups(R, T) < groups - start
        for r in tl.static_range(ROWS):
            if exist[r]:
                pointers = out + rows[r] * out_groups * V + start * V + _offsets(R, T, V)
                tl.store(pointers, tl.zeros((R, T, V), out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["B", "C", "groups", "row_groups", "out_groups", "grad_loss_stride", "ignore_index"])
def gradient_of_rows(
    logits, stacked_labels, weights, logit_bias, indptr, neighbors, strengths, saved, grad_loss, out,
    B, C, groups, first_class, row_groups, out_groups, grad_loss_stride, auxiliary_start, log_lambda, smoothing,
    ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, WHOLE: tl.constexpr,
    ROWS: tl.constexpr, R: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The second pass over a slice, for the gradient of each row's loss."""
    rows, exist = _rows(B, ROWS)
    coming = _fetch(logits, rows, 0, groups, row_groups, ROWS, R, T, V)
    known, _, silenced, walks = _open_rows(
        rows, exist, stacked_labels, C, B, indptr, neighbors, first_class, auxiliary_start, ignore_index,
        L, SILENCE, WHOLE, ROWS,
    )  # fmt: skip
    count, terms = (), ()
    for r in tl.static_range(ROWS):
        row = rows[r]
        upstream = tl.load(grad_loss + row * grad_loss_stride)
        row_terms = ()
        for i in tl.static_range(L):
            part = upstream
            if L == 2:
                part *= tl.load(weights + i * B + row)
            one = saved + i * _SAVED_ROWS * B + row
            kept = (
                tl.load(one), tl.load(one + B), tl.load(one + 2 * B), tl.load(one + 3 * B), tl.load(one + 4 * B),
            )  # fmt: skip
            row_terms = row_terms + (_terms(kept, part, smoothing, SMOOTH),)
        count = count + (known[r] & (upstream != 0.0),)
        terms = terms + (row_terms,)
    if _any(count, ROWS):
        _gradients(
            logits, out, rows, coming, exist, count, groups, row_groups, out_groups, silenced, walks, terms, logit_bias,
            neighbors, strengths, first_class, log_lambda, L, HAS_BIAS, SMOOTH, ROWS, R, T, V,
        )  # fmt: skip
    else:
        _zeros(out, rows, exist, groups, out_groups, ROWS, R, T, V)


@triton.jit(do_not_specialize=["B", "C", "groups", "row_groups", "out_groups", "ignore_index"])
def loss_of_rows(
    logits, stacked_labels, weights, logit_bias, indptr, neighbors, strengths, scale, arrived, loss, total, saved, out,
    B, C, groups, row_groups, out_groups, auxiliary_start, log_lambda, smoothing, ignore_index,
    L: tl.constexpr, HAS_BIAS: tl.constexpr, SILENCE: tl.constexpr, SMOOTH: tl.constexpr, GRADIENT: tl.constexpr,
    ROWS: tl.constexpr, R: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The first pass over whole rows; with GRADIENT the second as well, which reads what it left in the cache."""
    rows, exist = _rows(B, ROWS)
    # What is read first does not wait for anything that is read.
    coming = _fetch(logits, rows, 0, groups, row_groups, ROWS, R, T, V)
    upstream = 1.0
    if GRADIENT:
        upstream = tl.load(scale)
    count, labels, silenced, walks = _open_rows(
        rows, exist, stacked_labels, C, B, indptr, neighbors, 0, auxiliary_start, ignore_index,
        L, SILENCE, True, ROWS,
    )  # fmt: skip
    at_labels = ()
    for r in tl.static_range(ROWS):
        row_logits = logits + rows[r] * row_groups * V
        at_labels = at_labels + (_at_labels(labels[r], row_logits, C, logit_bias, L, HAS_BIAS),)
    states = _nothing(L, ROWS, T)
    any_counts = _any(count, ROWS)
    width = tl.where(any_counts, groups, 0)
    states = _masses(
        logits, rows, coming, width, row_groups, silenced, walks, states, logit_bias, neighbors, strengths, 0,
        log_lambda, L, HAS_BIAS, SMOOTH, ROWS, R, T, V,
    )  # fmt: skip
    if GRADIENT:
        coming = _fetch(logits, rows, 0, groups, row_groups, ROWS, R, T, V)
    terms = ()
    for r in tl.static_range(ROWS):
        row = rows[r]
        row_loss = tl.zeros((), tl.float32)
        row_terms = ()
        for i in tl.static_range(L):
            part, kept = _finish_label(
                labels[r][i], states[r][i], at_labels[r][i], C, indptr, auxiliary_start, smoothing, SILENCE, SMOOTH
            )
            for k in tl.static_range(_SAVED_ROWS):
                tl.store(saved + (i * _SAVED_ROWS + k) * B + row, kept[k], mask=exist[r])
            share = 1.0
            if L == 2:
                share = tl.load(weights + i * B + row)
            row_loss += part * share
            if GRADIENT:
                row_terms = row_terms + (_terms(kept, upstream * share, smoothing, SMOOTH),)
        tl.store(loss + row, tl.where(count[r], row_loss, 0.0), mask=exist[r])
        terms = terms + (row_terms,)
    if GRADIENT:
        if any_counts:
            _gradients(
                logits, out, rows, coming, exist, count, groups, row_groups, out_groups, silenced, walks, terms,
                logit_bias, neighbors, strengths, 0, log_lambda, L, HAS_BIAS, SMOOTH, ROWS, R, T, V,
            )  # fmt: skip
        else:
            _zeros(out, rows, exist, groups, out_groups, ROWS, R, T, V)
        tl.debug_barrier()  # or the number could be seen before what it stands for
        if tl.atomic_add(arrived, 1) == tl.num_programs(0) - 1:
            _add_up(loss, upstream, total, B)


@triton.jit
def _add_up(loss, scale, total, B):
    """The sum of all rows' losses times the scale; always added in the same order."""
    rows = tl.arange(0, 1024)
    sums = tl.zeros((1024,), tl.float32)
    for start in range(0, B, 1024):
        sums += tl.load(loss + start + rows, mask=rows < B - start, other=0.0, cache_modifier=".cg")
    tl.store(total, tl.sum(sums, 0) * scale)


@triton.jit
def count_rows(
    stacked_labels, scale, arrived, B, ignore_index, L: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    """The weight of a row's loss in the mean over rows that count, or in their sum; no program has arrived yet."""
    rows = tl.arange(0, BLOCK)
    number = tl.zeros((BLOCK,), tl.int32)
    if MEAN:
        for start in range(0, B, BLOCK):
            counts = rows < B - start
            for i in tl.static_range(L):
                label = tl.load(stacked_labels + i * B + start + rows, mask=rows < B - start, other=ignore_index)
                counts = counts & (label != ignore_index)
            number += counts.to(tl.int32)
    n = tl.sum(number, 0)
    tl.store(scale, 1.0 / tl.maximum(n, 1).to(tl.float32))
    tl.store(arrived, 0)


@triton.jit
def rescale_rows(gradient, factor, B, groups, row_groups, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr, V: tl.constexpr):
    """Multiplies by the factor in place; where that is 1, which the host need not know, nothing is read."""
    by = tl.load(factor)
    if by != 1.0:
        offsets = tl.arange(0, BLOCK)[:, None] * V + tl.arange(0, V)[None, :]
        for row in range(tl.program_id(0), B, PROGRAMS):
            pointers = gradient + (row + tl.zeros((), tl.int64)) * row_groups * V + offsets
            for start in range(0, groups, BLOCK):
                inside = tl.arange(0, BLOCK)[:, None] < groups - start
                slope = tl.load(pointers + start * V, mask=inside, other=0.0).to(tl.float32) * by
                tl.store(pointers + start * V, slope.to(gradient.dtype.element_ty), mask=inside)
