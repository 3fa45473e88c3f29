"""Layers of any version, x += TimeMix(ln1(x)); x += ChannelMix(ln2(x)), over a batch of sequences."""

import numpy as np

from rwkv_cy.dtypes import widen
from rwkv_cy.errors import KernelError

from cpython.exc cimport PyErr_CheckSignals
from cython cimport floating
from libc.string cimport memcpy

from rwkv_cy.kernels.dispatch cimport (
    active_ops, layer_norm, matmul_ahead, matmul_scratch, multiply, rk_product, rk_sequence, rk_tokens,
)
from rwkv_cy.kernels.embedding cimport check_ids
from rwkv_cy.kernels.matrix cimport Matrix, Workspace, padded


cdef enum:
    # Tokens of each sequence that the last layer runs in full: the last token, and the one before it, which the token
    # shift of the channel mix needs.
    TAIL = 2
    # Leaving out fewer tokens does not pay for reading the weights twice. Nor does leaving out less than twice the
    # tokens of the tails.
    LEAST_LEFT_OUT = 32
    # Up to so many tokens, a stack keeps the size of the scratch memory that it needs.
    FEW = 64


cdef Pass plain_pass(const rk_ops *ops, rk_tokens tokens, int num_threads) noexcept nogil:
    return Pass(ops, tokens, num_threads, NULL, NULL, NULL, 0, 0, 0)


cdef char *take(Arena *arena, size_t size) noexcept nogil:
    """Return the address of the next `size` bytes; NULL if the arena only counts."""
    cdef size_t before = arena.used
    arena.used += padded(size)
    if arena.start == NULL:
        return NULL
    return arena.start + before


cdef size_t product_scratch(const Pass *p, Matrix matrix) noexcept nogil:
    """Return the bytes of scratch that a product with the matrix needs."""
    return matmul_scratch(p.ops, &matrix.m, p.tokens.count, p.num_threads)


cdef rk_product shifted(rk_product product, int kind, const char *mix, size_t before) noexcept nogil:
    """Return the product with a token shift of x; `before` is the offset of the previous token in the state."""
    product.first, product.mix, product.before = kind, mix, before
    return product


cdef void last_product(const Pass *p, const rk_product *product, char *scratch) noexcept nogil:
    """Run the last product of a layer, and meanwhile prefetch a part of the states that the next layer reads."""
    matmul_ahead(p.ops, product, 1, &p.tokens, p.ahead, p.ahead_bytes, scratch, p.num_threads)


cdef void keep_last(const Pass *p, const char *x, size_t row, size_t field) noexcept nogil:
    """Copy the last token of each sequence to the field of its state at offset `field`, or each to its own state."""
    cdef Py_ssize_t i, t
    cdef const rk_sequence *s
    for i in range(p.tokens.sequence_count):
        s = &p.tokens.sequences[i]
        for t in range(s.begin if s.stride else s.end - 1, s.end):
            memcpy(s.write + (t - s.begin if s.stride else 0) * s.stride + field, x + t * row, row)


cdef const char *pointer(array):
    return <const char *><size_t>array.ctypes.data


def real_dtype(config):
    """NumPy dtype of the activations and the state of a model with this config."""
    return np.dtype(np.float64 if config.compute_dtype == "f64" else np.float32)


def _vector(parameters, name, real):
    parameter = parameters[name]
    return np.ascontiguousarray(widen(parameter.array, parameter.dtype, real).reshape(-1))


