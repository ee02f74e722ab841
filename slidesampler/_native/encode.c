/* Tiles of TIFFs, compressed, and levels of half the size: what the writers of the cache spend their time on.
 *
 * Every call gets rows of an image as one array, cuts them into tiles, compresses these on several threads without
 * the interpreter's lock and appends them to a file in the order of the image, whatever the threads were faster at:
 * the same pixels give the same bytes with any number of threads. There is no state between calls.
 */
#define PY_SSIZE_T_CLEAN
#define _FILE_OFFSET_BITS 64
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>
#include <libdeflate.h>
#include <zstd.h>
#ifdef __x86_64__
#include <tmmintrin.h>
#endif

enum codec { CODEC_NONE, CODEC_DEFLATE, CODEC_ZSTD, CODEC_JPEG };

#define MESSAGE_BYTES 200
#define MAX_THREADS 256
/* GDAL's leader and trailer of a tile: its size before it, its last four bytes again after it. */
#define LEADER 4
#define TRAILER 4
#define RESTART_PIXELS 64
#define BLOCK_BYTES ((size_t)1 << 16)

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Runs work on so many threads, the caller's among them; where the system gives fewer, on fewer. */
static void run_threads(void *(*work)(void *), void *argument, int threads)
{
    pthread_t ids[MAX_THREADS];
    int started = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    while (started + 1 < threads && !pthread_create(&ids[started], NULL, work, argument)) started++;
    work(argument);
    for (int i = 0; i < started; i++) pthread_join(ids[i], NULL);
}

/* --- tiles ---------------------------------------------------------------------------------------------- */

/* A compressed tile, with leader and trailer, that waits for those before it. */
typedef struct {
    uint8_t *data;
    size_t size;
    int ready;
} Slot;

typedef struct {
    const uint8_t *pixels; /* (height, width, samples), contiguous */
    int64_t height, width, tile_height, tile_width, columns, tiles;
    int samples, itemsize, level, predict, skip_empty;
    enum codec codec;
    int fd;
    int64_t offset;
    uint64_t *sizes;
    Slot *slots;
    pthread_mutex_t lock;
    int64_t next, next_written;
    int writing, failed, failed_errno;
    char message[MESSAGE_BYTES];
} Job;

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
} JpegError;

/* What a thread needs to compress: kept from tile to tile. */
typedef struct {
    uint8_t *tile, *packed;
    size_t packed_size;
    ZSTD_CCtx *zstd;
    struct libdeflate_compressor *deflate;
    struct jpeg_compress_struct jpeg;
    JpegError jpeg_error;
    int has_jpeg;
    char message[MESSAGE_BYTES];
} Encoder;

static void jpeg_escape(j_common_ptr info)
{
    JpegError *error = (JpegError *)info->err;
    error->base.format_message(info, error->message);
    longjmp(error->escape, 1);
}

static void jpeg_silence(j_common_ptr info) { (void)info; }

/* The settings of libtiff as GDAL asks for them, colours at half resolution, so that pixels are the same; but with
 * the standard's Huffman tables, shared by all tiles like those of quantisation: to find the best ones for each tile
 * takes a second pass over it, longer than the first, and saves a twentieth of the file. May escape. */
static void start_jpeg(Encoder *encoder, int samples, int quality)
{
    struct jpeg_compress_struct *jpeg = &encoder->jpeg;
    jpeg->err = jpeg_std_error(&encoder->jpeg_error.base);
    jpeg->err->error_exit = jpeg_escape;
    jpeg->err->output_message = jpeg_silence;
    jpeg_create_compress(jpeg);
    encoder->has_jpeg = 1;
    jpeg->input_components = samples;
    jpeg->in_color_space = samples == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(jpeg);
    jpeg_set_colorspace(jpeg, samples == 3 ? JCS_YCbCr : JCS_GRAYSCALE);
    jpeg_set_quality(jpeg, quality, FALSE);
    jpeg->write_JFIF_header = FALSE;
    jpeg->write_Adobe_marker = FALSE;
}

