"""A weight matrix in any storage type, and its product with one token or many."""

import numpy as np

from rwkv_cy.dtypes import ACTIVATION_TYPES, PACKED, QUANTIZED_TYPES, STORAGE_TYPES, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.packed import HEAD_BYTES, packed_nbytes, stored_escapes, unpack_matrix

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport (
    RK_AS_IT_IS, RK_BF12, RK_BF16, RK_F16, RK_F32, RK_F64, RK_NOTHING, RK_Q4, RK_Q4N, RK_Q6, RK_Q8, active_ops,
    dequantize, matmul, matmul_scratch, quantize, rk_inputs, rk_matrix, rk_ops, rk_product, rk_tokens, transpose,
)

cdef dict _CODES = {"f32": RK_F32, "f64": RK_F64, "f16": RK_F16, "bf16": RK_BF16, "q8": RK_Q8, "q6": RK_Q6,
                    "q4": RK_Q4, "q4n": RK_Q4N, "bf12": RK_BF12}

cdef enum:
    CACHE_LINE = 64


cdef size_t padded(size_t size) noexcept nogil:
    return (size + 63) // 64 * 64


cdef class Workspace:
    """Scratch memory of one forward pass, which grows as needed and is reused.

    Two concurrent calls must not share one.
    """

    def __cinit__(self):
        self.start = NULL
        self.size = 0

    cdef int ensure(self, size_t size) except -1:
        """Provide at least `size` bytes, aligned to a cache line; earlier contents are lost."""
        cdef unsigned char[::1] view
        if size > self.size:
            # Cleared before the allocation, which may fail: `start` must never dangle.
            self.start, self.size, self._memory = NULL, 0, None
            self._memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
            view = self._memory
            self.start = <char *>((<size_t>&view[0] + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE)
            self.size = size
        return 0


def _check_packed(array, dtype, shape):
    if shape is None or len(shape) != 2 or min(shape) < 1:
        raise KernelError(f"Matrix: expected the shape (rows, cols) of a {dtype} matrix, got {shape}")
    expected = QUANTIZED_TYPES[dtype].packed_shape(shape)
    if array.shape != expected or array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise KernelError(
            f"Matrix: expected contiguous uint8 blocks {expected} for {dtype} of shape {shape}, "
            f"got {array.dtype} {array.shape}"
        )
    if array.ctypes.data % 2:
        raise KernelError("Matrix: expected quantized blocks at an even address, got an odd one")


def _check_bf12(array, shape):
    """Return the number of escapes in the matrix's head, after checking that its size in bytes agrees."""
    if shape is None or len(shape) != 2 or min(shape) < 1:
        raise KernelError(f"Matrix: expected the shape (rows, cols) of a {PACKED} matrix, got {shape}")
    if array.ndim != 1 or array.dtype != np.uint8 or not array.flags.c_contiguous or array.size < HEAD_BYTES:
        raise KernelError(f"Matrix: expected contiguous bytes of a {PACKED} matrix, got {array.dtype} {array.shape}")
    escapes = stored_escapes(array)
    expected = packed_nbytes(shape, escapes)
    if array.size != expected:
        raise KernelError(
            f"Matrix: expected {expected} bytes for {PACKED} of shape {shape} with {escapes} escapes, got {array.size}"
        )
    return escapes


def pack(const float[:, ::1] weights, dtype, importance=None):
    """Quantize a matrix, with the scales of the smallest sum of squared errors that a search finds.

    Parameters
    ----------
    weights : numpy.ndarray
        Shape (rows, cols), float32, finite.
    dtype : {"q8", "q6", "q4", "q4n"}
    importance : numpy.ndarray, optional
        float32, shape (cols,), finite and not negative: weights of the squared errors of each column. They are equal by
        default, and for q8, whose scales are not searched.

    Returns
    -------
    numpy.ndarray
        uint8, shape :meth:`QuantizedType.packed_shape`. Groups of sixteen rows are independent, so that a large matrix
        can be quantized in parts of whole groups.

    Raises
    ------
    KernelError
        If the matrix is empty, `dtype` is not a quantized type, or `importance` is not as it should be.
    """
    if dtype not in QUANTIZED_TYPES:
        raise KernelError(f"pack: expected a dtype of {', '.join(QUANTIZED_TYPES)}, got {dtype!r}")
    if weights.shape[0] < 1 or weights.shape[1] < 1:
        raise KernelError(f"pack: expected a matrix that is not empty, got ({weights.shape[0]}, {weights.shape[1]})")
    packed = np.empty(QUANTIZED_TYPES[dtype].packed_shape((weights.shape[0], weights.shape[1])), dtype=np.uint8)
    cdef unsigned char[:, :, ::1] out = packed
    cdef int code = _CODES[dtype]
    cdef const float *columns = NULL
    cdef const float[::1] given
    if importance is not None:
        if importance.shape != (weights.shape[1],) or not (np.isfinite(importance) & (importance >= 0)).all():
            raise KernelError(
                f"pack: expected importance that is finite and not negative, of shape ({weights.shape[1]},), got shape "
                f"{importance.shape} with numbers from {importance.min()} to {importance.max()}"
            )
        given = importance
        columns = &given[0]
    with nogil:
        quantize(&weights[0, 0], weights.shape[0], weights.shape[1], code, columns, &out[0, 0, 0])
    return packed


def unpack(const unsigned char[:, :, ::1] packed, dtype, shape):
    """Dequantize a matrix: return float32, shape (rows, cols).

    Parameters
    ----------
    packed : numpy.ndarray
        The result of :func:`pack`.
    dtype : {"q8", "q6", "q4", "q4n"}
    shape : tuple of int
        (rows, cols).

    Raises
    ------
    KernelError
        If `packed` does not have the shape for `dtype` and `shape`.
    """
    if dtype not in QUANTIZED_TYPES:
        raise KernelError(f"unpack: expected a dtype of {', '.join(QUANTIZED_TYPES)}, got {dtype!r}")
    expected = QUANTIZED_TYPES[dtype].packed_shape(shape)
    if (packed.shape[0], packed.shape[1], packed.shape[2]) != expected:
        got = packed.shape[0], packed.shape[1], packed.shape[2]
        raise KernelError(f"unpack: expected blocks {expected}, got {got}")
    result = np.empty(shape, dtype=np.float32)
    cdef float[:, ::1] out = result
    cdef int code = _CODES[dtype]
    with nogil:
        dequantize(&packed[0, 0, 0], out.shape[0], out.shape[1], code, &out[0, 0])
    return result


def transposed(array, first=0, out=None):
    """Return the transpose of a matrix, contiguous; many times faster than copying ``array.T`` with NumPy.

    Parameters
    ----------
    array : numpy.ndarray
        Shape (rows, cols), C-contiguous and aligned, items of 2, 4 or 8 bytes.
    first : int, default 0
        The first column to transpose.
    out : numpy.ndarray, optional
        Target of shape (count, rows), the array's dtype, C-contiguous; receives columns `first` to `first + count`.

    Returns
    -------
    numpy.ndarray
        Shape (cols - first, rows), or `out`.

    Raises
    ------
    KernelError
        If the array is not such a matrix, or `out` does not fit it.
    """
    if array.ndim != 2 or not array.flags.c_contiguous or not array.flags.aligned or array.itemsize not in (2, 4, 8):
        raise KernelError(
            "transposed: expected a contiguous, aligned matrix with items of 2, 4 or 8 bytes, "
            f"got {array.dtype} of shape {array.shape}"
        )
    cdef size_t rows = array.shape[0], cols = array.shape[1], itemsize = array.itemsize
    if out is None:
        out = np.empty((max(0, array.shape[1] - first), array.shape[0]), dtype=array.dtype)
    if (
        first < 0 or out.ndim != 2 or first + len(out) > array.shape[1] or out.shape[1] != array.shape[0]
        or out.dtype != array.dtype or not out.flags.c_contiguous or not out.flags.aligned or not out.flags.writeable
    ):
        raise KernelError(
            f"transposed: expected a target for columns of {array.dtype} {array.shape} from {first} on, "
            f"got {out.dtype} of shape {out.shape}"
        )
    cdef const char *source = <const char *><size_t>array.ctypes.data + <size_t>first * itemsize
    cdef void *target = <void *><size_t>out.ctypes.data
    cdef size_t count = len(out)
    with nogil:
        transpose(source, itemsize, rows, count, cols, rows, target)
    return out


cdef rk_product times(const rk_matrix *m, const void *x, void *y) noexcept nogil:
    return rk_product(m, x, m.cols, RK_AS_IT_IS, NULL, NULL, 0, y, RK_NOTHING, NULL, NULL)


cdef class Matrix:
    """A weight matrix (outputs, inputs) in any storage type; the array is neither copied nor modified.

    Parameters
    ----------
    array : numpy.ndarray
        Shape (rows, cols), C-contiguous, of the array dtype of `dtype` (uint16 for bf16). For a quantized matrix the
        result of :func:`pack`, for bf12 that of :func:`rwkv_cy.kernels.packed.pack_matrix`. May be read-only and
        memory-mapped.
    dtype : {"f32", "f16", "bf16", "f64", "q8", "q6", "q4", "q4n", "bf12"}
        Storage type. An f64 matrix takes float64 activations, the others float32.
    scale : float, default 1.0
        Factor of every product; a power of two is exact.
    shape : tuple of int, optional
        (rows, cols) of a quantized or bf12 matrix.
    transposed : bool, default False
        The array is (cols, rows). Products have the same bits. For few tokens, weights of inputs that are zero for all
        of them (four tokens at a time) are not read, so that NaN or Inf among those weights is not detected. Not
        supported for quantized or bf12 matrices.
    activations : {"f32", "bf16"}, default "f32"
        ``"bf16"`` rounds the activations that a bf16 matrix is multiplied with to bf16, nearest even. It applies from a
        number of tokens on (8 to 24, by instruction set), so that results for one token and for many may differ. Other
        matrices, including bf12, ignore it.
    inputs : numpy.ndarray, optional
        float32, shape (tokens, cols): receives the first so many tokens that the matrix is multiplied with.

    Raises
    ------
    KernelError
        If the array has another shape, layout or type.
    """

    def __init__(self, array, dtype, scale=1.0, shape=None, transposed=False, activations="f32", inputs=None):
        if dtype not in _CODES:
            raise KernelError(f"Matrix: expected a dtype of {', '.join(_CODES)}, got {dtype!r}")
        if transposed and dtype not in STORAGE_TYPES:
            raise KernelError(f"Matrix: expected a floating point dtype for a transposed matrix, got {dtype}")
        if dtype in QUANTIZED_TYPES:
            _check_packed(array, dtype, shape)
        elif dtype == PACKED:
            self.m.escapes = _check_bf12(array, shape)
        elif array.ndim != 2 or not array.flags.c_contiguous or not array.flags.aligned:
            raise KernelError(f"Matrix: expected a contiguous, aligned array (rows, cols), got shape {array.shape}")
        elif array.dtype != STORAGE_TYPES[dtype].array_dtype:
            raise KernelError(
                f"Matrix: expected {STORAGE_TYPES[dtype].array_dtype} for {dtype}, got {array.dtype}"
            )
        self.array = array
        self.dtype = dtype
        self.double_precision = dtype == "f64"
        self.m.data = <const void *><size_t>array.ctypes.data
        if dtype not in STORAGE_TYPES:
            self.m.rows, self.m.cols = shape
        else:
            self.m.rows, self.m.cols = array.shape[::-1] if transposed else array.shape
        self.m.transposed = transposed
        self.m.dtype = _CODES[dtype]
        self.m.scale = scale
        if activations not in ACTIVATION_TYPES:
            raise KernelError(
                f"Matrix: expected activations of {' or '.join(ACTIVATION_TYPES)}, got {activations!r}"
            )
        self.m.rounded = activations == "bf16"
        cdef float[:, ::1] rows
        if inputs is not None:
            if inputs.ndim != 2 or inputs.shape[1] != self.m.cols or inputs.dtype != np.float32 or not inputs.size:
                raise KernelError(
                    f"Matrix: expected a record of inputs (tokens, {self.m.cols}) of float32, got {inputs.dtype} "
                    f"{inputs.shape}"
                )
            self._recorded = rows = inputs
            self._inputs = rk_inputs(&rows[0, 0], rows.shape[0], 0)
            self.m.inputs = &self._inputs

    @property
    def shape(self):
        """(rows, cols): outputs and inputs."""
        return self.m.rows, self.m.cols

    @property
    def transposed(self):
        """Whether the array is (cols, rows)."""
        return bool(self.m.transposed)

    @property
    def scale(self):
        """Factor of every product."""
        return self.m.scale

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil:
        return matmul_scratch(ops, &self.m, tokens, num_threads)

    cdef rk_product times(self, const void *x, void *y) noexcept nogil:
        return times(&self.m, x, y)

    def matmul(self, const floating[:, ::1] x, int num_threads=1, Workspace workspace=None):
        """Multiply tokens by the matrix.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, cols); float64 for an f64 matrix, else float32.
        num_threads : int, default 1
            Threads to use; the result is the same for every number.
        workspace : Workspace, optional
            Scratch memory to reuse.

        Returns
        -------
        numpy.ndarray
            Shape (tokens, rows): ``scale * x @ matrix.T``. If the weights are finite, each row has the same bits for
            any number of tokens.

        Raises
        ------
        KernelError
            If `x` has another width or type.
        """
        cdef bint double_precision = sizeof(floating) == 8
        if double_precision != self.double_precision:
            expected = "float64" if self.double_precision else "float32"
            raise KernelError(f"Matrix.matmul: expected {expected} activations for {self.dtype} weights")
        if x.shape[1] != self.m.cols:
            raise KernelError(f"Matrix.matmul: expected (tokens, {self.m.cols}), got ({x.shape[0]}, {x.shape[1]})")
        if num_threads < 1:
            raise KernelError(f"Matrix.matmul: expected at least one thread, got {num_threads}")
        result = np.empty((x.shape[0], self.m.rows), dtype=np.float64 if double_precision else np.float32)
        if result.size == 0:
            return result
        if self.m.cols == 0:
            result[...] = 0
            return result
        cdef floating[:, ::1] y = result
        cdef const rk_ops *ops = active_ops(double_precision)
        if workspace is None:
            workspace = Workspace()
        workspace.ensure(self.scratch_bytes(ops, x.shape[0], num_threads))
        cdef rk_product product = self.times(&x[0, 0], &y[0, 0])
        cdef rk_tokens all = rk_tokens(x.shape[0], NULL, 0)
        with nogil:
            matmul(ops, &product, 1, &all, workspace.start, num_threads)
        return result


def make_matrix(parameter, real, scale=1.0, activations="f32"):
    """Return a parameter as a Matrix for activations of type `real` ("f32" or "f64"), widened if necessary.

    `activations` is as for :class:`Matrix`.
    """
    array, dtype = parameter.array, parameter.dtype
    if dtype in QUANTIZED_TYPES:
        if real == "f32":
            return Matrix(array, dtype, scale, parameter.shape, inputs=parameter.inputs)
        array, dtype = unpack(array, dtype, parameter.shape), "f32"
    if dtype == PACKED:
        if real == "f32":
            return Matrix(array, dtype, scale, parameter.shape, inputs=parameter.inputs)
        array, dtype = unpack_matrix(array, parameter.shape), "bf16"
    if (real == "f64") != (dtype == "f64"):
        array, dtype = widen(array, dtype, real), real
    return Matrix(array, dtype, scale, transposed=parameter.transposed, activations=activations,
                  inputs=parameter.inputs)


def make_low_rank(parameter, real, activations="f32"):
    """Return a low-rank factor, (in, out) in checkpoints, as a Matrix (out, in).

    Copies the array unless it is stored transposed. The factors are small, and stored by rows they are read at the
    speed of memory. A quantized one is always stored transposed. `activations` is as for :class:`Matrix`.
    """
    array, dtype = parameter.array, parameter.dtype
    if dtype in QUANTIZED_TYPES:
        shape = parameter.shape[::-1]
        if real == "f32":
            return Matrix(array, dtype, 1.0, shape)
        return Matrix(widen(unpack(array, dtype, shape), "f32", real), real)
    if not parameter.transposed:
        array = np.ascontiguousarray(array.T)
    if (real == "f64") != (dtype == "f64"):
        array, dtype = widen(array, dtype, real), real
    return Matrix(array, dtype, activations=activations)


def make_factors(parameters, name, real, activations):
    """Return the two low-rank factors `name` + "1" and `name` + "2" of a layer, as :func:`make_low_rank` makes them."""
    first, second = parameters[name + "1"], parameters[name + "2"]
    return make_low_rank(first, real, activations), make_low_rank(second, real, activations)
