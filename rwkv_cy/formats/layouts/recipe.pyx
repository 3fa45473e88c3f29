"""How a tensor is made from those of a file. A file has thousands: compiled, they take a third of the time."""

__all__ = ["Part", "Recipe"]


cdef class Part:
    """A run of elements of one tensor, and what is done to them; it does not change, and compares by identity.

    Attributes
    ----------
    name : str
        The tensor.
    start : int
        The first element.
    shape : tuple of int
        Shape of the run.
    operations : tuple of Operation
        In their order.
    """

    cdef readonly str name
    cdef readonly object start
    cdef readonly tuple shape
    cdef readonly tuple operations

    def __init__(self, str name not None, start, tuple shape not None, tuple operations not None=()):
        self.name = name
        self.start = start
        self.shape = shape
        self.operations = operations

    def __repr__(self):
        return f"Part({self.name!r}, {self.start}, {self.shape}, {self.operations})"

    @property
    def size(self):
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def result_shape(self):
        """Shape after the operations."""
        shape = self.shape
        for operation in self.operations:
            shape = operation.shape(shape)
        return shape

    @property
    def reorders(self):
        """Whether the elements change their order."""
        for operation in self.operations:
            if operation.reorders:
                return True
        return False

    @property
    def computes(self):
        """Whether the elements change their values."""
        for operation in self.operations:
            if operation.computes:
                return True
        return False


cdef class Recipe:
    """How a tensor is made from others: its parts, concatenated in C order, and its shape.

    It does not change, and compares by identity.

    Attributes
    ----------
    parts : tuple of Part
        In their order.
    shape : tuple of int
        Shape of the tensor.
    """

    cdef readonly tuple parts
    cdef readonly tuple shape

    def __init__(self, tuple parts not None, tuple shape not None):
        self.parts = parts
        self.shape = shape

    def __repr__(self):
        return f"Recipe({self.parts}, {self.shape})"

    @staticmethod
    def whole(str name not None, tuple shape not None, tuple operations not None=()):
        """Return the recipe of one tensor and what is done to it."""
        cdef Part part = Part.__new__(Part)  # without the check of arguments, which are those of this call
        cdef Recipe recipe = Recipe.__new__(Recipe)
        part.name, part.start, part.shape, part.operations = name, 0, shape, operations
        recipe.parts = (part,)
        recipe.shape = part.result_shape if operations else shape
        return recipe

    def keeps(self, str name not None):
        """Tell whether the result is the tensor `name` as it is."""
        if len(self.parts) != 1:
            return False
        cdef Part only = self.parts[0]
        if only.name != name:
            return False
        return not only.operations or not (only.reorders or only.computes or only.shape != self.shape)
