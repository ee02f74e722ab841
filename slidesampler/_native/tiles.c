/* Windows of tiled TIFFs, straight from the tiles.
 *
 * A call takes a batch of windows over any number of pyramid levels and fills an output array: each tile that
 * some window of the batch needs is read once (pread), decoded once (of a JPEG only the rows and columns that
 * are needed), and copied to every window that wants of it. The GIL is released, several threads share the
 * tiles. There is no state between calls and no position in a file, so nothing is shared across a fork.
 *
 * Everything that comes from a file is checked before it is used: sizes and offsets against what was read,
 * decoded lengths against the tile, JPEG headers against the directory. What fails is an error that names the
 * tile; no byte of the output is left as it was found in memory.
 */
#define PY_SSIZE_T_CLEAN
#define _FILE_OFFSET_BITS 64
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
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

enum codec { CODEC_NONE, CODEC_DEFLATE, CODEC_ZSTD, CODEC_LZW, CODEC_JPEG };
enum predictor { PREDICT_NONE = 1, PREDICT_HORIZONTAL = 2, PREDICT_FLOAT = 3 };
enum color { COLOR_AS_STORED, COLOR_YCBCR };

#define MESSAGE_BYTES 200
/* No tile of a file that can be trusted is larger; what says it is would only exhaust the memory. */
#define MAX_TILE_BYTES ((int64_t)1 << 28)
/* Compressed data is never so much larger than what it holds. */
#define MAX_COMPRESSED_BYTES ((uint64_t)1 << 29)

/* An open file that closes itself without a word: whoever drops a reader need not have closed it. */
typedef struct {
    PyObject_HEAD
    int fd;
} File;

typedef struct {
    PyObject_HEAD
    File *file;
    Py_buffer offsets, counts, tables;
    int64_t height, width, tile_height, tile_width, columns, rows;
    int samples, itemsize, swap;
    int packed; /* one bit a sample, as masks are; out come bytes of 0 and 1 */
    enum codec codec;
    enum predictor predictor;
    enum color color;
    uint8_t empty[8];
} Level;

/* Part of a window that lies in one tile. */
typedef struct {
    int32_t level, window;
    int64_t tile;
} Hit;

typedef struct {
    int64_t y, x, height, width;
    int32_t level;
} Box;

typedef struct {
    Level **levels;
    Box *boxes;
    Hit *hits;
    int64_t *groups; /* first hit of each tile, and the number of hits */
    int64_t n_groups;
    uint8_t *out;
    int64_t stride[4]; /* of window, y, x, channel; bytes */
    int n_channels;
    int *channels;
    int64_t next;
    pthread_mutex_t lock;
    int failed;
    int64_t failed_level, failed_tile;
    char message[MESSAGE_BYTES];
} Batch;

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
} JpegError;

/* What a thread needs to decode: kept from tile to tile. */
typedef struct {
    uint8_t *raw, *tile, *line;
    size_t raw_size, tile_size, line_size;
    ZSTD_DCtx *zstd;
    struct libdeflate_decompressor *deflate;
    struct jpeg_decompress_struct jpeg;
    JpegError jpeg_error;
    int has_jpeg;
    const Level *tables_of;
    char message[MESSAGE_BYTES];
} Decoder;

/* --- decoding ------------------------------------------------------------------------------------------- */

static int fail(Decoder *decoder, const char *text)
{
    snprintf(decoder->message, MESSAGE_BYTES, "%s", text);
    return -1;
}

static int reserve(Decoder *decoder, uint8_t **buffer, size_t *size, size_t wanted)
{
    if (*size >= wanted) return 0;
    free(*buffer);
    *size = 0;
    *buffer = malloc(wanted);
    if (!*buffer) return fail(decoder, "out of memory");
    *size = wanted;
    return 0;
}

static void jpeg_escape(j_common_ptr info)
{
    JpegError *error = (JpegError *)info->err;
    error->base.format_message(info, error->message);
    longjmp(error->escape, 1);
}

static void jpeg_warning(j_common_ptr info, int level)
{
    /* Below zero: the data is damaged, and what comes out is made up. */
    if (level < 0) jpeg_escape(info);
}

static void jpeg_silence(j_common_ptr info) { (void)info; }

