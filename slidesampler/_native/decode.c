/* Tiles of a TIFF: read, unpacked and turned into plain pixels. */
#define _FILE_OFFSET_BITS 64
#include "decode.h"

#include "excerpt.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <jpeglib.h>

#include <jerror.h>
#include <libdeflate.h>
/* For the name of one parameter; what is linked are stable functions, and a library that does not know it says so. */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

/* Compressed data is never so much larger than what it holds. */
#define MAX_COMPRESSED_BYTES ((uint64_t)1 << 29)

/* libjpeg-turbo leaves its fast loop where fewer bytes remain than the largest MCU could take, ten blocks of 512
 * bytes: of tiles of a few kilobytes that is a third. With as much behind the data it stays in it to the end.
 * Markers of the end of the image, so that data cut short is seen to be. */
#define JPEG_PADDING (D_MAX_BLOCKS_IN_MCU * 512)
/* Of a progressive JPEG, as libtiff has it. A scan of a few bytes goes over the whole tile: a million of them in a
 * file of some megabytes would take minutes. */
#define MAX_JPEG_SCANS 100

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
} JpegError;

struct Decoder {
    uint8_t *raw, *tile, *line, *excerpt;
    size_t raw_size, tile_size, line_size, excerpt_size;
    ZSTD_DCtx *zstd;
    struct libdeflate_decompressor *deflate;
    struct jpeg_decompress_struct jpeg;
    struct jpeg_progress_mgr jpeg_progress;
    JpegError jpeg_error;
    char message[MESSAGE_BYTES];
};

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

static void jpeg_scans(j_common_ptr info)
{
    if (((j_decompress_ptr)info)->input_scan_number <= MAX_JPEG_SCANS) return;
    JpegError *error = (JpegError *)info->err;
    snprintf(error->message, JMSG_LENGTH_MAX, "a JPEG of more than %d scans", MAX_JPEG_SCANS);
    longjmp(error->escape, 1);
}

/* Decodes an area of a stream that shows a part of a JPEG tile, into the tile buffer; behind the data there must be room
 * for JPEG_PADDING. */
static int decode_stream(Decoder *decoder, const Level *level, uint8_t *data, size_t size, Area shown, Area area)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    const Area whole = {0, shown.y1 - shown.y0, 0, shown.x1 - shown.x0};
    /* From scratch for every tile, which takes a microsecond: tables of another one would stand in for those that
     * are missing here, and what comes out would depend on which was decoded before. */
    memset(jpeg, 0, sizeof *jpeg);
    jpeg->err = jpeg_std_error(&decoder->jpeg_error.base);
    jpeg->err->error_exit = jpeg_escape;
    jpeg->err->emit_message = jpeg_warning;
    jpeg->err->output_message = jpeg_silence;
    if (setjmp(decoder->jpeg_error.escape)) {
        snprintf(decoder->message, MESSAGE_BYTES, "%s", decoder->jpeg_error.message);
        jpeg_destroy_decompress(jpeg);
        return -1;
    }
    jpeg_create_decompress(jpeg);
    jpeg->progress = &decoder->jpeg_progress;
    jpeg->progress->progress_monitor = jpeg_scans;
    if (level->tables_size > 0) {
        jpeg_mem_src(jpeg, level->tables, (unsigned long)level->tables_size);
        if (jpeg_read_header(jpeg, FALSE) != JPEG_HEADER_TABLES_ONLY) {
            snprintf(decoder->jpeg_error.message, JMSG_LENGTH_MAX, "the shared JPEG tables hold an image");
            longjmp(decoder->jpeg_error.escape, 1);
        }
    }
    memcpy(data + size, "\xff\xd9\xff\xd9\xff\xd9\xff\xd9", 8);
    for (size_t done = 8; done < JPEG_PADDING; done *= 2)
        memcpy(data + size + done, data + size, done < JPEG_PADDING - done ? done : JPEG_PADDING - done);
    jpeg_mem_src(jpeg, data, (unsigned long)(size + JPEG_PADDING));
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_width != whole.x1 || jpeg->image_height != whole.y1 ||
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
    if (jpeg_has_multiple_scans(jpeg) || jpeg->arith_code) {
        /* Where the padding ends a scan, or arithmetic coding, nothing is seen to be missing. */
        if (jpeg->src->bytes_in_buffer < JPEG_PADDING) ERREXIT(jpeg, JERR_INPUT_EOF);
        jpeg->src->bytes_in_buffer -= JPEG_PADDING;
    }
    area = (Area){area.y0 - shown.y0, area.y1 - shown.y0, area.x0 - shown.x0, area.x1 - shown.x0};
    /* What scans have left open is smoothed over several blocks: a part would not be what the whole tile is. */
    if (jpeg->progressive_mode) area = whole;
    jpeg_start_decompress(jpeg);
    JDIMENSION first = 0, width = (JDIMENSION)whole.x1;
    if (area.x0 > 0 || area.x1 < whole.x1) {
        /* A sample of chroma more on either side: at an edge it is not smoothed with its neighbour, and would not be
         * what decoding the whole tile gives. */
        const int64_t edge = jpeg->max_h_samp_factor;
        const int64_t from = area.x0 > edge ? area.x0 - edge : 0;
        const int64_t to = area.x1 + edge < whole.x1 ? area.x1 + edge : whole.x1;
        first = (JDIMENSION)from;
        width = (JDIMENSION)(to - from);
        jpeg_crop_scanline(jpeg, &first, &width);
    }
    if (area.y0 > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)area.y0);
    const int64_t row_bytes = level->tile_width * level->samples;
    uint8_t *corner = decoder->tile + shown.y0 * row_bytes + (shown.x0 + (int64_t)first) * level->samples;
    while (jpeg->output_scanline < (JDIMENSION)area.y1) {
        JSAMPROW rows[8];
        int count = 0;
        for (int64_t y = jpeg->output_scanline; y < area.y1 && count < 8; y++, count++)
            rows[count] = corner + y * row_bytes;
        jpeg_read_scanlines(jpeg, rows, (JDIMENSION)count);
    }
    jpeg_destroy_decompress(jpeg);
    return 0;
}

