"""The layer of RWKV-4: time mix and channel mix over one token or many, state moved on in place."""

import numpy as np

from rwkv_cy.dtypes import widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import make_matrix

from cpython.exc cimport PyErr_CheckSignals
from cython cimport floating
from libc.string cimport memcpy

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_ADD_GATED, RK_RELU_SQUARED, RK_SHIFTED, active_ops, layer_norm, matmul, multiply, rk_ops, rk_product,
    rk_sequence, rk_tokens, wkv4,
)
from rwkv_cy.kernels.matrix cimport Workspace, padded


cdef enum:
    # Of each sequence: the last token of the channel mix is shifted with the one before it.
    TAIL = 2
    # Fewer tokens to leave out are not worth reading weights twice; nor are less than twice the tails.
    LEAST_LEFT_OUT = 32


cdef const char *_pointer(array):
    return <const char *><size_t>array.ctypes.data


def _real(config):
    return np.dtype(np.float64 if config.dtype == "f64" else np.float32)


def _vector(parameters, name, config):
    """The parameter `name` as activations, flat."""
    parameter = parameters[name]
    return np.ascontiguousarray(widen(parameter.array, parameter.dtype, config.dtype).reshape(-1))


def _matrix(parameters, name, config, activations, scale=1.0):
    return make_matrix(parameters[name], config.dtype, scale, activations)


cdef int _check_threads(str what, int num_threads) except -1:
    # Scratch is measured by it: with 0, the one thread that runs would write beyond its end.
    if num_threads < 1:
        raise KernelError(f"{what}: expected at least one thread, got {num_threads}")
    return 0


cdef void keep_last(const char *x, const rk_tokens *all, size_t row) noexcept nogil:
    """Let every state remember the last token of its sequence."""
    cdef Py_ssize_t i
    for i in range(all.sequence_count):
        memcpy(all.sequences[i].xx, x + (all.sequences[i].end - 1) * row, row)


cdef rk_product shifted(rk_product product, const char *mix) noexcept nogil:
    """Return the product of the token shift of x, not of x."""
    product.first, product.mix = RK_SHIFTED, mix
    return product