/* Decodes rows [y0, y1) and at least columns [x0, x1) of a JPEG tile into the tile buffer. */
static int decode_jpeg(Decoder *decoder, const Level *level, const uint8_t *data, size_t size,
                       int64_t y0, int64_t y1, int64_t x0, int64_t x1)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    if (setjmp(decoder->jpeg_error.escape)) {
        snprintf(decoder->message, MESSAGE_BYTES, "%s", decoder->jpeg_error.message);
        if (decoder->has_jpeg) jpeg_destroy_decompress(jpeg);
        decoder->has_jpeg = 0;
        return -1;
    }
    if (decoder->has_jpeg && decoder->tables_of != level) {
        /* The tables of another level would stand in for those that are missing here. */
        jpeg_destroy_decompress(jpeg);
        decoder->has_jpeg = 0;
    }
    if (!decoder->has_jpeg) {
        memset(jpeg, 0, sizeof *jpeg);
        jpeg->err = jpeg_std_error(&decoder->jpeg_error.base);
        jpeg->err->error_exit = jpeg_escape;
        jpeg->err->emit_message = jpeg_warning;
        jpeg->err->output_message = jpeg_silence;
        jpeg_create_decompress(jpeg);
        decoder->has_jpeg = 1;
        decoder->tables_of = level;
        if (level->tables.len > 0) {
            jpeg_mem_src(jpeg, level->tables.buf, (unsigned long)level->tables.len);
            if (jpeg_read_header(jpeg, FALSE) != JPEG_HEADER_TABLES_ONLY) {
                snprintf(decoder->jpeg_error.message, JMSG_LENGTH_MAX, "the shared JPEG tables hold an image");
                longjmp(decoder->jpeg_error.escape, 1);
            }
        }
    }
    jpeg_mem_src(jpeg, data, (unsigned long)size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_width != level->tile_width || jpeg->image_height != level->tile_height ||
        jpeg->num_components != level->samples || jpeg->data_precision != 8) {
        snprintf(decoder->jpeg_error.message, JMSG_LENGTH_MAX, "a JPEG of %u x %u pixels and %d components",
                 jpeg->image_height, jpeg->image_width, jpeg->num_components);
        longjmp(decoder->jpeg_error.escape, 1);
    }
    /* As the TIFF says, whatever markers of other programs say inside the stream. */
    if (level->color == COLOR_YCBCR) {
        jpeg->jpeg_color_space = JCS_YCbCr;
        jpeg->out_color_space = JCS_RGB;
    } else {
        jpeg->jpeg_color_space = JCS_UNKNOWN;
        jpeg->out_color_space = JCS_UNKNOWN;
    }
    jpeg_start_decompress(jpeg);
    const int64_t row_bytes = level->tile_width * level->samples;
    JDIMENSION first = 0, width = (JDIMENSION)level->tile_width;
    if (x0 > 0 || x1 < level->tile_width) {
        /* A block more on either side: smooth chroma at an edge needs its neighbour, or it would not be what
         * decoding the whole tile gives. */
        int64_t mcu = (int64_t)jpeg->max_h_samp_factor * DCTSIZE;
        int64_t from = x0 - mcu > 0 ? x0 - mcu : 0;
        int64_t to = x1 + mcu < level->tile_width ? x1 + mcu : level->tile_width;
        first = (JDIMENSION)from;
        width = (JDIMENSION)(to - from);
        jpeg_crop_scanline(jpeg, &first, &width);
    }
    if (y0 > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)y0);
    while (jpeg->output_scanline < (JDIMENSION)y1) {
        JSAMPROW rows[8];
        int count = 0;
        for (int64_t y = jpeg->output_scanline; y < y1 && count < 8; y++, count++)
            rows[count] = decoder->tile + y * row_bytes + (int64_t)first * level->samples;
        jpeg_read_scanlines(jpeg, rows, (JDIMENSION)count);
    }
    jpeg_abort_decompress(jpeg);
    return 0;
}

/* LZW as TIFF has it: codes of 9 to 12 bits, most significant bit first, one code early. The string of a code is
 * where it was first written: what the code before it gave, and the byte after that. */