/* So many MCUs between restart markers: those of 64 pixels, or of the next part of a row of the tile that is no less. The
 * compiled reader then parses what is near a window and no more (excerpt.c); each marker costs five bytes. */
static unsigned int restart_interval(const struct jpeg_compress_struct *jpeg, int64_t tile_width)
{
    const int64_t block = jpeg->num_components == 1 ? 8 : 8 * (int64_t)jpeg->comp_info[0].h_samp_factor;
    const int64_t across = (tile_width + block - 1) / block;
    int64_t interval = least(RESTART_PIXELS / block, across);
    while (across % interval) interval++;
    return (unsigned int)interval;
}

static int compress_jpeg(Encoder *encoder, const Job *job, const uint8_t *first, int64_t row_bytes, size_t *size)
{
    struct jpeg_compress_struct *jpeg = &encoder->jpeg;
    if (setjmp(encoder->jpeg_error.escape)) {
        snprintf(encoder->message, MESSAGE_BYTES, "%s", encoder->jpeg_error.message);
        if (encoder->has_jpeg) jpeg_destroy_compress(jpeg);
        encoder->has_jpeg = 0;
        return -1;
    }
    if (!encoder->has_jpeg) start_jpeg(encoder, job->samples, job->level);
    unsigned char *out = encoder->packed;
    unsigned long out_size = (unsigned long)encoder->packed_size;
    jpeg_mem_dest(jpeg, &out, &out_size);
    jpeg->image_width = (JDIMENSION)job->tile_width;
    jpeg->image_height = (JDIMENSION)job->tile_height;
    jpeg->restart_interval = restart_interval(jpeg, job->tile_width);
    jpeg_suppress_tables(jpeg, TRUE);
    jpeg_start_compress(jpeg, FALSE);
    while (jpeg->next_scanline < jpeg->image_height) {
        JSAMPROW rows[16];
        int count = 0;
        for (int64_t y = jpeg->next_scanline; y < job->tile_height && count < 16; y++, count++)
            rows[count] = (JSAMPROW)(first + y * row_bytes);
        jpeg_write_scanlines(jpeg, rows, (JDIMENSION)count);
    }
    jpeg_finish_compress(jpeg);
    if (out != encoder->packed) {
        /* libjpeg has taken a larger one. */
        free(encoder->packed);
        encoder->packed = out;
        encoder->packed_size = out_size;
    }
    *size = out_size;
    return 0;
}

#define DIFFERENCES(type)                                                                                      \
    do {                                                                                                       \
        const type *from = (const type *)row;                                                                  \
        type *to = (type *)out;                                                                                \
        for (int64_t i = 0; i < samples; i++) to[i] = from[i];                                                 \
        for (int64_t i = samples; i < count; i++) to[i] = (type)(from[i] - from[i - samples]);                 \
    } while (0)

/* TIFF's horizontal predictor; of floats it takes the bit patterns. */
static void difference(const uint8_t *row, uint8_t *out, int64_t count, int64_t samples, int itemsize)
{
    if (itemsize == 1) DIFFERENCES(uint8_t);
    else if (itemsize == 2) DIFFERENCES(uint16_t);
    else DIFFERENCES(uint32_t);
}

/* Copies a tile that reaches over the image, whose last row and column are repeated: a JPEG would bleed from
 * anything else, and repetitions cost least in the other codecs. */
static void copy_tile(const Job *job, const uint8_t *from, int64_t rows, int64_t columns, uint8_t *to)
{
    const int64_t pixel = (int64_t)job->samples * job->itemsize;
    const int64_t line = job->tile_width * pixel, stride = job->width * pixel;
    for (int64_t y = 0; y < job->tile_height; y++) {
        uint8_t *row = to + y * line;
        if (y >= rows) {
            memcpy(row, row - line, (size_t)line);
            continue;
        }
        memcpy(row, from + y * stride, (size_t)(columns * pixel));
        for (int64_t x = columns; x < job->tile_width; x++) memcpy(row + x * pixel, row + (x - 1) * pixel, (size_t)pixel);
    }
}

