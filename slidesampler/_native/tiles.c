/* Windows of tiled TIFFs, straight from the tiles, as Python sees them: files, levels, and batches of windows.
 *
 * The GIL is released while a batch is read. There is no state between calls and no position in a file, so
 * nothing is shared across a fork, and what objects hold does not change once they are made.
 */
#define PY_SSIZE_T_CLEAN
#define _FILE_OFFSET_BITS 64
#include <Python.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "batch.h"

/* An open file that closes itself without a word: whoever drops a reader need not have closed it. */
typedef struct {
    PyObject_HEAD
    int fd;
    Counters counters;
} FileObject;

/* A Level or a Raw. */
typedef struct {
    PyObject_HEAD
    FileObject *file;
    Py_buffer offsets, counts, tables, pixels;
    Level level;
} LevelObject;

/* --- File ----------------------------------------------------------------------------------------------- */

static void file_dealloc(FileObject *self)
{
    if (self->fd >= 0) close(self->fd);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *file_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"path", NULL};
    PyObject *path;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&:File", names, PyUnicode_FSConverter, &path)) return NULL;
    FileObject *self = (FileObject *)type->tp_alloc(type, 0);
    if (self) {
        Py_BEGIN_ALLOW_THREADS
        self->fd = open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC);
        Py_END_ALLOW_THREADS
        if (self->fd < 0) {
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, PyBytes_AS_STRING(path));
            Py_CLEAR(self);
        }
    }
    Py_DECREF(path);
    return (PyObject *)self;
}

static PyObject *file_fileno(FileObject *self, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromLong(self->fd);
}

static PyObject *file_tiles_read(FileObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(self->counters.tiles);
}

static PyObject *file_bytes_read(FileObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(self->counters.bytes);
}