static int decode_lzw(Decoder *decoder, const uint8_t *data, size_t size, uint8_t *out, size_t wanted)
{
    enum { CLEAR = 256, END = 257, FIRST = 258, TABLE = 4096 };
    size_t start[TABLE];
    uint32_t length[TABLE];
    uint64_t bits = 0;
    int held = 0, width = 9, next = FIRST, fresh = 1;
    size_t at = 0, done = 0, before = 0;
    while (done < wanted) {
        while (held < width) {
            if (at >= size) return fail(decoder, "the LZW data ends early");
            bits = bits << 8 | data[at++];
            held += 8;
        }
        const int code = (int)(bits >> (held - width)) & ((1 << width) - 1);
        held -= width;
        if (code == END) break;
        if (code == CLEAR) {
            width = 9;
            next = FIRST;
            fresh = 1;
            continue;
        }
        if (!fresh) {
            if (next >= TABLE) return fail(decoder, "the LZW data is damaged");
            start[next] = before;
            length[next++] = (uint32_t)(done - before + 1);
        }
        before = done;
        if (code < CLEAR) {
            out[done++] = (uint8_t)code;
        } else {
            if (code >= next || fresh) return fail(decoder, "the LZW data is damaged");
            const uint8_t *from = out + start[code];
            size_t count = length[code];
            if (count > wanted - done) count = wanted - done;
            /* Byte by byte: the string may reach into what it is copied to. */
            for (uint8_t *to = out + done, *end = to + count; to < end;) *to++ = *from++;
            done += count;
        }
        fresh = 0;
        if (next + 1 >= 1 << width && width < 12) width++;
    }
    return done == wanted ? 0 : fail(decoder, "the LZW data ends early");
}

static void swap_bytes(uint8_t *data, int64_t count, int itemsize)
{
    if (itemsize == 2) {
        uint16_t *values = (uint16_t *)data;
        for (int64_t i = 0; i < count; i++) values[i] = __builtin_bswap16(values[i]);
    } else if (itemsize == 4) {
        uint32_t *values = (uint32_t *)data;
        for (int64_t i = 0; i < count; i++) values[i] = __builtin_bswap32(values[i]);
    } else if (itemsize == 8) {
        uint64_t *values = (uint64_t *)data;
        for (int64_t i = 0; i < count; i++) values[i] = __builtin_bswap64(values[i]);
    }
}

#define ACCUMULATE(type)                                                                                       \
    do {                                                                                                       \
        type *values = (type *)row;                                                                            \
        for (int64_t i = samples; i < count; i++) values[i] = (type)(values[i] + values[i - samples]);         \
    } while (0)

/* Undoes the difference of neighbours along one row. */
static void undo_horizontal(uint8_t *row, int64_t count, int samples, int itemsize)
{
    if (itemsize == 1) ACCUMULATE(uint8_t);
    else if (itemsize == 2) ACCUMULATE(uint16_t);
    else if (itemsize == 4) ACCUMULATE(uint32_t);
    else ACCUMULATE(uint64_t);
}

/* Undoes TIFF's floating-point predictor along one row: bytes of equal weight lie together, most significant
 * first, as differences. Source: Adobe Photoshop TIFF Technical Note 3, 2005. */
static void undo_float(uint8_t *row, uint8_t *line, int64_t count, int samples, int itemsize)
{
    int64_t bytes = count * itemsize;
    for (int64_t i = samples; i < bytes; i++) row[i] = (uint8_t)(row[i] + row[i - samples]);
    memcpy(line, row, (size_t)bytes);
    for (int64_t i = 0; i < count; i++)
        for (int b = 0; b < itemsize; b++)
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            row[i * itemsize + b] = line[b * count + i];
#else
            row[i * itemsize + b] = line[(itemsize - 1 - b) * count + i];
#endif
}

static int read_at(Decoder *decoder, int fd, uint8_t *buffer, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(fd, buffer + done, size - done, (off_t)(offset + done));
        if (got < 0) {
            if (errno == EINTR) continue;
            snprintf(decoder->message, MESSAGE_BYTES, "%s", strerror(errno));
            return -1;
        }
        if (got == 0) return fail(decoder, "it reaches past the end of the file");
        done += (size_t)got;
    }
    return 0;
}

