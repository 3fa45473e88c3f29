"""What a JSON text is made of, counted in one pass before it is parsed, and the keys of the result."""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject

__all__ = ["count_keys", "measure"]


def measure(bytes raw not None):
    """Count what bounds the time and the memory of a parse.

    Parameters
    ----------
    raw : bytes
        The text, which need not be valid.

    Returns
    -------
    marks : int
        Quotes, commas and brackets, those in strings too.
    depth : int
        Deepest nesting of brackets outside strings: the parser recurses so far at most.
    digits : int
        Longest run of digits.
    keys : int
        Colons outside strings: in a valid text, the keys of all its objects.
    """
    cdef const unsigned char *text = raw
    cdef const unsigned char *end = text + len(raw)
    cdef Py_ssize_t marks = 0, depth = 0, deepest = 0, run = 0, longest = 0, keys = 0
    cdef bint quoted = False
    cdef unsigned char byte
    while text < end:
        byte = text[0]
        text += 1
        if c"0" <= byte <= c"9":
            run += 1
            continue
        if run:
            longest = max(longest, run)
            run = 0
        if byte == c'"':
            marks += 1
            quoted = not quoted
        elif byte == c"\\" and quoted:
            if text < end and (text[0] == c'"' or text[0] == c"\\"):
                marks += text[0] == c'"'
                text += 1
        elif byte == c",":
            marks += 1
        elif byte == c"[" or byte == c"{":
            marks += 1
            if not quoted:
                depth += 1
                deepest = max(deepest, depth)
        elif byte == c"]" or byte == c"}":
            marks += 1
            if not quoted:
                depth -= depth > 0
        elif byte == c":":
            keys += not quoted
    return marks, deepest, max(longest, run), keys


def count_keys(value):
    """Count the keys of all objects in a parsed text."""
    return _count_keys(value)


cdef Py_ssize_t _count_keys(value) except -1:
    cdef Py_ssize_t count = 0, position = 0
    cdef PyObject *item
    if type(value) is dict:
        count = len(<dict> value)
        while PyDict_Next(value, &position, NULL, &item):
            count += _count_keys(<object> item)
    elif type(value) is list:
        for part in <list> value:
            count += _count_keys(part)
    return count