cdef class Mix:
    """Half of a layer: maps normalized activations to an update of the residual stream. Each version has two.

    Parameters
    ----------
    config : Config
        Dimensions and type.
    state_size : int
        Elements of a layer's row of the state.
    """

    def __init__(self, config, state_size):
        self.d_model = config.d_model
        self.state_size = state_size
        self.itemsize = real_dtype(config).itemsize
        self.shared_row = 0
        self.kv = self.kv_bytes = 0
        self.vocab_size = 0
        self.uses_embedding = False
        self._arrays = []

    cdef const char *vector(self, parameters, name, real) except NULL:
        """Return the parameter `name` as a flat array of the activations' type."""
        return self.keep(_vector(parameters, name, real))

    cdef const char *keep(self, array) except NULL:
        """Hold a reference to an array for the life of the mix, and return its address."""
        self._arrays.append(array)
        return pointer(array)

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        return 0

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        pass

    cdef void prefetch(self, const Pass *p) noexcept nogil:
        pass

    cdef void update_state(self, const Pass *p, const char *x, char *scratch) noexcept nogil:
        pass

    def forward(self, const floating[:, ::1] x, floating[::1] state, int num_threads=1, shared=None, ids=None,
                embedded=None):
        """Return the mix of the tokens of one sequence.

        Parameters
        ----------
        x : numpy.ndarray
            Normalized activations, shape (tokens, d_model).
        state : numpy.ndarray
            The layer's row of the state; the fields of this mix are updated in place.
        num_threads : int, default 1
            Threads to use.
        shared : numpy.ndarray, optional
            Activations that layers share, shape (tokens, shared_width); written by the first layer. Zeros by default.
        ids : numpy.ndarray, optional
            The tokens, int64, if the mix looks them up in a table (`vocab_size` is not 0).
        embedded : numpy.ndarray, optional
            Their embeddings after ln0, shape (tokens, d_model), if it `uses_embedding`.

        Returns
        -------
        numpy.ndarray
            Shape (tokens, d_model).

        Raises
        ------
        KernelError
            If an array does not fit the mix in shape or type, or `num_threads` is below 1.
        """
        cdef str name = type(self).__name__
        cdef Py_ssize_t tokens = x.shape[0]
        if sizeof(floating) != self.itemsize:
            raise KernelError(f"{name}: expected numbers of {self.itemsize} bytes, got {sizeof(floating)}")
        _check_threads(name, num_threads)
        if x.shape[1] != self.d_model:
            raise KernelError(f"{name}: expected (tokens, {self.d_model}), got ({tokens}, {x.shape[1]})")
        if state.shape[0] != self.state_size:
            raise KernelError(f"{name}: expected a row of {self.state_size} elements of state, got {state.shape[0]}")
        result = np.zeros((tokens, self.d_model), dtype=np.float64 if sizeof(floating) == 8 else np.float32)
        cdef Py_ssize_t width = self.shared_row // self.itemsize
        if shared is None:
            shared = np.zeros((tokens, width), result.dtype)
        if (not isinstance(shared, np.ndarray) or shared.shape != (tokens, width) or shared.dtype != result.dtype
                or not shared.flags.c_contiguous or not shared.flags.writeable):
            raise KernelError(
                f"{name}: expected shared activations ({tokens}, {width}) of {result.dtype}, contiguous and writable, "
                f"got {getattr(shared, 'dtype', type(shared).__name__)} of shape {getattr(shared, 'shape', None)}"
            )
        if tokens == 0:
            return result
        own_ids = copy_ids(name, ids, tokens, self.vocab_size)
        if self.uses_embedding and (not isinstance(embedded, np.ndarray) or embedded.shape != result.shape
                                    or embedded.dtype != result.dtype or not embedded.flags.c_contiguous):
            raise KernelError(
                f"{name}: expected contiguous embeddings ({tokens}, {self.d_model}) of {result.dtype}, got "
                f"{getattr(embedded, 'dtype', type(embedded).__name__)} of shape {getattr(embedded, 'shape', None)}"
            )
        cdef floating[:, ::1] y = result
        cdef rk_sequence whole = rk_sequence(0, tokens, <const char *>&state[0], <char *>&state[0], 0)
        cdef Pass p = plain_pass(active_ops(sizeof(floating) == 8), rk_tokens(tokens, &whole, 1), num_threads)
        p.shared, p.ids = <char *>pointer(shared), <const long long *>pointer(own_ids)
        if self.uses_embedding:
            p.embedded = <char *>pointer(embedded)
        cdef Workspace workspace = Workspace()
        workspace.ensure(self.scratch(&p))
        with nogil:
            self.run(&p, <const char *>&x[0, 0], workspace.start, <char *>&y[0, 0])
        return result

    @property
    def shared_width(self):
        """Elements per token that layers share through this mix."""
        return self.shared_row // self.itemsize


def copy_ids(what, ids, tokens, vocab_size):
    """Return a checked copy of the tokens, which another thread may modify; empty if nothing looks them up."""
    if vocab_size == 0:
        return np.empty(0, np.int64)
    if not isinstance(ids, np.ndarray) or ids.shape != (tokens,) or ids.dtype != np.int64:
        raise KernelError(
            f"{what}: expected the ids of the {tokens} tokens as int64, which are looked up in tables, got "
            f"{getattr(ids, 'dtype', type(ids).__name__)} of shape {getattr(ids, 'shape', None)}"
        )
    own = ids.copy()
    cdef const long long[::1] checked = own
    if tokens:
        check_ids(what, &checked[0], tokens, vocab_size)
    return own