static int is_empty(const uint8_t *from, int64_t rows, int64_t bytes, int64_t stride)
{
    for (int64_t y = 0; y < rows; y++)
        if (bytes && (from[y * stride] || memcmp(from + y * stride, from + y * stride + 1, (size_t)(bytes - 1))))
            return 0;
    return 1;
}

/* In blocks of half the size that ZSTD would take: the compiled reader leaves a tile at the end of a block, and the tables
 * of each cost no more than they save by fitting better. */
static size_t compress_zstd(Encoder *encoder, const uint8_t *data, size_t bytes)
{
    ZSTD_CCtx *zstd = encoder->zstd;
    ZSTD_outBuffer to = {encoder->packed, encoder->packed_size, 0};
    ZSTD_inBuffer from = {data, 0, 0};
    size_t left = 0;
    ZSTD_CCtx_reset(zstd, ZSTD_reset_session_only);
    ZSTD_CCtx_setPledgedSrcSize(zstd, bytes);
    while (from.size < bytes && left == 0) {
        from.size = bytes - from.size > BLOCK_BYTES ? from.size + BLOCK_BYTES : bytes;
        left = ZSTD_compressStream2(zstd, &to, &from, from.size < bytes ? ZSTD_e_flush : ZSTD_e_end);
    }
    /* There is room for everything, so what is left is an error's code or an error of ours. */
    if (left) return ZSTD_isError(left) ? left : (size_t)-1;
    return to.pos;
}

/* Compresses one tile into the slot; a tile that is left out has no data. */
static int encode_tile(Encoder *encoder, const Job *job, int64_t tile, Slot *slot)
{
    const int64_t pixel = (int64_t)job->samples * job->itemsize;
    const int64_t line = job->tile_width * pixel, bytes = line * job->tile_height;
    const int64_t top = tile / job->columns * job->tile_height, left = tile % job->columns * job->tile_width;
    const int64_t rows = least(job->tile_height, job->height - top), columns = least(job->tile_width, job->width - left);
    int64_t stride = job->width * pixel;
    const uint8_t *from = job->pixels + top * stride + left * pixel;
    if (job->skip_empty && is_empty(from, rows, columns * pixel, stride)) return 0;
    if (rows < job->tile_height || columns < job->tile_width) {
        copy_tile(job, from, rows, columns, encoder->tile);
        from = encoder->tile;
        stride = line;
    }
    size_t size = 0;
    if (job->codec == CODEC_JPEG) {
        if (compress_jpeg(encoder, job, from, stride, &size)) return -1;
    } else {
        /* In place where the tile is a copy already: from the last row and, within it, from the last pixel on
         * would be needed; rows go through the second half of the buffer instead. */
        uint8_t *plain = encoder->tile + (from == encoder->tile ? bytes : 0);
        for (int64_t y = 0; y < job->tile_height; y++) {
            if (job->predict)
                difference(from + y * stride, plain + y * line, job->tile_width * job->samples, job->samples, job->itemsize);
            else
                memcpy(plain + y * line, from + y * stride, (size_t)line);
        }
        if (job->codec == CODEC_ZSTD) {
            size = compress_zstd(encoder, plain, (size_t)bytes);
            if (ZSTD_isError(size)) {
                snprintf(encoder->message, MESSAGE_BYTES, "%s", ZSTD_getErrorName(size));
                return -1;
            }
        } else if (job->codec == CODEC_DEFLATE) {
            size = libdeflate_zlib_compress(encoder->deflate, plain, (size_t)bytes, encoder->packed, encoder->packed_size);
            if (!size) {
                snprintf(encoder->message, MESSAGE_BYTES, "DEFLATE has no room");
                return -1;
            }
        } else {
            memcpy(encoder->packed, plain, (size_t)bytes);
            size = (size_t)bytes;
        }
    }
    if (size > UINT32_MAX || !(slot->data = malloc(size + LEADER + TRAILER))) {
        snprintf(encoder->message, MESSAGE_BYTES, "out of memory");
        return -1;
    }
    for (int b = 0; b < LEADER; b++) slot->data[b] = (uint8_t)(size >> 8 * b);
    memcpy(slot->data + LEADER, encoder->packed, size);
    memset(slot->data + LEADER + size, 0, TRAILER);
    memcpy(slot->data + LEADER + size, slot->data + LEADER + (size < TRAILER ? 0 : size - TRAILER),
           size < TRAILER ? size : TRAILER);
    slot->size = size;
    return 0;
}