cdef class TimeMix:
    """Time mix: token shift, WKV, receptance gate, output matrix.

    Parameters
    ----------
    config : Config
        Dimensions and type.
    parameters : mapping of str to Parameter
        Of the layer, by short name.
    output_scale : float
        Factor of what the mix gives: a power of two.
    activations : {"f32", "bf16"}, default "f32"
        What bf16 matrices are multiplied with; see :class:`rwkv_cy.kernels.matrix.Matrix`.
    """

    def __init__(self, config, parameters, output_scale, activations="f32"):
        self.key = _matrix(parameters, "att.key.weight", config, activations)
        self.value = _matrix(parameters, "att.value.weight", config, activations)
        self.receptance = _matrix(parameters, "att.receptance.weight", config, activations)
        self.output = _matrix(parameters, "att.output.weight", config, activations, output_scale)
        decay = parameters["att.time_decay"]
        # In float64, so that a float32 model gets the nearest float32 of -exp(time_decay).
        decay = (-np.exp(widen(decay.array, decay.dtype, "f64"))).astype(_real(config)).reshape(-1)
        first, mix_k, mix_v, mix_r = (
            _vector(parameters, f"att.{name}", config)
            for name in ("time_first", "time_mix_k", "time_mix_v", "time_mix_r")
        )
        self._arrays = [decay, first, mix_k, mix_v, mix_r]
        self.decay, self.first = _pointer(decay), _pointer(first)
        self.mix_k, self.mix_v, self.mix_r = _pointer(mix_k), _pointer(mix_v), _pointer(mix_r)
        self.d_model, self.d_att = config.d_model, config.d_att
        self.itemsize = _real(config).itemsize

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil:
        cdef size_t inputs = (self.key.scratch_bytes(ops, tokens, num_threads)
                              + self.value.scratch_bytes(ops, tokens, num_threads)
                              + self.receptance.scratch_bytes(ops, tokens, num_threads))
        return (padded(tokens * self.d_model * self.itemsize) + 4 * padded(tokens * self.d_att * self.itemsize)
                + max(inputs, self.output.scratch_bytes(ops, tokens, num_threads)))

    cdef void run(self, const rk_ops *ops, const char *x, const rk_tokens *all, char *scratch, int num_threads,
                  char *y) noexcept nogil:
        cdef size_t att = padded(all.count * self.d_att * self.itemsize)
        cdef char *mixed = scratch           # (tokens, d_model)
        cdef char *r = mixed + padded(all.count * self.d_model * self.itemsize)
        cdef char *k = r + att               # (tokens, d_att), as are r, v and rwkv
        cdef char *v = k + att
        cdef char *rwkv = v + att
        cdef char *rest = rwkv + att
        cdef rk_product[3] products
        # r = R (x mix_r + xx (1 - mix_r)), and likewise k and v
        products[0] = shifted(self.receptance.times(x, r), self.mix_r)
        products[1] = shifted(self.key.times(x, k), self.mix_k)
        products[2] = shifted(self.value.times(x, v), self.mix_v)
        matmul(ops, products, 3, all, rest, num_threads)
        keep_last(x, all, self.d_model * self.itemsize)
        # y += O (sigmoid(r) wkv(k, v))
        wkv4(ops, self.decay, self.first, k, v, r, all, self.d_att, num_threads, rwkv)
        products[0] = self.output.times(rwkv, mixed)
        products[0].then, products[0].into = RK_ADD, y
        matmul(ops, products, 1, all, rest, num_threads)

    cdef void advance(self, const rk_ops *ops, const char *x, const rk_tokens *all, char *scratch,
                      int num_threads) noexcept nogil:
        """Move the states on as `run` does, and compute nothing else."""
        cdef char *k = scratch
        cdef char *v = k + padded(all.count * self.d_att * self.itemsize)
        cdef char *rest = v + padded(all.count * self.d_att * self.itemsize)
        cdef rk_product[2] products
        products[0] = shifted(self.key.times(x, k), self.mix_k)
        products[1] = shifted(self.value.times(x, v), self.mix_v)
        matmul(ops, products, 2, all, rest, num_threads)
        keep_last(x, all, self.d_model * self.itemsize)
        wkv4(ops, self.decay, self.first, k, v, NULL, all, self.d_att, num_threads, NULL)

    def forward(self, const floating[:, ::1] x, floating[::1] xx, floating[::1] aa, floating[::1] bb,
                floating[::1] pp, int num_threads=1):
        """Return the time mix of `x` (tokens, d_model); xx, aa, bb, pp are moved on in place.

        Raises
        ------
        KernelError
            If an array has another shape or type than the model, or there is not at least one thread.
        """
        cdef bint double_precision = sizeof(floating) == 8
        if sizeof(floating) != self.itemsize:
            raise KernelError(f"TimeMix: expected numbers of {self.itemsize} bytes, got {sizeof(floating)}")
        _check_threads("TimeMix", num_threads)
        if x.shape[1] != self.d_model or xx.shape[0] != self.d_model:
            raise KernelError(f"TimeMix: expected (tokens, {self.d_model}), got ({x.shape[0]}, {x.shape[1]})")
        if aa.shape[0] != self.d_att or bb.shape[0] != self.d_att or pp.shape[0] != self.d_att:
            raise KernelError(f"TimeMix: expected a state of width {self.d_att}, got {aa.shape[0]}")
        result = np.zeros((x.shape[0], self.d_model), dtype=np.float64 if double_precision else np.float32)
        if x.shape[0] == 0:
            return result
        cdef floating[:, ::1] y = result
        cdef const rk_ops *ops = active_ops(double_precision)
        cdef Workspace workspace = Workspace()
        workspace.ensure(self.scratch_bytes(ops, x.shape[0], num_threads))
        cdef rk_sequence whole = rk_sequence(0, x.shape[0], &xx[0], &aa[0], &bb[0], &pp[0])
        cdef rk_tokens all = rk_tokens(x.shape[0], &whole, 1)
        with nogil:
            self.run(ops, <const char *>&x[0, 0], &all, workspace.start, num_threads, <char *>&y[0, 0])
        return result