cdef int _check_threads(str what, int num_threads) except -1:
    # Scratch is sized for this many threads: with 0, the calling thread would write beyond its end.
    if num_threads < 1:
        raise KernelError(f"{what}: expected at least one thread, got {num_threads}")
    return 0


# Tokens of parts of the sequences, one part after the other.
cdef struct Gathered:
    char *x               # (tokens, d_model)
    char *shared          # as in Pass
    long long *ids
    char *embedded
    size_t row, shared_row


cdef void gather(const Pass *p, const char *x, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t to, const Pass *into,
                 Gathered *g) noexcept nogil:
    """Copy tokens begin..end, with all that belongs to them, to position `to` of the pass `into`."""
    cdef size_t count = end - begin
    memcpy(g.x + to * g.row, x + begin * g.row, count * g.row)
    memcpy(g.shared + to * g.shared_row, p.shared + begin * g.shared_row, count * g.shared_row)
    if into.ids != NULL:
        memcpy(g.ids + to, p.ids + begin, count * sizeof(long long))
    if into.embedded != NULL:
        memcpy(g.embedded + to * g.row, p.embedded + begin * g.row, count * g.row)


cdef class Layer:
    """One layer. Layer 0 first normalizes its input with ln0, if ``config.embedding_norm``.

    Parameters
    ----------
    config : Config
        Dimensions and type.
    index : int
        Index of the layer, from 0.
    parameters : mapping of str to Parameter
        The layer's parameters by short name; only the LayerNorms are used.
    time_mix, channel_mix : Mix
        The two halves of the layer.
    """

    def __init__(self, config, index, parameters, Mix time_mix not None, Mix channel_mix not None):
        self.time_mix, self.channel_mix = time_mix, channel_mix
        self.d_model = config.d_model
        self.state_size = time_mix.state_size
        self.eps = config.layer_norm_eps
        self.halve = config.rescale_layer > 0 and (index + 1) % config.rescale_layer == 0
        self.itemsize = real_dtype(config).itemsize
        for mix in (time_mix, channel_mix):
            if mix.d_model != self.d_model or mix.state_size != self.state_size or mix.itemsize != self.itemsize:
                raise KernelError(f"Layer: expected mixes of width {self.d_model} with equal state size and type")
        sizes = [mix.vocab_size for mix in (time_mix, channel_mix) if mix.vocab_size]
        self.vocab_size = min(sizes, default=0)
        self.uses_embedding = time_mix.uses_embedding or channel_mix.uses_embedding
        self.is_first = index == 0
        self._norms = [
            tuple(_vector(parameters, f"{name}.{part}", config.compute_dtype) for part in ("weight", "bias"))
            for name in (("ln1", "ln2", "ln0") if self.is_first and config.embedding_norm else ("ln1", "ln2"))
        ]
        self.ln1_weight, self.ln1_bias = pointer(self._norms[0][0]), pointer(self._norms[0][1])
        self.ln2_weight, self.ln2_bias = pointer(self._norms[1][0]), pointer(self._norms[1][1])
        self.ln0_weight = self.ln0_bias = NULL
        if len(self._norms) > 2:
            self.ln0_weight, self.ln0_bias = pointer(self._norms[2][0]), pointer(self._norms[2][1])

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        return (padded(p.tokens.count * self.d_model * self.itemsize)
                + max(self.time_mix.scratch(p), self.channel_mix.scratch(p)))

    cdef void run(self, const Pass *p, char *x, char *scratch) noexcept nogil:
        cdef Py_ssize_t tokens = p.tokens.count
        cdef Py_ssize_t d = self.d_model
        cdef Arena arena = Arena(scratch, 0)
        cdef char *normed = take(&arena, tokens * d * self.itemsize)
        cdef char *rest = take(&arena, 0)
        if self.ln0_weight != NULL:
            layer_norm(p.ops, x, self.ln0_weight, self.ln0_bias, self.eps, tokens, d, p.num_threads, x)
        if self.is_first and p.embedded != NULL:
            memcpy(p.embedded, x, tokens * d * self.itemsize)
        layer_norm(p.ops, x, self.ln1_weight, self.ln1_bias, self.eps, tokens, d, p.num_threads, normed)
        self.time_mix.run(p, normed, rest, x)
        layer_norm(p.ops, x, self.ln2_weight, self.ln2_bias, self.eps, tokens, d, p.num_threads, normed)
        self.channel_mix.run(p, normed, rest, x)
        if self.halve:
            multiply(p.ops, 0.5, tokens * d, p.num_threads, x)

    cdef void update_state(self, const Pass *p, char *x, char *scratch) noexcept nogil:
        """Update the states of the time mix; x is overwritten."""
        cdef Py_ssize_t tokens = p.tokens.count
        if self.ln0_weight != NULL:
            layer_norm(p.ops, x, self.ln0_weight, self.ln0_bias, self.eps, tokens, self.d_model, p.num_threads, x)
        if self.is_first and p.embedded != NULL:
            memcpy(p.embedded, x, tokens * self.d_model * self.itemsize)
        layer_norm(p.ops, x, self.ln1_weight, self.ln1_bias, self.eps, tokens, self.d_model, p.num_threads, x)
        self.time_mix.update_state(p, x, scratch)

    cdef size_t scratch_last(self, const Pass *p, Py_ssize_t left_out) noexcept nogil:
        """Return the bytes of scratch that `run_last` needs if it leaves out `left_out` tokens."""
        cdef Pass head = p[0]
        cdef Pass tail = p[0]
        head.tokens.count, tail.tokens.count = left_out, p.tokens.count - left_out
        # The number of tokens decides which kernels run, so that fewer tokens may need more scratch.
        cdef size_t row = self.d_model * self.itemsize
        return (padded(p.tokens.count * row)
                + padded(p.tokens.count * self.time_mix.shared_row)
                + padded(p.tokens.count * sizeof(long long) if self.vocab_size else 0)
                + padded(p.tokens.count * row if self.uses_embedding else 0)
                + padded(2 * p.tokens.sequence_count * sizeof(rk_sequence))
                + max(self.scratch(&head), self.scratch(&tail)))

    cdef void run_last(self, const Pass *p, char *x, char *scratch) noexcept nogil:
        """Run for the last token of each sequence.

        Earlier tokens only need the time mix, to update the state, except that the token shift of the last token's
        channel mix needs the token before it. So each sequence is split: its head only updates the state, its tail of
        two tokens runs through the whole layer. The channel mix of the first token of a tail reads a state that is not
        up to date; its result is not used.
        """
        cdef size_t row = self.d_model * self.itemsize
        cdef size_t shared_row = self.time_mix.shared_row
        cdef Py_ssize_t count = p.tokens.sequence_count
        cdef const rk_sequence *sequences = p.tokens.sequences
        cdef Arena arena = Arena(scratch, 0)
        cdef Gathered g                                                  # all heads, later all tails
        g.x = take(&arena, p.tokens.count * row)
        g.shared = take(&arena, p.tokens.count * shared_row)
        g.ids = <long long *>take(&arena, p.tokens.count * sizeof(long long) if self.vocab_size else 0)
        g.embedded = take(&arena, p.tokens.count * row if self.uses_embedding else 0)
        g.row, g.shared_row = row, shared_row
        cdef rk_sequence *heads = <rk_sequence *>take(&arena, 2 * count * sizeof(rk_sequence))
        cdef rk_sequence *tails = heads + count
        cdef char *rest = take(&arena, 0)
        cdef Pass head = p[0]
        cdef Pass tail = p[0]
        cdef Py_ssize_t i, begin, end
        head.tokens, tail.tokens = rk_tokens(0, heads, 0), rk_tokens(0, tails, count)
        head.shared = tail.shared = g.shared
        head.ids = tail.ids = g.ids if self.vocab_size else NULL
        head.embedded = tail.embedded = g.embedded if self.uses_embedding else NULL
        for i in range(count):
            begin, end = sequences[i].begin, sequences[i].end - TAIL
            if begin >= end:
                continue
            heads[head.tokens.sequence_count] = rk_sequence(
                head.tokens.count, head.tokens.count + end - begin, sequences[i].read, sequences[i].write, 0)
            gather(p, x, begin, end, head.tokens.count, &head, &g)
            head.tokens.sequence_count += 1
            head.tokens.count += end - begin
        self.update_state(&head, g.x, rest)
        for i in range(count):
            begin, end = max(sequences[i].begin, sequences[i].end - TAIL), sequences[i].end
            # A tail continues from the state that its head has written.
            tails[i] = rk_sequence(
                tail.tokens.count, tail.tokens.count + end - begin, sequences[i].write, sequences[i].write, 0)
            if begin == sequences[i].begin:
                tails[i].read = sequences[i].read
            gather(p, x, begin, end, tail.tokens.count, &tail, &g)
            tail.tokens.count += end - begin
        self.run(&tail, g.x, rest)
        for i in range(count):
            memcpy(x + (sequences[i].end - 1) * row, g.x + (tails[i].end - 1) * row, row)


