"""The recorded pass and the backward pass of layers of any version, over a batch of sequences."""

import numpy as np

from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.stack import copy_ids

from cpython.exc cimport PyErr_CheckSignals
from cython cimport floating
from libc.string cimport memcpy, memset

from rwkv_cy.kernels.dispatch cimport (
    RK_LERPED, RK_SHIFTED, active_ops, add, layer_norm, layer_norm_gradient, multiply, rk_product, rk_sequence,
    rk_shift_gradient, rk_tokens, shift_gradients, shift_tokens, take_last,
)
from rwkv_cy.kernels.matrix cimport Matrix, Workspace, padded, times
from rwkv_cy.kernels.stack cimport Arena, Layer, Mix, Pass, plain_pass, pointer, shifted, take
from rwkv_cy.kernels.weight cimport Backward, Weight


cdef enum:
    MOST_PARAMETERS = 128   # of a layer
    NORMS = 6               # parameters of ln1, ln2 and ln0, which come first in the names of a layer


cdef class MixGradient:
    """Recorded pass and backward pass of a mix. Each version has two.

    Parameters
    ----------
    mix : Mix
    xx : int
        Byte offset of the previous token in the state, for the token shift.
    lerped : bool
        The token shift is x + (xx - x) mix instead of x mix + xx (1 - mix).
    """

    def __init__(self, Mix mix not None, size_t xx, bint lerped):
        self.names, self.quantized, self.weights, self._all_weights = [], [], {}, []
        self.d_model, self.itemsize, self.shared_row = mix.d_model, mix.itemsize, mix.shared_row
        self.xx, self.lerped = xx, lerped

    cdef int parameter(self, name) except -1:
        """Return the index of a parameter that gets a gradient."""
        self.names.append(name)
        return len(self.names) - 1

    cdef Weight weight(self, Matrix matrix, name, bint in_out=False, size_t offset=0):
        """Return a matrix whose parameter has this name."""
        index = self.names.index(name) if name in self.names else self.parameter(name)
        if matrix.dtype in MATRIX_TYPES:
            self.quantized.append(name)
        weight = Weight(matrix, index, in_out, offset)
        if self.weight_count == MOST_WEIGHTS:
            raise KernelError(f"MixGradient: expected at most {MOST_WEIGHTS} matrices, got {name} beside them")
        self._all_weights.append(weight)
        self.of_weights[self.weight_count] = <void *>weight
        self.weight_count += 1
        if not in_out:
            self.weights[name] = weight
        return weight

    def adapt(self, name, a, b, double scale):
        """Use W + scale B A for a matrix; the factors get gradients.

        Parameters
        ----------
        name : str
            Short name of the matrix, ``"att.key.weight"``.
        a, b : numpy.ndarray
            Shapes (rank, inputs) and (outputs, rank), contiguous, of the activations' type. Used without a copy: they
            may be modified between passes.
        scale : float

        Returns
        -------
        tuple of str
            Short names of the factors, ``"att.key.lora_A"`` and ``"att.key.lora_B"``.

        Raises
        ------
        KernelError
            If there is not such a matrix, or the factors do not fit it.
        """
        if name not in self.weights:
            raise KernelError(f"adapter: expected a matrix of {', '.join(self.weights)}, got {name}")
        real = np.dtype(np.float64 if self.itemsize == 8 else np.float32)
        for factor in (a, b):
            if factor.ndim != 2 or factor.dtype != real or not factor.flags.c_contiguous or min(factor.shape) < 1:
                raise KernelError(
                    f"{name}: expected contiguous factors of an adapter of {real}, got {factor.dtype} {factor.shape}"
                )
        cdef Weight weight = self.weights[name]
        stem = name.removesuffix(".weight")
        names = f"{stem}.lora_A", f"{stem}.lora_B"
        weight.adapt(a, b, scale, self.parameter(names[0]), self.parameter(names[1]))
        return names

    cdef size_t weights_scratch(self, const Pass *p) noexcept nogil:
        cdef size_t most = 0
        cdef int i
        for i in range(self.weight_count):
            most = max(most, (<Weight>self.of_weights[i]).scratch(p))
        return most

    cdef void forward_shifted(self, const Pass *p, Weight weight, const char *x, const char *mix, const char *more,
                              char *y, char *rest) noexcept nogil:
        cdef rk_product product = shifted(times(&weight.m, x, y), RK_LERPED if self.lerped else RK_SHIFTED, mix,
                                          self.xx)
        product.more = more
        weight.forward(p, product, rest)

    cdef rk_shift_gradient backward_shifted(self, const Backward *b, Weight weight, const char *x, const char *mix,
                                            int parameter, const char *more, const char *dy, char *d_shifted,
                                            char *d_more, char *buffer, char *rest) noexcept nogil:
        cdef const Pass *p = &b.forward
        if weight.needs_input(b):
            shift_tokens(p.ops, self.lerped, x, mix, more, self.xx, &p.tokens, self.d_model, buffer, p.num_threads)
        weight.backward(b, buffer, self.d_model, dy, d_shifted, rest)
        return rk_shift_gradient(mix, more, d_shifted, b.gradients[parameter], d_more)

    cdef void begin_backward(self, const Pass *p, char *dx) noexcept nogil:
        take_last(p.ops, &p.tokens, self.d_model, self.xx, dx)

    cdef void backward_shifts(self, const Pass *p, const rk_shift_gradient *shifts, int count, const char *x,
                              char *dx) noexcept nogil:
        shift_gradients(p.ops, shifts, count, self.lerped, x, self.xx, &p.tokens, self.d_model, dx, p.num_threads)

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        return 0

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        return 0

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        pass

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        pass


