/* What instrumented Python code calls at every branch and comparison, in place of atheris' own functions: the effect is
 * the same, and the calls, which are most of an execution, take a fraction of the time. Also the limit of an execution's
 * CPU time. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

#if PY_VERSION_HEX >= 0x030d0000
#define OPERATOR_BITS 5 /* of the argument of COMPARE_OP, below the operator */
#elif PY_VERSION_HEX >= 0x030c0000
#define OPERATOR_BITS 4
#else
#define OPERATOR_BITS 0
#endif

typedef struct {
    uintptr_t pc, flags;
} pc_entry;

static uint8_t *counters;
static size_t size;
static void (*counters_init)(uint8_t *, uint8_t *);
static void (*pcs_init)(pc_entry *, pc_entry *);
static void (*numbers_compared)(uint64_t, uint64_t);
static void (*bytes_compared)(void *, const void *, const void *, size_t, int);

/* start(library, count): give libFuzzer, which is linked to this library, so many counters. */
static PyObject *start(PyObject *self, PyObject *arguments)
{
    const char *path;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(arguments, "sn", &path, &count)) return NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL || count < 1 || counters != NULL) return PyErr_Format(PyExc_RuntimeError, "%s: not loaded", path);
    *(void **)&counters_init = dlsym(library, "__sanitizer_cov_8bit_counters_init");
    *(void **)&pcs_init = dlsym(library, "__sanitizer_cov_pcs_init");
    *(void **)&numbers_compared = dlsym(library, "__sanitizer_cov_trace_cmp8");
    *(void **)&bytes_compared = dlsym(library, "__sanitizer_weak_hook_memcmp");
    if (counters_init == NULL || pcs_init == NULL || numbers_compared == NULL || bytes_compared == NULL)
        return PyErr_Format(PyExc_RuntimeError, "%s: expected the functions of libFuzzer", path);
    size = (size_t)count;
    counters = calloc(size, sizeof *counters);
    pc_entry *entries = calloc(size, sizeof *entries);
    if (counters == NULL || entries == NULL) return PyErr_NoMemory();
    counters_init(counters, counters + size);
    pcs_init(entries, entries + size);
    Py_RETURN_NONE;
}

/* branch(index): count an edge. */
static PyObject *branch(PyObject *self, PyObject *index)
{
    const size_t at = (size_t)PyLong_AsLong(index);
    if (at < size) counters[at]++;
    Py_RETURN_NONE;
}

static void bytes(const void *left, Py_ssize_t left_size, const void *right, Py_ssize_t right_size)
{
    numbers_compared((uint64_t)left_size, (uint64_t)right_size);
    if (left_size == right_size)
        bytes_compared((void *)bytes, left, right, (size_t)left_size, memcmp(left, right, (size_t)left_size));
}

/* compare(left, right, operator, index, constant): tell libFuzzer what is compared, and compare it. */
static PyObject *compare(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *left = arguments[0], *right = arguments[1];
    if (PyLong_CheckExact(left) && PyLong_CheckExact(right)) {
        int overflow, other;
        const long long one = PyLong_AsLongLongAndOverflow(left, &overflow), two = PyLong_AsLongLongAndOverflow(right, &other);
        if (!overflow && !other) numbers_compared((uint64_t)one, (uint64_t)two);
    } else if (PyBytes_CheckExact(left) && PyBytes_CheckExact(right)) {
        bytes(PyBytes_AS_STRING(left), PyBytes_GET_SIZE(left), PyBytes_AS_STRING(right), PyBytes_GET_SIZE(right));
    } else if (PyUnicode_CheckExact(left) && PyUnicode_CheckExact(right) && PyUnicode_IS_COMPACT_ASCII(left) &&
               PyUnicode_IS_COMPACT_ASCII(right)) {
        bytes(PyUnicode_1BYTE_DATA(left), PyUnicode_GET_LENGTH(left), PyUnicode_1BYTE_DATA(right), PyUnicode_GET_LENGTH(right));
    }
    return PyObject_RichCompare(left, right, (int)(PyLong_AsLong(arguments[2]) >> OPERATOR_BITS));
}

/* abort() makes libFuzzer write the input to a file. */
static void end(int number)
{
    static const char text[] = "fuzz: an execution took more CPU time than its limit\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(1);
    abort();
}

/* limit(seconds): end the process if it takes more CPU time than this before the next call. */
static PyObject *limit(PyObject *self, PyObject *argument)
{
    const double seconds = PyFloat_AsDouble(argument);
    if (PyErr_Occurred()) return NULL;
    const struct sigaction action = {.sa_handler = end};
    struct itimerval timer = {.it_value = {.tv_sec = (time_t)seconds}};
    timer.it_value.tv_usec = (suseconds_t)((seconds - (double)timer.it_value.tv_sec) * 1e6);
    if (sigaction(SIGPROF, &action, NULL) || setitimer(ITIMER_PROF, &timer, NULL)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"start", start, METH_VARARGS, NULL},
    {"branch", branch, METH_O, NULL},
    {"compare", (PyCFunction)(void (*)(void))compare, METH_FASTCALL, NULL},
    {"limit", limit, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "fuzz_trace", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit_fuzz_trace(void) { return PyModule_Create(&module); }