/* Undoes the compression of rows [y0, y1) of a tile, or of all of it; JPEG excepted. */
static int unpack_tile(Decoder *decoder, const Level *level, uint8_t *out, int64_t row_bytes, uint64_t offset,
                       uint64_t count, int64_t y0, int64_t y1)
{
    const size_t bytes = (size_t)(row_bytes * level->tile_height);
    if (level->codec == CODEC_NONE) {
        const uint64_t skipped = (uint64_t)(y0 * row_bytes);
        if (count < bytes) return fail(decoder, "it is smaller than a tile is");
        return read_at(decoder, level->file->fd, out + skipped, (size_t)((y1 - y0) * row_bytes), offset + skipped);
    }
    if (level->codec == CODEC_LZW) return decode_lzw(decoder, decoder->raw, (size_t)count, out, bytes);
    if (level->codec == CODEC_ZSTD) {
        if (!decoder->zstd && !(decoder->zstd = ZSTD_createDCtx())) return fail(decoder, "out of memory");
        size_t got = ZSTD_decompressDCtx(decoder->zstd, out, bytes, decoder->raw, (size_t)count);
        if (ZSTD_isError(got)) return fail(decoder, ZSTD_getErrorName(got));
        return got == bytes ? 0 : fail(decoder, "it holds less than a tile");
    }
    if (!decoder->deflate && !(decoder->deflate = libdeflate_alloc_decompressor()))
        return fail(decoder, "out of memory");
    size_t got = 0;
    if (libdeflate_zlib_decompress(decoder->deflate, decoder->raw, (size_t)count, out, bytes, &got) !=
            LIBDEFLATE_SUCCESS ||
        got != bytes)
        return fail(decoder, "the DEFLATE data is damaged, or not of a tile's size");
    return 0;
}

/* Writes one value again and again; of one byte, as most are, at the speed of memset. */
static void fill(uint8_t *out, int64_t count, const uint8_t *value, int itemsize)
{
    int same = 1;
    for (int b = 1; b < itemsize; b++) same &= value[b] == value[0];
    if (same) memset(out, value[0], (size_t)(count * itemsize));
    else
        for (int64_t i = 0; i < count; i++) memcpy(out + i * itemsize, value, (size_t)itemsize);
}

static void expand_bits(const uint8_t *bits, uint8_t *out, int64_t count)
{
    for (int64_t i = 0; i < count; i++) out[i] = bits[i >> 3] >> (7 - (i & 7)) & 1;
}

/* Decodes at least rows [y0, y1) and columns [x0, x1) of a tile into decoder->tile. */
static int decode_tile(Decoder *decoder, const Level *level, int64_t tile, int64_t y0, int64_t y1, int64_t x0,
                       int64_t x1)
{
    const uint64_t offset = ((const uint64_t *)level->offsets.buf)[tile];
    const uint64_t count = ((const uint64_t *)level->counts.buf)[tile];
    const int64_t line = level->tile_width * level->samples;
    const int64_t row_bytes = line * level->itemsize;
    const int64_t packed_bytes = (line + 7) / 8;
    if (reserve(decoder, &decoder->tile, &decoder->tile_size, (size_t)(row_bytes * level->tile_height))) return -1;
    if (count == 0) {
        /* Never written: a sparse file. */
        fill(decoder->tile + y0 * row_bytes, line * (y1 - y0), level->empty, level->itemsize);
        return 0;
    }
    if (count > MAX_COMPRESSED_BYTES || offset > (uint64_t)INT64_MAX - count)
        return fail(decoder, "the file says it is larger than a tile can be");
    if (level->codec != CODEC_NONE &&
        (reserve(decoder, &decoder->raw, &decoder->raw_size, (size_t)count) ||
         read_at(decoder, level->file->fd, decoder->raw, (size_t)count, offset)))
        return -1;
    if (level->codec == CODEC_JPEG)
        return decode_jpeg(decoder, level, decoder->raw, (size_t)count, y0, y1, x0, x1);
    if (level->packed) {
        if (reserve(decoder, &decoder->line, &decoder->line_size, (size_t)(packed_bytes * level->tile_height)) ||
            unpack_tile(decoder, level, decoder->line, packed_bytes, offset, count, y0, y1))
            return -1;
        for (int64_t y = y0; y < y1; y++)
            expand_bits(decoder->line + y * packed_bytes, decoder->tile + y * row_bytes, line);
        return 0;
    }
    if (unpack_tile(decoder, level, decoder->tile, row_bytes, offset, count, y0, y1)) return -1;
    if (level->predictor == PREDICT_FLOAT &&
        reserve(decoder, &decoder->line, &decoder->line_size, (size_t)row_bytes))
        return -1;
    for (int64_t y = y0; y < y1; y++) {
        uint8_t *row = decoder->tile + y * row_bytes;
        if (level->predictor == PREDICT_FLOAT) {
            undo_float(row, decoder->line, line, level->samples, level->itemsize);
            continue;
        }
        if (level->swap) swap_bytes(row, line, level->itemsize);
        if (level->predictor == PREDICT_HORIZONTAL) undo_horizontal(row, line, level->samples, level->itemsize);
    }
    return 0;
}