cdef class ChannelMix:
    """Channel mix: token shift, squared relu, receptance gate.

    Parameters
    ----------
    config, parameters, output_scale, activations
        As for :class:`TimeMix`.
    """

    def __init__(self, config, parameters, output_scale, activations="f32"):
        self.key = _matrix(parameters, "ffn.key.weight", config, activations)
        self.value = _matrix(parameters, "ffn.value.weight", config, activations, output_scale)
        self.receptance = _matrix(parameters, "ffn.receptance.weight", config, activations)
        mix_k, mix_r = (_vector(parameters, f"ffn.{name}", config) for name in ("time_mix_k", "time_mix_r"))
        self._arrays = [mix_k, mix_r]
        self.mix_k, self.mix_r = _pointer(mix_k), _pointer(mix_r)
        self.d_model, self.d_ffn = config.d_model, config.d_ffn
        self.itemsize = _real(config).itemsize

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil:
        cdef size_t inputs = (self.key.scratch_bytes(ops, tokens, num_threads)
                              + self.receptance.scratch_bytes(ops, tokens, num_threads))
        return (2 * padded(tokens * self.d_model * self.itemsize) + padded(tokens * self.d_ffn * self.itemsize)
                + max(inputs, self.value.scratch_bytes(ops, tokens, num_threads)))

    cdef void run(self, const rk_ops *ops, const char *x, const rk_tokens *all, char *scratch, int num_threads,
                  char *y) noexcept nogil:
        cdef size_t model = padded(all.count * self.d_model * self.itemsize)
        cdef char *mixed = scratch           # (tokens, d_model)
        cdef char *r = mixed + model         # (tokens, d_model)
        cdef char *k = r + model             # (tokens, d_ffn)
        cdef char *rest = k + padded(all.count * self.d_ffn * self.itemsize)
        cdef rk_product[2] products
        # r = R (x mix_r + xx (1 - mix_r)), and likewise k
        products[0] = shifted(self.receptance.times(x, r), self.mix_r)
        products[1] = shifted(self.key.times(x, k), self.mix_k)
        matmul(ops, products, 2, all, rest, num_threads)
        keep_last(x, all, self.d_model * self.itemsize)
        # y += sigmoid(r) (V max(k, 0)^2)
        products[0] = self.value.times(k, mixed)
        products[0].first = RK_RELU_SQUARED
        products[0].then, products[0].gate, products[0].into = RK_ADD_GATED, r, y
        matmul(ops, products, 1, all, rest, num_threads)

    def forward(self, const floating[:, ::1] x, floating[::1] xx, int num_threads=1):
        """Return the channel mix of `x` (tokens, d_model); xx is moved on in place.

        Raises
        ------
        KernelError
            If an array has another shape or type than the model, or there is not at least one thread.
        """
        cdef bint double_precision = sizeof(floating) == 8
        if sizeof(floating) != self.itemsize:
            raise KernelError(f"ChannelMix: expected numbers of {self.itemsize} bytes, got {sizeof(floating)}")
        _check_threads("ChannelMix", num_threads)
        if x.shape[1] != self.d_model or xx.shape[0] != self.d_model:
            raise KernelError(f"ChannelMix: expected (tokens, {self.d_model}), got ({x.shape[0]}, {x.shape[1]})")
        result = np.zeros((x.shape[0], self.d_model), dtype=np.float64 if double_precision else np.float32)
        if x.shape[0] == 0:
            return result
        cdef floating[:, ::1] y = result
        cdef const rk_ops *ops = active_ops(double_precision)
        cdef Workspace workspace = Workspace()
        workspace.ensure(self.scratch_bytes(ops, x.shape[0], num_threads))
        cdef rk_sequence whole = rk_sequence(0, x.shape[0], &xx[0], NULL, NULL, NULL)
        cdef rk_tokens all = rk_tokens(x.shape[0], &whole, 1)
        with nogil:
            self.run(ops, <const char *>&x[0, 0], &all, workspace.start, num_threads, <char *>&y[0, 0])
        return result