static int open_encoder(Encoder *encoder, const Job *job)
{
    const size_t bytes = (size_t)(job->tile_width * job->tile_height * job->samples * job->itemsize);
    memset(encoder, 0, sizeof *encoder);
    snprintf(encoder->message, MESSAGE_BYTES, "out of memory");
    encoder->packed_size = bytes;
    if (job->codec == CODEC_ZSTD) {
        if (!(encoder->zstd = ZSTD_createCCtx())) return -1;
        ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel, job->level);
        /* What level 1 has for data of a size that is not known, and so what libtiff writes: for tiles of known size
         * shorter matches are looked for, which makes reading a quarter slower and tissue no smaller. */
        if (job->level == 1) ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_minMatch, 7);
        encoder->packed_size = ZSTD_compressBound(bytes);
    } else if (job->codec == CODEC_DEFLATE) {
        if (!(encoder->deflate = libdeflate_alloc_compressor(job->level))) return -1;
        encoder->packed_size = libdeflate_zlib_compress_bound(encoder->deflate, bytes);
    } else if (job->codec == CODEC_JPEG) {
        encoder->packed_size = 2 * bytes + 65536;
    }
    encoder->tile = malloc(2 * bytes);
    encoder->packed = malloc(encoder->packed_size);
    return encoder->tile && encoder->packed ? 0 : -1;
}

static void close_encoder(Encoder *encoder)
{
    if (encoder->has_jpeg) jpeg_destroy_compress(&encoder->jpeg);
    if (encoder->deflate) libdeflate_free_compressor(encoder->deflate);
    ZSTD_freeCCtx(encoder->zstd);
    free(encoder->tile);
    free(encoder->packed);
}