static void close_decoder(Decoder *decoder)
{
    if (decoder->has_jpeg) jpeg_destroy_decompress(&decoder->jpeg);
    if (decoder->zstd) ZSTD_freeDCtx(decoder->zstd);
    if (decoder->deflate) libdeflate_free_decompressor(decoder->deflate);
    free(decoder->raw);
    free(decoder->tile);
    free(decoder->line);
}

/* --- a batch -------------------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* The part of a box that lies in a tile, in pixels of the level: y0, y1, x0, x1. */
static void part_in_tile(const Level *level, const Box *box, int64_t tile, int64_t part[4])
{
    int64_t top = tile / level->columns * level->tile_height, left = tile % level->columns * level->tile_width;
    part[0] = most(box->y, top);
    part[1] = least(least(box->y + box->height, top + level->tile_height), level->height);
    part[2] = most(box->x, left);
    part[3] = least(least(box->x + box->width, left + level->tile_width), level->width);
}

static void copy_part(const Batch *batch, const Level *level, const Hit *hit, const uint8_t *tile)
{
    const Box *box = &batch->boxes[hit->window];
    int64_t part[4];
    part_in_tile(level, box, hit->tile, part);
    const int64_t top = hit->tile / level->columns * level->tile_height;
    const int64_t left = hit->tile % level->columns * level->tile_width;
    const int64_t size = level->itemsize, pixel = size * level->samples, row_bytes = level->tile_width * pixel;
    const int64_t width = part[3] - part[2];
    const int64_t *stride = batch->stride;
    int whole = batch->n_channels == level->samples && stride[2] == pixel && stride[3] == size;
    for (int c = 0; c < batch->n_channels && whole; c++) whole = batch->channels[c] == c;
    for (int64_t y = part[0]; y < part[1]; y++) {
        const uint8_t *from = tile + (y - top) * row_bytes + (part[2] - left) * pixel;
        uint8_t *to = batch->out + hit->window * stride[0] + (y - box->y) * stride[1] +
                      (part[2] - box->x) * stride[2];
        if (whole) {
            memcpy(to, from, (size_t)(width * pixel));
            continue;
        }
        for (int c = 0; c < batch->n_channels; c++) {
            const uint8_t *source = from + batch->channels[c] * size;
            uint8_t *target = to + c * stride[3];
            if (size == 1)
                for (int64_t x = 0; x < width; x++) target[x * stride[2]] = source[x * pixel];
            else
                for (int64_t x = 0; x < width; x++)
                    memcpy(target + x * stride[2], source + x * pixel, (size_t)size);
        }
    }
}

static void *work(void *argument)
{
    Batch *batch = argument;
    Decoder decoder;
    memset(&decoder, 0, sizeof decoder);
    for (;;) {
        pthread_mutex_lock(&batch->lock);
        int64_t group = batch->failed ? batch->n_groups : batch->next++;
        pthread_mutex_unlock(&batch->lock);
        if (group >= batch->n_groups) break;
        const Hit *hits = batch->hits + batch->groups[2 * group];
        const int64_t count = batch->groups[2 * group + 1];
        const Level *level = batch->levels[hits[0].level];
        /* Of the tile only what some window wants is decoded. */
        int64_t need[4] = {INT64_MAX, 0, INT64_MAX, 0}, part[4];
        for (int64_t i = 0; i < count; i++) {
            part_in_tile(level, &batch->boxes[hits[i].window], hits[i].tile, part);
            need[0] = least(need[0], part[0]);
            need[1] = most(need[1], part[1]);
            need[2] = least(need[2], part[2]);
            need[3] = most(need[3], part[3]);
        }
        int64_t top = hits[0].tile / level->columns * level->tile_height;
        int64_t left = hits[0].tile % level->columns * level->tile_width;
        if (decode_tile(&decoder, level, hits[0].tile, need[0] - top,
                        need[1] - top, need[2] - left, need[3] - left)) {
            pthread_mutex_lock(&batch->lock);
            if (!batch->failed) {
                batch->failed = 1;
                batch->failed_level = hits[0].level;
                batch->failed_tile = hits[0].tile;
                memcpy(batch->message, decoder.message, MESSAGE_BYTES);
            }
            pthread_mutex_unlock(&batch->lock);
            break;
        }
        for (int64_t i = 0; i < count; i++) copy_part(batch, level, &hits[i], decoder.tile);
    }
    close_decoder(&decoder);
    return NULL;
}