cdef class LayerGradient:
    """Recorded pass and backward pass of one layer.

    Parameters
    ----------
    layer : Layer
    time_mix, channel_mix : MixGradient
    """

    def __init__(self, Layer layer not None, MixGradient time_mix not None, MixGradient channel_mix not None):
        self.layer, self.time_mix, self.channel_mix = layer, time_mix, channel_mix
        norms = [f"{norm}.{part}" for norm in ("ln1", "ln2", "ln0") for part in ("weight", "bias")]
        self.names = (*norms, *time_mix.names, *channel_mix.names)
        self.of_time_mix = len(time_mix.names)
        if len(self.names) > MOST_PARAMETERS:
            raise KernelError(f"LayerGradient: expected at most {MOST_PARAMETERS} parameters, got {len(self.names)}")

    @property
    def quantized(self):
        """The names of quantized or compressed matrices."""
        return [*self.time_mix.quantized, *self.channel_mix.quantized]

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef size_t row = padded(p.tokens.count * self.layer.d_model * self.layer.itemsize)
        return ((2 if self.layer.ln0_weight == NULL else 3) * row
                + self.time_mix.saved(p) + self.channel_mix.saved(p))

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef size_t row = padded(p.tokens.count * self.layer.d_model * self.layer.itemsize)
        cdef size_t moments = padded(2 * p.tokens.count * self.layer.itemsize)
        return 2 * row + moments + max(self.time_mix.scratch(p), self.channel_mix.scratch(p))

    cdef void norm(self, const Pass *p, const char *x, const char *weight, const char *bias, char *y) noexcept nogil:
        layer_norm(p.ops, x, weight, bias, self.layer.eps, p.tokens.count, self.layer.d_model, p.num_threads, y)

    cdef void record(self, const Pass *p, char *x, char *saved, char *scratch) noexcept nogil:
        """Run the layer in place, and save what `backward` needs."""
        cdef size_t size = p.tokens.count * self.layer.d_model * self.layer.itemsize
        cdef Arena arena = Arena(scratch, 0)
        cdef Arena save = Arena(saved, 0)
        cdef char *normed = take(&arena, size)
        cdef char *rest = take(&arena, 0)
        if self.layer.ln0_weight != NULL:
            memcpy(take(&save, size), x, size)
            self.norm(p, x, self.layer.ln0_weight, self.layer.ln0_bias, x)
            if p.embedded != NULL:
                memcpy(p.embedded, x, size)
        memcpy(take(&save, size), x, size)
        self.norm(p, x, self.layer.ln1_weight, self.layer.ln1_bias, normed)
        self.time_mix.record(p, normed, take(&save, self.time_mix.saved(p)), rest, x)
        memcpy(take(&save, size), x, size)
        self.norm(p, x, self.layer.ln2_weight, self.layer.ln2_bias, normed)
        self.channel_mix.record(p, normed, take(&save, self.channel_mix.saved(p)), rest, x)
        if self.layer.halve:
            multiply(p.ops, 0.5, p.tokens.count * self.layer.d_model, p.num_threads, x)

    cdef void norm_backward(self, const Backward *b, const char *x, const char *weight, const char *dy, char *moments,
                            int first, char *dx) noexcept nogil:
        """dx += gradient of a LayerNorm's input; `first` is the index of its weight."""
        cdef const Pass *p = &b.forward
        layer_norm_gradient(p.ops, x, weight, self.layer.eps, dy, p.tokens.count, self.layer.d_model, dx,
                            b.gradients[first], b.gradients[first + 1], moments, p.num_threads)

    cdef void backward(self, const Backward *b, const char *saved, char *scratch, char *dx) noexcept nogil:
        """Replace the gradient of the layer's output by that of its input."""
        cdef const Pass *p = &b.forward
        cdef size_t size = p.tokens.count * self.layer.d_model * self.layer.itemsize
        cdef Arena arena = Arena(scratch, 0)
        cdef Arena save = Arena(<char *>saved, 0)
        cdef const char *embedded = take(&save, size) if self.layer.ln0_weight != NULL else NULL
        cdef const char *first = take(&save, size)
        cdef const char *of_time_mix = take(&save, self.time_mix.saved(p))
        cdef const char *second = take(&save, size)
        cdef const char *of_channel_mix = take(&save, self.channel_mix.saved(p))
        cdef char *normed = take(&arena, size)
        cdef char *d_normed = take(&arena, size)
        cdef char *moments = take(&arena, 2 * p.tokens.count * self.layer.itemsize)
        cdef char *rest = take(&arena, 0)
        cdef Backward own = b[0]
        if self.layer.halve:
            multiply(p.ops, 0.5, p.tokens.count * self.layer.d_model, p.num_threads, dx)
        self.norm(p, second, self.layer.ln2_weight, self.layer.ln2_bias, normed)
        memset(d_normed, 0, size)
        own.gradients = b.gradients + NORMS + self.of_time_mix
        self.channel_mix.backward(&own, normed, of_channel_mix, dx, rest, d_normed)
        self.norm_backward(b, second, self.layer.ln2_weight, d_normed, moments, 2, dx)
        self.norm(p, first, self.layer.ln1_weight, self.layer.ln1_bias, normed)
        memset(d_normed, 0, size)
        own.gradients = b.gradients + NORMS
        self.time_mix.backward(&own, normed, of_time_mix, dx, rest, d_normed)
        self.norm_backward(b, first, self.layer.ln1_weight, d_normed, moments, 0, dx)
        if embedded != NULL:
            if b.d_embedded != NULL:
                add(p.ops, b.d_embedded, p.tokens.count * self.layer.d_model, dx, p.num_threads)
            memcpy(d_normed, dx, size)
            memset(dx, 0, size)
            self.norm_backward(b, embedded, self.layer.ln0_weight, d_normed, moments, 4, dx)