static int write_all(int fd, const uint8_t *data, size_t size, int64_t offset)
{
    while (size) {
        ssize_t done = pwrite(fd, data, size, (off_t)offset);
        if (done < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        if (done == 0) return EIO;
        data += done;
        size -= (size_t)done;
        offset += done;
    }
    return 0;
}

/* Writes the tiles whose turn it is; the lock is held, and let go of while the system writes. */
static void write_ready(Job *job)
{
    if (job->writing) return;
    job->writing = 1;
    while (!job->failed && job->next_written < job->tiles && job->slots[job->next_written].ready) {
        Slot *slot = &job->slots[job->next_written];
        if (slot->data) {
            const size_t size = slot->size + LEADER + TRAILER;
            pthread_mutex_unlock(&job->lock);
            const int error = write_all(job->fd, slot->data, size, job->offset);
            free(slot->data);
            slot->data = NULL;
            pthread_mutex_lock(&job->lock);
            if (error) {
                job->failed = 1;
                job->failed_errno = error;
                break;
            }
            job->offset += (int64_t)size;
        }
        job->sizes[job->next_written++] = slot->size;
    }
    job->writing = 0;
}

static void *encode_tiles(void *argument)
{
    Job *job = argument;
    Encoder encoder;
    int failed = open_encoder(&encoder, job);
    pthread_mutex_lock(&job->lock);
    while (!failed && !job->failed && job->next < job->tiles) {
        const int64_t tile = job->next++;
        pthread_mutex_unlock(&job->lock);
        failed = encode_tile(&encoder, job, tile, &job->slots[tile]);
        pthread_mutex_lock(&job->lock);
        job->slots[tile].ready = !failed;
        if (!failed) write_ready(job);
    }
    if (failed && !job->failed) {
        job->failed = 1;
        memcpy(job->message, encoder.message, MESSAGE_BYTES);
    }
    pthread_mutex_unlock(&job->lock);
    close_encoder(&encoder);
    return NULL;
}

PyDoc_STRVAR(write_tiles_doc,
"write_tiles(pixels, tile_height, tile_width, codec, level, predict, skip_empty, fd, offset, sizes, threads)\n\n"
"Compress the tiles of an array (h, w, samples), row by row of tiles, and write them to a file from an offset on.\n"
"codec: 0 none, 1 DEFLATE, 2 ZSTD, 3 JPEG, whose level is its quality. Fills sizes, uint64, one a tile: 0 for a tile\n"
"that is left out. Returns the offset after the last tile; a tile has 4 bytes before it and 4 after it.");

static PyObject *write_tiles(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer pixels = {0}, sizes = {0};
    PyObject *array, *result = NULL;
    long long tile_height, tile_width, offset;
    int codec, threads;
    Job job;
    memset(&job, 0, sizeof job);
    if (!PyArg_ParseTuple(args, "OLLiippiLw*i:write_tiles", &array, &tile_height, &tile_width, &codec, &job.level,
                          &job.predict, &job.skip_empty, &job.fd, &offset, &sizes, &threads))
        return NULL;
    if (PyObject_GetBuffer(array, &pixels, PyBUF_C_CONTIGUOUS) < 0) goto done;
    if (pixels.ndim != 3 || tile_height < 1 || tile_width < 1 || codec < CODEC_NONE || codec > CODEC_JPEG) {
        PyErr_SetString(PyExc_ValueError, "pixels must be (h, w, samples), in tiles, of a codec that is known");
        goto done;
    }
    job.height = pixels.shape[0];
    job.width = pixels.shape[1];
    job.samples = (int)pixels.shape[2];
    job.itemsize = (int)pixels.itemsize;
    job.pixels = pixels.buf;
    job.tile_height = tile_height;
    job.tile_width = tile_width;
    job.columns = (job.width + tile_width - 1) / tile_width;
    job.tiles = job.columns * ((job.height + tile_height - 1) / tile_height);
    job.codec = (enum codec)codec;
    job.offset = offset;
    job.sizes = sizes.buf;
    if (job.tiles < 1 || job.samples < 1 || (int64_t)sizes.len != job.tiles * 8 ||
        (job.itemsize != 1 && job.itemsize != 2 && job.itemsize != 4) ||
        (codec == CODEC_JPEG && (job.itemsize != 1 || (job.samples != 1 && job.samples != 3)))) {
        PyErr_SetString(PyExc_ValueError, "sizes must have one number a tile, and the codec must hold the pixels");
        goto done;
    }
    job.slots = PyMem_Calloc((size_t)job.tiles, sizeof(Slot));
    if (!job.slots) {
        PyErr_NoMemory();
        goto done;
    }
    pthread_mutex_init(&job.lock, NULL);
    Py_BEGIN_ALLOW_THREADS
    run_threads(encode_tiles, &job, (int)least(threads, job.tiles));
    Py_END_ALLOW_THREADS
    pthread_mutex_destroy(&job.lock);
    for (int64_t i = 0; i < job.tiles; i++) free(job.slots[i].data);
    PyMem_Free(job.slots);
    if (job.failed_errno) {
        errno = job.failed_errno;
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (job.failed)
        PyErr_SetString(PyExc_RuntimeError, job.message);
    else
        result = PyLong_FromLongLong(job.offset);
done:
    if (pixels.obj) PyBuffer_Release(&pixels);
    PyBuffer_Release(&sizes);
    return result;
}

PyDoc_STRVAR(jpeg_tables_doc,
"jpeg_tables(samples, quality)\n\nReturn the tables that all JPEG tiles share, as TIFF's JPEGTables.");

static PyObject *jpeg_tables(PyObject *Py_UNUSED(module), PyObject *args)
{
    Encoder encoder;
    int samples, quality;
    if (!PyArg_ParseTuple(args, "ii:jpeg_tables", &samples, &quality)) return NULL;
    memset(&encoder, 0, sizeof encoder);
    unsigned char buffer[4096], *out = buffer;
    unsigned long size = sizeof buffer;
    if (setjmp(encoder.jpeg_error.escape)) {
        if (encoder.has_jpeg) jpeg_destroy_compress(&encoder.jpeg);
        PyErr_SetString(PyExc_RuntimeError, encoder.jpeg_error.message);
        return NULL;
    }
    start_jpeg(&encoder, samples, quality);
    if (samples == 1)
        /* Those of colours are not needed. */
        encoder.jpeg.quant_tbl_ptrs[1]->sent_table = encoder.jpeg.dc_huff_tbl_ptrs[1]->sent_table =
            encoder.jpeg.ac_huff_tbl_ptrs[1]->sent_table = TRUE;
    jpeg_mem_dest(&encoder.jpeg, &out, &size);
    jpeg_write_tables(&encoder.jpeg);
    jpeg_destroy_compress(&encoder.jpeg);
    return PyBytes_FromStringAndSize((const char *)buffer, (Py_ssize_t)size);
}

/* --- levels --------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *pixels, *valid;
    uint8_t *out, *out_valid;
    int64_t height, width, out_height, out_width;
    int samples;
    char kind; /* B, H, h, f */
    int64_t next;
} Halving;

/* Rows of the output that a thread takes at once. */
#define BAND 16

/* The four pixels under a pixel of the output; the last odd row and column stand for the one that is missing. */
#define PIXELS_UNDER(type)                                                                                     \
    const int64_t y1 = least(2 * y + 1, job->height - 1), x1 = least(2 * x + 1, job->width - 1);               \
    const type *row0 = (const type *)job->pixels + 2 * y * job->width * samples;                               \
    const type *row1 = (const type *)job->pixels + y1 * job->width * samples;                                  \
    const type *a = row0 + 2 * x * samples, *b = row0 + x1 * samples;                                          \
    const type *c = row1 + 2 * x * samples, *d = row1 + x1 * samples

#ifdef __x86_64__
/* Two pixels of RGB of bytes at a time, each of four; returns how many are done. Every machine of this century has these
 * instructions, but not every compiler may use them unasked. */
__attribute__((target("ssse3"))) static int64_t halve_rgb_wide(const uint8_t *row0, const uint8_t *row1, int64_t count,
                                                               uint8_t *to)
{
    int64_t x = 0;
    if (!__builtin_cpu_supports("ssse3")) return 0;
    /* Neighbours side by side, to be added. */
    const __m128i pairs = _mm_setr_epi8(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1);
    const __m128i ones = _mm_set1_epi8(1), half = _mm_set1_epi16(2);
    /* Sixteen bytes are read for twelve, and eight written for six, which the next ones overwrite. */
    for (; x + 4 <= count; x += 2) {
        const __m128i above = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(row0 + 6 * x)), pairs);
        const __m128i below = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(row1 + 6 * x)), pairs);
        const __m128i sum = _mm_add_epi16(_mm_maddubs_epi16(above, ones), _mm_maddubs_epi16(below, ones));
        const __m128i mean = _mm_srli_epi16(_mm_add_epi16(sum, half), 2);
        _mm_storel_epi64((__m128i *)(to + 3 * x), _mm_packus_epi16(mean, mean));
    }
    return x;
}
#else
static int64_t halve_rgb_wide(const uint8_t *row0, const uint8_t *row1, int64_t count, uint8_t *to)
{
    (void)row0, (void)row1, (void)count, (void)to;
    return 0;
}
#endif