static int compare_hits(const void *one, const void *other)
{
    const Hit *a = one, *b = other;
    if (a->level != b->level) return a->level < b->level ? -1 : 1;
    if (a->tile != b->tile) return a->tile < b->tile ? -1 : 1;
    return (a->window > b->window) - (a->window < b->window);
}

/* Fills batch->hits and batch->groups; returns -1 when out of memory. */
static int plan(Batch *batch, int64_t n)
{
    int64_t total = 0;
    for (int pass = 0; pass < 2; pass++) {
        int64_t at = 0;
        for (int64_t i = 0; i < n; i++) {
            const Box *box = &batch->boxes[i];
            const Level *level = batch->levels[box->level];
            int64_t y0 = most(box->y, 0), y1 = least(box->y + box->height, level->height);
            int64_t x0 = most(box->x, 0), x1 = least(box->x + box->width, level->width);
            if (y0 >= y1 || x0 >= x1) continue;
            int64_t r0 = y0 / level->tile_height, r1 = (y1 - 1) / level->tile_height;
            int64_t c0 = x0 / level->tile_width, c1 = (x1 - 1) / level->tile_width;
            if (pass == 0) {
                at += (r1 - r0 + 1) * (c1 - c0 + 1);
                continue;
            }
            for (int64_t r = r0; r <= r1; r++)
                for (int64_t c = c0; c <= c1; c++)
                    batch->hits[at++] = (Hit){box->level, (int32_t)i, r * level->columns + c};
        }
        if (pass == 0) {
            total = at;
            batch->hits = malloc((size_t)most(total, 1) * sizeof(Hit));
            batch->groups = malloc((size_t)most(total, 1) * 2 * sizeof(int64_t));
            if (!batch->hits || !batch->groups) return -1;
        }
    }
    if (n > 1) qsort(batch->hits, (size_t)total, sizeof(Hit), compare_hits);
    for (int64_t i = 0; i < total; i++) {
        const Hit *hit = &batch->hits[i];
        if (i > 0 && hit[-1].level == hit->level && hit[-1].tile == hit->tile)
            batch->groups[2 * batch->n_groups - 1]++;
        else {
            batch->groups[2 * batch->n_groups] = i;
            batch->groups[2 * batch->n_groups++ + 1] = 1;
        }
    }
    return 0;
}

static int run(Batch *batch, int threads)
{
    pthread_t others[64];
    int started = 0;
    if (threads > 65) threads = 65;
    if (threads > batch->n_groups) threads = (int)batch->n_groups;
    /* Where the system gives no thread, those that there are do the work. */
    while (started < threads - 1 && pthread_create(&others[started], NULL, work, batch) == 0) started++;
    work(batch);
    for (int i = 0; i < started; i++) pthread_join(others[i], NULL);
    return batch->failed;
}

/* --- Python --------------------------------------------------------------------------------------------- */

static void file_dealloc(File *self)
{
    if (self->fd >= 0) close(self->fd);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *file_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"path", NULL};
    PyObject *path;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&:File", names, PyUnicode_FSConverter, &path)) return NULL;
    File *self = (File *)type->tp_alloc(type, 0);
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

static PyObject *file_fileno(File *self, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromLong(self->fd);
}