static PyMethodDef file_methods[] = {
    {"fileno", (PyCFunction)file_fileno, METH_NOARGS, "Return the file descriptor."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef file_attributes[] = {
    {"tiles_read", (getter)file_tiles_read, NULL, "Tiles decoded since the file was opened.", NULL},
    {"bytes_read", (getter)file_bytes_read, NULL, "Bytes read of tiles since the file was opened.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject FileType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "slidesampler._native._tiles.File",
    .tp_basicsize = sizeof(FileObject),
    .tp_dealloc = (destructor)file_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A file open for reading, until the last Level of it is gone.",
    .tp_methods = file_methods,
    .tp_getset = file_attributes,
    .tp_new = file_new,
};

/* --- Level ---------------------------------------------------------------------------------------------- */

static void level_dealloc(LevelObject *self)
{
    Py_XDECREF(self->file);
    if (self->offsets.obj) PyBuffer_Release(&self->offsets);
    if (self->counts.obj) PyBuffer_Release(&self->counts);
    if (self->tables.obj) PyBuffer_Release(&self->tables);
    if (self->pixels.obj) PyBuffer_Release(&self->pixels);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Fills the level from what the constructor was given; returns what is wrong with it, or NULL. */
static const char *set_level(LevelObject *self, const Py_buffer *empty)
{
    Level *level = &self->level;
    const char *wrong = check_level(level);
    if (wrong) return wrong;
    if (empty->len != level->itemsize) return "empty";
    if (self->offsets.len != level->rows * level->columns * 8 || self->counts.len != self->offsets.len)
        return "offsets and counts";
    /* Tables may lie in a mapped file, anywhere. */
    if ((uintptr_t)self->offsets.buf % _Alignof(uint64_t) || (uintptr_t)self->counts.buf % _Alignof(uint64_t))
        return "the place in memory of offsets and counts";
    memcpy(level->empty, empty->buf, (size_t)empty->len);
    level->offsets = self->offsets.buf;
    level->counts = self->counts.buf;
    level->tables = self->tables.buf;
    level->tables_size = (size_t)self->tables.len;
    level->fd = self->file->fd;
    level->counters = &self->file->counters;
    return NULL;
}

static PyObject *level_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"file",    "offsets", "counts",    "tables", "height", "width", "tile_height", "tile_width",
                            "samples", "itemsize", "codec", "predictor", "ycbcr", "swap",  "packed", "empty",     NULL};
    PyObject *file;
    int codec, predictor, ycbcr;
    long long height, width, tile_height, tile_width;
    Py_buffer empty;
    LevelObject *self = (LevelObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Level *level = &self->level;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!y*y*y*LLLLiiiipppy*:Level", names, &FileType, &file, &self->offsets,
                                     &self->counts, &self->tables, &height, &width, &tile_height, &tile_width,
                                     &level->samples, &level->itemsize, &codec, &predictor, &ycbcr, &level->swap,
                                     &level->packed, &empty)) {
        Py_DECREF(self);
        return NULL;
    }
    self->file = (FileObject *)Py_NewRef(file);
    level->height = height;
    level->width = width;
    level->tile_height = tile_height;
    level->tile_width = tile_width;
    level->codec = (enum codec)codec;
    level->predictor = (enum predictor)predictor;
    level->color = ycbcr ? COLOR_YCBCR : COLOR_AS_STORED;
    const char *wrong = set_level(self, &empty);
    PyBuffer_Release(&empty);
    if (wrong) {
        PyErr_Format(PyExc_ValueError, "%s: not what a tiled image can have", wrong);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyTypeObject LevelType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "slidesampler._native._tiles.Level",
    .tp_basicsize = sizeof(LevelObject),
    .tp_dealloc = (destructor)level_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "One level of a tiled TIFF: an open file, where its tiles lie, and how they are stored.",
    .tp_new = level_new,
};

/* --- Raw ------------------------------------------------------------------------------------------------ */

static PyObject *raw_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"array", NULL};
    PyObject *array;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:Raw", names, &array)) return NULL;
    LevelObject *self = (LevelObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Py_buffer *pixels = &self->pixels;
    if (PyObject_GetBuffer(array, pixels, PyBUF_STRIDED_RO | PyBUF_FORMAT) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    const Py_ssize_t size = pixels->itemsize, limit = (Py_ssize_t)1 << 40;
    const char foreign = PY_LITTLE_ENDIAN ? '>' : '<';
    if (pixels->ndim != 3 || (size != 1 && size != 2 && size != 4 && size != 8) || pixels->shape[0] < 1 ||
        pixels->shape[1] < 1 || pixels->shape[2] < 1 || pixels->shape[0] > limit || pixels->shape[1] > limit ||
        pixels->shape[2] > 65535 || (size > 1 && pixels->format && pixels->format[0] == foreign)) {
        PyErr_SetString(PyExc_ValueError, "array must be (height, width, samples) of 1, 2, 4 or 8 bytes, in the "
                                          "machine's byte order, and not empty");
        Py_DECREF(self);
        return NULL;
    }
    Level *level = &self->level;
    level->height = level->tile_height = pixels->shape[0];
    level->width = level->tile_width = pixels->shape[1];
    level->rows = level->columns = 1;
    level->samples = (int)pixels->shape[2];
    level->itemsize = (int)size;
    level->memory.first = pixels->buf;
    for (int k = 0; k < 3; k++) level->memory.stride[k] = pixels->strides[k];
    return (PyObject *)self;
}

static PyTypeObject RawType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "slidesampler._native._tiles.Raw",
    .tp_basicsize = sizeof(LevelObject),
    .tp_dealloc = (destructor)level_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Raw(array)\n--\n\nPixels in memory, (height, width, samples), any strides; read as a Level is.",
    .tp_new = raw_new,
};

/* --- read ----------------------------------------------------------------------------------------------- */

/* What a job keeps alive. */
typedef struct {
    PyObject **levels;
    Py_buffer boxes, channels, out;
} Hold;

static int refuse(const char *text)
{
    PyErr_SetString(PyExc_ValueError, text);
    return -1;
}

static int take_levels(Job *job, Hold *hold, PyObject *levels)
{
    const Py_ssize_t n = PyList_GET_SIZE(levels);
    if (n < 1) return refuse("there must be a level");
    job->levels = PyMem_Calloc((size_t)n, sizeof(Level *));
    hold->levels = PyMem_Calloc((size_t)n, sizeof(PyObject *));
    if (!job->levels || !hold->levels) {
        PyErr_NoMemory();
        return -1;
    }
    for (; job->n_levels < n; job->n_levels++) {
        /* The list may change while the GIL is released. */
        PyObject *item = PyList_GetItem(levels, job->n_levels);
        if (!item) return -1;
        if (!Py_IS_TYPE(item, &LevelType) && !Py_IS_TYPE(item, &RawType))
            return refuse("levels must be of type Level or Raw");
        const Level *level = &((LevelObject *)item)->level;
        if (job->n_levels > 0 &&
            (level->samples != job->levels[0]->samples || level->itemsize != job->levels[0]->itemsize))
            return refuse("levels must be of one dtype and number of samples");
        hold->levels[job->n_levels] = Py_NewRef(item);
        job->levels[job->n_levels] = level;
    }
    return 0;
}

static int take_boxes(Job *job, const Py_buffer *boxes, const Py_buffer *out)
{
    const int64_t limit = (int64_t)1 << 41;
    const int64_t *row = boxes->buf;
    if (boxes->len % 48) return refuse("boxes must be int64 (n, 6)");
    const int64_t n = boxes->len / 48;
    if (!(job->boxes = PyMem_Calloc((size_t)n + 1, sizeof(Box)))) {
        PyErr_NoMemory();
        return -1;
    }
    for (; job->n_boxes < n; job->n_boxes++, row += 6) {
        const Box box = {.level = row[0], .slot = row[1], .y = row[2], .x = row[3], .height = row[4], .width = row[5]};
        if (box.level < 0 || box.level >= job->n_levels) return refuse("a box is of a level that is not there");
        if (box.slot < 0 || box.slot >= out->shape[0]) return refuse("a box has a slot that out does not have");
        if (box.y < -limit || box.y > limit || box.x < -limit || box.x > limit)
            return refuse("a box lies where no level is");
        if (box.height < 1 || box.width < 1 || box.height != out->shape[1] || box.width != out->shape[2])
            return refuse("all boxes must have the height and width of out");
        job->boxes[job->n_boxes] = box;
    }
    return 0;
}

static int take_channels(Job *job, const Py_buffer *channels, const Py_buffer *out)
{
    if (channels->len % 4 || out->shape[3] != channels->len / 4) return refuse("out must have a place a channel");
    const int n = (int)(channels->len / 4);
    if (!(job->channels = PyMem_Calloc((size_t)n + 1, sizeof(int)))) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(job->channels, channels->buf, (size_t)channels->len);
    for (; job->n_channels < n; job->n_channels++)
        if (job->channels[job->n_channels] < 0 || job->channels[job->n_channels] >= job->levels[0]->samples)
            return refuse("a channel is not there");
    return 0;
}

/* Reads one job from its tuple; where it returns -1 an exception is set, and what was taken is still held. */
static int take_job(Job *job, Hold *hold, PyObject *item)
{
    PyObject *levels, *array;
    if (!PyTuple_Check(item)) return refuse("a job must be a tuple");
    if (!PyArg_ParseTuple(item, "O!y*y*O:job", &PyList_Type, &levels, &hold->boxes, &hold->channels, &array))
        return -1;
    if (PyObject_GetBuffer(array, &hold->out, PyBUF_STRIDED | PyBUF_WRITABLE | PyBUF_FORMAT) < 0) return -1;
    if (take_levels(job, hold, levels)) return -1;
    const Py_buffer *out = &hold->out;
    if (out->ndim != 4 || out->itemsize != job->levels[0]->itemsize)
        return refuse("out must be (windows, height, width, channels) of the levels' dtype");
    job->out = out->buf;
    for (int k = 0; k < 4; k++) job->stride[k] = out->strides[k];
    return take_boxes(job, &hold->boxes, out) || take_channels(job, &hold->channels, out) ? -1 : 0;
}

static void drop_job(Job *job, Hold *hold)
{
    for (int64_t i = 0; i < job->n_levels; i++) Py_DECREF(hold->levels[i]);
    PyMem_Free(hold->levels);
    PyMem_Free(job->levels);
    PyMem_Free(job->boxes);
    PyMem_Free(job->channels);
    if (hold->out.obj) PyBuffer_Release(&hold->out);
    if (hold->boxes.obj) PyBuffer_Release(&hold->boxes);
    if (hold->channels.obj) PyBuffer_Release(&hold->channels);
}

PyDoc_STRVAR(read_doc,
             "read(jobs, threads)\n--\n\n"
             "Fill arrays with windows of levels; what lies outside a level is left as it is.\n\n"
             "Parameters\n----------\n"
             "jobs : sequence of (levels, boxes, channels, out)\n"
             "    levels : list of Level or Raw, of one dtype and number of samples\n"
             "    boxes : int64 (n, 6), C order: level, slot, y, x, height, width, pixels of the level\n"
             "    channels : int32 (c,): samples of the file\n"
             "    out : (slots, height, width, c), any strides; box i fills out[slot]\n"
             "threads : int\n\n"
             "Returns\n-------\n"
             "None, or (job, level, tile, message) of a tile that cannot be read; the outputs then hold anything.");

static PyObject *read_jobs(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *given, *result = NULL;
    int threads;
    if (!PyArg_ParseTuple(args, "Oi:read", &given, &threads)) return NULL;
    PyObject *items = PySequence_Tuple(given);
    if (!items) return NULL;
    const Py_ssize_t n = PyTuple_GET_SIZE(items);
    Job *jobs = PyMem_Calloc((size_t)n + 1, sizeof(Job));
    Hold *holds = PyMem_Calloc((size_t)n + 1, sizeof(Hold));
    int ready = jobs && holds;
    if (!ready) PyErr_NoMemory();
    if (n > INT32_MAX) ready = refuse("too many jobs") == 0;
    for (Py_ssize_t i = 0; ready && i < n; i++)
        ready = take_job(&jobs[i], &holds[i], PyTuple_GET_ITEM(items, i)) == 0;
    if (ready) {
        Failure failure;
        enum outcome outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = read_batch(jobs, n, threads, &failure);
        Py_END_ALLOW_THREADS
        if (outcome == BATCH_NO_MEMORY) PyErr_NoMemory();
        else if (outcome == BATCH_FAILED)
            result = Py_BuildValue("LLLs", (long long)failure.job, (long long)failure.level, (long long)failure.tile,
                                   failure.message);
        else result = Py_NewRef(Py_None);
    }
    for (Py_ssize_t i = 0; jobs && holds && i < n; i++) drop_job(&jobs[i], &holds[i]);
    PyMem_Free(jobs);
    PyMem_Free(holds);
    Py_DECREF(items);
    return result;
}

static PyMethodDef methods[] = {
    {"read", read_jobs, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_tiles", .m_doc = "Windows of tiled TIFFs, straight from the tiles.",
    .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__tiles(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (PyType_Ready(&FileType) < 0 || PyType_Ready(&LevelType) < 0 || PyType_Ready(&RawType) < 0 ||
        PyModule_AddObjectRef(module, "File", (PyObject *)&FileType) < 0 ||
        PyModule_AddObjectRef(module, "Level", (PyObject *)&LevelType) < 0 ||
        PyModule_AddObjectRef(module, "Raw", (PyObject *)&RawType) < 0) {
        Py_DECREF(module);
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
