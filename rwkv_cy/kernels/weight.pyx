"""A weight matrix in the recorded pass and in the backward pass."""

from rwkv_cy.dtypes import PACKED, QUANTIZED_TYPES
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.packed import unpack_matrix

from rwkv_cy.kernels.dispatch cimport (
    RK_F32, RK_F64, add_product, add_product_scratch, matmul, matmul_scratch, outer, outer_scratch, to_floats,
    transpose as transpose_array,
)
from rwkv_cy.kernels.matrix cimport Matrix, padded, times
from rwkv_cy.kernels.stack cimport Pass, pointer


cdef rk_matrix transpose(rk_matrix m) noexcept nogil:
    m.rows, m.cols, m.transposed = m.cols, m.rows, not m.transposed
    return m


cdef class Weight:
    """A matrix in the recorded pass and the backward pass; activations are never rounded or quantized.

    Parameters
    ----------
    matrix : Matrix
        A quantized one is dequantized for every product.
    index : int
        Of the parameter among the names of the mix.
    in_out : bool, default False
        The parameter has the shape (inputs, outputs).
    offset : int, default 0
        First byte of this matrix in the parameter's gradient.
    """

    def __init__(self, Matrix matrix not None, int index, bint in_out=False, size_t offset=0):
        if matrix.dtype == PACKED:
            matrix = Matrix(unpack_matrix(matrix.array, matrix.shape), "bf16", matrix.scale)
        self.matrix, self.m = matrix, matrix.m
        self.m.rounded, self.m.inputs = 0, NULL
        self.decoded = matrix.dtype in QUANTIZED_TYPES
        self.index, self.in_out, self.offset = index, in_out, offset
        self.a.data = self.b.data = NULL

    cdef int adapt(self, a, b, double scale, int index_a, int index_b) except -1:
        if self.in_out or a.shape[1] != self.m.cols or b.shape[0] != self.m.rows or a.shape[0] != b.shape[1]:
            raise KernelError(
                f"adapter: expected factors (rank, {self.m.cols}) and ({self.m.rows}, rank), "
                f"got {a.shape} and {b.shape}"
            )
        self.a.data, self.a.rows, self.a.cols = pointer(a), a.shape[0], a.shape[1]
        self.b.data, self.b.rows, self.b.cols = pointer(b), b.shape[0], b.shape[1]
        self.a.dtype = self.b.dtype = RK_F64 if self.matrix.double_precision else RK_F32
        self.a.scale, self.b.scale = 1.0, scale * self.m.scale
        self.index_a, self.index_b, self._factors = index_a, index_b, (a, b)
        self.decoded = True
        return 0

    cdef rk_matrix floats(self, char *start) noexcept nogil:
        """Return the matrix as floats, which are at `start` if it is decoded."""
        cdef rk_matrix m = self.m
        if self.decoded:
            m.data, m.dtype = start, RK_F64 if self.matrix.double_precision else RK_F32
        return m

    cdef size_t decoded_bytes(self) noexcept nogil:
        if not self.decoded:
            return 0
        return padded(self.m.rows * self.m.cols * (sizeof(double) if self.matrix.double_precision else sizeof(float)))

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef rk_matrix m = self.floats(NULL)
        cdef rk_matrix t = transpose(m)
        cdef Py_ssize_t tokens = p.tokens.count
        return self.decoded_bytes() + max(self.adapter_scratch(p), max(
            max(matmul_scratch(p.ops, &m, tokens, p.num_threads), matmul_scratch(p.ops, &t, tokens, p.num_threads)),
            max(outer_scratch(p.ops, m.rows, m.cols, tokens, p.num_threads),
                outer_scratch(p.ops, m.cols, m.rows, tokens, p.num_threads))))

    cdef size_t adapter_scratch(self, const Pass *p) noexcept nogil:
        cdef Py_ssize_t tokens = p.tokens.count
        cdef Py_ssize_t rank = self.a.rows
        cdef rk_matrix t, update
        if self.a.data == NULL:
            return 0
        t = transpose(self.b)
        update = self.update()
        return self.flipped_bytes() + padded(tokens * rank * sizeof(double)) + max(
            max(max(matmul_scratch(p.ops, &self.a, tokens, p.num_threads),
                    matmul_scratch(p.ops, &t, tokens, p.num_threads)),
                add_product_scratch(p.ops, self.m.cols if self.m.transposed else self.m.rows, &update, p.num_threads)),
            max(outer_scratch(p.ops, self.m.rows, rank, tokens, p.num_threads),
                outer_scratch(p.ops, rank, self.m.cols, tokens, p.num_threads)))

    cdef rk_matrix update(self) noexcept nogil:
        """Return the factor that the other one is multiplied with, for the update of the matrix as it is stored."""
        cdef rk_matrix m = self.b
        if not self.m.transposed:
            m = transpose(self.a)
            m.scale = self.b.scale / self.m.scale
        else:
            m.scale /= self.m.scale
        return m

    cdef rk_matrix decode(self, const Pass *p, char *scratch) noexcept nogil:
        cdef rk_matrix m = self.floats(scratch)
        cdef rk_matrix factor
        cdef char *rest = scratch + self.decoded_bytes()
        if self.decoded:
            to_floats(&self.m, scratch, p.num_threads)
        if self.a.data == NULL:
            return m
        factor = self.update()
        if m.transposed:
            # W^T += A^T B^T
            transpose_array(self.a.data, sizeof(double) if self.matrix.double_precision else sizeof(float),
                            self.a.rows, self.a.cols, self.a.cols, self.a.rows, rest)
            add_product(p.ops, rest, m.cols, &factor, scratch, rest + self.flipped_bytes(), p.num_threads)
        else:
            # W += B A
            add_product(p.ops, self.b.data, m.rows, &factor, scratch, rest, p.num_threads)
        return m

    cdef size_t flipped_bytes(self) noexcept nogil:
        return padded(self.a.rows * self.a.cols * sizeof(double)) if self.m.transposed else 0

    cdef void forward(self, const Pass *p, rk_product product, char *scratch) noexcept nogil:
        cdef rk_matrix m = self.decode(p, scratch)
        product.m = &m
        matmul(p.ops, &product, 1, &p.tokens, scratch + self.decoded_bytes(), p.num_threads)

    cdef bint needs_input(self, const Backward *b) noexcept nogil:
        return (b.gradients[self.index] != NULL
                or self.a.data != NULL and (b.gradients[self.index_a] != NULL or b.gradients[self.index_b] != NULL))

    cdef void backward(self, const Backward *b, const char *x, Py_ssize_t x_stride, const char *dy, char *dx,
                       char *scratch) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef rk_matrix m
        cdef rk_product product
        cdef char *rest = scratch + self.decoded_bytes()
        cdef char *g = b.gradients[self.index]
        if dx != NULL:
            m = transpose(self.decode(p, scratch))
            product = times(&m, dy, dx)
            matmul(p.ops, &product, 1, &p.tokens, rest, p.num_threads)
        if self.a.data != NULL:
            self.adapter_backward(b, x, dy, rest)
        if g == NULL:
            return
        g += self.offset
        if self.in_out:
            outer(p.ops, x, self.m.cols, x_stride, dy, self.m.rows, p.tokens.count, self.m.scale, g, rest,
                  p.num_threads)
        else:
            outer(p.ops, dy, self.m.rows, self.m.rows, x, self.m.cols, p.tokens.count, self.m.scale, g, rest,
                  p.num_threads)

    cdef void adapter_backward(self, const Backward *b, const char *x, const char *dy, char *scratch) noexcept nogil:
        """Add to the gradients of the factors: of y = scale B A x."""
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t tokens = p.tokens.count
        cdef Py_ssize_t rank = self.a.rows
        cdef char *d_a = b.gradients[self.index_a]
        cdef char *d_b = b.gradients[self.index_b]
        cdef char *rest = scratch + padded(tokens * rank * sizeof(double))
        cdef rk_matrix t = transpose(self.b)
        cdef rk_product product
        if d_b != NULL:
            # dB = scale dy (A x)^T
            product = times(&self.a, x, scratch)
            matmul(p.ops, &product, 1, &p.tokens, rest, p.num_threads)
            outer(p.ops, dy, self.m.rows, self.m.rows, scratch, rank, tokens, self.b.scale, d_b, rest, p.num_threads)
        if d_a != NULL:
            # dA = scale (B^T dy) x^T
            product = times(&t, dy, scratch)
            matmul(p.ops, &product, 1, &p.tokens, rest, p.num_threads)
            outer(p.ops, scratch, rank, rank, x, self.m.cols, tokens, 1.0, d_a, rest, p.num_threads)