static PyMethodDef file_methods[] = {
    {"fileno", (PyCFunction)file_fileno, METH_NOARGS, "Return the file descriptor."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject FileType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "slidesampler._native._tiles.File",
    .tp_basicsize = sizeof(File),
    .tp_dealloc = (destructor)file_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A file open for reading, until the last Level of it is gone.",
    .tp_methods = file_methods,
    .tp_new = file_new,
};

static void level_dealloc(Level *self)
{
    Py_XDECREF(self->file);
    if (self->offsets.obj) PyBuffer_Release(&self->offsets);
    if (self->counts.obj) PyBuffer_Release(&self->counts);
    if (self->tables.obj) PyBuffer_Release(&self->tables);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *level_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"file",    "offsets", "counts",    "tables", "height", "width", "tile_height", "tile_width",
                            "samples", "itemsize", "codec", "predictor", "ycbcr", "swap",  "packed", "empty",     NULL};
    PyObject *file;
    int samples, itemsize, codec, predictor, ycbcr, swap, packed;
    long long height, width, tile_height, tile_width;
    Py_buffer empty;
    Level *self = (Level *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!y*y*y*LLLLiiiipppy*:Level", names, &FileType, &file, &self->offsets,
                                     &self->counts, &self->tables, &height, &width, &tile_height, &tile_width,
                                     &samples, &itemsize, &codec, &predictor, &ycbcr, &swap, &packed, &empty)) {
        Py_DECREF(self);
        return NULL;
    }
    const char *wrong = NULL;
    const long long limit = 1LL << 40;
    if (height < 1 || width < 1 || height > limit || width > limit) wrong = "height and width";
    else if (tile_height < 1 || tile_width < 1 || tile_height > 1 << 20 || tile_width > 1 << 20)
        wrong = "tile_height and tile_width";
    else if (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8) wrong = "itemsize";
    else if (samples < 1 || samples > 65535 ||
             tile_height * tile_width * samples > MAX_TILE_BYTES / itemsize) wrong = "samples";
    else if (codec < CODEC_NONE || codec > CODEC_JPEG) wrong = "codec";
    else if (predictor < PREDICT_NONE || predictor > PREDICT_FLOAT ||
             (predictor == PREDICT_FLOAT && itemsize == 1)) wrong = "predictor";
    else if (codec == CODEC_JPEG && (itemsize != 1 || samples > 4 || predictor != PREDICT_NONE ||
             (ycbcr && samples != 3))) wrong = "codec and samples";
    else if (packed && (itemsize != 1 || codec == CODEC_JPEG || predictor != PREDICT_NONE)) wrong = "packed";
    else if (empty.len != itemsize) wrong = "empty";
    if (!wrong) {
        memcpy(self->empty, empty.buf, (size_t)empty.len);
        self->height = height;
        self->width = width;
        self->tile_height = tile_height;
        self->tile_width = tile_width;
        self->rows = (height + tile_height - 1) / tile_height;
        self->columns = (width + tile_width - 1) / tile_width;
        self->samples = samples;
        self->itemsize = itemsize;
        self->codec = codec;
        self->predictor = predictor;
        self->color = ycbcr ? COLOR_YCBCR : COLOR_AS_STORED;
        self->swap = swap;
        self->packed = packed;
        if (self->rows > limit / self->columns ||
            self->offsets.len != self->rows * self->columns * 8 || self->counts.len != self->offsets.len)
            wrong = "offsets and counts";
    }
    PyBuffer_Release(&empty);
    self->file = (File *)Py_NewRef(file);
    if (wrong) {
        PyErr_Format(PyExc_ValueError, "%s: not what a tiled image can have", wrong);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyTypeObject LevelType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "slidesampler._native._tiles.Level",
    .tp_basicsize = sizeof(Level),
    .tp_dealloc = (destructor)level_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "One level of a tiled TIFF: an open file, where its tiles lie, and how they are stored.",
    .tp_new = level_new,
};

static int same_kind(const Level *one, const Level *other)
{
    return one->samples == other->samples && one->itemsize == other->itemsize;
}

/* Checks that every pixel of every window lies in the output; sets an exception where not. */
static int check_output(const Batch *batch, const Py_buffer *out, int64_t n)
{
    if (out->ndim != 4 || out->itemsize != batch->levels[0]->itemsize || out->shape[0] != n ||
        out->shape[3] != batch->n_channels) {
        PyErr_SetString(PyExc_ValueError, "out must be (windows, height, width, channels) of the levels' dtype");
        return -1;
    }
    for (int64_t i = 0; i < n; i++)
        if (batch->boxes[i].height != out->shape[1] || batch->boxes[i].width != out->shape[2]) {
            PyErr_SetString(PyExc_ValueError, "all windows must have the height and width of out");
            return -1;
        }
    return 0;
}

static int take_boxes(Batch *batch, const int64_t *numbers, int64_t n, int64_t n_levels)
{
    const int64_t limit = (int64_t)1 << 41;
    for (int64_t i = 0; i < n; i++) {
        const int64_t *row = numbers + 5 * i;
        for (int k = 1; k < 5; k++)
            if (row[k] < -limit || row[k] > limit || (k > 2 && row[k] < 1)) return -1;
        if (row[0] < 0 || row[0] >= n_levels) return -1;
        batch->boxes[i] = (Box){row[1], row[2], row[3], row[4], (int32_t)row[0]};
    }
    return 0;
}