cdef class Layer:
    """One layer: x += TimeMix(ln1(x)); x += ChannelMix(ln2(x)); layer 0 norms its input with ln0 first.

    Parameters
    ----------
    config, parameters, output_scale, activations
        As for :class:`TimeMix`.
    layer : int
        Index of the layer.
    """

    cdef readonly TimeMix time_mix
    cdef readonly ChannelMix channel_mix
    cdef list _norms                     # (weight, bias) of ln1, ln2, and of ln0 in layer 0
    cdef const char *ln0_weight
    cdef const char *ln0_bias
    cdef const char *ln1_weight
    cdef const char *ln1_bias
    cdef const char *ln2_weight
    cdef const char *ln2_bias
    cdef readonly Py_ssize_t d_model, state_size
    cdef double eps
    cdef bint halve                      # the residual stream is halved after this layer
    cdef size_t itemsize

    def __init__(self, config, layer, parameters, output_scale, activations="f32"):
        self.time_mix = TimeMix(config, parameters, output_scale, activations)
        self.channel_mix = ChannelMix(config, parameters, output_scale, activations)
        self.d_model = config.d_model
        self.state_size = 2 * config.d_model + 3 * config.d_att
        self.eps = config.layer_norm_eps
        self.halve = config.rescale_layer > 0 and (layer + 1) % config.rescale_layer == 0
        self.itemsize = _real(config).itemsize
        self._norms = [
            tuple(_vector(parameters, f"{name}.{part}", config) for part in ("weight", "bias"))
            for name in (("ln1", "ln2", "ln0") if layer == 0 else ("ln1", "ln2"))
        ]
        self.ln1_weight, self.ln1_bias = _pointer(self._norms[0][0]), _pointer(self._norms[0][1])
        self.ln2_weight, self.ln2_bias = _pointer(self._norms[1][0]), _pointer(self._norms[1][1])
        self.ln0_weight = self.ln0_bias = NULL
        if layer == 0:
            self.ln0_weight, self.ln0_bias = _pointer(self._norms[2][0]), _pointer(self._norms[2][1])

    cdef void place(self, char *state, Py_ssize_t begin, Py_ssize_t end, rk_sequence *att,
                    rk_sequence *ffn) noexcept nogil:
        """Say where the parts of one state lie: ffn_xx, att_xx, att_aa, att_bb, att_pp."""
        cdef size_t model = self.d_model * self.itemsize
        cdef size_t width = self.time_mix.d_att * self.itemsize
        cdef char *aa = state + 2 * model
        att[0] = rk_sequence(begin, end, state + model, aa, aa + width, aa + 2 * width)
        ffn[0] = rk_sequence(begin, end, state, NULL, NULL, NULL)

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil:
        return (padded(tokens * self.d_model * self.itemsize)
                + max(self.time_mix.scratch_bytes(ops, tokens, num_threads),
                      self.channel_mix.scratch_bytes(ops, tokens, num_threads)))

    cdef void run(self, const rk_ops *ops, char *x, const rk_tokens *att, const rk_tokens *ffn, char *scratch,
                  int num_threads) noexcept nogil:
        cdef Py_ssize_t tokens = att.count
        cdef Py_ssize_t d = self.d_model
        cdef char *normed = scratch
        cdef char *rest = normed + padded(tokens * d * self.itemsize)
        if self.ln0_weight != NULL:
            layer_norm(ops, x, self.ln0_weight, self.ln0_bias, self.eps, tokens, d, num_threads, x)
        layer_norm(ops, x, self.ln1_weight, self.ln1_bias, self.eps, tokens, d, num_threads, normed)
        self.time_mix.run(ops, normed, att, rest, num_threads, x)
        layer_norm(ops, x, self.ln2_weight, self.ln2_bias, self.eps, tokens, d, num_threads, normed)
        self.channel_mix.run(ops, normed, ffn, rest, num_threads, x)
        if self.halve:
            multiply(ops, 0.5, tokens * d, num_threads, x)

    cdef void advance(self, const rk_ops *ops, char *x, const rk_tokens *att, char *scratch,
                      int num_threads) noexcept nogil:
        """Move the states of the time mix on; x is lost."""
        if self.ln0_weight != NULL:
            layer_norm(ops, x, self.ln0_weight, self.ln0_bias, self.eps, att.count, self.d_model, num_threads, x)
        layer_norm(ops, x, self.ln1_weight, self.ln1_bias, self.eps, att.count, self.d_model, num_threads, x)
        self.time_mix.advance(ops, x, att, scratch, num_threads)

    cdef void run_last(self, const rk_ops *ops, char *x, const Py_ssize_t *starts, Py_ssize_t count, char *states,
                       Py_ssize_t stride, rk_sequence *table, char *scratch, int num_threads) noexcept nogil:
        """Run for the last token of each of `count` sequences, whose states lie `stride` bytes apart.

        Of the tokens before it the state needs no more than the keys and values; but the last one's channel mix is
        shifted with the one before it. So the heads of the sequences move the states on, and the tails, two tokens
        each, go through all of the layer. What the first token of a tail gets in its channel mix, with a stale state,
        is used by nobody. table: room for three times `count`.
        """
        cdef size_t row = self.d_model * self.itemsize
        cdef rk_sequence *att = table
        cdef rk_sequence *ffn = att + count
        cdef rk_sequence *heads = ffn + count
        cdef rk_tokens head = rk_tokens(0, heads, 0)
        cdef rk_tokens tail = rk_tokens(0, att, count)
        cdef rk_tokens tail_ffn
        cdef char *moved = scratch           # heads, and then tails, one after the other
        cdef char *rest = moved + padded(starts[count] * row)
        cdef rk_sequence unused
        cdef Py_ssize_t i, begin, end
        for i in range(count):
            begin, end = starts[i], starts[i + 1] - TAIL
            if begin >= end:
                continue
            self.place(states + i * stride, head.count, head.count + end - begin, &heads[head.sequence_count], &unused)
            memcpy(moved + head.count * row, x + begin * row, (end - begin) * row)
            head.sequence_count += 1
            head.count += end - begin
        self.advance(ops, moved, &head, rest, num_threads)
        for i in range(count):
            begin, end = max(starts[i], starts[i + 1] - TAIL), starts[i + 1]
            self.place(states + i * stride, tail.count, tail.count + end - begin, &att[i], &ffn[i])
            memcpy(moved + tail.count * row, x + begin * row, (end - begin) * row)
            tail.count += end - begin
        tail_ffn = rk_tokens(tail.count, ffn, count)
        self.run(ops, moved, &tail, &tail_ffn, rest, num_threads)
        for i in range(count):
            memcpy(x + (starts[i + 1] - 1) * row, moved + (att[i].end - 1) * row, row)