cdef class Stack:
    """A sequence of layers.

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
    cdef size_t _shared_row
    cdef readonly Py_ssize_t vocab_size    # rows of the tables in which tokens are looked up; 0 without tables
    cdef bint _uses_embedding
    cdef dict _scratch                     # bytes of scratch of a layer, by what they depend on

    def __init__(self, layers):
        cdef Layer layer
        self._layers = tuple(layers)
        self._scratch = {}
        self._shared_row = 0
        self.vocab_size, self._uses_embedding = 0, False
        widths = set()
        for item in self._layers:
            if not isinstance(item, Layer):
                raise KernelError(f"Stack: expected layers, got {type(item).__name__}")
            layer = item
            widths.add((layer.d_model, layer.state_size, layer.itemsize))
            self._shared_row = max(self._shared_row, layer.time_mix.shared_row)
            if layer.vocab_size:
                self.vocab_size = min(self.vocab_size or layer.vocab_size, layer.vocab_size)
            self._uses_embedding |= layer.uses_embedding
        if len(widths) != 1:
            raise KernelError(f"Stack: expected layers of one width, state and type, got {sorted(widths)}")
        layer = self._layers[0]
        if self._uses_embedding and not layer.is_first:
            raise KernelError("Stack: expected layer 0 first, whose input is the embeddings that its layers use")

    def forward(self, floating[:, ::1] x, reads, writes, const Py_ssize_t[::1] starts, Workspace workspace not None,
                int num_threads, bint last_only=False, ids=None):
        """Run over the tokens of one sequence or several, in place.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, d_model): the concatenated sequences. Replaced by the outputs.
        reads, writes : sequence of numpy.ndarray
            The state of each sequence before and after: shape (layers, state_size), contiguous, of x's type. If both
            are the same array, it is updated in place. No two sequences may write to the same array. Where an array to
            write to has a further dimension in front, (tokens, layers, state_size), it receives the state after each
            token of the sequence, and the array to read from may be one of these.
        starts : numpy.ndarray
            Shape (sequences + 1,), intp: the first token of each sequence, then the number of tokens. Every sequence
            has at least one token.
        workspace : Workspace
            Scratch memory to reuse.
        num_threads : int
            Threads to use.
        last_only : bool, default False
            Compute only the outputs for the last token of each sequence. The states and those rows of `x` have the same
            bits; the other rows are undefined, because the last layer only updates the state for them.
        ids : numpy.ndarray, optional
            The tokens, int64, if `vocab_size` is not 0: layers look them up in tables of so many rows.

        Raises
        ------
        KernelError
            If an array does not fit the layers in shape or type, `starts` does not ascend from 0 to the number of
            tokens, an id is not a row of the tables, or `num_threads` is below 1. The states are then unchanged.
        KeyboardInterrupt, or any exception of a signal handler
            Between two layers; the states are then partly updated.
        """
        cdef Layer layer = self._layers[0]
        cdef Layer following
        cdef Py_ssize_t tokens = x.shape[0]
        cdef Py_ssize_t count = len(reads)
        cdef Py_ssize_t layers = len(self._layers)
        cdef Py_ssize_t i, j
        cdef size_t row = layer.state_size * layer.itemsize
        cdef const floating[:, ::1] read
        cdef floating[:, ::1] write
        cdef floating[:, :, ::1] each
        cdef Py_ssize_t stride
        if sizeof(floating) != layer.itemsize:
            raise KernelError(f"Stack: expected numbers of {layer.itemsize} bytes, got {sizeof(floating)}")
        _check_threads("Stack", num_threads)
        if x.shape[1] != layer.d_model:
            raise KernelError(f"Stack: expected x (tokens, {layer.d_model}), got ({tokens}, {x.shape[1]})")
        if len(writes) != count or starts.shape[0] != count + 1 or starts[0] != 0 or starts[count] != tokens:
            raise KernelError(
                f"Stack: expected states to read and to write, and starts from 0 to {tokens}, of as many sequences; "
                f"got {count}, {len(writes)}, {list(starts)[:10]}"
            )
        for i in range(count):
            if starts[i] >= starts[i + 1]:
                raise KernelError(f"Stack: expected at least one token in sequence {i}, got none")
        if count == 0:
            return
        own_ids = copy_ids("Stack", ids, tokens, self.vocab_size)
        cdef Pass p = plain_pass(active_ops(sizeof(floating) == 8), rk_tokens(tokens, NULL, count), num_threads)
        p.ids = <const long long *>pointer(own_ids)
        cdef size_t embedded = tokens * layer.d_model * layer.itemsize if self._uses_embedding else 0
        cdef size_t scratch = self._layer_scratch(&p)
        layer = self._layers[layers - 1]
        cdef Py_ssize_t left_out = 0
        if last_only:
            for i in range(count):
                left_out += max(starts[i + 1] - starts[i] - TAIL, 0)
        cdef bint shorten = left_out >= LEAST_LEFT_OUT and left_out >= 2 * (tokens - left_out)
        if shorten:
            scratch = max(scratch, layer.scratch_last(&p, left_out))
        cdef Arena arena = Arena(NULL, 0)
        take(&arena, count * sizeof(rk_sequence))
        take(&arena, tokens * self._shared_row)
        take(&arena, embedded)
        workspace.ensure(arena.used + scratch)
        arena = Arena(workspace.start, 0)
        cdef rk_sequence *sequences = <rk_sequence *>take(&arena, count * sizeof(rk_sequence))
        p.tokens.sequences = sequences
        p.shared = take(&arena, tokens * self._shared_row)
        p.embedded = take(&arena, embedded)
        if not self._uses_embedding:
            p.embedded = NULL
        cdef char *rest = take(&arena, 0)
        for j in range(count):
            stride = 0
            if writes[j].ndim == 3:
                each = writes[j]
                if each.shape[0] != starts[j + 1] - starts[j] or last_only:
                    raise KernelError(
                        f"Stack: expected {starts[j + 1] - starts[j]} states, one after each token of sequence {j}, "
                        f"and outputs for all of them, got {each.shape[0]} states"
                    )
                stride = each.strides[0]
                read, write = reads[j], each[0]
            else:
                read, write = reads[j], writes[j]
            if (read.shape[0] != layers or write.shape[0] != layers or read.shape[1] != layer.state_size
                    or write.shape[1] != layer.state_size):
                raise KernelError(
                    f"Stack: expected states ({layers}, {layer.state_size}), got ({read.shape[0]}, {read.shape[1]}) "
                    f"and ({write.shape[0]}, {write.shape[1]}) for sequence {j}"
                )
            sequences[j] = rk_sequence(
                starts[j], starts[j + 1], <const char *>&read[0, 0], <char *>&write[0, 0], stride)
        for layer in self._layers if self.vocab_size else ():
            layer.time_mix.prefetch(&p)
            layer.channel_mix.prefetch(&p)
        for i in range(layers):
            # Many tokens take seconds, so that signals such as Ctrl-C are handled between layers.
            PyErr_CheckSignals()
            layer = self._layers[i]
            p.prefetched, p.ahead_bytes = p.ahead_bytes, 0
            if i + 1 < layers:
                following = self._layers[i + 1]
                # Half: the other half is prefetched by the products right before it is read.
                p.ahead, p.ahead_bytes = row + following.time_mix.kv, following.time_mix.kv_bytes // 2
            with nogil:
                if shorten and i + 1 == layers:
                    layer.run_last(&p, <char *>&x[0, 0], rest)
                else:
                    layer.run(&p, <char *>&x[0, 0], rest)
            for j in range(count):
                sequences[j].read += row
                sequences[j].write += row

    cdef size_t _layer_scratch(self, const Pass *p) except? 0:
        """Return the bytes of scratch of the layer that needs most: computed once for each small number of tokens."""
        cdef Layer layer
        cdef size_t size = 0
        key = (<size_t>p.ops, p.tokens.count, p.num_threads)
        known = self._scratch.get(key)
        if known is not None:
            return known
        for layer in self._layers:
            size = max(size, layer.scratch(p))
        if p.tokens.count <= FEW:
            self._scratch[key] = size
        return size