/* Decodes an area of the JPEG tile that was read, or of as much of it as the area needs. */
static int decode_jpeg(Decoder *decoder, const Level *level, size_t size, Area area)
{
    const Area whole = {0, level->tile_height, 0, level->tile_width};
    Area shown;
    if (area.y0 > 0 || area.x0 > 0 || area.x1 < whole.x1) {
        if (reserve(decoder, &decoder->excerpt, &decoder->excerpt_size, size + JPEG_PADDING)) return -1;
        const size_t excerpt = excerpt_jpeg(decoder->raw, size, whole.y1, whole.x1, area, decoder->excerpt, &shown);
        if (excerpt > 0) return decode_stream(decoder, level, decoder->excerpt, excerpt, shown, area);
    }
    return decode_stream(decoder, level, decoder->raw, size, whole, area);
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

#ifdef __SSE2__
/* Turns differences into sums, sixteen bytes at a time, and returns how many bytes are done; a pixel has `step`.
 *
 * Within the sixteen the sums come about by doubling. `carry` is the last pixel so far, over and over: it stays in
 * phase as the next sixteen begin behind the last whole pixel. They are loaded before the bytes that they share with
 * those before are overwritten. */
#define DEFINE_SUM(name, add, step)                                                                            \
    static int64_t name(uint8_t *row, int64_t bytes)                                                           \
    {                                                                                                          \
        enum { AHEAD = 16 - 16 % (step) };                                                                     \
        if (bytes < 16) return 0;                                                                              \
        __m128i carry = _mm_setzero_si128(), next = _mm_loadu_si128((const __m128i *)row);                     \
        for (int64_t done = 0;; done += AHEAD) {                                                               \
            __m128i sum = add(next, _mm_slli_si128(next, step));                                               \
            sum = add(sum, _mm_slli_si128(sum, 2 * (step)));                                                   \
            sum = add(sum, _mm_slli_si128(sum, 4 * (step)));                                                   \
            sum = add(sum, _mm_slli_si128(sum, 8 * (step)));                                                   \
            __m128i last = _mm_srli_si128(_mm_slli_si128(sum, 16 - AHEAD), 16 - (step));                       \
            last = _mm_or_si128(last, _mm_slli_si128(last, step));                                             \
            last = _mm_or_si128(last, _mm_slli_si128(last, 2 * (step)));                                       \
            last = _mm_or_si128(last, _mm_slli_si128(last, 4 * (step)));                                       \
            last = _mm_or_si128(last, _mm_slli_si128(last, 8 * (step)));                                       \
            const int more = done + AHEAD + 16 <= bytes;                                                       \
            if (more) next = _mm_loadu_si128((const __m128i *)(row + done + AHEAD));                           \
            _mm_storeu_si128((__m128i *)(row + done), add(sum, carry));                                        \
            if (!more) return done + 16;                                                                       \
            carry = add(carry, last);                                                                          \
        }                                                                                                      \
    }
DEFINE_SUM(sum_grey, _mm_add_epi8, 1)
DEFINE_SUM(sum_rgb, _mm_add_epi8, 3)
DEFINE_SUM(sum_rgba, _mm_add_epi8, 4)
DEFINE_SUM(sum_grey_16, _mm_add_epi16, 2)
DEFINE_SUM(sum_rgb_16, _mm_add_epi16, 6)
DEFINE_SUM(sum_rgba_16, _mm_add_epi16, 8)
DEFINE_SUM(sum_grey_32, _mm_add_epi32, 4)

static int64_t sum_wide(uint8_t *row, int64_t bytes, int samples, int itemsize)
{
    switch (10 * itemsize + samples) {
    case 11: return sum_grey(row, bytes);
    case 13: return sum_rgb(row, bytes);
    case 14: return sum_rgba(row, bytes);
    case 21: return sum_grey_16(row, bytes);
    case 23: return sum_rgb_16(row, bytes);
    case 24: return sum_rgba_16(row, bytes);
    case 41: return sum_grey_32(row, bytes);
    default: return 0;
    }
}
#else
static int64_t sum_wide(uint8_t *row, int64_t bytes, int samples, int itemsize)
{
    (void)row, (void)bytes, (void)samples, (void)itemsize;
    return 0;
}
#endif

#define ACCUMULATE(type)                                                                                       \
    do {                                                                                                       \
        type *values = (type *)row;                                                                            \
        for (int64_t i = done; i < count; i++) values[i] = (type)(values[i] + values[i - samples]);            \
    } while (0)

/* Undoes the difference of neighbours along one row. */
static void undo_horizontal(uint8_t *row, int64_t count, int samples, int itemsize)
{
    int64_t done = sum_wide(row, count * itemsize, samples, itemsize) / itemsize;
    if (done < samples) done = samples;
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

void announce_tile(const Level *level, int64_t tile)
{
#ifdef POSIX_FADV_WILLNEED
    const uint64_t offset = level->offsets[tile], count = level->counts[tile];
    if (count > 0 && count <= MAX_COMPRESSED_BYTES && offset <= (uint64_t)INT64_MAX - count)
        posix_fadvise(level->fd, (off_t)offset, (off_t)count, POSIX_FADV_WILLNEED);
#else
    (void)level, (void)tile;
#endif
}

static int read_at(Decoder *decoder, const Level *level, uint8_t *buffer, size_t size, uint64_t offset)
{
    size_t done = 0;
    level->counters->bytes += size;
    while (done < size) {
        ssize_t got = pread(level->fd, buffer + done, size - done, (off_t)(offset + done));
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

/* Undoes ZSTD as far as `wanted` bytes of the tile: block by block, straight to where they belong. Returns 0 when
 * they are there, 1 when the frame has to be undone as a whole, or is damaged, -1 when it is cut off. */
static int decode_zstd_part(Decoder *decoder, const uint8_t *data, size_t size, uint8_t *out, size_t bytes,
                            size_t wanted)
{
    ZSTD_DCtx *zstd = decoder->zstd;
    static const uint8_t magic[4] = {0x28, 0xb5, 0x2f, 0xfd}, size_of_length[4] = {0, 2, 4, 8},
                         size_of_dictionary[4] = {0, 1, 2, 4};
    if (size < 5 || memcmp(data, magic, 4)) return 1;
    const int single = data[4] >> 5 & 1, length_code = data[4] >> 6;
    /* RFC 8878, 3.1.1.1: a window's size or, of a single segment, at least a byte of content size. */
    size_t at = (size_t)(6 + size_of_dictionary[data[4] & 3] + size_of_length[length_code]);
    if (single && length_code) at--;
    if (ZSTD_isError(ZSTD_DCtx_reset(zstd, ZSTD_reset_session_only)) ||
        ZSTD_isError(ZSTD_DCtx_setParameter(zstd, ZSTD_d_stableOutBuffer, 1)))
        return 1;
    ZSTD_inBuffer from = {data, 0, 0};
    ZSTD_outBuffer to = {out, bytes, 0};
    for (int last = 0; to.pos < wanted;) {
        if (last) return 1;
        if (at + 3 > size) return fail(decoder, "the ZSTD data ends early");
        const uint32_t head = (uint32_t)data[at] | (uint32_t)data[at + 1] << 8 | (uint32_t)data[at + 2] << 16;
        /* Of a run (type 1) one byte is there, of all others as many as they say. */
        const size_t block = (head >> 1 & 3) == 1 ? 1 : head >> 3;
        at += 3;
        if (block > size - at) return fail(decoder, "the ZSTD data ends early");
        at += block;
        last = head & 1;
        from.size = at;
        const size_t state = ZSTD_decompressStream(zstd, &to, &from);
        /* An error may be the stream's alone: it takes no frame that asks for a window of more than 128 MiB. */
        if (ZSTD_isError(state) || from.pos != at) return 1;
    }
    return 0;
}

static int decode_zstd(Decoder *decoder, const uint8_t *data, size_t size, uint8_t *out, size_t bytes, size_t wanted)
{
    if (!decoder->zstd && !(decoder->zstd = ZSTD_createDCtx())) return fail(decoder, "out of memory");
    if (wanted < bytes) {
        const int part = decode_zstd_part(decoder, data, size, out, bytes, wanted);
        if (part <= 0) return part;
    }
    ZSTD_DCtx_reset(decoder->zstd, ZSTD_reset_session_and_parameters);
    const size_t got = ZSTD_decompressDCtx(decoder->zstd, out, bytes, data, size);
    if (ZSTD_isError(got)) return fail(decoder, ZSTD_getErrorName(got));
    return got == bytes ? 0 : fail(decoder, "it holds less than a tile");
}

static int decode_deflate(Decoder *decoder, const uint8_t *data, size_t size, uint8_t *out, size_t bytes)
{
    if (!decoder->deflate && !(decoder->deflate = libdeflate_alloc_decompressor()))
        return fail(decoder, "out of memory");
    /* All of it: what libdeflate has written when it is stopped short is not promised to be anything. */
    if (libdeflate_zlib_decompress(decoder->deflate, data, size, out, bytes, NULL) == LIBDEFLATE_SUCCESS) return 0;
    return fail(decoder, "the DEFLATE data is damaged, or not of a tile's size");
}

/* Undoes the compression of the rows of an area of a tile, or of more; JPEG excepted. */
static int unpack_tile(Decoder *decoder, const Level *level, uint8_t *out, int64_t row_bytes, uint64_t offset,
                       uint64_t count, Area area)
{
    const size_t bytes = (size_t)(row_bytes * level->tile_height), wanted = (size_t)(row_bytes * area.y1);
    const uint64_t skipped = (uint64_t)(row_bytes * area.y0);
    switch (level->codec) {
    case CODEC_LZW: return decode_lzw(decoder, decoder->raw, (size_t)count, out, wanted);
    case CODEC_ZSTD: return decode_zstd(decoder, decoder->raw, (size_t)count, out, bytes, wanted);
    case CODEC_DEFLATE: return decode_deflate(decoder, decoder->raw, (size_t)count, out, bytes);
    default: break;
    }
    if (count < bytes) return fail(decoder, "it is smaller than a tile is");
    return read_at(decoder, level, out + skipped, wanted - (size_t)skipped, offset + skipped);
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

int decode_tile(Decoder *decoder, const Level *level, int64_t tile, Area area, Pixels *pixels)
{
    const uint64_t offset = level->offsets[tile], count = level->counts[tile];
    const int64_t line = level->tile_width * level->samples, needed = area.x1 * level->samples;
    const int64_t row_bytes = line * level->itemsize;
    const int64_t packed_bytes = (line + 7) / 8;
    if (reserve(decoder, &decoder->tile, &decoder->tile_size, (size_t)(row_bytes * level->tile_height))) return -1;
    *pixels = (Pixels){decoder->tile, {row_bytes, (int64_t)level->samples * level->itemsize, level->itemsize}};
    if (count == 0) {
        /* Never written, in a sparse file: one row does for all. */
        fill(decoder->tile, line, level->empty, level->itemsize);
        pixels->stride[0] = 0;
        return 0;
    }
    level->counters->tiles++;
    if (count > MAX_COMPRESSED_BYTES || offset > (uint64_t)INT64_MAX - count)
        return fail(decoder, "the file says it is larger than a tile can be");
    if (level->codec != CODEC_NONE &&
        (reserve(decoder, &decoder->raw, &decoder->raw_size, (size_t)count + JPEG_PADDING) ||
         read_at(decoder, level, decoder->raw, (size_t)count, offset)))
        return -1;
    if (level->codec == CODEC_JPEG) return decode_jpeg(decoder, level, (size_t)count, area);
    if (level->packed) {
        if (reserve(decoder, &decoder->line, &decoder->line_size, (size_t)(packed_bytes * level->tile_height)) ||
            unpack_tile(decoder, level, decoder->line, packed_bytes, offset, count, area))
            return -1;
        for (int64_t y = area.y0; y < area.y1; y++)
            expand_bits(decoder->line + y * packed_bytes, decoder->tile + y * row_bytes, line);
        return 0;
    }
    if (unpack_tile(decoder, level, decoder->tile, row_bytes, offset, count, area)) return -1;
    if (level->predictor == PREDICT_FLOAT &&
        reserve(decoder, &decoder->line, &decoder->line_size, (size_t)row_bytes))
        return -1;
    for (int64_t y = area.y0; y < area.y1; y++) {
        uint8_t *row = decoder->tile + y * row_bytes;
        if (level->predictor == PREDICT_FLOAT) {
            undo_float(row, decoder->line, line, level->samples, level->itemsize);
            continue;
        }
        if (level->swap) swap_bytes(row, needed, level->itemsize);
        if (level->predictor == PREDICT_HORIZONTAL) undo_horizontal(row, needed, level->samples, level->itemsize);
    }
    return 0;
}

const char *decoder_message(const Decoder *decoder) { return decoder->message; }

Decoder *open_decoder(void) { return calloc(1, sizeof(Decoder)); }

void close_decoder(Decoder *decoder)
{
    ZSTD_freeDCtx(decoder->zstd);
    libdeflate_free_decompressor(decoder->deflate);
    free(decoder->raw);
    free(decoder->tile);
    free(decoder->line);
    free(decoder->excerpt);
    free(decoder);
}

const char *check_level(Level *level)
{
    const int64_t limit = (int64_t)1 << 40, side = 1 << 20;
    const int itemsize = level->itemsize;
    if (level->height < 1 || level->width < 1 || level->height > limit || level->width > limit)
        return "height and width";
    if (level->tile_height < 1 || level->tile_width < 1 || level->tile_height > side || level->tile_width > side)
        return "tile_height and tile_width";
    if (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8) return "itemsize";
    if (level->samples < 1 || level->samples > 65535 ||
        level->tile_height * level->tile_width * level->samples > MAX_TILE_BYTES / itemsize)
        return "samples";
    if (level->codec < CODEC_NONE || level->codec > CODEC_JPEG) return "codec";
    if (level->predictor < PREDICT_NONE || level->predictor > PREDICT_FLOAT ||
        (level->predictor == PREDICT_FLOAT && itemsize == 1))
        return "predictor";
    if (level->codec == CODEC_JPEG && (itemsize != 1 || level->samples > 4 || level->predictor != PREDICT_NONE ||
                                       (level->color == COLOR_YCBCR && level->samples != 3)))
        return "codec and samples";
    if (level->packed && (itemsize != 1 || level->codec == CODEC_JPEG || level->predictor != PREDICT_NONE))
        return "packed";
    level->rows = (level->height + level->tile_height - 1) / level->tile_height;
    level->columns = (level->width + level->tile_width - 1) / level->tile_width;
    return level->rows > limit / level->columns ? "height and width" : NULL;
}