cdef class StackGradient:
    """Recorded pass and backward pass of a sequence of layers.

    Parameters
    ----------
    layers : sequence of LayerGradient
        At least one, of one model.
    """

    cdef tuple _layers
    cdef size_t _shared_row, _embedded_row     # bytes per token of what layers share; 0 if they share nothing
    cdef readonly Py_ssize_t vocab_size        # rows of the tables in which tokens are looked up; 0 without tables

    def __init__(self, layers):
        cdef LayerGradient first = layers[0]
        self._layers = tuple(layers)
        self._shared_row = max(layer.time_mix.shared_row for layer in self._layers)
        uses_embedding = any(layer.layer.uses_embedding for layer in self._layers)
        self._embedded_row = first.layer.d_model * first.layer.itemsize if uses_embedding else 0
        self.vocab_size = min((layer.layer.vocab_size for layer in self._layers if layer.layer.vocab_size), default=0)

    @property
    def names(self):
        """The parameters of each layer that get a gradient, by their names within it."""
        return tuple((<LayerGradient>layer).names for layer in self._layers)

    cdef size_t common_bytes(self, Py_ssize_t tokens) noexcept nogil:
        return padded(tokens * self._shared_row) + padded(tokens * self._embedded_row)

    cdef char *embedded_of(self, char *common, Py_ssize_t tokens) noexcept nogil:
        """Return the address of the embeddings among what layers share; NULL if none uses them."""
        return common + padded(tokens * self._shared_row) if self._embedded_row else NULL

    cdef Pass whole(self, Py_ssize_t tokens, Py_ssize_t sequences, int num_threads, rk_sequence *own) except *:
        cdef LayerGradient layer = self._layers[0]
        return plain_pass(active_ops(layer.layer.itemsize == 8), rk_tokens(tokens, own, sequences), num_threads)

    cdef int place(self, const Py_ssize_t[::1] starts, reads, writes, rk_sequence *sequences) except -1:
        """Set the sequences of a pass, after checking their states."""
        cdef LayerGradient layer = self._layers[0]
        cdef Py_ssize_t i
        real = np.dtype(np.float64 if layer.layer.itemsize == 8 else np.float32)
        shape = len(self._layers), layer.layer.state_size
        if len(reads) != starts.shape[0] - 1 or len(writes) != len(reads):
            raise KernelError(f"StackGradient: expected {starts.shape[0] - 1} states, got {len(reads)}, {len(writes)}")
        for i in range(starts.shape[0] - 1):
            for array in (reads[i], writes[i]):
                if array.shape != shape or array.dtype != real or not array.flags.c_contiguous:
                    raise KernelError(
                        f"StackGradient: expected contiguous states {shape} of {real}, got {array.dtype} {array.shape}"
                    )
            if starts[i] >= starts[i + 1]:
                raise KernelError(f"StackGradient: expected at least one token in sequence {i}, got none")
            sequences[i] = rk_sequence(starts[i], starts[i + 1], pointer(reads[i]), <char *>pointer(writes[i]), 0)
        return 0

    cdef size_t saved_bytes(self, const Pass *p) except *:
        cdef size_t total = self.common_bytes(p.tokens.count)
        for layer in self._layers:
            total += (<LayerGradient>layer).saved(p)
        return total

    cdef size_t scratch_bytes(self, const Pass *p) except *:
        cdef size_t most = 0
        for layer in self._layers:
            most = max(most, (<LayerGradient>layer).scratch(p))
        return most

    def saved(self, const Py_ssize_t[::1] starts, int num_threads=1):
        """Return the bytes that :meth:`record` saves for sequences that begin at `starts`."""
        cdef Workspace own = Workspace()
        own.ensure(starts.shape[0] * sizeof(rk_sequence))
        cdef rk_sequence *sequences = <rk_sequence *>own.start
        cdef Pass p = self.whole(starts[starts.shape[0] - 1], starts.shape[0] - 1, num_threads, sequences)
        cdef Py_ssize_t i
        for i in range(starts.shape[0] - 1):
            sequences[i] = rk_sequence(starts[i], starts[i + 1], NULL, NULL, 0)
        return self.saved_bytes(&p)

    def record(self, floating[:, ::1] x, reads, writes, const Py_ssize_t[::1] starts, Workspace workspace not None,
               int num_threads, Workspace saved=None, ids=None):
        """Run over the tokens of one sequence or several, in place, as :meth:`rwkv_cy.kernels.stack.Stack.forward`.

        Parameters
        ----------
        x, reads, writes, starts, workspace, num_threads
            As for that method; a state that is read is not written.
        saved : Workspace, optional
            Receives what :meth:`backward` needs; None saves nothing.
        ids : numpy.ndarray, optional
            int64 [tokens]: the tokens, which some versions look up in tables.
        """
        cdef LayerGradient layer = self._layers[0]
        cdef Py_ssize_t tokens = x.shape[0]
        cdef Py_ssize_t i, j
        cdef size_t row = layer.layer.state_size * layer.layer.itemsize
        self.check(sizeof(floating), tokens, x.shape[1], starts, num_threads)
        cdef Workspace own = Workspace()
        own.ensure(starts.shape[0] * sizeof(rk_sequence))
        cdef rk_sequence *sequences = <rk_sequence *>own.start
        cdef Pass p = self.whole(tokens, starts.shape[0] - 1, num_threads, sequences)
        self.place(starts, reads, writes, sequences)
        own_ids = copy_ids("StackGradient", ids, tokens, self.vocab_size)
        cdef size_t common = self.common_bytes(tokens)
        cdef size_t most = 0
        cdef char *at
        if saved is not None:
            saved.ensure(self.saved_bytes(&p))
            workspace.ensure(self.scratch_bytes(&p))
            p.shared = saved.start
        else:
            for layer in self._layers:
                most = max(most, layer.saved(&p))
            workspace.ensure(self.scratch_bytes(&p) + common + most)
            p.shared = workspace.start + self.scratch_bytes(&p)
        at = p.shared + common
        p.embedded, p.ids = self.embedded_of(p.shared, tokens), <const long long *>pointer(own_ids)
        for i in range(len(self._layers)):
            PyErr_CheckSignals()
            layer = self._layers[i]
            with nogil:
                layer.record(&p, <char *>&x[0, 0], at, workspace.start)
            if saved is not None:
                at += layer.saved(&p)
            for j in range(starts.shape[0] - 1):
                sequences[j].read += row
                sequences[j].write += row

    def backward(self, floating[:, ::1] dx, reads, d_states, const Py_ssize_t[::1] starts, Workspace workspace not None,
                 int num_threads, Workspace saved not None, gradients, ids=None):
        """Go back through the layers.

        Parameters
        ----------
        dx : numpy.ndarray
            Gradient of the outputs, shape (tokens, d_model); replaced by that of the inputs.
        reads : sequence of numpy.ndarray
            The states that :meth:`record` has read.
        d_states : sequence of numpy.ndarray
            Gradient of the state of each sequence, of the shape of the state: after the last token on entry, before the
            first on return.
        starts, workspace, num_threads
            As for :meth:`record`.
        saved : Workspace
            What :meth:`record` has saved.
        gradients : sequence of sequence of numpy.ndarray or None
            For each layer, arrays to add the gradients of its parameters to, in the order of `names`; None for one that
            is frozen.
        ids : numpy.ndarray, optional
            As for :meth:`record`.
        """
        cdef LayerGradient layer = self._layers[0]
        cdef Py_ssize_t tokens = dx.shape[0]
        cdef Py_ssize_t i, j
        cdef size_t row = layer.layer.state_size * layer.layer.itemsize
        cdef char *pointers[MOST_PARAMETERS]
        self.check(sizeof(floating), tokens, dx.shape[1], starts, num_threads)
        cdef Workspace own = Workspace()
        own.ensure(starts.shape[0] * sizeof(rk_sequence))
        cdef rk_sequence *sequences = <rk_sequence *>own.start
        cdef Backward b
        b.forward = self.whole(tokens, starts.shape[0] - 1, num_threads, sequences)
        self.place(starts, reads, d_states, sequences)
        own_ids = copy_ids("StackGradient", ids, tokens, self.vocab_size)
        cdef size_t common = self.common_bytes(tokens)
        cdef size_t total = self.saved_bytes(&b.forward)
        if saved.size < total:
            raise KernelError(f"StackGradient: expected {total} bytes of a recorded pass, got {saved.size}")
        cdef size_t scratch = self.scratch_bytes(&b.forward)
        workspace.ensure(scratch + common)
        b.forward.shared, b.d_shared, b.gradients = saved.start, workspace.start + scratch, pointers
        b.forward.embedded, b.d_embedded = self.embedded_of(saved.start, tokens), self.embedded_of(b.d_shared, tokens)
        b.forward.ids = <const long long *>pointer(own_ids)
        memset(b.d_shared, 0, common)
        cdef char *at = saved.start + total
        for j in range(starts.shape[0] - 1):
            sequences[j].read += len(self._layers) * row
            sequences[j].write += len(self._layers) * row
        for i in range(len(self._layers) - 1, -1, -1):
            PyErr_CheckSignals()
            layer = self._layers[i]
            for j in range(starts.shape[0] - 1):
                sequences[j].read -= row
                sequences[j].write -= row
            at -= layer.saved(&b.forward)
            own_gradients = gradients[i]
            if len(own_gradients) != len(layer.names):
                raise KernelError(f"StackGradient: expected {len(layer.names)} gradients, got {len(own_gradients)}")
            for j in range(len(layer.names)):
                array = own_gradients[j]
                pointers[j] = NULL if array is None else <char *>pointer(array)
            with nogil:
                layer.backward(&b, at, workspace.start, <char *>&dx[0, 0])

    cdef int check(self, size_t itemsize, Py_ssize_t tokens, Py_ssize_t width, const Py_ssize_t[::1] starts,
                   int num_threads) except -1:
        cdef LayerGradient layer = self._layers[0]
        if itemsize != layer.layer.itemsize:
            raise KernelError(f"StackGradient: expected numbers of {layer.layer.itemsize} bytes, got {itemsize}")
        if width != layer.layer.d_model or num_threads < 1:
            raise KernelError(
                f"StackGradient: expected (tokens, {layer.layer.d_model}) and at least one thread, got "
                f"({tokens}, {width}) and {num_threads}"
            )
        if starts.shape[0] < 2 or starts[0] != 0 or starts[starts.shape[0] - 1] != tokens:
            raise KernelError(f"StackGradient: expected starts from 0 to {tokens}, got {list(starts)[:10]}")
        return 0