cdef class Stack:
    """Layers one after the other.

    Parameters
    ----------
    layers : sequence of Layer
        At least one, all of the same widths and type.

    Raises
    ------
    KernelError
        If they are not.
    """

    cdef tuple _layers

    def __init__(self, layers):
        cdef Layer layer
        self._layers = tuple(layers)
        widths = set()
        for item in self._layers:
            if not isinstance(item, Layer):
                raise KernelError(f"Stack: expected layers, got {type(item).__name__}")
            layer = item
            widths.add((layer.d_model, layer.state_size, layer.itemsize))
        if len(widths) != 1:
            raise KernelError(f"Stack: expected layers of one width, state and type, got {sorted(widths)}")

    def forward(self, floating[:, ::1] x, floating[:, :, :] states, const Py_ssize_t[::1] starts,
                Workspace workspace not None, int num_threads, bint last_only=False):
        """Run over the tokens of one sequence or several, in place; the states are moved on in place.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, d_model): the sequences one after the other.
        states : numpy.ndarray
            Shape (layers, sequences, state_size): each layer's row of each state. The rows are contiguous, and need
            not lie one after the other.
        starts : numpy.ndarray
            Shape (sequences + 1,), intp: where each sequence begins, and at last the number of tokens; none is empty.
        workspace : Workspace
            Scratch memory to use again.
        num_threads : int
            Threads to use.
        last_only : bool, default False
            Only what comes out for the last token of each sequence is wanted. The states and those rows of `x` are
            the same to the last bit, and the other rows are not what comes out: the last layer does for them no more
            than its state asks for.

        Raises
        ------
        KernelError
            If an array has another shape or type than the layers, `starts` does not ascend from 0 to the number of
            tokens, or there is not at least one thread.
        """
        cdef bint double_precision = sizeof(floating) == 8
        cdef Layer layer = self._layers[0]
        cdef Py_ssize_t tokens = x.shape[0]
        cdef Py_ssize_t count = states.shape[1]
        cdef Py_ssize_t layers = len(self._layers)
        cdef Py_ssize_t i, j
        if sizeof(floating) != layer.itemsize:
            raise KernelError(f"Stack: expected numbers of {layer.itemsize} bytes, got {sizeof(floating)}")
        _check_threads("Stack", num_threads)
        if x.shape[1] != layer.d_model or states.shape[0] != layers or states.shape[2] != layer.state_size:
            raise KernelError(
                f"Stack: expected x (tokens, {layer.d_model}) and states ({layers}, sequences, {layer.state_size}), "
                f"got ({tokens}, {x.shape[1]}) and ({states.shape[0]}, {count}, {states.shape[2]})"
            )
        if states.strides[2] != <Py_ssize_t>layer.itemsize:
            raise KernelError(f"Stack: expected contiguous rows of states, got a stride of {states.strides[2]}")
        if starts.shape[0] != count + 1 or starts[0] != 0 or starts[count] != tokens:
            raise KernelError(
                f"Stack: expected {count + 1} starts from 0 to {tokens} for {count} sequences, got {list(starts)[:10]}"
            )
        for i in range(count):
            if starts[i] >= starts[i + 1]:
                raise KernelError(f"Stack: expected at least one token in sequence {i}, got none")
        if count == 0:
            return
        cdef const rk_ops *ops = active_ops(double_precision)
        cdef size_t table = padded(3 * count * sizeof(rk_sequence))
        cdef size_t scratch = 0
        for layer in self._layers:
            scratch = max(scratch, layer.scratch_bytes(ops, tokens, num_threads))
        # `layer` is the last one from here on.
        cdef Py_ssize_t left_out = 0
        if last_only:
            for i in range(count):
                left_out += max(starts[i + 1] - starts[i] - TAIL, 0)
        cdef bint shorten = left_out >= LEAST_LEFT_OUT and left_out >= 2 * (tokens - left_out)
        if shorten:
            # Fewer tokens may need more: other kernels compute them.
            for i in (left_out, tokens - left_out):
                scratch = max(scratch, layer.scratch_bytes(ops, i, num_threads))
            scratch += padded(tokens * layer.d_model * layer.itemsize)
        workspace.ensure(table + scratch)
        cdef rk_sequence *sequences = <rk_sequence *>workspace.start
        cdef rk_tokens att = rk_tokens(tokens, sequences, count)
        cdef rk_tokens ffn = rk_tokens(tokens, sequences + count, count)
        for i in range(layers):
            # Many tokens take seconds: Ctrl-C does not wait for all layers.
            PyErr_CheckSignals()
            layer = self._layers[i]
            if shorten and i + 1 == layers:
                with nogil:
                    layer.run_last(ops, <char *>&x[0, 0], &starts[0], count, <char *>&states[i, 0, 0],
                                   states.strides[1], sequences, workspace.start + table, num_threads)
                break
            for j in range(count):
                layer.place(<char *>&states[i, j, 0], starts[j], starts[j + 1], &sequences[j], &sequences[count + j])
            with nogil:
                layer.run(ops, <char *>&x[0, 0], &att, &ffn, workspace.start + table, num_threads)