PyDoc_STRVAR(read_doc,
             "read(levels, boxes, channels, out, threads)\n--\n\n"
             "Fill out with windows of levels; what lies outside a level is left as it is.\n\n"
             "Parameters\n----------\n"
             "levels : list of Level, of one dtype and number of samples\n"
             "boxes : int64 (n, 5), C order: level, y, x, height, width, pixels of the level\n"
             "channels : int32 (c,)\n"
             "out : (n, height, width, c), any strides\n"
             "threads : int\n\n"
             "Returns\n-------\n"
             "None, or (level, tile, message) of a tile that cannot be read; out then holds anything.");

static PyObject *read_windows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *levels, *out_object, *result = NULL;
    Py_buffer boxes = {0}, channels = {0}, out = {0};
    int threads;
    Batch batch;
    memset(&batch, 0, sizeof batch);
    if (!PyArg_ParseTuple(args, "O!y*y*Oi:read", &PyList_Type, &levels, &boxes, &channels, &out_object, &threads))
        return NULL;
    const int64_t n = boxes.len / 40, n_levels = PyList_GET_SIZE(levels);
    if (PyObject_GetBuffer(out_object, &out, PyBUF_STRIDED | PyBUF_WRITABLE | PyBUF_FORMAT) < 0) goto done;
    batch.levels = PyMem_Calloc((size_t)most(n_levels, 1), sizeof(Level *));
    batch.boxes = PyMem_Calloc((size_t)most(n, 1), sizeof(Box));
    batch.n_channels = (int)(channels.len / 4);
    batch.channels = channels.buf;
    if (!batch.levels || !batch.boxes) {
        PyErr_NoMemory();
        goto done;
    }
    if (n_levels < 1 || boxes.len % 40 || n > INT32_MAX || n_levels > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "boxes must be int64 (n, 5), and there must be a level");
        goto done;
    }
    for (int64_t i = 0; i < n_levels; i++) {
        PyObject *item = PyList_GET_ITEM(levels, i);
        if (!Py_IS_TYPE(item, &LevelType) || (i > 0 && !same_kind((Level *)item, batch.levels[0]))) {
            PyErr_SetString(PyExc_ValueError, "levels must be Levels of one dtype and number of samples");
            goto done;
        }
        /* The list may change while the GIL is released. */
        batch.levels[i] = (Level *)Py_NewRef(item);
    }
    for (int c = 0; c < batch.n_channels; c++)
        if (batch.channels[c] < 0 || batch.channels[c] >= batch.levels[0]->samples) {
            PyErr_SetString(PyExc_ValueError, "a channel is not there");
            goto done;
        }
    if (take_boxes(&batch, boxes.buf, n, n_levels)) {
        PyErr_SetString(PyExc_ValueError, "a box is of no level, or not of a size that a window can have");
        goto done;
    }
    if (check_output(&batch, &out, n)) goto done;
    batch.out = out.buf;
    for (int k = 0; k < 4; k++) batch.stride[k] = out.strides[k];
    pthread_mutex_init(&batch.lock, NULL);
    int failed, memory;
    Py_BEGIN_ALLOW_THREADS
    memory = plan(&batch, n);
    failed = memory ? 0 : run(&batch, threads);
    Py_END_ALLOW_THREADS
    pthread_mutex_destroy(&batch.lock);
    if (memory) PyErr_NoMemory();
    else if (failed)
        result = Py_BuildValue("LLs", (long long)batch.failed_level, (long long)batch.failed_tile, batch.message);
    else {
        result = Py_None;
        Py_INCREF(result);
    }
done:
    for (int64_t i = 0; batch.levels && i < n_levels; i++) Py_XDECREF(batch.levels[i]);
    free(batch.hits);
    free(batch.groups);
    PyMem_Free(batch.levels);
    PyMem_Free(batch.boxes);
    if (out.obj) PyBuffer_Release(&out);
    PyBuffer_Release(&boxes);
    PyBuffer_Release(&channels);
    return result;
}

static PyMethodDef methods[] = {
    {"read", read_windows, METH_VARARGS, read_doc},
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
    if (PyType_Ready(&FileType) < 0 || PyType_Ready(&LevelType) < 0 ||
        PyModule_AddObjectRef(module, "File", (PyObject *)&FileType) < 0 ||
        PyModule_AddObjectRef(module, "Level", (PyObject *)&LevelType) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