#define HALVE_INTEGERS(name, type)                                                                             \
    static inline __attribute__((always_inline)) void name##_row(const Halving *job, int64_t y, int64_t samples) \
    {                                                                                                          \
        type *to = (type *)job->out + y * job->out_width * samples;                                            \
        const int64_t y1 = least(2 * y + 1, job->height - 1), whole = job->width / 2;                          \
        const type *restrict row0 = (const type *)job->pixels + 2 * y * job->width * samples;                  \
        const type *restrict row1 = (const type *)job->pixels + y1 * job->width * samples;                     \
        int64_t done = 0;                                                                                      \
        if (sizeof(type) == 1 && samples == 3)                                                                 \
            done = halve_rgb_wide((const uint8_t *)row0, (const uint8_t *)row1, whole, (uint8_t *)to);         \
        for (int64_t x = done; x < whole; x++)                                                                 \
            for (int64_t s = 0; s < samples; s++) {                                                            \
                const int64_t at = 2 * x * samples + s;                                                        \
                to[x * samples + s] = (type)((row0[at] + row0[at + samples] + row1[at] + row1[at + samples] + 2) >> 2); \
            }                                                                                                  \
        if (whole < job->out_width)                                                                            \
            for (int64_t s = 0; s < samples; s++) {                                                            \
                const int64_t at = 2 * whole * samples + s;                                                    \
                to[whole * samples + s] = (type)((2 * row0[at] + 2 * row1[at] + 2) >> 2);                      \
            }                                                                                                  \
    }                                                                                                          \
    static void name(const Halving *job, int64_t y)                                                            \
    {                                                                                                          \
        if (job->samples == 1) name##_row(job, y, 1);                                                          \
        else if (job->samples == 3) name##_row(job, y, 3);                                                     \
        else if (job->samples == 4) name##_row(job, y, 4);                                                     \
        else name##_row(job, y, job->samples);                                                                 \
    }                                                                                                          \
    static void name##_mixed(const Halving *job, int64_t y, int64_t x, const int *weight, int64_t n)           \
    {                                                                                                          \
        const int64_t samples = job->samples;                                                                  \
        PIXELS_UNDER(type);                                                                                    \
        type *to = (type *)job->out + (y * job->out_width + x) * samples;                                      \
        for (int64_t s = 0; s < samples; s++) {                                                                \
            const int64_t sum = (int64_t)a[s] * weight[0] + (int64_t)b[s] * weight[1] +                        \
                                (int64_t)c[s] * weight[2] + (int64_t)d[s] * weight[3];                         \
            const int64_t top = 2 * sum + n, bottom = 2 * n;                                                   \
            to[s] = (type)(top / bottom - (top % bottom < 0)); /* rounded down, below zero too */              \
        }                                                                                                      \
    }

HALVE_INTEGERS(halve_u8, uint8_t)
HALVE_INTEGERS(halve_u16, uint16_t)
HALVE_INTEGERS(halve_i16, int16_t)

static void halve_f32(const Halving *job, int64_t y)
{
    const int64_t samples = job->samples;
    for (int64_t x = 0; x < job->out_width; x++) {
        PIXELS_UNDER(float);
        float *to = (float *)job->out + (y * job->out_width + x) * samples;
        for (int64_t s = 0; s < samples; s++)
            to[s] = (float)((((double)a[s] + (double)c[s]) + ((double)b[s] + (double)d[s])) * 0.25);
    }
}

static void halve_f32_mixed(const Halving *job, int64_t y, int64_t x, const int *weight, int64_t n)
{
    const int64_t samples = job->samples;
    PIXELS_UNDER(float);
    float *to = (float *)job->out + (y * job->out_width + x) * samples;
    const float *under[4] = {a, b, c, d};
    for (int64_t s = 0; s < samples; s++) {
        double sum = 0;
        /* Not a product: 0 * NaN is NaN. */
        for (int k = 0; k < 4; k++) sum += weight[k] ? (double)under[k][s] : 0.0;
        to[s] = (float)(sum / (double)n);
    }
}

static void halve_row(const Halving *job, int64_t y)
{
    switch (job->kind) {
    case 'B': halve_u8(job, y); break;
    case 'H': halve_u16(job, y); break;
    case 'h': halve_i16(job, y); break;
    default: halve_f32(job, y);
    }
    if (!job->valid) return;
    const int64_t y1 = least(2 * y + 1, job->height - 1);
    for (int64_t x = 0; x < job->out_width; x++) {
        const int64_t x1 = least(2 * x + 1, job->width - 1);
        const uint8_t *row0 = job->valid + 2 * y * job->width, *row1 = job->valid + y1 * job->width;
        const int weight[4] = {row0[2 * x] != 0, row0[x1] != 0, row1[2 * x] != 0, row1[x1] != 0};
        const int n = weight[0] + weight[1] + weight[2] + weight[3];
        job->out_valid[y * job->out_width + x] = n > 0;
        if (n == 0 || n == 4) continue;
        switch (job->kind) {
        case 'B': halve_u8_mixed(job, y, x, weight, n); break;
        case 'H': halve_u16_mixed(job, y, x, weight, n); break;
        case 'h': halve_i16_mixed(job, y, x, weight, n); break;
        default: halve_f32_mixed(job, y, x, weight, n);
        }
    }
}

static void *halve_bands(void *argument)
{
    Halving *job = argument;
    int64_t y;
    while ((y = __atomic_fetch_add(&job->next, BAND, __ATOMIC_RELAXED)) < job->out_height)
        for (int64_t stop = least(y + BAND, job->out_height); y < stop; y++) halve_row(job, y);
    return NULL;
}

PyDoc_STRVAR(halve_doc,
"halve(pixels, valid, out, out_valid, threads)\n\n"
"Fill out with the means of 2 x 2 pixels (h, w, samples) of uint8, uint16, int16 or float32, of the valid ones where\n"
"valid, bool (h, w), is not None; out_valid then says where there was any.");

static PyObject *halve(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[4], *result = NULL;
    Py_buffer views[4];
    int threads;
    memset(views, 0, sizeof views);
    if (!PyArg_ParseTuple(args, "OOOOi:halve", &objects[0], &objects[1], &objects[2], &objects[3], &threads)) return NULL;
    for (int i = 0; i < 4; i++) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (i >= 2 ? PyBUF_WRITABLE : 0);
        if (i % 2 && objects[i] == Py_None) continue;
        if (PyObject_GetBuffer(objects[i], &views[i], flags) < 0) goto done;
    }
    const Py_buffer *pixels = &views[0], *out = &views[2];
    Halving job = {.pixels = pixels->buf, .valid = views[1].buf, .out = out->buf, .out_valid = views[3].buf};
    int wrong = pixels->ndim != 3 || out->ndim != 3 || !views[1].buf != !views[3].buf;
    if (!wrong) {
        job.height = pixels->shape[0];
        job.width = pixels->shape[1];
        job.out_height = (job.height + 1) / 2;
        job.out_width = (job.width + 1) / 2;
        job.samples = (int)pixels->shape[2];
        job.kind = pixels->format[0];
        wrong = strlen(pixels->format) != 1 || !strchr("BHhf", job.kind) || strcmp(pixels->format, out->format) ||
                out->shape[0] != job.out_height || out->shape[1] != job.out_width || out->shape[2] != job.samples ||
                (views[1].buf && (views[1].len != job.height * job.width ||
                                  views[3].len != job.out_height * job.out_width));
    }
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, "arrays do not fit each other, or are of a dtype that is not halved");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    run_threads(halve_bands, &job, (int)least(threads, job.out_height / BAND + 1));
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    for (int i = 0; i < 4; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    return result;
}

static PyMethodDef methods[] = {
    {"write_tiles", write_tiles, METH_VARARGS, write_tiles_doc},
    {"jpeg_tables", jpeg_tables, METH_VARARGS, jpeg_tables_doc},
    {"halve", halve, METH_VARARGS, halve_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_encode", .m_doc = "Tiles of TIFFs, compressed, and levels of half the size.",
    .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__encode(void) { return PyModule_Create(&definition); }
